//go:build linux && (amd64 || arm64) && !nocuda

package driver

import "github.com/ebitengine/purego"

// built says whether this build can load a driver.
const built = true

// openLibrary loads a shared library by soname or path.
func openLibrary(name string) (uintptr, error) {
	return purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

// lookup returns the address of an exported symbol.
func lookup(lib uintptr, name string) (uintptr, error) { return purego.Dlsym(lib, name) }

// closeLibrary unloads a library.
func closeLibrary(lib uintptr) error { return purego.Dlclose(lib) }

// invoke calls a C function of integer and pointer arguments. args must lie in
// the heap and keep its pointees alive.
func invoke(fn uintptr, args []uintptr) uintptr {
	r, _, _ := purego.SyscallN(fn, args...)
	return r
}
