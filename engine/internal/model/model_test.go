package model

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/ref"
	"metacap/loader"
)

// TestRope compares frequencies with values computed by transformers'
// modeling_rope_utils for Qwen3-8B's dimensions.
func TestRope(t *testing.T) {
	plain, factor := RopeDims{Theta: 1e6}.Frequencies(128)
	require.Len(t, plain, 64)
	require.EqualValues(t, 1, factor)
	require.EqualValues(t, 1, plain[0])
	require.InDelta(t, math.Pow(1e6, -126./128), float64(plain[63]), 1e-12)

	linear, _ := RopeDims{Theta: 1e6, Kind: "linear", Factor: 4}.Frequencies(128)
	dynamic, _ := RopeDims{Theta: 1e6, Kind: "dynamic", Factor: 2}.Frequencies(128)
	require.Equal(t, plain, dynamic)
	for i := range plain {
		require.Equal(t, plain[i]/4, linear[i])
	}

	yarn, factor := RopeDims{Theta: 1e6, Kind: "yarn", Factor: 4, Original: 32768}.Frequencies(128)
	require.InDelta(t, 1.13863, float64(factor), 1e-5)
	for i := range plain {
		switch {
		case i <= 23: // low border of the ramp: extrapolation
			require.InEpsilon(t, plain[i], yarn[i], 1e-6, i)
		case i >= 40: // high border: interpolation
			require.InEpsilon(t, plain[i]/4, yarn[i], 1e-6, i)
		default:
			require.Less(t, yarn[i], plain[i])
			require.Greater(t, yarn[i], plain[i]/4)
		}
	}
}

// TestResizePositions checks properties that define the interpolation: constants
// and, away from the border, planes are kept; sizes that agree change nothing;
// weights are PyTorch's a = -0.75 kernel.
func TestResizePositions(t *testing.T) {
	tap := newCubicTap(1, 4, 8) // source coordinate 0.25: t = 0.25
	require.Equal(t, [4]int{0, 0, 1, 2}, tap.index)
	want := []float64{-0.10546875, 0.87890625, 0.26171875, -0.03515625}
	for i, w := range want {
		require.InDelta(t, w, float64(tap.weight[i]), 1e-7)
	}
	table := make([]float32, 1+16*16)
	for y := range 16 {
		for x := range 16 {
			table[1+y*16+x] = float32(3 + 2*y - x)
		}
	}
	table[0] = 99
	require.Equal(t, table, resizePositions(table, 1, 16, 16))
	for _, to := range []int{8, 24, 32} {
		out := resizePositions(table, 1, 16, to)
		require.Len(t, out, 1+to*to)
		require.EqualValues(t, 99, out[0])
		s := 16 / float64(to)
		inner := func(i int) bool { c := (float64(i)+0.5)*s - 0.5; return c >= 1 && c <= 13 }
		for y := range to {
			for x := range to {
				if inner(y) && inner(x) {
					// The a = -0.75 kernel reproduces constants, and planes up to this.
					want := 3 + 2*((float64(y)+0.5)*s-0.5) - ((float64(x)+0.5)*s - 0.5)
					require.InDelta(t, want, float64(out[1+y*to+x]), 0.3)
				}
			}
		}
	}
}

func TestDims(t *testing.T) {
	var c loader.Config
	c.Text = loader.TextConfig{
		Hidden: 64, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, Intermediate: 128, Vocab: 100, MaxPositions: 64, Eps: 1e-6,
		Rope: loader.Rope{Theta: 1e4},
	}
	c.Vision = loader.VisionConfig{Hidden: 64, Layers: 3, Heads: 4, HeadDim: 16, Intermediate: 128, ImageSize: 56, PatchSize: 14, Eps: 1e-6, Norm: "rms_norm", QKNorm: true}
	c.ImageSize, c.DownsampleRatio, c.PSVersion, c.SelectLayer = 84, 0.5, 2, -2
	dec, vis, err := DimsOf(&c)
	require.NoError(t, err)
	require.Equal(t, 64, dec.Context)
	require.Equal(t, 2, vis.Run, "the output of the second of three blocks")
	require.Equal(t, []int{6, 4, 9, 37}, []int{vis.Grid(), vis.PosGrid, vis.Tokens(), vis.Rows()})
	require.True(t, vis.RMSNorm)

	for name, change := range map[string]func(*loader.Config){
		"num_key_value_heads": func(c *loader.Config) { c.Text.KVHeads = 3 },
		"rms_norm_eps":        func(c *loader.Config) { c.Text.Eps = 0 },
		"rope_scaling":        func(c *loader.Config) { c.Text.Rope.Kind = "longrope" },
		"select_layer":        func(c *loader.Config) { c.SelectLayer = 9 },
		"image_size":          func(c *loader.Config) { c.ImageSize = 85 },
		"ps_version":          func(c *loader.Config) { c.PSVersion = 3 },
	} {
		bad := c
		change(&bad)
		_, _, err := DimsOf(&bad)
		require.ErrorContains(t, err, name)
	}
}

// TestRounding: the encoder's attention may round to bf16 if the checkpoint is bf16
// and nobody asked for float32.
func TestRounding(t *testing.T) {
	for _, c := range []struct {
		name      string
		precision kernels.Precision
		want      bool
	}{
		{"internvl3-qwen25-remote-bf16", kernels.PrecisionNative, true},
		{"internvl3-qwen25-remote-bf16", kernels.PrecisionF32, false},
		{"internvl3-qwen25-remote-fp32", kernels.PrecisionNative, false},
	} {
		ck, err := loader.Open("../../../testdata/models/" + c.name)
		require.NoError(t, err)
		b, err := ref.Open(ref.Options{})
		require.NoError(t, err)
		m, err := Load(context.Background(), ck, b, Options{DType: kernels.F32, Precision: c.precision})
		require.NoError(t, err)
		require.Equal(t, c.want, m.Vision.half, "%s, precision %v", c.name, c.precision)
		m.Free()
		require.NoError(t, b.Close())
		require.NoError(t, ck.Close())
	}
}
