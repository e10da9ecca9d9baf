package cuda

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// The shape of InternVL3.5-8B: what the benchmarks run, on random weights.
const (
	benchWidth  = 4096
	benchFFN    = 12288
	benchHeads  = 32
	benchKV     = 8
	benchDim    = 128
	benchVocab  = 151936
	benchLayers = 36
	vitWidth    = 1024
	vitFFN      = 4096
	vitHeads    = 16
	vitRows     = 1025
	vitLayers   = 24
)

// bench holds device memory of random bits.
type bench struct {
	*Backend
	tb   testing.TB
	seed []byte // random bf16 values, |x| < 1
}

func newBench(tb testing.TB) *bench {
	b := &bench{Backend: device(tb, Options{}), tb: tb, seed: make([]byte, 64<<20)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b.seed); i += 8 {
		v := r.Uint64()
		// Exponents 115..126, random signs and mantissas.
		v = v&0x807f807f807f807f | 0x3980398039803980 + (v >> 3 & 0x0380038003800380)
		binary.LittleEndian.PutUint64(b.seed[i:], v)
	}
	return b
}

func (b *bench) bytes(n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		out = append(out, b.seed[:min(len(b.seed), n-len(out))]...)
	}
	return out
}

func (b *bench) linear(n, k int, gated bool) kernels.Weight {
	b.tb.Helper()
	src := kernels.LinearSource{Name: "w", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: b.bytes(n * k * 2)}}, Gated: gated}
	if gated {
		data := b.bytes(n * k * 2)
		src.Parts = []kernels.MatrixPart{{N: n / 2, DType: kernels.BF16, Data: data[:n*k]}, {N: n / 2, DType: kernels.BF16, Data: data[n*k:]}}
	}
	w, err := b.PackLinear(src)
	require.NoError(b.tb, err)
	return w
}

func (b *bench) rows(shape ...int) kernels.Tensor {
	b.tb.Helper()
	t := kernels.Tensor{DType: kernels.BF16, Shape: shape}
	buf, err := b.Alloc(t.Elements() * 2)
	require.NoError(b.tb, err)
	t.Buf = buf
	require.NoError(b.tb, b.Upload(t, b.bytes(int(t.Elements()*2))))
	return t
}

func (b *bench) ints(v []float32, shape ...int) kernels.Tensor {
	b.tb.Helper()
	t, err := tensor(b.Backend, kernels.I32, v, shape...)
	require.NoError(b.tb, err)
	return t
}

func (b *bench) floats(n int) kernels.Tensor {
	b.tb.Helper()
	t, err := tensor(b.Backend, kernels.F32, normal(n), n)
	require.NoError(b.tb, err)
	return t
}

// time runs fn once, records it, and times replays on the device (run with
// -benchtime 1x). It returns milliseconds a replay.
func (b *bench) time(bb *testing.B, fn func() error) float64 {
	require.NoError(bb, fn())
	require.NoError(bb, b.Sync())
	require.NoError(bb, b.BeginCapture())
	err := fn()
	g, gerr := b.EndCapture()
	require.NoError(bb, err)
	require.NoError(bb, gerr)
	defer g.Free()
	// Samples of at least 20 ms, after one to warm up; their median.
	reps, samples := 1, []float64{}
	for bb.Loop() {
		for len(samples) < 7 {
			ms := b.sample(bb, g.(*graph), reps)
			if ms*float64(reps) < 20 && reps < 4096 {
				reps *= 2
				continue
			}
			samples = append(samples, ms)
		}
	}
	slices.Sort(samples)
	return samples[len(samples)/2]
}

// sample launches a recording reps times and returns the device's milliseconds for one.
func (b *bench) sample(bb *testing.B, g *graph, reps int) (ms float64) {
	require.NoError(bb, b.do(func() error {
		from, err := b.ctx.NewEvent(true)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := b.ctx.NewEvent(true)
		if err != nil {
			return err
		}
		defer to.Close()
		if err := from.Record(b.stream); err != nil {
			return err
		}
		for range reps {
			if err := g.exec.Launch(b.stream); err != nil {
				return err
			}
		}
		if err := to.Record(b.stream); err != nil {
			return err
		}
		if err := to.Synchronize(); err != nil {
			return err
		}
		d, err := to.Since(from)
		ms = d.Seconds() * 1e3 / float64(reps)
		return err
	}))
	return ms
}

