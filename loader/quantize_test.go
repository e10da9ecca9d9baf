package loader_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/loader"
	"metacap/loader/internal/format"
)

func quantize(t *testing.T, model string, o loader.QuantizeOptions) (string, []loader.QuantizedTensor) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	report, err := loader.Quantize(context.Background(), filepath.Join(models, model), out, o)
	require.NoError(t, err)
	return out, report
}

// TestQuantize writes every scheme and reads it back through the loader. An
// 8-bit value is off by at most half a step, plus a quarter where rounding the
// scale to bf16 clips the largest value (127 * 2^-9). Four bits may clip by
// choice, at most by 1 - 7/9 of the largest value, which is below two steps.
func TestQuantize(t *testing.T) {
	cases := map[string]struct {
		model string
		o     loader.QuantizeOptions
		group int
		rms   float64 // for normal weights: step/sqrt(12), step about 3 sigma/127 or 3 sigma/8; times 1.5
		steps float64
	}{
		"int8":         {"internvl35-56-remote-bf16", loader.QuantizeOptions{Bits: 8}, 128, 0.015, 0.76},
		"int8_channel": {"internvl35-56-hf-bf16", loader.QuantizeOptions{Bits: 8, Group: -1}, 0, 0.015, 0.76},
		"int4_64":      {"internvl35-56-hf-bf16", loader.QuantizeOptions{Bits: 4, Group: 64, HeadBits: 8}, 64, 0.16, 2.5},
		"int4_fp32":    {"internvl3-qwen25-remote-fp32", loader.QuantizeOptions{Bits: 4, HeadBits: 4, Threads: 3}, 32, 0.16, 2.5},
		"int4_tied":    {"qwen2-tied-bf16", loader.QuantizeOptions{Bits: 4}, 32, 0.16, 2.5},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out, report := quantize(t, c.model, c.o)
			src, dst := open(t, filepath.Join(models, c.model)), open(t, out)
			list := dst.Config.Weights()
			require.NoError(t, dst.Require(list))
			require.Empty(t, dst.Extra(list))
			require.Equal(t, src.Summary().Total.Parameters, dst.Summary().Total.Parameters)
			require.Less(t, dst.Bytes(), src.Bytes())
			byName := map[string]loader.QuantizedTensor{}
			for _, r := range report {
				byName[r.Name] = r
			}
			rounded := 0
			for _, w := range list {
				stored, _ := src.Find(w.Name)
				r, ok := byName[stored[0].Name]
				if !ok {
					same, found := dst.Find(w.Name)
					require.True(t, found, w.Name)
					for i := range same {
						require.True(t, bytes.Equal(stored[i].Data, same[i].Data), w.Name)
					}
					continue
				}
				rounded++
				if c.group != 0 {
					require.Equal(t, c.group, r.Group, w.Name)
				}
				checkRounded(t, src, dst, w, r, c.steps, c.rms)
			}
			want := 7 * dst.Config.Text.Layers
			if c.o.HeadBits != 0 {
				want++
			}
			require.Equal(t, want, rounded)
			require.Len(t, report, want)
			// What belongs to the checkpoint came along.
			files, err := src.Files()
			require.NoError(t, err)
			got, err := dst.Files()
			require.NoError(t, err)
			require.Equal(t, files, got)
			// Every tensor lies aligned in its file.
			for _, f := range got {
				if !strings.HasSuffix(f, ".safetensors") {
					continue
				}
				data, err := os.ReadFile(filepath.Join(out, f))
				require.NoError(t, err)
				h, err := format.ParseHeader(f, data)
				require.NoError(t, err)
				for _, e := range h.Entries {
					require.Zero(t, e.Start%int64(e.DType.Size()), e.Name)
				}
			}
		})
	}
}

// checkRounded compares a rounded matrix with its source.
func checkRounded(t *testing.T, src, dst *loader.Checkpoint, w loader.Want, r loader.QuantizedTensor, steps, rms float64) {
	t.Helper()
	module := strings.TrimSuffix(w.Name, ".weight")
	a, err := src.Linear(module)
	require.NoError(t, err)
	b, err := dst.Linear(module)
	require.NoError(t, err)
	require.Equal(t, a.Bias, b.Bias)
	q := b.Parts[0].Quant
	require.NotNil(t, q)
	require.Equal(t, r.Bits, q.Bits)
	require.Equal(t, r.Group, q.Group)
	scales := make([]float32, len(q.Scales)/4)
	dtype.DecodeF32(scales, q.Scales)
	x, y := values(t, a), values(t, b)
	var sum, squares, worst float64
	for i := range x {
		n, k := i/a.K, i%a.K
		diff := math.Abs(float64(x[i]) - float64(y[i]))
		if step := float64(scales[n*(a.K/q.Group)+k/q.Group]); !(diff <= steps*step) {
			t.Fatalf("%s: element %d: %g became %g with step %g", w.Name, i, x[i], y[i], step)
		}
		sum += diff * diff
		squares += float64(x[i]) * float64(x[i])
		worst = max(worst, diff)
	}
	require.InEpsilon(t, math.Sqrt(sum/squares), r.RelativeError, 1e-3, w.Name)
	require.InEpsilon(t, worst, r.MaxError, 1e-3, w.Name)
	require.Less(t, r.RelativeError, rms, w.Name)
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		out[e.Name()] = string(data)
	}
	return out
}

