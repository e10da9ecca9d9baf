package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/kernels/cpu"
)

// TestDeviceNames opens every instruction set of the CPU by name and refuses names of
// nothing.
func TestDeviceNames(t *testing.T) {
	for _, set := range cpu.ISAs() {
		dev, err := engine.OpenBackend("cpu:"+set, 1)
		require.NoError(t, err)
		require.Contains(t, dev.Info().Name, "cpu")
		require.NoError(t, dev.Close())
	}
	for name, want := range map[string]string{
		"cpu:z80":   `instruction set "z80" is not one of [` + cpu.ISAs()[0],
		"cpu:":      "want cuda:N or cpu:SET",
		"auto:1":    "want cuda:N or cpu:SET",
		"cuda:-1":   "cuda:-1 is no number of a device",
		"cuda:avx2": "cuda:avx2 is no number of a device",
		"ref:1":     "there is one ref, no ref:1",
		"tpu:0":     "this build has cuda, cpu, ref",
	} {
		_, err := engine.OpenBackend(name, 1)
		require.ErrorIs(t, err, engine.ErrNoDevice, name)
		require.ErrorContains(t, err, want, name)
	}
}
