//go:build cgo

package cpu

// #include "mc.h"
import "C"

import (
	"fmt"
	"unsafe"

	"metacap/kernels"
)

var opNames = map[int]string{
	C.MC_OP_EMBED: "Embed", C.MC_OP_GATHER: "GatherRows", C.MC_OP_SCATTER: "ScatterRows", C.MC_OP_KV_STORE: "KVStore",
	C.MC_OP_QKV: "QKNormRopeStore", C.MC_OP_PAGED: "PagedAttention", C.MC_OP_SEGMENT: "SegmentAttention",
}

// view is a tensor as C sees it.
func view(t kernels.Tensor) C.mc_tensor {
	if t.Buf == nil {
		return C.mc_tensor{}
	}
	return C.mc_tensor{
		p:      unsafe.Add(t.Buf.(*memory).p, t.Offset),
		stride: C.int64_t(t.RowStride()),
		dt:     C.int64_t(t.DType),
	}
}

func foreign(op, arg string, v any) error {
	return &kernels.ArgError{Op: op, Arg: arg, Want: "memory of this backend", Got: fmt.Sprintf("%T", v)}
}

// own requires that all given operands live in memory of this backend.
func (b *backend) own(op string, ts ...kernels.Tensor) error {
	for i := range ts {
		if ts[i].Buf == nil {
			continue
		}
		if m, ok := ts[i].Buf.(*memory); !ok || m.owner != b || m.p == nil {
			return foreign(op, "operand", ts[i].Buf)
		}
	}
	return nil
}

// ready is the outcome of the checks that every operation makes.
func (b *backend) ready(err error, op string, ts ...kernels.Tensor) error {
	if err != nil {
		return err
	}
	return b.own(op, ts...)
}

func (b *backend) cache(op string, kv kernels.KV) (*cache, error) {
	c, ok := kv.(*cache)
	if !ok || c.owner != b || c.p == nil {
		return nil, foreign(op, "KV", kv)
	}
	return c, nil
}

// set fills the tensors of a command.
func set(c *C.mc_cmd, ts ...kernels.Tensor) {
	for i := range ts {
		c.t[i] = view(ts[i])
	}
}

// sizes fills the integers of a command.
func sizes(c *C.mc_cmd, ns ...int) {
	for i, n := range ns {
		c.n[i] = C.int64_t(n)
	}
}

func flag(v bool) int {
	if v {
		return 1
	}
	return 0
}

func (b *backend) Linear(a kernels.LinearArgs) error {
	if err := b.ready(a.Check(), "Linear", a.Out, a.X, a.Bias, a.Residual, a.Scale); err != nil {
		return err
	}
	w, ok := a.W.(*weight)
	if !ok || w.owner != b || w.p == nil {
		return foreign("Linear", "W", a.W)
	}
	c := b.command(C.MC_OP_LINEAR)
	set(c, a.Out, a.X, a.Bias, a.Residual, a.Scale)
	n, k := w.Dims()
	sizes(c, a.X.Rows(), n, k)
	c.act, c.obj = C.int32_t(a.Act), unsafe.Pointer(w.w)
	return nil
}

// SwiGLU is fused for halves of whole panels; others go through Scratch.
func (b *backend) SwiGLU(a kernels.SwiGLUArgs) error {
	if err := b.ready(a.Check(), "SwiGLU", a.Out, a.X, a.Scratch); err != nil {
		return err
	}
	w, ok := a.W.(*weight)
	if !ok || w.owner != b || w.p == nil {
		return foreign("SwiGLU", "W", a.W)
	}
	n, k := w.Dims()
	if n%(2*panel) != 0 {
		if err := b.Linear(kernels.LinearArgs{Out: a.Scratch, X: a.X, W: a.W}); err != nil {
			return err
		}
		return b.SiLUMul(kernels.SiLUMulArgs{Out: a.Out, X: a.Scratch})
	}
	c := b.command(C.MC_OP_LINEAR)
	set(c, a.Out, a.X)
	sizes(c, a.X.Rows(), n, k, 1)
	c.obj = unsafe.Pointer(w.w)
	return nil
}

func (b *backend) RMSNorm(a kernels.RMSNormArgs) error {
	if err := b.ready(a.Check(), "RMSNorm", a.Out, a.X, a.Weight); err != nil {
		return err
	}
	c := b.command(C.MC_OP_RMSNORM)
	set(c, a.Out, a.X, a.Weight)
	width := a.Weight.Rows()
	sizes(c, a.X.Rows(), width, a.X.RowLen()/width, flag(a.RoundFirst && a.X.DType == kernels.BF16))
	c.f[0] = C.float(a.Eps)
	return nil
}

func (b *backend) LayerNorm(a kernels.LayerNormArgs) error {
	if err := b.ready(a.Check(), "LayerNorm", a.Out, a.X, a.Weight, a.Bias); err != nil {
		return err
	}
	c := b.command(C.MC_OP_LAYERNORM)
	set(c, a.Out, a.X, a.Weight, a.Bias)
	sizes(c, a.X.Rows(), a.X.RowLen())
	c.f[0] = C.float(a.Eps)
	return nil
}

