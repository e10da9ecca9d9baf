package kerneltest_test

import (
	"testing"

	"metacap/kernels"
	"metacap/kernels/kerneltest"
	"metacap/kernels/ref"
)

// TestNaive runs the suite on the naive implementation: the bounds must admit it.
func TestNaive(t *testing.T) {
	kerneltest.Run(t, func() (kernels.Backend, error) { return ref.Open(ref.Options{Naive: true}) })
}
