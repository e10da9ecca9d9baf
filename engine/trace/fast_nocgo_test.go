//go:build !cgo

package trace_test

// fast says that the processor backend is the one in C.
const fast = false