func (b *backend) Activation(a kernels.ActivationArgs) error {
	if err := b.ready(a.Check(), "Activation", a.Out, a.X); err != nil {
		return err
	}
	c := b.command(C.MC_OP_ACTIVATION)
	set(c, a.Out, a.X)
	sizes(c, a.X.Rows(), a.X.RowLen())
	c.act = C.int32_t(a.Act)
	return nil
}

func (b *backend) SiLUMul(a kernels.SiLUMulArgs) error {
	if err := b.ready(a.Check(), "SiLUMul", a.Out, a.X); err != nil {
		return err
	}
	c := b.command(C.MC_OP_SILU_MUL)
	set(c, a.Out, a.X)
	sizes(c, a.Out.Rows(), a.Out.RowLen())
	return nil
}

func (b *backend) Add(a kernels.AddArgs) error {
	if err := b.ready(a.Check(), "Add", a.Out, a.A, a.B); err != nil {
		return err
	}
	c := b.command(C.MC_OP_ADD)
	set(c, a.Out, a.A, a.B)
	sizes(c, a.A.Rows(), a.A.RowLen())
	return nil
}

func (b *backend) Cast(a kernels.CastArgs) error {
	if err := b.ready(a.Check(), "Cast", a.Out, a.X); err != nil {
		return err
	}
	c := b.command(C.MC_OP_CAST)
	set(c, a.Out, a.X)
	sizes(c, a.X.Rows(), a.X.RowLen())
	return nil
}

func (b *backend) Embed(a kernels.EmbedArgs) error {
	if err := b.ready(a.Check(), "Embed", a.Out, a.Table, a.IDs); err != nil {
		return err
	}
	c := b.command(C.MC_OP_EMBED)
	set(c, a.Out, a.Table, a.IDs)
	sizes(c, a.IDs.Rows(), a.Table.RowLen(), a.Table.Rows())
	return nil
}

