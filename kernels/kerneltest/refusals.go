package kerneltest

import (
	"errors"
	"fmt"

	"metacap/kernels"
)

// rowInvariance compares row operations on all rows with the same on single rows.
func rowInvariance() []testCase {
	var all []testCase
	for _, c := range []int{7, 128, 1025} {
		ops := map[string]func(w *world, out, x kernels.Tensor, weight kernels.Tensor){
			"RMSNorm": func(w *world, out, x, weight kernels.Tensor) {
				w.do(w.RMSNorm(kernels.RMSNormArgs{Out: out, X: x, Weight: weight, Eps: 1e-6}))
			},
			"LayerNorm": func(w *world, out, x, weight kernels.Tensor) {
				w.do(w.LayerNorm(kernels.LayerNormArgs{Out: out, X: x, Weight: weight, Bias: weight, Eps: 1e-6}))
			},
			"Activation": func(w *world, out, x, _ kernels.Tensor) {
				w.do(w.Activation(kernels.ActivationArgs{Out: out, X: x, Act: kernels.ActGELU}))
			},
		}
		for op, call := range ops {
			all = append(all, testCase{op: op, name: fmt.Sprintf("rows_alone_and_together/C=%d", c), run: func(w *world) {
				x, weight := w.strided("X", f32, (c+7)/8*8, 21, c), w.random("Weight", f32, c)
				whole, alone := w.outStrided("Whole", f32, (c+7)/8*8, 21, c), w.outStrided("Alone", f32, (c+7)/8*8, 21, c)
				if w.err != nil {
					return
				}
				call(w, whole, x, weight)
				for i := 0; i < 21; i++ {
					call(w, alone.Slice(i, i+1), x.Slice(i, i+1), weight)
				}
				w.equal("rows alone", alone, whole)
			}})
		}
	}
	return sorted(all)
}

