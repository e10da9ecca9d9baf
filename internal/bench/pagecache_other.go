//go:build !linux

package bench

import (
	"fmt"
	"runtime"
)

func dropCached(name string) error {
	return fmt.Errorf("drop %s from the page cache: possible on Linux only, this is %s", name, runtime.GOOS)
}
