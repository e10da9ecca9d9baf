package ref

import (
	"math"

	"metacap/kernels"
)

func (b *backend) RMSNorm(a kernels.RMSNormArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("RMSNorm", a.Out, a.X, a.Weight); err != nil {
		return err
	}
	if b.opt.Naive {
		rmsNorm[float32](b, a)
	} else {
		rmsNorm[float64](b, a)
	}
	return nil
}

func rmsNorm[A number](b *backend, a kernels.RMSNormArgs) {
	weight := loadVector[A](a.Weight)
	c := len(weight)
	b.parallel(a.X.Rows(), func(t int) {
		x := load[A](a.X, t)
		for lo := 0; lo < len(x); lo += c {
			v := x[lo : lo+c]
			divisor := A(math.Sqrt(float64(dot(v, v)/A(c) + A(a.Eps))))
			for i := range v {
				v[i] /= divisor
			}
			if a.RoundFirst && a.X.DType == kernels.BF16 {
				roundBF16(v)
			}
			for i := range v {
				v[i] *= weight[i]
			}
		}
		store(a.Out, t, x)
	})
}

func (b *backend) LayerNorm(a kernels.LayerNormArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("LayerNorm", a.Out, a.X, a.Weight, a.Bias); err != nil {
		return err
	}
	if b.opt.Naive {
		layerNorm[float32](b, a)
	} else {
		layerNorm[float64](b, a)
	}
	return nil
}

func layerNorm[A number](b *backend, a kernels.LayerNormArgs) {
	weight, bias := loadVector[A](a.Weight), loadVector[A](a.Bias)
	c := A(len(weight))
	b.parallel(a.X.Rows(), func(t int) {
		x := load[A](a.X, t)
		var mean, variance A
		for _, v := range x {
			mean += v / c
		}
		for _, v := range x {
			variance += (v - mean) * (v - mean) / c
		}
		divisor := A(math.Sqrt(float64(variance + A(a.Eps))))
		for i, v := range x {
			x[i] = (v-mean)/divisor*weight[i] + bias[i]
		}
		store(a.Out, t, x)
	})
}

func (b *backend) Activation(a kernels.ActivationArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Activation", a.Out, a.X); err != nil {
		return err
	}
	if b.opt.Naive {
		activation[float32](b, a)
	} else {
		activation[float64](b, a)
	}
	return nil
}

func activation[A number](b *backend, a kernels.ActivationArgs) {
	b.parallel(a.X.Rows(), func(t int) {
		x := load[A](a.X, t)
		for i, v := range x {
			x[i] = act(a.Act, v)
		}
		store(a.Out, t, x)
	})
}

func (b *backend) SiLUMul(a kernels.SiLUMulArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("SiLUMul", a.Out, a.X); err != nil {
		return err
	}
	if b.opt.Naive {
		siluMul[float32](b, a)
	} else {
		siluMul[float64](b, a)
	}
	return nil
}

func siluMul[A number](b *backend, a kernels.SiLUMulArgs) {
	f := a.Out.RowLen()
	b.parallel(a.X.Rows(), func(t int) {
		x := load[A](a.X, t)
		out := make([]A, f)
		for i := range out {
			out[i] = act(kernels.ActSiLU, x[i]) * x[f+i]
		}
		store(a.Out, t, out)
	})
}

func (b *backend) Add(a kernels.AddArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Add", a.Out, a.A, a.B); err != nil {
		return err
	}
	b.parallel(a.A.Rows(), func(t int) {
		x, y := load[float64](a.A, t), load[float64](a.B, t)
		for i := range x {
			x[i] += y[i]
		}
		store(a.Out, t, x)
	})
	return nil
}

func (b *backend) Cast(a kernels.CastArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Cast", a.Out, a.X); err != nil {
		return err
	}
	for t := 0; t < a.X.Rows(); t++ {
		store(a.Out, t, load[float64](a.X, t))
	}
	return nil
}

func (b *backend) Embed(a kernels.EmbedArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Embed", a.Out, a.Table, a.IDs); err != nil {
		return err
	}
	for t, id := range ints(a.IDs) {
		if id < 0 || id >= a.Table.Rows() {
			b.deviceError("Embed", "id %d of row %d is outside [0,%d)", id, t, a.Table.Rows())
			continue
		}
		store(a.Out, t, load[float64](a.Table, id))
	}
	return nil
}

func (b *backend) GatherRows(a kernels.GatherRowsArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("GatherRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	for t, i := range ints(a.Index) {
		if i < 0 || i >= a.X.Rows() {
			b.deviceError("GatherRows", "index %d of row %d is outside [0,%d)", i, t, a.X.Rows())
			continue
		}
		copy(row(a.Out, t), row(a.X, i))
	}
	return nil
}

func (b *backend) ScatterRows(a kernels.ScatterRowsArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("ScatterRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	for t, i := range ints(a.Index) {
		if i >= a.Out.Rows() {
			b.deviceError("ScatterRows", "index %d of row %d is outside [0,%d)", i, t, a.Out.Rows())
			continue
		}
		if i >= 0 {
			store(a.Out, i, load[float64](a.X, t))
		}
	}
	return nil
}

func (b *backend) Rope(a kernels.RopeArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Rope", a.X, a.Positions, a.InvFreq); err != nil {
		return err
	}
	if b.opt.Naive {
		rope[float32](b, a)
	} else {
		rope[float64](b, a)
	}
	return nil
}

func rope[A number](b *backend, a kernels.RopeArgs) {
	tokens, heads, d := a.X.Shape[0], a.X.Shape[1], a.X.Shape[2]
	positions, freq := ints(a.Positions), loadVector[float32](a.InvFreq)
	factor := A(1)
	if a.Factor != 0 {
		factor = A(a.Factor)
	}
	b.parallel(tokens, func(t int) {
		x := load[A](a.X, t)
		for i := 0; i < d/2; i++ {
			position := positions[axis(a.Sections, i)*tokens+t]
			angle := float64(float32(position) * freq[i])
			cos, sin := A(math.Cos(angle))*factor, A(math.Sin(angle))*factor
			for h := 0; h < heads; h++ {
				lo, hi := x[h*d+i], x[h*d+i+d/2]
				x[h*d+i] = lo*cos - hi*sin
				x[h*d+i+d/2] = hi*cos + lo*sin
			}
		}
		store(a.X, t, x)
	})
}

// axis is the row of Positions that frequency i uses.
func axis(sections []int, i int) int {
	for s, n := range sections {
		if i < n {
			return s
		}
		i -= n
	}
	return 0
}

func (b *backend) ArgMax(a kernels.ArgMaxArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("ArgMax", a.IDs, a.LogProbs, a.Logits); err != nil {
		return err
	}
	if b.opt.Naive {
		argMax[float32](b, a)
	} else {
		argMax[float64](b, a)
	}
	return nil
}

func argMax[A number](b *backend, a kernels.ArgMaxArgs) {
	b.parallel(a.Logits.Rows(), func(t int) {
		x := load[A](a.Logits, t)
		best := 0
		for i, v := range x {
			if v > x[best] {
				best = i
			}
		}
		putInt(a.IDs, t, best)
		if a.LogProbs.Buf != nil {
			var sum A
			for _, v := range x {
				sum += A(math.Exp(float64(v - x[best])))
			}
			store(a.LogProbs, t, []A{-A(math.Log(float64(sum)))})
		}
	})
}
