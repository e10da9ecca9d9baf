package kernels

// Fused operations. A backend that has one implements its one-method interface;
// model code calls the function of the same name here, which uses the backend's
// kernel or composes the operations of Backend. Results of the two ways agree
// within the bounds of kerneltest, not bit for bit.
//
// Attention over a shared prefix needs no operation of its own: PagedAttention
// may read blocks that sequences of a batch have in common only once, and its
// result does not change by a bit.

// QKNormRopeStoreArgs are the operands of QKNormRopeStore, all that lies between
// the fused q,k,v projection and attention:
//
//	q, k = RMSNorm of every head with QNorm, KNorm (if given)
//	q, k = Rope(q, k)
//	cache[Slots[t]] = k, v
//
// The q columns of QKV are replaced; what the k columns hold afterwards is not
// specified; the v columns keep their values.
type QKNormRopeStoreArgs struct {
	QKV        Tensor // [T,(Hq+2*Hkv)*D] bf16 or f32: q heads, k heads, v heads
	QNorm      Tensor // [D] f32; no Buf: no norm
	KNorm      Tensor // [D] f32; present if QNorm is
	Eps        float32
	RoundFirst bool   // as in RMSNormArgs
	Positions  Tensor // as in RopeArgs
	InvFreq    Tensor // [D/2] f32
	Factor     float32
	Sections   []int
	KV         KV // gives Hkv and D
	Layer      int
	Slots      Tensor // [T] i32
}

// QKNormRopeStorer is implemented by backends with a kernel for QKNormRopeStore.
type QKNormRopeStorer interface {
	QKNormRopeStore(QKNormRopeStoreArgs) error
}

// Heads returns the number of query heads.
func (a QKNormRopeStoreArgs) Heads() int {
	s := a.KV.Shape()
	return dim(a.QKV, 1)/s.HeadDim - 2*s.Heads
}

// Check reports a broken rule of QKNormRopeStoreArgs.
func (a QKNormRopeStoreArgs) Check() error {
	c := checker{op: "QKNormRopeStore"}
	if a.KV == nil {
		c.fail("KV", "a cache", "none")
		return c.result()
	}
	s := a.KV.Shape()
	c.tensor("QKV", a.QKV, floats, anyDim, anyDim)
	width := dim(a.QKV, 1)
	if hq := width/s.HeadDim - 2*s.Heads; c.err == nil && (width%s.HeadDim != 0 || hq <= 0 || hq%s.Heads != 0) {
		c.fail("QKV", "columns of Hq+2*Hkv heads of the cache's size", a.QKV.String())
	}
	c.optional("QNorm", a.QNorm, onlyF32, s.HeadDim)
	c.optional("KNorm", a.KNorm, onlyF32, s.HeadDim)
	if present(a.QNorm) != present(a.KNorm) {
		c.fail("KNorm", "a weight if and only if QNorm has one", a.KNorm.String())
	}
	c.eps(a.Eps)
	c.ropeTables(a.Positions, a.InvFreq, a.Sections, dim(a.QKV, 0), s.HeadDim)
	c.tensor("Slots", a.Slots, onlyI32, dim(a.QKV, 0))
	c.kv(a.KV, a.Layer, s.Heads, s.HeadDim)
	return c.result()
}

