package kerneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"metacap/kernels"
)

// linearSpec is one linear layer and its call.
type linearSpec struct {
	t, k      int
	outputs   []int // of each part
	weight    kernels.DType
	x, out    kernels.DType
	precision kernels.Precision
	bias      bool
	act       kernels.Act
	residual  bool
	scale     bool
	inPlace   bool
	stride    int // of X
	outStride int
}

func (s linearSpec) n() int {
	n := 0
	for _, p := range s.outputs {
		n += p
	}
	return n
}

// source makes the weights: deviation 1/sqrt(K), so that outputs have unit size.
func (s linearSpec) source(w *world) kernels.LinearSource {
	src := kernels.LinearSource{Name: "test", K: s.k, Precision: s.precision}
	for _, n := range s.outputs {
		v := w.normal(n*s.k, 1/math.Sqrt(float64(s.k)))
		src.Parts = append(src.Parts, kernels.MatrixPart{N: n, DType: s.weight, Data: encode(s.weight, v)})
	}
	return src
}

func (s linearSpec) run(w *world) {
	weight := w.pack(s.source(w))
	n := s.n()
	a := kernels.LinearArgs{W: weight, X: w.strided("X", s.x, s.stride, s.t, s.k), Act: s.act}
	if s.bias {
		a.Bias = w.random("Bias", f32, n)
	}
	if s.residual {
		a.Residual = w.strided("Residual", s.out, s.outStride, s.t, n)
	}
	if s.scale {
		a.Scale = w.random("Scale", f32, n)
	}
	if s.inPlace {
		a.Out = w.inPlace(a.Residual)
	} else {
		a.Out = w.outStrided("Out", s.out, s.outStride, s.t, n)
	}
	if w.err == nil {
		w.do(w.Linear(a))
	}
}

func linearCases() []testCase {
	var all []testCase
	add := func(name string, s linearSpec) {
		all = append(all, bound("Linear", fmt.Sprintf("%s/%s,%s-%s/T=%d,K=%d,N=%v", name, s.weight, s.x, s.out, s.t, s.k, s.outputs), s.run))
	}
	for _, weight := range []kernels.DType{f32, bf16, kernels.F16} {
		for _, m := range mixes {
			for _, t := range []int{1, 2, 5, 13} {
				add("plain", linearSpec{t: t, k: 128, outputs: []int{96}, weight: weight, x: m[0], out: m[1]})
			}
		}
		for _, p := range []kernels.Precision{kernels.PrecisionNative, kernels.PrecisionF32} {
			name := []string{"native", "f32"}[p]
			for _, t := range []int{1, 3, 4, 7, 8, 12, 25, 33, 70} {
				add(name, linearSpec{t: t, k: 96, outputs: []int{72}, weight: weight, x: f32, out: f32, precision: p})
			}
			add(name, linearSpec{t: 1, k: 4096, outputs: []int{136}, weight: weight, x: f32, out: f32, precision: p})
			add(name, linearSpec{t: 14, k: 5000, outputs: []int{40}, weight: weight, x: f32, out: f32, precision: p})
			add(name, linearSpec{t: 3, k: 12288, outputs: []int{33}, weight: weight, x: bf16, out: bf16, precision: p})
		}
		for _, odd := range [][3]int{{1, 1, 1}, {2, 3, 5}, {3, 7, 31}, {5, 588, 64}, {2, 33, 65}, {1, 2, 257}, {27, 31, 33}} {
			add("odd", linearSpec{t: odd[0], k: odd[1], outputs: []int{odd[2]}, weight: weight, x: f32, out: f32})
		}
		add("parts", linearSpec{t: 3, k: 128, outputs: []int{128, 32, 32}, weight: weight, x: f32, out: f32, bias: true})
		add("uneven_parts", linearSpec{t: 3, k: 64, outputs: []int{5, 1, 40}, weight: weight, x: f32, out: bf16})
	}
	for _, d := range []kernels.DType{f32, bf16} {
		for f := kernels.ActNone; f <= kernels.ActSiLU; f++ {
			add("bias_"+acts[f], linearSpec{t: 5, k: 64, outputs: []int{100}, weight: bf16, x: d, out: d, bias: true, act: f})
		}
		for _, t := range []int{1, 13} {
			add("residual", linearSpec{t: t, k: 160, outputs: []int{130}, weight: bf16, x: d, out: d, residual: true})
			add("residual_in_place", linearSpec{t: t, k: 160, outputs: []int{130}, weight: f32, x: d, out: d, residual: true, inPlace: true, bias: true})
			add("layer_scale_in_place", linearSpec{t: t, k: 128, outputs: []int{128}, weight: bf16, x: d, out: d, residual: true, inPlace: true, bias: true, scale: true, act: kernels.ActGELU})
		}
		add("strided", linearSpec{t: 5, k: 64, outputs: []int{48}, weight: bf16, x: d, out: d, stride: 200, outStride: 112})
		add("strided_residual", linearSpec{t: 3, k: 64, outputs: []int{48}, weight: f32, x: d, out: d, stride: 72, outStride: 56, residual: true})
	}
	add("model", linearSpec{t: 13, k: 1024, outputs: []int{256, 256, 256}, weight: bf16, x: f32, out: f32, bias: true})
	add("model", linearSpec{t: 2, k: 4096, outputs: []int{256, 64, 64}, weight: bf16, x: f32, out: f32})
	all = append(all, bound("Linear", "mixed_parts", func(w *world) {
		src := kernels.LinearSource{Name: "test", K: 64}
		for _, d := range []kernels.DType{bf16, f32, kernels.F16} {
			src.Parts = append(src.Parts, kernels.MatrixPart{N: 24, DType: d, Data: encode(d, w.normal(24*64, 0.125))})
		}
		weight := w.pack(src)
		a := kernels.LinearArgs{X: w.random("X", f32, 3, 64), Out: w.out("Out", f32, 3, 72), W: weight}
		if w.err == nil {
			w.do(w.Linear(a))
		}
	}))
	return all
}

