package cuda

import (
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

var (
	_ kernels.QKNormRopeStorer = (*Backend)(nil)
	_ kernels.SwiGLUer         = (*Backend)(nil)
)

// plain hides the fused operations, so that the functions of package kernels compose them.
type plain struct{ kernels.Backend }

// QKNormRopeStore normalises and rotates q and k and stores k and v, in one kernel
// for bf16 projections.
func (b *Backend) QKNormRopeStore(a kernels.QKNormRopeStoreArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if a.QKV.DType != kernels.BF16 {
		return kernels.QKNormRopeStore(plain{b}, a)
	}
	c, err := b.cacheOf("QKNormRopeStore", a.KV)
	if err != nil {
		return err
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
	warps := tokens * (hq + 2*s.Heads)
	return b.do(func() error {
		return run(b, kQkRopeStore, driver.Dim{X: (warps + 3) / 4, Y: 1, Z: 1}, 128, 0, &p)
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