// decoder is a decoder of random weights.
type decoder struct {
	*bench
	layers []struct{ qkv, out, gateUp, down kernels.Weight }
	head   kernels.Weight
	norm   kernels.Tensor
	dnorm  kernels.Tensor
	freq   kernels.Tensor
	kv     kernels.KV
}

func newDecoder(b *bench, blocks int) *decoder {
	d := &decoder{bench: b, head: b.linear(benchVocab, benchWidth, false), norm: b.floats(benchWidth), dnorm: b.floats(benchDim), freq: b.floats(benchDim / 2)}
	for range benchLayers {
		d.layers = append(d.layers, struct{ qkv, out, gateUp, down kernels.Weight }{
			b.linear((benchHeads+2*benchKV)*benchDim, benchWidth, false), b.linear(benchWidth, benchHeads*benchDim, false),
			b.linear(2*benchFFN, benchWidth, true), b.linear(benchWidth, benchFFN, false),
		})
	}
	var err error
	d.kv, err = b.NewKV(kernels.KVShape{Layers: benchLayers, Blocks: blocks, Heads: benchKV, HeadDim: benchDim, DType: kernels.BF16})
	require.NoError(b.tb, err)
	const chunk = 2304
	k := b.rows(chunk, benchKV, benchDim)
	for lo := 0; lo < blocks*kernels.BlockSize; lo += chunk {
		n := min(chunk, blocks*kernels.BlockSize-lo)
		at := make([]float32, n)
		for i := range at {
			at[i] = float32(lo + i)
		}
		slots := b.ints(at, n)
		for l := range benchLayers {
			require.NoError(b.tb, b.KVStore(kernels.KVStoreArgs{KV: d.kv, Layer: l, K: k.Slice(0, n), V: k.Slice(0, n), Slots: slots}))
		}
		require.NoError(b.tb, b.Sync())
		slots.Buf.Free()
	}
	return d
}

// step is a forward pass of seqs sequences with rows new tokens each, behind ctx-rows, of
// which they have the first shared in common.
func (d *decoder) step(seqs, rows, ctx, shared int) func() error {
	b, tokens := d.bench, seqs*rows
	width := (benchHeads + 2*benchKV) * benchDim
	hidden, normed, qkv := b.rows(tokens, benchWidth), b.rows(tokens, benchWidth), b.rows(tokens, width)
	attn, scratch, act := b.rows(tokens, benchHeads, benchDim), b.rows(tokens, 2*benchFFN), b.rows(tokens, benchFFN)
	var starts, lens, table, pos, slots, pairs []float32
	perSeq := (ctx + kernels.BlockSize - 1) / kernels.BlockSize
	for s := range seqs {
		starts, lens = append(starts, float32(s*rows)), append(lens, float32(ctx))
		for i := range perSeq {
			owner := s
			if i < shared/kernels.BlockSize {
				owner = 0
			}
			table = append(table, float32(owner*perSeq+i))
		}
		pairs = append(pairs, 0, float32(min(s, 1)*shared))
		for r := range rows {
			pos, slots = append(pos, float32(ctx-rows+r)), append(slots, float32(s*perSeq*kernels.BlockSize+ctx-rows+r))
		}
	}
	tStarts, tLens, tTable := b.ints(append(starts, float32(tokens)), seqs+1), b.ints(lens, seqs), b.ints(table, seqs, perSeq)
	tPos, tSlots := b.ints(pos, tokens), b.ints(slots, tokens)
	var hint kernels.Tensor
	if shared > 0 {
		hint = b.ints(pairs, seqs, 2)
	}
	logits, err := tensor(b.Backend, kernels.F32, make([]float32, seqs*benchVocab), seqs, benchVocab)
	require.NoError(b.tb, err)
	ids := b.ints(make([]float32, seqs), seqs)
	return func() error {
		for l := range d.layers {
			w := &d.layers[l]
			norm := kernels.RMSNormArgs{Out: normed, X: hidden, Weight: d.norm, Eps: 1e-6, RoundFirst: true}
			for _, err := range []error{
				b.NormLinear(norm, kernels.LinearArgs{Out: qkv, X: normed, W: w.qkv}),
				b.QKNormRopeStore(kernels.QKNormRopeStoreArgs{
					QKV: qkv, QNorm: d.dnorm, KNorm: d.dnorm, Eps: 1e-6, RoundFirst: true, Positions: tPos, InvFreq: d.freq, KV: d.kv, Layer: l, Slots: tSlots,
				}),
				b.PagedAttention(kernels.PagedAttentionArgs{
					Out: attn, Q: qkv.Cols(0, benchHeads*benchDim).Reshape(tokens, benchHeads, benchDim), KV: d.kv, Layer: l,
					Starts: tStarts, Lens: tLens, Tables: tTable, Shared: hint, Settled: rows == 1, Scale: 0.088, MaxRows: rows, MaxLen: ctx,
				}),
				b.Linear(kernels.LinearArgs{Out: hidden, X: attn.Reshape(tokens, benchHeads*benchDim), W: w.out, Residual: hidden}),
				b.NormSwiGLU(norm, kernels.SwiGLUArgs{Out: act, X: normed, W: w.gateUp, Scratch: scratch}),
				b.Linear(kernels.LinearArgs{Out: hidden, X: act, W: w.down, Residual: hidden}),
			} {
				if err != nil {
					return err
				}
			}
		}
		if err := b.RMSNorm(kernels.RMSNormArgs{Out: normed, X: hidden, Weight: d.norm, Eps: 1e-6, RoundFirst: true}); err != nil {
			return err
		}
		if err := b.Linear(kernels.LinearArgs{Out: logits, X: normed.Slice(0, seqs), W: d.head}); err != nil {
			return err
		}
		return b.ArgMax(kernels.ArgMaxArgs{IDs: ids, Logits: logits})
	}
}