// quantSpec is a quantised layer.
type quantSpec struct {
	t, k, n, bits, group int
	zeros                bool
	x, out               kernels.DType
	precision            kernels.Precision
}

func (s quantSpec) part(w *world) kernels.MatrixPart {
	data := make([]byte, s.n*s.k*s.bits/8)
	for i := range data {
		data[i] = byte(w.rng.UintN(256))
	}
	groups := s.n * s.k / s.group
	q := &kernels.QuantPart{Bits: s.bits, Group: s.group, Scales: make([]byte, 4*groups)}
	for g := 0; g < groups; g++ {
		scale := float32((0.5 + w.rng.Float64()) / math.Sqrt(float64(s.k)) / float64(int(1)<<(s.bits-2)))
		binary.LittleEndian.PutUint32(q.Scales[4*g:], math.Float32bits(scale))
	}
	if s.zeros {
		q.Zeros = make([]uint8, groups)
		for g := range q.Zeros {
			q.Zeros[g] = uint8(w.rng.UintN(16))
		}
	}
	return kernels.MatrixPart{N: s.n, Data: data, Quant: q}
}

func (s quantSpec) run(w *world) {
	weight := w.pack(kernels.LinearSource{Name: "test", K: s.k, Precision: s.precision, Parts: []kernels.MatrixPart{s.part(w)}})
	x := w.normal(s.t*s.k, 1)
	for t := 0; t < s.t; t++ {
		x[t*s.k+t%s.k] *= 30 // one outlier channel a row, as in Qwen3
	}
	a := kernels.LinearArgs{W: weight, X: w.floats("X", s.x, x, s.t, s.k), Out: w.out("Out", s.out, s.t, s.n)}
	if w.err == nil {
		w.do(w.Linear(a))
	}
}

