//go:build !cgo

package engine_test

const fast = false