// BenchmarkDecoder times decode steps and a prefill of the whole decoder, as graphs.
func BenchmarkDecoder(bb *testing.B) {
	const ctx = 2304
	d := newDecoder(newBench(bb), 64*ctx/kernels.BlockSize)
	weights := float64(benchLayers*(6144*4096+4096*4096+2*12288*4096+4096*12288)+benchVocab*benchWidth) * 2
	for _, seqs := range []int{1, 4, 8, 16, 32, 64} {
		bb.Run(fmt.Sprintf("decode/batch=%d/ctx=%d", seqs, ctx), func(bb *testing.B) {
			ms := d.time(bb, d.step(seqs, 1, ctx, 0))
			kv := float64(seqs) * ctx * benchLayers * benchKV * benchDim * 4
			bb.ReportMetric(ms, "ms/step")
			bb.ReportMetric(float64(seqs)*1e3/ms, "tok/s")
			bb.ReportMetric((weights+kv)/ms/1e6, "GB/s")
		})
	}
	const picture = 3328 // tokens of 13 tiles
	for _, seqs := range []int{8, 32} {
		for _, shared := range []int{0, picture} {
			if seqs*(picture+128) > 64*ctx && shared == 0 {
				continue // more than the cache has
			}
			bb.Run(fmt.Sprintf("decode/batch=%d/ctx=%d/shared=%d", seqs, picture+128, shared), func(bb *testing.B) {
				ms := d.time(bb, d.step(seqs, 1, picture+128, shared))
				bb.ReportMetric(ms, "ms/step")
				bb.ReportMetric(float64(seqs)*1e3/ms, "tok/s")
			})
		}
	}
	bb.Run(fmt.Sprintf("prefill/tokens=%d", ctx), func(bb *testing.B) {
		ms := d.time(bb, d.step(1, ctx, ctx, 0))
		bb.ReportMetric(ms, "ms/prefill")
		bb.ReportMetric(ctx*1e3/ms, "prompt-tok/s")
	})
}

