package ref

import (
	"encoding/binary"
	"fmt"
	"math"

	"metacap/kernels"
)

// weight keeps the parts of a linear layer as they lay in the checkpoint and
// decodes a row when it is used.
type weight struct {
	n, k  int
	parts []kernels.MatrixPart
	exact bool // PrecisionF32
	owner *backend
}

func (w *weight) Dims() (n, k int) { return w.n, w.k }
func (w *weight) Free()            { w.parts = nil }

func (w *weight) Bytes() int64 {
	var total int64
	for _, p := range w.parts {
		total += int64(len(p.Data))
		if p.Quant != nil {
			total += int64(len(p.Quant.Scales) + len(p.Quant.Zeros))
		}
	}
	return total
}

func (b *backend) PackLinear(src kernels.LinearSource) (kernels.Weight, error) {
	n, err := src.Check()
	if err != nil {
		return nil, err
	}
	w := &weight{n: n, k: src.K, exact: src.Precision == kernels.PrecisionF32, owner: b}
	for _, p := range src.Parts {
		p.Data = append([]byte(nil), p.Data...)
		if p.Quant != nil {
			q := *p.Quant
			q.Scales = append([]byte(nil), q.Scales...)
			if q.Zeros != nil {
				q.Zeros = append([]uint8(nil), q.Zeros...)
			}
			p.Quant = &q
		}
		w.parts = append(w.parts, p)
	}
	return w, nil
}

// part finds the part that holds output n and the row inside it.
func (w *weight) part(n int) (kernels.MatrixPart, int) {
	for _, p := range w.parts {
		if n < p.N {
			return p, n
		}
		n -= p.N
	}
	panic(fmt.Sprintf("ref: output %d past the end of the weight", n))
}

// decodeRow widens row n of a matrix with k inputs.
func decodeRow[A number](p kernels.MatrixPart, n, k int) []A {
	out := make([]A, k)
	q := p.Quant
	if q == nil {
		size := p.DType.Size()
		decode(p.DType, p.Data[n*k*size:], out)
		return out
	}
	groups := k / q.Group
	for i := range out {
		value, zero := 0, 0
		if q.Bits == 8 {
			value = int(int8(p.Data[n*k+i]))
		} else {
			value = int(p.Data[(n*k+i)/2]>>(4*(i%2))) & 15
			zero = 8
		}
		g := n*groups + i/q.Group
		if q.Zeros != nil {
			zero = int(q.Zeros[g])
		}
		scale := math.Float32frombits(binary.LittleEndian.Uint32(q.Scales[4*g:]))
		out[i] = A(value-zero) * A(scale)
	}
	return out
}

// dot is the sum of products in order of k.
func dot[A number](x, w []A) A {
	var sum A
	for i, v := range w {
		sum += x[i] * v
	}
	return sum
}

func (b *backend) Linear(a kernels.LinearArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if w, ok := a.W.(*weight); !ok || w.owner != b {
		return &kernels.ArgError{Op: "Linear", Arg: "W", Want: "a weight of this backend", Got: fmt.Sprintf("%T", a.W)}
	}
	if err := b.own("Linear", a.Out, a.X, a.Bias, a.Residual, a.Scale); err != nil {
		return err
	}
	if b.opt.Naive {
		linear[float32](b, a)
	} else {
		linear[float64](b, a)
	}
	return nil
}

func linear[A number](b *backend, a kernels.LinearArgs) {
	w := a.W.(*weight)
	tokens := a.X.Rows()
	x := loadAll[A](a.X)
	y := make([]A, tokens*w.n)
	b.parallel(w.n, func(n int) {
		p, i := w.part(n)
		values := decodeRow[A](p, i, w.k)
		for t := 0; t < tokens; t++ {
			xt := x[t*w.k : (t+1)*w.k]
			if b.opt.Naive && !w.exact {
				xt = roundInputs(xt, p)
			}
			y[t*w.n+n] = dot(xt, values)
		}
	})
	var bias, scale []A
	if a.Bias.Buf != nil {
		bias = loadVector[A](a.Bias)
	}
	if a.Scale.Buf != nil {
		scale = loadVector[A](a.Scale)
	}
	b.parallel(tokens, func(t int) {
		yt := y[t*w.n : (t+1)*w.n]
		for n := range yt {
			if bias != nil {
				yt[n] += bias[n]
			}
			yt[n] = act(a.Act, yt[n])
			if scale != nil {
				yt[n] *= scale[n]
			}
		}
		if a.Residual.Buf != nil {
			for n, r := range load[A](a.Residual, t) {
				yt[n] += r
			}
		}
		store(a.Out, t, yt)
	})
}

// loadVector reads a one-dimensional tensor.
func loadVector[A number](t kernels.Tensor) []A {
	t.Shape, t.Stride = []int{1, t.Shape[0]}, 0
	return load[A](t, 0)
}

// roundInputs makes the roundings that PrecisionNative permits for a matrix:
// to bf16 for a bf16 matrix, to 8 bits a group for a quantised one.
func roundInputs[A number](x []A, p kernels.MatrixPart) []A {
	out := append([]A(nil), x...)
	switch {
	case p.Quant != nil:
		group := p.Quant.ActivationGroup()
		for lo := 0; lo < len(x); lo += group {
			largest := 0.0
			for _, v := range x[lo : lo+group] {
				largest = max(largest, math.Abs(float64(v)))
			}
			if largest == 0 {
				continue
			}
			scale := float32(largest / 127)
			for i := lo; i < lo+group; i++ {
				out[i] = A(float32(math.RoundToEven(float64(float32(x[i])/scale))) * scale)
			}
		}
	case p.DType == kernels.BF16:
		roundBF16(out)
	}
	return out
}

// act applies an elementwise function.
func act[A number](f kernels.Act, x A) A {
	v := float64(x)
	switch f {
	case kernels.ActGELU:
		return A(0.5) * x * (1 + A(math.Erf(v/math.Sqrt2)))
	case kernels.ActQuickGELU:
		return x * sigmoid(A(1.702)*x)
	case kernels.ActSiLU:
		return x * sigmoid(x)
	}
	return x
}

func sigmoid[A number](x A) A { return 1 / (1 + A(math.Exp(-float64(x)))) }