// TestQuantizeResumes interrupts the work in the second shard and goes on.
func TestQuantizeResumes(t *testing.T) {
	in := filepath.Join(models, "internvl35-56-remote-bf16")
	o := loader.QuantizeOptions{Bits: 4, HeadBits: 8}
	want, full := quantize(t, "internvl35-56-remote-bf16", o)

	out := t.TempDir()
	first := filepath.Join(out, "model-00001-of-00002.safetensors")
	ctx, cancel := context.WithCancel(context.Background())
	interrupted := o
	interrupted.Progress = func(done, total int64) {
		if _, err := os.Stat(first); err == nil && done < total {
			cancel()
		}
	}
	_, err := loader.Quantize(ctx, in, out, interrupted)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, readAll(t, out), 1, "one shard, no temporary file, no config.json")
	_, err = loader.Open(out)
	require.ErrorIs(t, err, loader.ErrNoCheckpoint)
	before, err := os.Stat(first)
	require.NoError(t, err)

	var done, total int64
	o.Progress = func(d, all int64) {
		require.GreaterOrEqual(t, d, done)
		done, total = d, all
	}
	rest, err := loader.Quantize(context.Background(), in, out, o)
	require.NoError(t, err)
	require.Equal(t, total, done)
	require.Less(t, len(rest), len(full))
	require.NotEmpty(t, rest)
	after, err := os.Stat(first)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
	require.Equal(t, readAll(t, want), readAll(t, out))

	o.Progress = nil
	// A finished result is left alone; other options are refused.
	again, err := loader.Quantize(context.Background(), in, out, o)
	require.NoError(t, err)
	require.Empty(t, again)
	o.Bits = 8
	_, err = loader.Quantize(context.Background(), in, out, o)
	require.ErrorContains(t, err, "is of another source or other options (want int8 group 128 head 8)")
}

func TestQuantizeErrors(t *testing.T) {
	in := filepath.Join(models, "qwen2-tied-bf16")
	run := func(in, out string, o loader.QuantizeOptions) error {
		_, err := loader.Quantize(context.Background(), in, out, o)
		return err
	}
	for want, o := range map[string]loader.QuantizeOptions{
		"Bits: no such width, got 0, want 8 or 4":                                {},
		"Bits: no such width, got 5":                                             {Bits: 5},
		"Group: no such group size, got 16, want -1, 0, 32, 64 or 128":           {Bits: 8, Group: 16},
		"Group: does not divide the 64 inputs of language_model":                 {Bits: 8, Group: 128},
		"Group: one scale an output needs 8 bits, got 4":                         {Bits: 4, Group: -1},
		"HeadBits: the head is the embedding, got 8, want 0 for tied embeddings": {Bits: 8, HeadBits: 8},
		"HeadBits: no such width, got 3":                                         {Bits: 8, HeadBits: 3},
	} {
		require.ErrorContains(t, run(in, t.TempDir(), o), "loader: quantize: "+want)
	}
	ok := loader.QuantizeOptions{Bits: 8}
	dir := copyModel(t, "qwen2-tied-bf16")
	require.ErrorContains(t, run(dir, dir, ok), "is the source")
	out := t.TempDir()
	write(t, out, "other.safetensors", []byte("x"))
	require.ErrorContains(t, run(in, out, ok), "holds other.safetensors, which is not part of the result")
	require.ErrorContains(t, run(filepath.Join(quantDir, "awq-g16"), t.TempDir(), ok), "source: already quantised, got awq")

	corrupt(t, dir, "model.layers.1.mlp.up_proj.weight", func(b []byte) { binary.LittleEndian.PutUint16(b[2*(64+3):], 0x7fc0) })
	out = t.TempDir()
	err := run(dir, out, ok)
	require.ErrorContains(t, err, "tensor model.layers.1.mlp.up_proj.weight: weight is not finite, got NaN at row 1, input 3")
	require.Empty(t, readAll(t, out))
}

// TestQuantizeMemory checks that the heap stays small however large the source is:
// 300 MB of holes here.
func TestQuantizeMemory(t *testing.T) {
	in := t.TempDir()
	write(t, in, "config.json", []byte(`{"architectures":["Qwen3ForCausalLM"],"hidden_size":1024,"intermediate_size":8192,"num_hidden_layers":1,
		"num_attention_heads":8,"num_key_value_heads":8,"head_dim":128,"vocab_size":120000,"tie_word_embeddings":true,"torch_dtype":"bfloat16"}`))
	data, err := os.ReadFile(filepath.Join(in, "config.json"))
	require.NoError(t, err)
	c, err := loader.ParseConfig(data)
	require.NoError(t, err)
	var entries []format.Entry
	for _, w := range c.Weights() {
		entries = append(entries, format.Entry{Name: strings.TrimPrefix(w.Name, "language_model."), DType: dtype.BF16, Shape: w.Shape})
	}
	head, placed, err := format.EncodeHeader(entries, nil)
	require.NoError(t, err)
	size := placed[len(placed)-1].End
	require.Greater(t, size, int64(300e6))
	sparse(t, filepath.Join(in, "model.safetensors"), head, size)

	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak uint64
	steps := 0
	_, err = loader.Quantize(context.Background(), in, filepath.Join(t.TempDir(), "out"), loader.QuantizeOptions{Bits: 8, Progress: func(int64, int64) {
		if steps++; steps%4 == 0 {
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
		}
	}})
	require.NoError(t, err)
	t.Logf("peak heap %.1f MB for %.0f MB of weights", float64(peak)/1e6, float64(size)/1e6)
	require.Less(t, peak, uint64(64e6))
	require.NotZero(t, steps)
}