// BenchmarkVision times the blocks of the vision encoder, and what is before and behind them.
func BenchmarkVision(bb *testing.B) {
	b := newBench(bb)
	var layers []struct{ qkv, out, fc1, fc2 kernels.Weight }
	for range vitLayers {
		layers = append(layers, struct{ qkv, out, fc1, fc2 kernels.Weight }{
			b.linear(3*vitWidth, vitWidth, false), b.linear(vitWidth, vitWidth, false), b.linear(vitFFN, vitWidth, false), b.linear(vitWidth, vitFFN, false),
		})
	}
	norm, bias := b.floats(vitWidth), b.floats(vitFFN)
	for _, tiles := range []int{1, 8, 13} {
		bb.Run(fmt.Sprintf("tiles=%d", tiles), func(bb *testing.B) {
			rows := tiles * vitRows
			x, normed, qkv, attn, ffn := b.rows(rows, vitWidth), b.rows(rows, vitWidth), b.rows(rows, 3*vitWidth), b.rows(rows, vitHeads, 64), b.rows(rows, vitFFN)
			var at []float32
			for i := range tiles + 1 {
				at = append(at, float32(i*vitRows))
			}
			starts := b.ints(at, tiles+1)
			head := func(i int) kernels.Tensor { return qkv.Cols(i*vitWidth, (i+1)*vitWidth).Reshape(rows, vitHeads, 64) }
			ms := b.time(bb, func() error {
				for _, w := range layers {
					for _, err := range []error{
						b.LayerNorm(kernels.LayerNormArgs{Out: normed, X: x, Weight: norm, Bias: bias.Slice(0, vitWidth), Eps: 1e-6}),
						b.Linear(kernels.LinearArgs{Out: qkv, X: normed, W: w.qkv, Bias: bias.Slice(0, 3*vitWidth)}),
						b.SegmentAttention(kernels.SegmentAttentionArgs{Out: attn, Q: head(0), K: head(1), V: head(2), Starts: starts, Scale: 0.125, MaxRows: vitRows}),
						b.Linear(kernels.LinearArgs{Out: x, X: attn.Reshape(rows, vitWidth), W: w.out, Bias: bias.Slice(0, vitWidth), Residual: x, Scale: norm}),
						b.LayerNorm(kernels.LayerNormArgs{Out: normed, X: x, Weight: norm, Bias: bias.Slice(0, vitWidth), Eps: 1e-6}),
						b.Linear(kernels.LinearArgs{Out: ffn, X: normed, W: w.fc1, Bias: bias, Act: kernels.ActGELU}),
						b.Linear(kernels.LinearArgs{Out: x, X: ffn, W: w.fc2, Bias: bias.Slice(0, vitWidth), Residual: x, Scale: norm}),
					} {
						if err != nil {
							return err
						}
					}
				}
				return nil
			})
			bb.ReportMetric(ms, "ms/encode")
			bb.ReportMetric(float64(tiles)*1e3/ms, "tiles/s")
		})
	}
	const side, patch, grid = 448, 14, 32
	const used, padded = 3 * patch * patch, (3*patch*patch + 15) / 16 * 16
	embed, proj1, proj2 := b.linear(vitWidth, used, false), b.linear(benchWidth, 4*vitWidth, false), b.linear(benchWidth, benchWidth, false)
	wide, pos := b.floats(benchWidth), b.floats(vitRows*vitWidth).Reshape(vitRows, vitWidth)
	for _, tiles := range []int{1, 8, 13} {
		bb.Run(fmt.Sprintf("ends/tiles=%d", tiles), func(bb *testing.B) {
			pixels := kernels.Tensor{DType: kernels.U8, Shape: []int{tiles, side, side, 3}}
			var err error
			pixels.Buf, err = b.Alloc(pixels.Elements())
			require.NoError(bb, err)
			require.NoError(bb, b.Upload(pixels, b.bytes(int(pixels.Elements()))))
			patches, embedded, hidden := b.rows(tiles*grid*grid, padded), b.rows(tiles*grid*grid, vitWidth), b.rows(tiles, vitRows, vitWidth)
			tokens := tiles * grid * grid / 4
			shuffled, middle, out := b.rows(tokens, 4*vitWidth), b.rows(tokens, benchWidth), b.rows(tokens, benchWidth)
			ms := b.time(bb, func() error {
				for _, err := range []error{
					b.Patchify(kernels.PatchifyArgs{Out: patches, Tiles: pixels, LUT: bias.Slice(0, 768).Reshape(3, 256), PatchSize: patch}),
					b.Linear(kernels.LinearArgs{Out: embedded, X: patches.Cols(0, used), W: embed, Bias: norm}),
					b.VisionEmbed(kernels.VisionEmbedArgs{Out: hidden, X: embedded, Class: norm, Pos: pos}),
					b.PixelShuffle(kernels.PixelShuffleArgs{Out: shuffled.Reshape(tiles, grid*grid/4, 4*vitWidth), X: hidden, Factor: 2, Version: 2}),
					b.LayerNorm(kernels.LayerNormArgs{Out: shuffled, X: shuffled, Weight: wide, Bias: wide, Eps: 1e-5}),
					b.Linear(kernels.LinearArgs{Out: middle, X: shuffled, W: proj1, Bias: wide, Act: kernels.ActGELU}),
					b.Linear(kernels.LinearArgs{Out: out, X: middle, W: proj2, Bias: wide}),
				} {
					if err != nil {
						return err
					}
				}
				return nil
			})
			bb.ReportMetric(ms, "ms/encode")
		})
	}
}