func quantCases() []testCase {
	var all []testCase
	for _, c := range []quantSpec{
		{k: 256, n: 96, bits: 8, group: 128},
		{k: 256, n: 64, bits: 8, group: 256},
		{k: 256, n: 40, bits: 8, group: 32},
		{k: 1152, n: 33, bits: 8, group: 1152},
		{k: 100, n: 31, bits: 8, group: 100},
		{k: 60, n: 5, bits: 8, group: 20},
		{k: 256, n: 96, bits: 4, group: 64},
		{k: 256, n: 96, bits: 4, group: 128, zeros: true},
		{k: 256, n: 33, bits: 4, group: 32, zeros: true},
		{k: 256, n: 64, bits: 8, group: 128, zeros: true},
		{k: 64, n: 7, bits: 4, group: 64},
		{k: 24, n: 9, bits: 4, group: 12, zeros: true},
		{k: 4096, n: 64, bits: 4, group: 64},
		{k: 4096, n: 64, bits: 8, group: 128},
		{k: 384, n: 34, bits: 8, group: 192},
		{k: 384, n: 34, bits: 4, group: 384, zeros: true},
	} {
		for _, t := range []int{1, 2, 4, 7, 13, 26} {
			for _, p := range []kernels.Precision{kernels.PrecisionNative, kernels.PrecisionF32} {
				if p == kernels.PrecisionF32 && t > 2 {
					continue
				}
				c.t, c.x, c.out, c.precision = t, f32, f32, p
				if t == 4 {
					c.x, c.out = bf16, bf16
				}
				all = append(all, bound("Linear", fmt.Sprintf("int%d/group=%d,zeros=%v,precision=%d/T=%d,K=%d,N=%d", c.bits, c.group, c.zeros, p, t, c.k, c.n), c.run))
			}
		}
	}
	all = append(all, bound("Linear", "int4_and_dense_parts", func(w *world) {
		s := quantSpec{k: 128, n: 48, bits: 4, group: 64}
		dense := kernels.MatrixPart{N: 32, DType: bf16, Data: encode(bf16, w.normal(32*128, 0.1))}
		weight := w.pack(kernels.LinearSource{Name: "test", K: 128, Parts: []kernels.MatrixPart{s.part(w), dense}})
		a := kernels.LinearArgs{W: weight, X: w.random("X", f32, 3, 128), Out: w.out("Out", f32, 3, 80)}
		if w.err == nil {
			w.do(w.Linear(a))
		}
	}))
	return all
}

// linearInvariance runs a linear layer on all rows at once and on pieces of the rows.
func linearInvariance() []testCase {
	var all []testCase
	specs := map[string]func(w *world) (kernels.LinearSource, int){}
	for _, weight := range []kernels.DType{f32, bf16} {
		for _, p := range []kernels.Precision{kernels.PrecisionNative, kernels.PrecisionF32} {
			for _, k := range []int{96, 588, 4500} {
				specs[fmt.Sprintf("%s,precision=%d,K=%d", weight, p, k)] = func(w *world) (kernels.LinearSource, int) {
					s := linearSpec{k: k, outputs: []int{140}, weight: weight, precision: p}
					return s.source(w), 140
				}
			}
		}
	}
	for _, bits := range []int{4, 8} {
		for _, group := range []int{64, 512} {
			specs[fmt.Sprintf("int%d,group=%d", bits, group)] = func(w *world) (kernels.LinearSource, int) {
				s := quantSpec{k: 512, n: 140, bits: bits, group: group}
				return kernels.LinearSource{Name: "test", K: s.k, Parts: []kernels.MatrixPart{s.part(w)}}, s.n
			}
		}
	}
	const rows = 150
	for name, source := range specs {
		all = append(all, testCase{op: "Linear", name: "rows_alone_and_together/" + name, run: func(w *world) {
			src, n := source(w)
			weight := w.pack(src)
			x, bias := w.random("X", f32, rows, src.K), w.random("Bias", f32, n)
			whole, pieces := w.out("Whole", f32, rows, n), w.out("Pieces", f32, rows, n)
			if w.err != nil {
				return
			}
			call := func(out kernels.Tensor, lo, hi int) {
				w.do(w.Linear(kernels.LinearArgs{Out: out.Slice(lo, hi), X: x.Slice(lo, hi), W: weight, Bias: bias, Act: kernels.ActSiLU}))
			}
			call(whole, 0, rows)
			for lo, step := 0, 1; lo < rows; lo, step = lo+step, step+1 {
				call(pieces, lo, min(lo+step, rows))
			}
			w.equal("rows in pieces", pieces, whole)
		}})
	}
	return sorted(all)
}

// equal fails the case unless two tensors hold the same bytes.
func (w *world) equal(what string, got, want kernels.Tensor) {
	g, e := w.read(got), w.read(want)
	if w.err == nil && !bytes.Equal(g, e) {
		at := 0
		for g[at] == e[at] {
			at++
		}
		element := at / got.DType.Size()
		w.fail("%s: row %d column %d differs in bits: got %x, want %x", what,
			element/got.RowLen(), element%got.RowLen(), g[at/4*4:at/4*4+4], e[at/4*4:at/4*4+4])
	}
	if w.err == nil {
		for i, v := range decode(got.DType, g) {
			if math.IsNaN(v) {
				w.fail("%s: element %d is NaN", what, i)
				return
			}
		}
	}
}
