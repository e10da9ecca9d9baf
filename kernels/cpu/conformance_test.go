package cpu_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/cpu"
	"metacap/kernels/kerneltest"
)

// TestConformance runs the suite on every instruction set that this machine has, and on
// the tile code with emulated tiles.
func TestConformance(t *testing.T) {
	for _, isa := range append(cpu.ISAs(), emulated...) {
		t.Run(isa, func(t *testing.T) {
			kerneltest.Run(t, func() (kernels.Backend, error) { return cpu.Open(cpu.Options{ISA: isa, Threads: 3}) })
		})
	}
}

func TestUnknownISA(t *testing.T) {
	_, err := cpu.Open(cpu.Options{ISA: "z80"})
	require.ErrorIs(t, err, kernels.ErrUnavailable)
	require.ErrorContains(t, err, "z80")
}