// BenchmarkLinear times single layers; several weights rotate, so that the cache
// does not hold them.
func BenchmarkLinear(bb *testing.B) {
	b := newBench(bb)
	for _, s := range []struct {
		name string
		n, k int
		rows []int
	}{
		{"qkv", 6144, 4096, []int{1, 8, 16, 32, 64, 2304}},
		{"out", 4096, 4096, []int{1, 8, 16, 32, 64, 2304}},
		{"gateup", 24576, 4096, []int{1, 8, 16, 32, 64, 2304}},
		{"down", 4096, 12288, []int{1, 8, 16, 32, 64, 2304}},
		{"head", benchVocab, 4096, []int{1, 8, 64}},
		{"vit_qkv", 3072, 1024, []int{8200}},
		{"vit_out", 1024, 1024, []int{8200}},
		{"vit_fc1", 4096, 1024, []int{8200}},
		{"vit_fc2", 1024, 4096, []int{8200}},
	} {
		count := max(2, min(12, 400<<20/(s.n*s.k*2)+1))
		var weights []kernels.Weight
		for range count {
			weights = append(weights, b.linear(s.n, s.k, false))
		}
		for _, rows := range s.rows {
			x, out := b.rows(rows, s.k), b.rows(rows, s.n)
			bb.Run(fmt.Sprintf("%s/rows=%d", s.name, rows), func(bb *testing.B) {
				ms := b.time(bb, func() error {
					for _, w := range weights {
						if err := b.Linear(kernels.LinearArgs{Out: out, X: x, W: w}); err != nil {
							return err
						}
					}
					return nil
				}) / float64(count)
				bb.ReportMetric(ms*1e3, "us/layer")
				bb.ReportMetric(float64(s.n)*float64(s.k)*2/ms/1e6, "GB/s")
				bb.ReportMetric(2*float64(rows)*float64(s.n)*float64(s.k)/ms/1e9, "TFLOP/s")
			})
			x.Buf.Free()
			out.Buf.Free()
		}
		for _, w := range weights {
			w.Free()
		}
	}
}

