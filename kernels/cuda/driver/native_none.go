//go:build !linux || (!amd64 && !arm64) || nocuda

package driver

import "errors"

// built says whether this build can load a driver.
const built = false

var errNotBuilt = errors.New("this build has no CUDA support (built with the tag nocuda, or not for linux on amd64 or arm64)")

func openLibrary(string) (uintptr, error) { return 0, errNotBuilt }

func lookup(uintptr, string) (uintptr, error) { return 0, errNotBuilt }

func closeLibrary(uintptr) error { return nil }

func invoke(uintptr, []uintptr) uintptr { return uintptr(codeNotInitialized) }
