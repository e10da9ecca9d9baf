package bench

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/kernels"
	"metacap/kernels/cuda"
	"metacap/kernels/cuda/sim"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Test{
		"pp512":         {Kind: Prefill, Tokens: 512, Batch: 1},
		"pp512@3328":    {Kind: Prefill, Tokens: 512, Depth: 3328, Batch: 1},
		"tg64":          {Kind: Decode, Tokens: 64, Depth: 32, Batch: 1},
		"tg64@512*8":    {Kind: Decode, Tokens: 64, Depth: 512, Batch: 8},
		"vit13":         {Kind: Vision, Tiles: 13, Batch: 1},
		"cap1280x960*4": {Kind: Caption, Width: 1280, Height: 960, Batch: 4},
		"ttft8@256":     {Kind: First, Tiles: 8, Depth: 256, Batch: 1},
		"ttft8@256*4":   {Kind: First, Tiles: 8, Depth: 256, Batch: 4},
	} {
		got, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := Parse(got.String())
		require.NoError(t, err, got)
		require.Equal(t, got, again)
	}
	for _, text := range []string{"", "pp", "tg", "pp0", "pp64*0", "cap640", "vit3x4", "vit3@4", "pp64@32*2", "ttft8", "ttft8x2@256", "pp99999999"} {
		_, err := Parse(text)
		require.Error(t, err, text)
	}
}

// TestBound checks the least times against sums made by hand.
func TestBound(t *testing.T) {
	w := engine.Work{StepBytes: 1000, KVBytes: 10, TokenOps: 400, RowOps: 100, PairOps: 2, TileOps: 5000, VisionBytes: 300}
	l := Limits{ReadBytes: 100, Ops: 1000}
	for _, c := range []struct {
		test          string
		prompt, tiles int
		bound         float64
		rate, seconds float64
		share         float64
	}{
		// Reading 1000 + 2*(30+5)*10 bytes takes longer than 2*(500+70) operations.
		{test: "tg10@30*2", bound: 17, rate: 0.1, share: 17 * 0.1 / 2},
		// 100 tokens: 40000 + 100 + 2*5050 operations.
		{test: "pp100", prompt: 100, bound: 50.2, seconds: 100.4, share: 0.5},
		{test: "pp100@50", prompt: 100, bound: 60.2, seconds: 602, share: 0.1},
		{test: "vit3", prompt: 5, tiles: 3, bound: 15, seconds: 30, share: 0.5},
		// One tile reads its weights in 3 s and needs 5 s of arithmetic.
		{test: "vit1", prompt: 5, tiles: 1, bound: 5, seconds: 5, share: 1},
		{test: "ttft3@20", prompt: 100, tiles: 3, bound: 65.2, rate: 130400, share: 0.5},
	} {
		test, err := Parse(c.test)
		require.NoError(t, err)
		r := &Result{Test: test, Prompt: c.prompt, Tiles: c.tiles, Rates: []float64{c.rate}, Seconds: []float64{c.seconds}}
		require.InDelta(t, c.bound, l.Bound(r, w), 1e-9, c.test)
		require.InDelta(t, c.share, l.Share(r, w), 1e-9, c.test)
		require.Zero(t, Limits{}.Share(r, w))
	}
}

// measured checks limits that any device must exceed and none can reach.
func measured(t *testing.T, b kernels.Backend, o LimitOptions) {
	t.Helper()
	start := time.Now()
	l, err := MeasureLimits(b, o)
	require.NoError(t, err)
	t.Logf("%s: %.3g GB/s by %s, %.3g GFLOP/s by %s in %v", o.Weights, l.ReadBytes/1e9, l.ReadBy, l.Ops/1e9, l.OpsBy, time.Since(start))
	require.Greater(t, l.ReadBytes, 1e3)
	require.Less(t, l.ReadBytes, 1e14)
	require.Greater(t, l.Ops, 1e3)
	require.Less(t, l.Ops, 1e17)
	require.NotEmpty(t, l.ReadBy)
	require.NotEmpty(t, l.OpsBy)
}

func TestMeasureLimits(t *testing.T) {
	for _, kind := range []string{"bf16", "f32", "int8", "int4"} {
		t.Run("cpu/"+kind, func(t *testing.T) {
			b, err := engine.OpenBackend("cpu", 2)
			require.NoError(t, err)
			defer b.Close()
			o := LimitOptions{Activations: b.Info().Activations, Weights: kind, Bytes: 8 << 20}
			if kind == "f32" {
				o.Activations = kernels.F32
			}
			measured(t, b, o)
		})
	}
	t.Run("simulated_gpu", func(t *testing.T) {
		lib, err := sim.Build(sim.Options{})
		if errors.Is(err, sim.ErrNoCompiler) {
			t.Skip(err)
		}
		require.NoError(t, err)
		b, err := cuda.Open(cuda.Options{Library: lib})
		require.NoError(t, err)
		defer b.Close()
		measured(t, b, LimitOptions{Activations: kernels.BF16, Weights: "bf16", Bytes: 4 << 20})
	})
}

func TestDropCached(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, WriteFiles(dir, fstest.MapFS{"weights": {Data: make([]byte, 1<<20)}, "config.json": {Data: []byte("{}")}}, true))
	files, err := CheckpointFiles(dir)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "config.json"), filepath.Join(dir, "weights")}, files)
	data, err := os.ReadFile(files[1])
	require.NoError(t, err)
	require.Len(t, data, 1<<20)
	if err := dropCached(files[1]); err != nil { // a memory file system keeps its pages
		require.ErrorContains(t, err, "page cache")
	}
	require.Error(t, dropCached(filepath.Join(dir, "none")))
}