// BenchmarkRows times what stands between the products of a prefill of 2,304 tokens and
// of 8 tiles.
func BenchmarkRows(bb *testing.B) {
	b := newBench(bb)
	report := func(name string, bytes float64, op func() error) {
		bb.Run(name, func(bb *testing.B) {
			ms := b.time(bb, func() error {
				for range 4 {
					if err := op(); err != nil {
						return err
					}
				}
				return nil
			}) / 4
			bb.ReportMetric(ms*1e3, "us/op")
			bb.ReportMetric(bytes/ms/1e6, "GB/s")
		})
	}
	const tokens, tiles, side, patch = 2304, 8, 448, 14
	const grid = side / patch
	const rows = tiles * (1 + grid*grid)
	weight, bias := b.floats(benchWidth), b.floats(benchWidth)
	x, y := b.rows(rows, vitWidth), b.rows(rows, vitWidth)
	report("layernorm", rows*vitWidth*4, func() error {
		return b.LayerNorm(kernels.LayerNormArgs{Out: y, X: x, Weight: weight.Slice(0, vitWidth), Bias: bias.Slice(0, vitWidth), Eps: 1e-6})
	})
	h, o := b.rows(tokens, benchWidth), b.rows(tokens, benchWidth)
	report("rmsnorm", tokens*benchWidth*4, func() error {
		return b.RMSNorm(kernels.RMSNormArgs{Out: o, X: h, Weight: weight, Eps: 1e-6, RoundFirst: true})
	})
	kv, err := b.NewKV(kernels.KVShape{Layers: 1, Blocks: tokens / kernels.BlockSize, Heads: benchKV, HeadDim: benchDim, DType: kernels.BF16})
	require.NoError(bb, err)
	defer kv.Free()
	at := make([]float32, tokens)
	for i := range at {
		at[i] = float32(i)
	}
	qkv, pos, norm, freq := b.rows(tokens, (benchHeads+2*benchKV)*benchDim), b.ints(at, tokens), b.floats(benchDim), b.floats(benchDim/2)
	report("qk_norm_rope_store", tokens*(2*benchHeads+5*benchKV)*benchDim*2, func() error {
		return b.QKNormRopeStore(kernels.QKNormRopeStoreArgs{
			QKV: qkv, QNorm: norm, KNorm: norm, Eps: 1e-6, RoundFirst: true, Positions: pos, InvFreq: freq, KV: kv, Slots: pos,
		})
	})
	cls, table := b.floats(vitWidth), b.floats((1+grid*grid)*vitWidth)
	embedded := b.rows(tiles*grid*grid, vitWidth)
	hidden := x.Reshape(tiles, 1+grid*grid, vitWidth)
	report("vision_embed", rows*vitWidth*4, func() error {
		return b.VisionEmbed(kernels.VisionEmbedArgs{Out: hidden, X: embedded, Class: cls, Pos: table.Reshape(1+grid*grid, vitWidth)})
	})
	shuffled := b.rows(tiles, grid*grid/4, 4*vitWidth)
	report("pixel_shuffle", tiles*grid*grid*vitWidth*4, func() error {
		return b.PixelShuffle(kernels.PixelShuffleArgs{Out: shuffled, X: hidden, Factor: 2, Version: 2})
	})
	pixels := kernels.Tensor{DType: kernels.U8, Shape: []int{tiles, side, side, 3}}
	pixels.Buf, err = b.Alloc(pixels.Elements())
	require.NoError(bb, err)
	require.NoError(bb, b.Upload(pixels, b.bytes(int(pixels.Elements()))))
	patches := b.rows(tiles*grid*grid, (3*patch*patch+15)/16*16)
	report("patchify", tiles*side*side*3*3, func() error {
		return b.Patchify(kernels.PatchifyArgs{Out: patches.Cols(0, 3*patch*patch), Tiles: pixels, LUT: weight.Slice(0, 768).Reshape(3, 256), PatchSize: patch})
	})
}

