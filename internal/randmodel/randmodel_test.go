package randmodel_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/demo"
	"metacap/internal/randmodel"
	"metacap/loader"
)

// TestNew checks that a shape becomes a complete checkpoint whose weights have
// the stated spread and follow from the seed.
func TestNew(t *testing.T) {
	if !demo.Included() {
		t.Skip("no tokenizer: built with -tags nodemo")
	}
	for _, shape := range []string{"tiny", filepath.FromSlash("../../testdata/models/qwen3-tied-bf16/config.json")} {
		f, err := randmodel.New(shape, 7)
		require.NoError(t, err)
		ck, err := loader.OpenFS(f, ".")
		require.NoError(t, err)
		require.NoError(t, ck.Require(ck.Config.Weights()))
		require.Empty(t, ck.Extra(ck.Config.Weights()))
		bytes, err := randmodel.Bytes(shape)
		require.NoError(t, err)
		require.Equal(t, bytes, ck.Bytes())
		l, err := ck.Vector("language_model.model.norm.weight")
		require.NoError(t, err)
		require.InDelta(t, 1, l[0], 0.2)
		v, ok := ck.Find("language_model.model.layers.0.self_attn.o_proj.weight")
		require.True(t, ok)
		x, err := v[0].Float32s()
		require.NoError(t, err)
		var sum, squares float64
		for _, e := range x {
			sum += float64(e)
			squares += float64(e) * float64(e)
		}
		n := float64(len(x))
		inputs := float64(v[0].Shape[1])
		// The mean of n values lies within 5 standard errors, their spread within 5 %.
		require.InDelta(t, 0, sum/n, 5/math.Sqrt(inputs*n))
		require.InEpsilon(t, 1/math.Sqrt(inputs), math.Sqrt(squares/n), 0.05)

		again, err := randmodel.New(shape, 7)
		require.NoError(t, err)
		other, err := randmodel.New(shape, 8)
		require.NoError(t, err)
		a, _ := f.Bytes("model.safetensors")
		b, _ := again.Bytes("model.safetensors")
		c, _ := other.Bytes("model.safetensors")
		require.True(t, string(a) == string(b))
		require.False(t, string(a) == string(c))
	}
}

// TestBytes checks the presets' sizes: the 8B one has the published number of parameters.
func TestBytes(t *testing.T) {
	n, err := randmodel.Bytes("8b")
	require.NoError(t, err)
	require.EqualValues(t, 2*8_528_318_464, n)
	n, err = randmodel.Bytes("0.6b")
	require.NoError(t, err)
	require.EqualValues(t, 2*596_049_920, n)
	_, err = randmodel.Bytes("absent")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "8b")
}