// QKNormRopeStore runs the backend's fused kernel, or RMSNorm, Rope and KVStore.
func QKNormRopeStore(b Backend, a QKNormRopeStoreArgs) error {
	if f, ok := b.(QKNormRopeStorer); ok {
		return f.QKNormRopeStore(a)
	}
	if err := a.Check(); err != nil {
		return err
	}
	tokens, s, hq := a.QKV.Rows(), a.KV.Shape(), a.Heads()
	d := s.HeadDim
	heads := func(first, n int) Tensor {
		return a.QKV.Cols(first*d, (first+n)*d).Reshape(tokens, n, d)
	}
	q, k, v := heads(0, hq), heads(hq, s.Heads), heads(hq+s.Heads, s.Heads)
	if present(a.QNorm) {
		for _, n := range []RMSNormArgs{{X: q, Weight: a.QNorm}, {X: k, Weight: a.KNorm}} {
			n.Out, n.Eps, n.RoundFirst = n.X, a.Eps, a.RoundFirst
			if err := b.RMSNorm(n); err != nil {
				return err
			}
		}
	}
	// q and k lie side by side: one rotation for both.
	if err := b.Rope(RopeArgs{X: heads(0, hq+s.Heads), Positions: a.Positions, InvFreq: a.InvFreq, Factor: a.Factor, Sections: a.Sections}); err != nil {
		return err
	}
	return b.KVStore(KVStoreArgs{KV: a.KV, Layer: a.Layer, K: k, V: v, Slots: a.Slots})
}

// SwiGLUArgs are the operands of SwiGLU:
//
//	Out[t,f] = silu(gate[t,f]) * up[t,f],  [gate up] = X W^T
//
// W stacks gate and up along N, so N = 2F.
type SwiGLUArgs struct {
	Out     Tensor // [T,F] bf16 or f32
	X       Tensor // [T,K] bf16 or f32
	W       Weight // N = 2F
	Scratch Tensor // [T,2F] bf16 or f32, overwritten or not
}

// SwiGLUer is implemented by backends with a kernel for SwiGLU.
type SwiGLUer interface {
	SwiGLU(SwiGLUArgs) error
}

// Check reports a broken rule of SwiGLUArgs.
func (a SwiGLUArgs) Check() error {
	c := checker{op: "SwiGLU"}
	if a.W == nil {
		c.fail("W", "a packed weight", "none")
		return c.result()
	}
	n, k := a.W.Dims()
	if n%2 != 0 {
		c.failInt("W", "an even number of outputs", n)
	}
	c.tensor("X", a.X, floats, anyDim, k)
	c.tensor("Out", a.Out, floats, dim(a.X, 0), n/2)
	c.tensor("Scratch", a.Scratch, floats, dim(a.X, 0), n)
	c.apart("X", a.Out, a.X)
	c.apart("Scratch", a.Out, a.Scratch)
	c.apart("X", a.Scratch, a.X)
	return c.result()
}

// SwiGLU runs the backend's fused kernel, or Linear and SiLUMul through Scratch.
func SwiGLU(b Backend, a SwiGLUArgs) error {
	if f, ok := b.(SwiGLUer); ok {
		return f.SwiGLU(a)
	}
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.Linear(LinearArgs{Out: a.Scratch, X: a.X, W: a.W}); err != nil {
		return err
	}
	return b.SiLUMul(SiLUMulArgs{Out: a.Out, X: a.Scratch})
}

// NormLinearer is implemented by backends that can normalise rows inside the product
// that reads them.
type NormLinearer interface {
	NormLinear(RMSNormArgs, LinearArgs) error
	NormSwiGLU(RMSNormArgs, SwiGLUArgs) error
}

// NormLinear is RMSNorm, then Linear of its Out, with the same bits. The contents of
// the norm's Out are undefined afterwards: it may have served or not.
func NormLinear(b Backend, n RMSNormArgs, l LinearArgs) error {
	if f, ok := b.(NormLinearer); ok {
		return f.NormLinear(n, l)
	}
	if err := b.RMSNorm(n); err != nil {
		return err
	}
	return b.Linear(l)
}

// NormSwiGLU is RMSNorm, then SwiGLU of its Out; see NormLinear.
func NormSwiGLU(b Backend, n RMSNormArgs, s SwiGLUArgs) error {
	if f, ok := b.(NormLinearer); ok {
		return f.NormSwiGLU(n, s)
	}
	if err := b.RMSNorm(n); err != nil {
		return err
	}
	return SwiGLU(b, s)
}
