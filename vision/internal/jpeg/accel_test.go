//go:build cgo && amd64

package jpeg

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTransformInC compares the transform with the Go one on blocks of every kind,
// values that wrap and saturate included.
func TestTransformInC(t *testing.T) {
	if !vector {
		t.Skip("no AVX2 here")
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for n := range 400 {
		blocks := 1 + rng.IntN(5)
		coeffs := make([]int16, 64*blocks)
		var table [64]uint16
		size := 1 << rng.IntN(16)
		for i := range coeffs {
			if rng.IntN(1+n%9) == 0 {
				coeffs[i] = int16(rng.IntN(2*size) - size)
			}
		}
		for i := range table {
			table[i] = uint16(1 + rng.IntN(1+n%255))
			if n%7 == 0 {
				table[i] = uint16(rng.Uint32())
			}
		}
		stride := 8*blocks + rng.IntN(9)
		got, want := make([]uint8, 8*stride+16), make([]uint8, 8*stride+16)
		idctRow(want, stride, coeffs, &table, blocks)
		(&Decoder{}).idctRow(got, stride, coeffs, &table, blocks)
		require.Equal(t, want, got, "round %d, %d blocks", n, blocks)
	}
}

// TestRowsInC compares whole decodes of the sample files with and without C, and of
// damaged copies, whose coefficients are wild.
func TestRowsInC(t *testing.T) {
	if !vector {
		t.Skip("no AVX2 here")
	}
	files, err := filepath.Glob("../../../testdata/images/files/*.jpg")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	rng := rand.New(rand.NewPCG(6, 6))
	fast, plain := new(Decoder), &Decoder{plain: true}
	decoded := 0
	for _, name := range files {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		if len(data) > 120_000 {
			continue
		}
		for n := range 12 {
			bad := bytes.Clone(data)
			for range n {
				bad[rng.IntN(len(bad))] = uint8(rng.Uint32())
			}
			if h, err := ReadHeader(bad); err != nil || h.Width*h.Height > 1<<20 {
				continue
			}
			a, errA := fast.Decode(bad, nil)
			b, errB := plain.Decode(bad, nil)
			require.Equal(t, errA, errB)
			require.True(t, bytes.Equal(a, b), "%s damaged %d times differs", name, n)
			if errA == nil {
				decoded++
			}
		}
	}
	require.Greater(t, decoded, len(files))
}
