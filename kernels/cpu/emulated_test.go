//go:build cgo

package cpu_test

// emulated are instruction sets that every machine can run, slowly, for the tests' sake.
var emulated = []string{"amx_emulated"}