// BenchmarkAttention times one layer's attention; shared: tokens that the sequences have in common.
func BenchmarkAttention(bb *testing.B) {
	b := newBench(bb)
	const text, picture = 2304, 3328 + 128 // tokens; 3,328 are of 13 tiles
	for _, c := range []struct{ seqs, rows, ctx, shared int }{
		{1, 1, text, 0},
		{4, 1, text, 0},
		{8, 1, text, 0},
		{16, 1, text, 0},
		{64, 1, text, 0},
		{1, 256, text, 0},
		{1, 1024, text, 0},
		{1, 2304, text, 0},
		{8, 288, text, 0},
		{8, 1, picture, 0},
		{8, 1, picture, 3328},
		{32, 1, picture, 0},
		{32, 1, picture, 3328},
	} {
		ctx := c.ctx
		blocks := ctx / kernels.BlockSize
		kv, err := b.NewKV(kernels.KVShape{Layers: 4, Blocks: c.seqs * blocks, Heads: benchKV, HeadDim: benchDim, DType: kernels.BF16})
		require.NoError(bb, err)
		var starts, table, lens, pairs []float32
		for s := range c.seqs + 1 {
			starts = append(starts, float32(s*c.rows))
		}
		for i := range c.seqs * blocks {
			if i%blocks < c.shared/kernels.BlockSize {
				i %= blocks
			}
			table = append(table, float32(i))
		}
		for s := range c.seqs {
			lens, pairs = append(lens, float32(ctx)), append(pairs, 0, float32(min(s, 1)*c.shared))
		}
		k := b.rows(ctx, benchKV, benchDim)
		for s := range c.seqs {
			at := make([]float32, ctx)
			for i := range at {
				at[i] = float32(s*ctx + i)
			}
			slots := b.ints(at, ctx)
			for l := range 4 {
				require.NoError(bb, b.KVStore(kernels.KVStoreArgs{KV: kv, Layer: l, K: k, V: k, Slots: slots}))
			}
		}
		tokens := c.seqs * c.rows
		q, out := b.rows(tokens, benchHeads, benchDim), b.rows(tokens, benchHeads, benchDim)
		tStarts, tLens, tTable := b.ints(starts, c.seqs+1), b.ints(lens, c.seqs), b.ints(table, c.seqs, blocks)
		name := fmt.Sprintf("batch=%d/rows=%d/ctx=%d", c.seqs, c.rows, ctx)
		var hint kernels.Tensor
		if c.shared > 0 {
			name = fmt.Sprintf("%s/shared=%d", name, c.shared)
			hint = b.ints(pairs, c.seqs, 2)
		}
		read := float64(c.seqs*ctx-(c.seqs-1)*c.shared) * benchKV * benchDim * 4 // bytes
		run := func(bb *testing.B) {
			ms := b.time(bb, func() error {
				for l := range 4 {
					if err := b.PagedAttention(kernels.PagedAttentionArgs{
						Out: out, Q: q, KV: kv, Layer: l, Starts: tStarts, Lens: tLens, Tables: tTable, Shared: hint, Settled: c.rows == 1,
						Scale: 0.088, MaxRows: c.rows, MaxLen: ctx,
					}); err != nil {
						return err
					}
				}
				return nil
			}) / 4
			bb.ReportMetric(ms*1e3, "us/layer")
			bb.ReportMetric(read/ms/1e6, "GB/s")
			bb.ReportMetric(4*float64(tokens)*(float64(ctx)-float64(c.rows)/2)*benchHeads*benchDim/ms/1e9, "TFLOP/s")
		}
		bb.Run(name, run)
		if c.seqs > 1 && c.rows == 1 && c.shared == 0 {
			b.walk = b.splitWalk(partitions(ctx), c.seqs*benchKV)
			bb.Run(name+"/split", run) // whatever the backend takes
			b.walk = 0
		}
		kv.Free()
	}
	for _, tiles := range []int{1, 8, 13} {
		x := b.rows(tiles*vitRows, 3*vitWidth)
		out := b.rows(tiles*vitRows, vitHeads, 64)
		var at []float32
		for i := range tiles + 1 {
			at = append(at, float32(i*vitRows))
		}
		starts := b.ints(at, tiles+1)
		head := func(i int) kernels.Tensor {
			return x.Cols(i*vitWidth, (i+1)*vitWidth).Reshape(tiles*vitRows, vitHeads, 64)
		}
		bb.Run(fmt.Sprintf("vision/tiles=%d", tiles), func(bb *testing.B) {
			ms := b.time(bb, func() error {
				return b.SegmentAttention(kernels.SegmentAttentionArgs{Out: out, Q: head(0), K: head(1), V: head(2), Starts: starts, Scale: 0.125, MaxRows: vitRows})
			})
			bb.ReportMetric(ms*1e3, "us/layer")
			bb.ReportMetric(4*float64(tiles)*vitRows*vitRows*vitHeads*64/ms/1e9, "TFLOP/s")
		})
	}
}

// BenchmarkCopy times a device-to-device copy of 4 GiB: bytes read and written a second.
func BenchmarkCopy(bb *testing.B) {
	b := newBench(bb)
	const size = 4 << 30
	src, err := b.Alloc(size)
	require.NoError(bb, err)
	dst, err := b.Alloc(size)
	require.NoError(bb, err)
	ms := b.time(bb, func() error {
		return b.do(func() error { return b.stream.Copy(dst.(*buffer).ptr, src.(*buffer).ptr, size) })
	})
	bb.ReportMetric(2*size/ms/1e6, "GB/s")
}
