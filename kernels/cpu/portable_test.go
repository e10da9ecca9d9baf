//go:build !cgo

package cpu

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/kernels"
	"metacap/kernels/ref"
)

// layer multiplies x [tokens,k] by a layer of a bf16 and a float32 part.
func layer(t *testing.T, b kernels.Backend, x []byte, tokens, k int, parts []kernels.MatrixPart, p kernels.Precision) []byte {
	n := 0
	for _, part := range parts {
		n += part.N
	}
	in, err := b.Alloc(int64(len(x)))
	require.NoError(t, err)
	buf, err := b.Alloc(int64(4 * tokens * n))
	require.NoError(t, err)
	xt := kernels.Tensor{Buf: in, DType: kernels.F32, Shape: []int{tokens, k}}
	out := kernels.Tensor{Buf: buf, DType: kernels.F32, Shape: []int{tokens, n}}
	require.NoError(t, b.Upload(xt, x))
	w, err := b.PackLinear(kernels.LinearSource{Name: "w", K: k, Parts: parts, Precision: p})
	require.NoError(t, err)
	defer w.Free()
	require.NoError(t, b.Linear(kernels.LinearArgs{Out: out, X: xt, W: w, Act: kernels.ActGELU}))
	raw := make([]byte, 4*tokens*n)
	require.NoError(t, b.Download(raw, out))
	return raw
}

// TestDecodedLinear compares bits with the reference, which decodes for every product,
// and of a row alone with the row in a batch.
func TestDecodedLinear(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the reference's sums may be fused here")
	}
	const k, tokens = 70, 5
	rng := rand.New(rand.NewPCG(3, 4))
	parts := []kernels.MatrixPart{{N: 6, DType: kernels.BF16}, {N: 9, DType: kernels.F32}}
	for range 6 * k {
		parts[0].Data = binary.LittleEndian.AppendUint16(parts[0].Data, dtype.ToBF16(float32(rng.NormFloat64())))
	}
	for range 9 * k {
		parts[1].Data = binary.LittleEndian.AppendUint32(parts[1].Data, math.Float32bits(float32(rng.NormFloat64())))
	}
	var x []byte
	for range tokens * k {
		x = binary.LittleEndian.AppendUint32(x, math.Float32bits(float32(rng.NormFloat64())))
	}
	b, err := Open(Options{Threads: 2})
	require.NoError(t, err)
	naive, err := ref.Open(ref.Options{Naive: true})
	require.NoError(t, err)
	for _, p := range []kernels.Precision{kernels.PrecisionNative, kernels.PrecisionF32} {
		got := layer(t, b, x, tokens, k, parts, p)
		require.Equal(t, layer(t, naive, x, tokens, k, parts, p), got, "precision %v", p)
		for i := range tokens {
			require.Equal(t, got[i*60:(i+1)*60], layer(t, b, x[4*i*k:4*(i+1)*k], 1, k, parts, p), "row %d alone", i)
		}
	}
	require.Zero(t, b.(*backend).decoded, "freed layers give their bytes back")
	b.(*backend).decoded = decodedLimit
	require.Equal(t, layer(t, naive, x, tokens, k, parts, 0), layer(t, b, x, tokens, k, parts, 0), "past the limit")
}
