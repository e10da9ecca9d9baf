package kerneltest

import (
	"fmt"
	"math"

	"metacap/kernels"
)

// fusedCases run the fused operations; on ref they are the composed ones.
func fusedCases() []testCase {
	var all []testCase
	for _, d := range [][2]kernels.DType{{f32, f32}, {bf16, bf16}, {f32, bf16}} {
		for _, c := range []struct{ t, hq, hkv, d int }{{1, 8, 2, 32}, {5, 4, 4, 16}, {37, 8, 2, 128}, {3, 2, 1, 80}} {
			for _, norm := range []bool{true, false} {
				s := pagedSpec{rows: []int{c.t}, lens: []int{c.t}, hq: c.hq, hkv: c.hkv, d: c.d, kv: d[1], q: d[0], out: f32}
				name := fmt.Sprintf("%s,kv=%s/T=%d,Hq=%d,Hkv=%d,D=%d,norm=%v", d[0], d[1], c.t, c.hq, c.hkv, c.d, norm)
				all = append(all, bound("QKNormRopeStore", name, func(w *world) { qkvCase(w, s, norm) }))
			}
		}
	}
	for _, weight := range []kernels.DType{f32, bf16} {
		for _, m := range mixes {
			for _, c := range [][3]int{{1, 128, 96}, {2, 64, 64}, {5, 96, 32}, {7, 64, 160}, {30, 96, 96}, {3, 64, 40}, {1, 4200, 64}, {15, 4200, 32}} {
				t, k, f := c[0], c[1], c[2]
				all = append(all, bound("SwiGLU", fmt.Sprintf("%s,%s-%s/T=%d,K=%d,F=%d", weight, m[0], m[1], t, k, f), func(w *world) {
					s := linearSpec{k: k, outputs: []int{f, f}, weight: weight}
					weights := w.pack(s.source(w))
					a := kernels.SwiGLUArgs{W: weights, X: w.random("X", m[0], t, k), Out: w.out("Out", m[1], t, f), Scratch: w.scratch(f32, t, 2*f)}
					if w.err == nil {
						w.do(kernels.SwiGLU(w.Backend, a))
					}
				}))
			}
		}
	}
	for _, bits := range []int{4, 8} {
		for _, t := range []int{1, 2, 5, 20} {
			all = append(all, bound("SwiGLU", fmt.Sprintf("int%d/T=%d,K=256,F=96", bits, t), func(w *world) {
				s := quantSpec{k: 256, n: 96, bits: bits, group: 64}
				weights := w.pack(kernels.LinearSource{Name: "test", K: 256, Parts: []kernels.MatrixPart{s.part(w), s.part(w)}})
				a := kernels.SwiGLUArgs{W: weights, X: w.random("X", f32, t, 256), Out: w.out("Out", f32, t, 96), Scratch: w.scratch(f32, t, 192)}
				if w.err == nil {
					w.do(kernels.SwiGLU(w.Backend, a))
				}
			}))
		}
	}
	return all
}

// scratch makes an operand whose contents nobody compares.
func (w *world) scratch(d kernels.DType, shape ...int) kernels.Tensor {
	w.out("Scratch", d, shape...)
	o := w.operands[len(w.operands)-1]
	o.free = true
	return o.t
}

// qkvCase prepares q and the cache from a fused projection, then attends: the
// result shows the q columns, the stored keys and the stored values.
func qkvCase(w *world, s pagedSpec, norm bool) {
	t := s.rows[0]
	kv := w.cache(kernels.KVShape{Layers: 1, Blocks: 3, Heads: s.hkv, HeadDim: s.d, DType: s.kv})
	columns := (s.hq + 2*s.hkv) * s.d
	qkv := w.scratch(s.q, t, columns)
	source := w.random("Source", s.q, t, columns)
	freq, positions, slots := make([]float32, s.d/2), make([]int32, t), make([]int32, t)
	for i := range freq {
		freq[i] = float32(math.Pow(1e4, -2*float64(i)/float64(s.d)))
	}
	for i := range slots {
		positions[i] = int32(i * 3)
		slots[i] = int32(2*kernels.BlockSize + i)
		if i >= kernels.BlockSize {
			slots[i] = int32(i - kernels.BlockSize)
		}
	}
	a := kernels.QKNormRopeStoreArgs{
		QKV: qkv, Eps: 1e-6, RoundFirst: true, Positions: w.ints("Positions", positions, t), InvFreq: w.floats("InvFreq", f32, freq, len(freq)),
		KV: kv, Slots: w.ints("Slots", slots, t),
	}
	if norm {
		a.QNorm, a.KNorm = w.random("QNorm", f32, s.d), w.random("KNorm", f32, s.d)
	}
	q, out := w.out("Q", s.q, t, s.hq*s.d), w.out("Out", s.out, t, s.hq, s.d)
	v := w.out("V", s.q, t, s.hkv*s.d)
	starts, lens, tables := w.ints("Starts", []int32{0, int32(t)}, 2), w.ints("Lens", []int32{int32(t)}, 1), w.ints("Tables", []int32{2, 0}, 1, 2)
	if w.err != nil {
		return
	}
	w.do(w.Cast(kernels.CastArgs{Out: qkv, X: source}))
	w.do(kernels.QKNormRopeStore(w.Backend, a))
	w.do(w.Cast(kernels.CastArgs{Out: q, X: qkv.Cols(0, s.hq*s.d)}))
	w.do(w.Cast(kernels.CastArgs{Out: v, X: qkv.Cols((s.hq+s.hkv)*s.d, columns)}))
	w.do(w.PagedAttention(kernels.PagedAttentionArgs{
		Out: out, Q: q.Reshape(t, s.hq, s.d), KV: kv, Starts: starts, Lens: lens, Tables: tables,
		Scale: float32(1 / math.Sqrt(float64(s.d))), MaxRows: t, MaxLen: t,
	}))
}
