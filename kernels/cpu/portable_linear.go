//go:build !cgo

package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"metacap/internal/dtype"
	"metacap/kernels"
)

// decodedLimit is how many bytes of float32 weights one backend keeps. Layers past it,
// and quantised ones, stay as stored and are decoded for every product.
const decodedLimit = 2 << 30

// rows is a linear layer decoded to float32 rows [n,k], outputs first.
type rows struct {
	n, k  int
	w     []float32
	bf16  []bool // [n]: inputs of this output are rounded to bf16
	owner *backend
}

func (w *rows) Dims() (n, k int) { return w.n, w.k }
func (w *rows) Bytes() int64     { return 4 * int64(len(w.w)) }

func (w *rows) Free() {
	w.owner.mu.Lock()
	defer w.owner.mu.Unlock()
	w.owner.decoded -= w.Bytes()
	w.w = nil
}

// reserve takes bytes from what may still be decoded.
func (b *backend) reserve(bytes int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bytes > decodedLimit-b.decoded {
		return false
	}
	b.decoded += bytes
	return true
}

// PackLinear decodes layers of plain matrices once.
func (b *backend) PackLinear(src kernels.LinearSource) (kernels.Weight, error) {
	n, err := src.Check()
	if err != nil {
		return nil, err
	}
	for _, p := range src.Parts {
		if p.Quant != nil || p.DType != kernels.F32 && p.DType != kernels.BF16 && p.DType != kernels.F16 {
			return b.Backend.PackLinear(src)
		}
	}
	if !b.reserve(4 * int64(n) * int64(src.K)) {
		return b.Backend.PackLinear(src)
	}
	w := &rows{n: n, k: src.K, w: make([]float32, n*src.K), bf16: make([]bool, n), owner: b}
	at := 0
	for _, p := range src.Parts {
		widen(w.w[at*src.K:(at+p.N)*src.K], p.Data, p.DType)
		for i := range p.N {
			w.bf16[at+i] = p.DType == kernels.BF16 && src.Precision == kernels.PrecisionNative
		}
		at += p.N
	}
	return w, nil
}

// widen decodes stored values of a plain type.
func widen(dst []float32, src []byte, t kernels.DType) {
	for i := range dst {
		switch t {
		case kernels.F32:
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		case kernels.BF16:
			dst[i] = dtype.FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		case kernels.F16:
			dst[i] = dtype.FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// fetch reads all rows of t, one after the other.
func (b *backend) fetch(t kernels.Tensor) ([]float32, error) {
	if len(t.Shape) == 1 {
		t.Shape, t.Stride = []int{1, t.Shape[0]}, 0
	}
	width := t.RowLen()
	raw, out := make([]byte, width*t.DType.Size()), make([]float32, t.Rows()*width)
	for i := range t.Rows() {
		if err := b.Download(raw, t.Slice(i, i+1)); err != nil {
			return nil, err
		}
		widen(out[i*width:(i+1)*width], raw, t.DType)
	}
	return out, nil
}

// put rounds rows to the type of t and writes them.
func (b *backend) put(t kernels.Tensor, v []float32) error {
	width, size := t.RowLen(), t.DType.Size()
	raw := make([]byte, width*size)
	for i := range t.Rows() {
		for j, x := range v[i*width : (i+1)*width] {
			if size == 4 {
				binary.LittleEndian.PutUint32(raw[4*j:], math.Float32bits(x))
			} else {
				binary.LittleEndian.PutUint16(raw[2*j:], dtype.ToBF16(x))
			}
		}
		if err := b.Upload(t.Slice(i, i+1), raw); err != nil {
			return err
		}
	}
	return nil
}

// Linear multiplies with decoded rows; other weights go to the reference.
func (b *backend) Linear(a kernels.LinearArgs) error {
	w, ok := a.W.(*rows)
	if !ok {
		return b.Backend.Linear(a)
	}
	if err := a.Check(); err != nil {
		return err
	}
	if w.owner != b || w.w == nil {
		return &kernels.ArgError{Op: "Linear", Arg: "W", Want: "a weight of this backend", Got: fmt.Sprintf("%T", a.W)}
	}
	var in [4][]float32 // x, bias, scale, residual
	for i, t := range []kernels.Tensor{a.X, a.Bias, a.Scale, a.Residual} {
		var err error
		if t.Buf == nil {
			continue
		}
		if in[i], err = b.fetch(t); err != nil {
			return err
		}
	}
	y := w.product(in[0], a.X.Rows(), b.info.Threads)
	for i := range y {
		n := i % w.n
		if in[1] != nil {
			y[i] += in[1][n]
		}
		y[i] = activate(a.Act, y[i])
		if in[2] != nil {
			y[i] = float32(y[i] * in[2][n])
		}
		if in[3] != nil {
			y[i] += in[3][i]
		}
	}
	return b.put(a.Out, y)
}

// product is y[t,n] = sum over k of x[t,k]·w[n,k], on several goroutines.
func (w *rows) product(x []float32, tokens, threads int) []float32 {
	half := make([]float32, len(x))
	for i, v := range x {
		half[i] = dtype.RoundBF16(v)
	}
	y := make([]float32, tokens*w.n)
	const unit = 4 // outputs of a micro-kernel call
	units := (w.n + unit - 1) / unit
	workers := max(1, min(threads, units, tokens*w.n*w.k>>15))
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for u := units * i / workers; u < units*(i+1)/workers; u++ {
				w.columns(y, x, half, tokens, u*unit, min(w.n, (u+1)*unit))
			}
		})
	}
	wg.Wait()
	return y
}

