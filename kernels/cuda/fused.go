package cuda

import (
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

var (
	_ kernels.QKNormRopeStorer = (*Backend)(nil)
	_ kernels.SwiGLUer         = (*Backend)(nil)
	_ kernels.NormLinearer     = (*Backend)(nil)
)

// plain hides the fused operations, so that the functions of package kernels compose them.
type plain struct{ kernels.Backend }

// QKNormRopeStore normalises and rotates q and k and stores k and v, in one kernel
// for bf16 projections.
func (b *Backend) QKNormRopeStore(a kernels.QKNormRopeStoreArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	c, err := b.cacheOf("QKNormRopeStore", a.KV)
	if err != nil {
		return err
	}
	// The kernel holds heads of at most 256 in pairs of pairs.
	if d := c.shape.HeadDim; a.QKV.DType != kernels.BF16 || d%4 != 0 || d > 256 {
		return kernels.QKNormRopeStore(plain{b}, a)
	}
	if err := b.own("QKNormRopeStore", a.QKV, a.QNorm, a.KNorm, a.Positions, a.InvFreq, a.Slots); err != nil {
		return err
	}
	s, hq, tokens := c.shape, a.Heads(), a.QKV.Rows()
	row := int64(a.QKV.RowStride())
	q := at(a.QKV)
	k := q + driver.Ptr(2*hq*s.HeadDim)
	p := qkRopeStoreParams{
		Q: q, K: k, V: k + driver.Ptr(2*s.Heads*s.HeadDim), QWeight: at(a.QNorm), KWeight: at(a.KNorm),
		Positions: at(a.Positions), InvFreq: at(a.InvFreq), Slots: at(a.Slots), Cache: c.layer(a.Layer),
		QStride: row, KStride: row, VStride: row, BlockElements: c.blockElements(), PosStride: int64(a.Positions.RowStride()),
		Tokens: int32(tokens), QHeads: int32(hq), KvHeads: int32(s.Heads), HeadDim: int32(s.HeadDim), CacheDt: code(s.DType),
		Eps: a.Eps, Factor: a.Factor, RoundFirst: flag(a.RoundFirst),
	}
	if p.Factor == 0 {
		p.Factor = 1
	}
	p.Section1, p.Section2 = sections(a.Sections)
	// A warp computes its angles once: with many tokens it takes several heads.
	p.Warps = int32(min(hq+2*s.Heads, max(4, 64*b.sms/tokens)))
	p.Vec = flag(aligned(a.QKV) && s.HeadDim%8 == 0)
	return b.do(func() error {
		return run(b, kQkRopeStore, driver.Dim{X: (tokens*int(p.Warps) + 3) / 4, Y: 1, Z: 1}, 128, 0, &p)
	})
}

// SwiGLU multiplies by gate and up and combines them in the same kernel, if the
// weight was packed as gated.
func (b *Backend) SwiGLU(a kernels.SwiGLUArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	w, ok := a.W.(*weight)
	if !ok || !w.gated || w.tiled == nil {
		return kernels.SwiGLU(plain{b}, a)
	}
	l := kernels.LinearArgs{Out: a.Out, X: a.X, W: a.W}
	if _, err := b.linearOperands("SwiGLU", l); err != nil {
		return err
	}
	p := linearParamsOf(l, w)
	p.Gated = gatedProduct
	return b.do(func() error { return b.linearTiled(p, a.X, w) })
}

// NormLinear normalises a single row inside the product.
func (b *Backend) NormLinear(n kernels.RMSNormArgs, l kernels.LinearArgs) error {
	if done, err := b.normRow("Linear", n, l, 0); done || err != nil {
		return err
	}
	if err := b.RMSNorm(n); err != nil {
		return err
	}
	return b.Linear(l)
}

// NormSwiGLU normalises a single row inside the product.
func (b *Backend) NormSwiGLU(n kernels.RMSNormArgs, s kernels.SwiGLUArgs) error {
	if w, ok := s.W.(*weight); ok && w.gated {
		if err := s.Check(); err != nil {
			return err
		}
		if done, err := b.normRow("SwiGLU", n, kernels.LinearArgs{Out: s.Out, X: s.X, W: s.W}, gatedProduct); done || err != nil {
			return err
		}
	}
	if err := b.RMSNorm(n); err != nil {
		return err
	}
	return b.SwiGLU(s)
}

// normRow runs the product with the norm of a row in front of it, if a kernel can.
func (b *Backend) normRow(op string, n kernels.RMSNormArgs, l kernels.LinearArgs, gated int32) (done bool, err error) {
	w, ok := l.W.(*weight)
	if !b.hopper || !ok || w.tiled == nil || w.gated != (gated != 0) || w.k <= warpNormCols || w.k > rowNormCols || w.k%64 != 0 {
		return false, nil
	}
	if err := n.Check(); err != nil {
		return false, err
	}
	if gated == 0 {
		if err := l.Check(); err != nil {
			return false, err
		}
	}
	if n.X.Rows() != 1 || len(n.X.Shape) != 2 || l.X.Rows() != 1 || at(n.Out) != at(l.X) || n.X.DType != kernels.BF16 || n.Out.DType != kernels.BF16 || !aligned(n.X) || at(n.Weight)%16 != 0 {
		return false, nil
	}
	if err := b.own("RMSNorm", n.Out, n.X, n.Weight); err != nil {
		return false, err
	}
	if _, err := b.linearOperands(op, l); err != nil {
		return false, err
	}
	l.X = n.X
	p := linearParamsOf(l, w)
	p.Gated, p.W = gated, w.tiled.ptr
	norm := normParams{Weight: at(n.Weight), Eps: n.Eps, RoundFirst: flag(n.RoundFirst)}
	err = b.do(func() error {
		done, err = b.streamLinear(&p, &norm)
		return err
	})
	return done, err
}