func (b *backend) GatherRows(a kernels.GatherRowsArgs) error {
	if err := b.ready(a.Check(), "GatherRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	c := b.command(C.MC_OP_GATHER)
	set(c, a.Out, a.X, a.Index)
	sizes(c, a.Index.Rows(), a.X.RowLen(), a.X.Rows())
	return nil
}

func (b *backend) ScatterRows(a kernels.ScatterRowsArgs) error {
	if err := b.ready(a.Check(), "ScatterRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	c := b.command(C.MC_OP_SCATTER)
	set(c, a.Out, a.X, a.Index)
	sizes(c, a.Index.Rows(), a.X.RowLen(), a.Out.Rows())
	return nil
}

// maxFreqs is the largest number of rotation frequencies of the kernels (MAX_FREQS).
const maxFreqs = 1024

func (b *backend) Rope(a kernels.RopeArgs) error {
	if err := b.ready(a.Check(), "Rope", a.X, a.Positions, a.InvFreq); err != nil {
		return err
	}
	if half := a.InvFreq.Rows(); half > maxFreqs {
		return fmt.Errorf("cpu: Rope: %d frequencies, at most %d: %w", half, maxFreqs, kernels.ErrUnsupported)
	}
	c := b.command(C.MC_OP_ROPE)
	set(c, a.X, a.Positions, a.InvFreq)
	sizes(c, a.X.Rows(), a.X.Shape[1], a.X.Shape[2])
	c.f[0] = rotation(c, a.Sections, a.Factor)
	return nil
}

// rotation sets the sections of a rotating command and returns its factor.
func rotation(c *C.mc_cmd, sections []int, factor float32) C.float {
	c.n[4] = -1
	for i, s := range sections {
		c.n[4+i] = C.int64_t(s)
	}
	if factor == 0 {
		return 1
	}
	return C.float(factor)
}

func (b *backend) QKNormRopeStore(a kernels.QKNormRopeStoreArgs) error {
	if err := b.ready(a.Check(), "QKNormRopeStore", a.QKV, a.QNorm, a.KNorm, a.Positions, a.InvFreq, a.Slots); err != nil {
		return err
	}
	kv, err := b.cache("QKNormRopeStore", a.KV)
	if err != nil {
		return err
	}
	if half := a.InvFreq.Rows(); half > maxFreqs {
		return fmt.Errorf("cpu: QKNormRopeStore: %d frequencies, at most %d: %w", half, maxFreqs, kernels.ErrUnsupported)
	}
	c := b.command(C.MC_OP_QKV)
	set(c, a.QKV, a.QNorm, a.KNorm, a.Positions, a.InvFreq, a.Slots)
	sizes(c, a.QKV.Rows(), a.Heads(), a.Layer, flag(a.RoundFirst && a.QKV.DType == kernels.BF16))
	c.f[0], c.f[1], c.obj = C.float(a.Eps), rotation(c, a.Sections, a.Factor), unsafe.Pointer(kv.kv)
	return nil
}

func (b *backend) KVStore(a kernels.KVStoreArgs) error {
	if err := b.ready(a.Check(), "KVStore", a.K, a.V, a.Slots); err != nil {
		return err
	}
	kv, err := b.cache("KVStore", a.KV)
	if err != nil {
		return err
	}
	c := b.command(C.MC_OP_KV_STORE)
	set(c, a.K, a.V, a.Slots)
	sizes(c, a.K.Rows(), a.Layer)
	c.obj = unsafe.Pointer(kv.kv)
	return nil
}

func (b *backend) KVCopy(a kernels.KVCopyArgs) error {
	if err := b.ready(a.Check(), "KVCopy"); err != nil {
		return err
	}
	kv, err := b.cache("KVCopy", a.KV)
	if err != nil || len(a.Pairs) == 0 {
		return err
	}
	c := b.command(C.MC_OP_KV_COPY)
	sizes(c, len(a.Pairs))
	c.obj = unsafe.Pointer(kv.kv)
	c.extra = C.CBytes(unsafe.Slice((*byte)(unsafe.Pointer(&a.Pairs[0])), 8*len(a.Pairs)))
	return nil
}

func (b *backend) PagedAttention(a kernels.PagedAttentionArgs) error {
	if err := b.ready(a.Check(), "PagedAttention", a.Out, a.Q, a.Starts, a.Lens, a.Tables); err != nil {
		return err
	}
	kv, err := b.cache("PagedAttention", a.KV)
	if err != nil {
		return err
	}
	c := b.command(C.MC_OP_PAGED)
	set(c, a.Out, a.Q, a.Starts, a.Lens, a.Tables)
	sizes(c, a.Lens.Rows(), a.Q.Shape[1], kv.shape.Heads, a.Q.Shape[2], a.Layer, a.Tables.Shape[1], a.MaxRows, a.MaxLen, a.Q.Rows())
	c.f[0], c.obj = C.float(a.Scale), unsafe.Pointer(kv.kv)
	return nil
}

func (b *backend) SegmentAttention(a kernels.SegmentAttentionArgs) error {
	if err := b.ready(a.Check(), "SegmentAttention", a.Out, a.Q, a.K, a.V, a.Starts); err != nil {
		return err
	}
	if d := a.Q.Shape[2]; d%2 != 0 {
		return fmt.Errorf("cpu: SegmentAttention: odd head size %d: %w", d, kernels.ErrUnsupported)
	}
	c := b.command(C.MC_OP_SEGMENT)
	set(c, a.Out, a.Q, a.K, a.V, a.Starts)
	half := a.AllowBF16 || a.K.DType == kernels.BF16 && a.V.DType == kernels.BF16
	sizes(c, a.Q.Rows(), a.Q.Shape[1], a.Q.Shape[2], a.Starts.Rows()-1, a.MaxRows, flag(half))
	c.f[0] = C.float(a.Scale)
	return nil
}

func (b *backend) Patchify(a kernels.PatchifyArgs) error {
	if err := b.ready(a.Check(), "Patchify", a.Out, a.Tiles, a.LUT); err != nil {
		return err
	}
	if !a.Tiles.Contiguous() {
		return fmt.Errorf("cpu: Patchify: strided tiles: %w", kernels.ErrUnsupported)
	}
	c := b.command(C.MC_OP_PATCHIFY)
	set(c, a.Out, a.Tiles, a.LUT)
	sizes(c, a.Out.Rows(), a.Out.RowLen(), a.Tiles.Shape[1], a.PatchSize)
	return nil
}

func (b *backend) VisionEmbed(a kernels.VisionEmbedArgs) error {
	if err := b.ready(a.Check(), "VisionEmbed", a.Out, a.X, a.Class, a.Pos); err != nil {
		return err
	}
	c := b.command(C.MC_OP_VISION_EMBED)
	set(c, a.Out, a.X, a.Class, a.Pos)
	sizes(c, a.Out.Shape[0]*a.Out.Shape[1], a.Out.Shape[1], a.Out.Shape[2])
	return nil
}

func (b *backend) PixelShuffle(a kernels.PixelShuffleArgs) error {
	if err := b.ready(a.Check(), "PixelShuffle", a.Out, a.X); err != nil {
		return err
	}
	g := 1
	for g*g < a.X.Shape[1]-1 {
		g++
	}
	c := b.command(C.MC_OP_PIXEL_SHUFFLE)
	set(c, a.Out, a.X)
	sizes(c, a.Out.Shape[0]*a.Out.Shape[1], g, a.X.Shape[2], a.Factor, a.Version)
	return nil
}

func (b *backend) ArgMax(a kernels.ArgMaxArgs) error {
	if err := b.ready(a.Check(), "ArgMax", a.IDs, a.LogProbs, a.Logits); err != nil {
		return err
	}
	c := b.command(C.MC_OP_ARGMAX)
	set(c, a.IDs, a.LogProbs, a.Logits)
	sizes(c, a.Logits.Rows(), a.Logits.RowLen())
	return nil
}