// columns computes outputs [lo,hi), at most four. The sum of an output runs through k in
// ascending order, with both roundings of every step, however many rows share the loop.
func (w *rows) columns(y, x, half []float32, tokens, lo, hi int) {
	k, n := w.k, w.n
	same := hi-lo == 4
	for i := lo; i < hi; i++ {
		same = same && w.bf16[i] == w.bf16[lo]
	}
	row := func(i int) []float32 { return w.w[i*k : (i+1)*k] }
	if !same {
		for i := lo; i < hi; i++ {
			for t := range tokens {
				y[t*n+i] = dot(pick(w.bf16[i], half, x)[t*k:(t+1)*k], row(i))
			}
		}
		return
	}
	in := pick(w.bf16[lo], half, x)
	w0, w1, w2, w3 := row(lo), row(lo+1), row(lo+2), row(lo+3)
	t := 0
	for ; t+1 < tokens; t += 2 {
		a, b := dot2x4(in[t*k:(t+1)*k], in[(t+1)*k:(t+2)*k], w0, w1, w2, w3)
		copy(y[t*n+lo:], a[:])
		copy(y[(t+1)*n+lo:], b[:])
	}
	if t < tokens {
		a := dot1x4(in[t*k:(t+1)*k], w0, w1, w2, w3)
		copy(y[t*n+lo:], a[:])
	}
}

func pick(first bool, a, b []float32) []float32 {
	if first {
		return a
	}
	return b
}

// The conversions keep a compiler from fusing a product with its sum in one loop and
// not in another.
func dot(x, w []float32) (s float32) {
	for i, v := range x {
		s += float32(v * w[i])
	}
	return s
}

func dot1x4(x, w0, w1, w2, w3 []float32) [4]float32 {
	var s0, s1, s2, s3 float32
	w0, w1, w2, w3 = w0[:len(x)], w1[:len(x)], w2[:len(x)], w3[:len(x)]
	for i, v := range x {
		s0 += float32(v * w0[i])
		s1 += float32(v * w1[i])
		s2 += float32(v * w2[i])
		s3 += float32(v * w3[i])
	}
	return [4]float32{s0, s1, s2, s3}
}

// dot2x4 fills 8 accumulators, 4 weights and 2 inputs: what 16 registers hold.
func dot2x4(x, z, w0, w1, w2, w3 []float32) (a, b [4]float32) {
	var s0, s1, s2, s3, r0, r1, r2, r3 float32
	z, w0, w1, w2, w3 = z[:len(x)], w0[:len(x)], w1[:len(x)], w2[:len(x)], w3[:len(x)]
	for i, v := range x {
		u, p, q, c, d := z[i], w0[i], w1[i], w2[i], w3[i]
		s0 += float32(v * p)
		r0 += float32(u * p)
		s1 += float32(v * q)
		r1 += float32(u * q)
		s2 += float32(v * c)
		r2 += float32(u * c)
		s3 += float32(v * d)
		r3 += float32(u * d)
	}
	return [4]float32{s0, s1, s2, s3}, [4]float32{r0, r1, r2, r3}
}

// activate applies an elementwise function.
func activate(f kernels.Act, x float32) float32 {
	sigmoid := func(v float32) float32 { return 1 / (1 + float32(math.Exp(-float64(v)))) }
	switch f {
	case kernels.ActGELU:
		return 0.5 * x * (1 + float32(math.Erf(float64(x)/math.Sqrt2)))
	case kernels.ActQuickGELU:
		return x * sigmoid(1.702*x)
	case kernels.ActSiLU:
		return x * sigmoid(x)
	}
	return x
}
