//go:build !cgo

package cpu_test

var emulated []string
