//go:build cgo

package cpu_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/cpu"
)

// TestTilesAgreeWithTheirDescription compares the sums of AMX, and of the code for few
// rows beside it, with the emulated tiles, which are plain C: bit for bit, for every
// way to cut rows.
func TestTilesAgreeWithTheirDescription(t *testing.T) {
	if !slices.Contains(cpu.ISAs(), "amx") {
		t.Skip("no AMX here")
	}
	const n, k = 96, 1056
	for _, rows := range []int{1, 2, 3, 4, 5, 16, 17, 32, 33, 65} {
		t.Run(fmt.Sprintf("T=%d", rows), func(t *testing.T) {
			var sums [2][]byte
			for i, isa := range []string{"amx", "amx_emulated"} {
				dev, err := cpu.Open(cpu.Options{ISA: isa, Threads: 2})
				require.NoError(t, err)
				s := shared{dev, t, rand.New(rand.NewPCG(5, uint64(rows)))}
				raw := make([]byte, 2*n*k)
				for j := 0; j < len(raw); j += 2 {
					// Any sign and fraction, exponents that reach denormals in the products.
					raw[j], raw[j+1] = byte(s.rng.Uint32()), byte(s.rng.Uint32())&0xbf
				}
				w, err := dev.PackLinear(kernels.LinearSource{Name: "test", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: raw}}})
				require.NoError(t, err)
				x, out := s.floats(kernels.F32, rows, k), s.floats(kernels.F32, rows, n)
				require.NoError(t, dev.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
				sums[i] = make([]byte, 4*rows*n)
				require.NoError(t, dev.Download(sums[i], out))
				require.NoError(t, dev.Close())
			}
			require.True(t, bytes.Equal(sums[1], sums[0]), "the sums of tiles differ from their description")
		})
	}
}