// refusals hand wrong operands to every operation; each must return *ArgError.
func refusals() []testCase {
	var all []testCase
	add := func(op, name string, call func(w *world) error) {
		all = append(all, testCase{op: op, name: "refuses/" + name, run: func(w *world) {
			err := call(w)
			if w.err != nil {
				return
			}
			var arg *kernels.ArgError
			if !errors.As(err, &arg) {
				w.fail("got error %v, want *kernels.ArgError", err)
			}
		}})
	}
	empty := func(t kernels.Tensor) kernels.Tensor {
		t.Shape = append([]int{0}, t.Shape[1:]...)
		return t
	}
	mat := func(w *world, rows, cols int) kernels.Tensor { return w.random("X", f32, rows, cols) }
	add("Linear", "no_rows", func(w *world) error {
		weight := w.pack(linearSpec{k: 8, outputs: []int{8}, weight: f32}.source(w))
		return w.Linear(kernels.LinearArgs{Out: empty(mat(w, 1, 8)), X: empty(mat(w, 1, 8)), W: weight})
	})
	add("Linear", "wrong_inputs", func(w *world) error {
		weight := w.pack(linearSpec{k: 8, outputs: []int{8}, weight: f32}.source(w))
		return w.Linear(kernels.LinearArgs{Out: mat(w, 1, 8), X: mat(w, 1, 9), W: weight})
	})
	add("Linear", "out_is_x", func(w *world) error {
		weight := w.pack(linearSpec{k: 8, outputs: []int{8}, weight: f32}.source(w))
		x := mat(w, 1, 8)
		return w.Linear(kernels.LinearArgs{Out: x, X: x, W: weight})
	})
	add("Linear", "no_weight", func(w *world) error { return w.Linear(kernels.LinearArgs{Out: mat(w, 1, 8), X: mat(w, 1, 8)}) })
	add("PackLinear", "short_data", func(w *world) error {
		src := linearSpec{k: 8, outputs: []int{8}, weight: f32}.source(w)
		src.Parts[0].Data = src.Parts[0].Data[1:]
		_, err := w.PackLinear(src)
		return err
	})
	add("PackLinear", "wrong_group", func(w *world) error {
		p := quantSpec{k: 64, n: 8, bits: 8, group: 32}.part(w)
		p.Quant.Group = 48
		_, err := w.PackLinear(kernels.LinearSource{Name: "w", K: 64, Parts: []kernels.MatrixPart{p}})
		return err
	})
	add("RMSNorm", "no_rows", func(w *world) error {
		return w.RMSNorm(kernels.RMSNormArgs{Out: empty(mat(w, 1, 8)), X: empty(mat(w, 1, 8)), Weight: w.random("W", f32, 8)})
	})
	add("LayerNorm", "short_bias", func(w *world) error {
		return w.LayerNorm(kernels.LayerNormArgs{Out: mat(w, 1, 8), X: mat(w, 1, 8), Weight: w.random("W", f32, 8), Bias: w.random("B", f32, 7)})
	})
	add("Activation", "unknown_function", func(w *world) error {
		return w.Activation(kernels.ActivationArgs{Out: mat(w, 1, 8), X: mat(w, 1, 8), Act: 99})
	})
	add("SiLUMul", "odd_width", func(w *world) error {
		return w.SiLUMul(kernels.SiLUMulArgs{Out: mat(w, 1, 8), X: mat(w, 1, 15)})
	})
	add("Add", "shapes_differ", func(w *world) error {
		return w.Add(kernels.AddArgs{Out: mat(w, 2, 8), A: mat(w, 2, 8), B: mat(w, 1, 8)})
	})
	add("Cast", "integers", func(w *world) error {
		return w.Cast(kernels.CastArgs{Out: mat(w, 1, 8), X: w.ints("I", make([]int32, 8), 1, 8)})
	})
	add("Embed", "wide_out", func(w *world) error {
		return w.Embed(kernels.EmbedArgs{Out: mat(w, 1, 9), Table: mat(w, 4, 8), IDs: w.ints("IDs", []int32{0}, 1)})
	})
	add("GatherRows", "dtypes_differ", func(w *world) error {
		return w.GatherRows(kernels.GatherRowsArgs{Out: w.random("O", bf16, 1, 8), X: mat(w, 2, 8), Index: w.ints("I", []int32{0}, 1)})
	})
	add("ScatterRows", "index_too_long", func(w *world) error {
		return w.ScatterRows(kernels.ScatterRowsArgs{Out: mat(w, 4, 8), X: mat(w, 2, 8), Index: w.ints("I", []int32{0, 1, 2}, 3)})
	})
	add("Rope", "odd_head", func(w *world) error {
		return w.Rope(kernels.RopeArgs{X: w.random("X", f32, 1, 1, 7), Positions: w.ints("P", []int32{0}, 1), InvFreq: w.random("F", f32, 3)})
	})
	add("Rope", "sections", func(w *world) error {
		return w.Rope(kernels.RopeArgs{X: w.random("X", f32, 1, 1, 8), Positions: w.ints("P", make([]int32, 3), 3, 1), InvFreq: w.random("F", f32, 4), Sections: []int{1, 1, 1}})
	})
	shape := kernels.KVShape{Layers: 1, Blocks: 1, Heads: 2, HeadDim: 8, DType: f32}
	add("NewKV", "no_blocks", func(w *world) error { s := shape; s.Blocks = 0; _, err := w.NewKV(s); return err })
	add("NewKV", "dtype", func(w *world) error { s := shape; s.DType = kernels.I32; _, err := w.NewKV(s); return err })
	add("KVStore", "layer", func(w *world) error {
		k := w.random("K", f32, 1, 2, 8)
		return w.KVStore(kernels.KVStoreArgs{KV: w.cache(shape), Layer: 1, K: k, V: k, Slots: w.ints("S", []int32{0}, 1)})
	})
	add("KVCopy", "block", func(w *world) error {
		return w.KVCopy(kernels.KVCopyArgs{KV: w.cache(shape), Pairs: [][2]int32{{0, 1}}})
	})
	paged := func(w *world) kernels.PagedAttentionArgs {
		return kernels.PagedAttentionArgs{
			Out: w.random("O", f32, 1, 2, 8), Q: w.random("Q", f32, 1, 2, 8), KV: w.cache(shape), Starts: w.ints("S", []int32{0, 1}, 2),
			Lens: w.ints("L", []int32{1}, 1), Tables: w.ints("T", []int32{0}, 1, 1), Scale: 1, MaxRows: 1, MaxLen: 1,
		}
	}
	add("PagedAttention", "heads", func(w *world) error {
		a := paged(w)
		a.Out, a.Q = w.random("O", f32, 1, 3, 8), w.random("Q", f32, 1, 3, 8)
		return w.PagedAttention(a)
	})
	add("PagedAttention", "max_len", func(w *world) error { a := paged(w); a.MaxLen = 33; return w.PagedAttention(a) })
	add("PagedAttention", "scale", func(w *world) error { a := paged(w); a.Scale = 0; return w.PagedAttention(a) })
	add("SegmentAttention", "out_is_q", func(w *world) error {
		q := w.random("Q", f32, 1, 2, 8)
		return w.SegmentAttention(kernels.SegmentAttentionArgs{Out: q, Q: q, K: w.random("K", f32, 1, 2, 8), V: w.random("V", f32, 1, 2, 8), Starts: w.ints("S", []int32{0, 1}, 2), Scale: 1, MaxRows: 1})
	})
	add("Patchify", "patch_size", func(w *world) error {
		return w.Patchify(kernels.PatchifyArgs{Out: mat(w, 4, 75), Tiles: w.place("T", kernels.U8, make([]byte, 300), 0, 1, 10, 10, 3).t, LUT: w.random("L", f32, 3, 256), PatchSize: 3})
	})
	add("VisionEmbed", "rows", func(w *world) error {
		return w.VisionEmbed(kernels.VisionEmbedArgs{Out: w.random("O", f32, 1, 5, 8), X: mat(w, 5, 8), Class: w.random("C", f32, 8), Pos: w.random("P", f32, 5, 8)})
	})
	add("PixelShuffle", "not_square", func(w *world) error {
		return w.PixelShuffle(kernels.PixelShuffleArgs{Out: w.random("O", f32, 1, 1, 32), X: w.random("X", f32, 1, 4, 8), Factor: 2, Version: 2})
	})
	add("ArgMax", "dtype", func(w *world) error {
		return w.ArgMax(kernels.ArgMaxArgs{Logits: w.random("L", bf16, 1, 8), IDs: w.ints("I", []int32{0}, 1)})
	})
	add("Upload", "short", func(w *world) error { return w.Upload(mat(w, 2, 2), make([]byte, 15)) })
	add("Download", "strided", func(w *world) error { return w.Download(make([]byte, 16), w.strided("X", f32, 4, 2, 2)) })
	add("Alloc", "nothing", func(w *world) error { _, err := w.Alloc(0); return err })
	return all
}
