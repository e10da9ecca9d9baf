//go:build cgo

package engine_test

// fast says that the processor backend is the one in C; tests do less without it.
const fast = true
