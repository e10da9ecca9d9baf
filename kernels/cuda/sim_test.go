package cuda

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
	"metacap/kernels/kerneltest"
)

// library builds the simulator, or skips the test where there is no compiler.
// METACAP_SIM_SANITIZE is passed to -fsanitize (see package sim); METACAP_SIM_SHUFFLE is
// the seed of a random order of threads and copies.
func library(t testing.TB) string {
	t.Helper()
	lib, err := sim.Build(sim.Options{Sanitize: os.Getenv("METACAP_SIM_SANITIZE")})
	if errors.Is(err, sim.ErrNoCompiler) && !programtest.Required("g++") {
		t.Skip(err)
	}
	require.NoError(t, err)
	if text := os.Getenv("METACAP_SIM_SHUFFLE"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "METACAP_SIM_SHUFFLE")
		d, err := driver.Open(driver.Options{Library: lib})
		require.NoError(t, err)
		require.NoError(t, sim.Control{Driver: d}.Shuffle(seed))
	}
	return lib
}

// The simulator's devices.
const (
	simAmpere = iota
	simHopper
)

// simulated opens the backend on the simulator and checks at the end of the test
// that nothing is left.
func simulated(t testing.TB) (*Backend, sim.Control) { return simulatedOn(t, simAmpere) }

func simulatedOn(t testing.TB, device int) (*Backend, sim.Control) {
	t.Helper()
	b, err := Open(Options{Library: library(t), Device: device})
	require.NoError(t, err)
	c := sim.Control{Driver: b.driver}
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		leaks, err := c.Leaks()
		require.NoError(t, err)
		require.Empty(t, leaks, "alive after Close")
		disorder, err := c.Count(sim.Disorder)
		require.NoError(t, err)
		require.Zero(t, disorder, "things taken apart while others needed them")
	})
	return b, c
}

func TestConformance(t *testing.T) {
	lib := library(t)
	kerneltest.Run(t, func() (kernels.Backend, error) { return Open(Options{Library: lib}) })
}

// TestConformanceHopper runs the suite where the backend takes Hopper's kernels.
func TestConformanceHopper(t *testing.T) {
	lib := library(t)
	kerneltest.Run(t, func() (kernels.Backend, error) { return Open(Options{Library: lib, Device: simHopper}) })
}
