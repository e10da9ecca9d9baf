package cuda

import (
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// rowsOf fills the parameter block of an elementwise kernel; absent operands are zero tensors.
func rowsOf(rows, cols int, out, a, b kernels.Tensor) rowsParams {
	p := rowsParams{Out: at(out), OutStride: int64(out.RowStride()), OutDt: code(out.DType), Rows: int64(rows), Cols: int64(cols)}
	vec := aligned(out)
	for _, in := range []struct {
		t      kernels.Tensor
		ptr    *driver.Ptr
		stride *int64
		dt     *int32
	}{{a, &p.A, &p.AStride, &p.ADt}, {b, &p.B, &p.BStride, &p.BDt}} {
		if in.t.Buf == nil {
			continue
		}
		*in.ptr, *in.stride, *in.dt = at(in.t), int64(in.t.RowStride()), code(in.t.DType)
		vec = vec && aligned(in.t)
	}
	p.Vec = flag(vec && cols%8 == 0)
	return p
}

func (b *Backend) rows(id kernelID, p rowsParams) error {
	return b.do(func() error { return run(b, id, b.blocks(vectors(p.Rows*p.Cols, p.Vec)), 256, 0, &p) })
}

// vectors is the number of items of a kernel whose threads take 8 elements each if vec.
func vectors(elements int64, vec int32) int64 {
	if vec != 0 {
		return elements / 8
	}
	return elements
}

// Activation applies an elementwise function.
func (b *Backend) Activation(a kernels.ActivationArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Activation", a.Out, a.X); err != nil {
		return err
	}
	p := rowsOf(a.X.Rows(), a.X.RowLen(), a.Out, a.X, kernels.Tensor{})
	p.Act = int32(a.Act)
	return b.rows(kUnary, p)
}

// Cast converts elements.
func (b *Backend) Cast(a kernels.CastArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Cast", a.Out, a.X); err != nil {
		return err
	}
	x, out := a.X, a.Out
	if len(x.Shape) == 1 { // one row
		x.Shape, out.Shape, x.Stride, out.Stride = []int{1, x.Shape[0]}, []int{1, x.Shape[0]}, 0, 0
	}
	return b.rows(kUnary, rowsOf(x.Rows(), x.RowLen(), out, x, kernels.Tensor{}))
}

// SiLUMul computes silu(gate)*up.
func (b *Backend) SiLUMul(a kernels.SiLUMulArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("SiLUMul", a.Out, a.X); err != nil {
		return err
	}
	return b.rows(kSiluMul, rowsOf(a.Out.Rows(), a.Out.RowLen(), a.Out, a.X, kernels.Tensor{}))
}

// Add adds two tensors.
func (b *Backend) Add(a kernels.AddArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Add", a.Out, a.A, a.B); err != nil {
		return err
	}
	return b.rows(kAdd, rowsOf(a.Out.Rows(), a.Out.RowLen(), a.Out, a.A, a.B))
}

// Embed looks rows of a table up. An id outside the table gives zeros.
func (b *Backend) Embed(a kernels.EmbedArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Embed", a.Out, a.Table, a.IDs); err != nil {
		return err
	}
	p := rowsOf(a.Out.Rows(), a.Out.RowLen(), a.Out, a.Table, kernels.Tensor{})
	p.Index, p.Limit = at(a.IDs), int64(a.Table.Rows())
	if a.Table.DType == kernels.F16 {
		p.Vec = 0 // the wide loads know bf16 and f32
	}
	return b.rows(kGatherRows, p)
}

// GatherRows copies named rows of X.
func (b *Backend) GatherRows(a kernels.GatherRowsArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("GatherRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	p := rowsOf(a.Out.Rows(), a.Out.RowLen(), a.Out, a.X, kernels.Tensor{})
	p.Index, p.Limit = at(a.Index), int64(a.X.Rows())
	return b.rows(kGatherRows, p)
}

// ScatterRows copies rows of X to named rows.
func (b *Backend) ScatterRows(a kernels.ScatterRowsArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("ScatterRows", a.Out, a.X, a.Index); err != nil {
		return err
	}
	p := rowsOf(a.X.Rows(), a.X.RowLen(), a.Out, a.X, kernels.Tensor{})
	p.Index, p.Limit = at(a.Index), int64(a.Out.Rows())
	return b.rows(kScatterRows, p)
}

// warpNormCols is the longest vector that one warp normalises.
const warpNormCols = 1024

// norm launches a normalisation; x has shape [T,C] or [T,H,D].
func (b *Backend) norm(warp, cta kernelID, out, x kernels.Tensor, p normParams) error {
	p.Out, p.X, p.OutStride, p.XStride = at(out), at(x), int64(out.RowStride()), int64(x.RowStride())
	p.Rows, p.Heads, p.Cols = int32(x.Rows()), 1, int32(x.Shape[len(x.Shape)-1])
	if len(x.Shape) == 3 {
		p.Heads = int32(x.Shape[1])
	}
	p.OutDt, p.XDt, p.Vec = code(out.DType), code(x.DType), flag(aligned(out) && aligned(x) && p.Weight%16 == 0 && p.Bias%16 == 0)
	vectors := int(p.Rows) * int(p.Heads)
	return b.do(func() error {
		if p.Cols <= warpNormCols {
			return run(b, warp, driver.Dim{X: (vectors + 7) / 8, Y: 1, Z: 1}, 256, 0, &p)
		}
		return run(b, cta, driver.Dim{X: vectors, Y: 1, Z: 1}, 256, 0, &p)
	})
}

// RMSNorm normalises by the root mean square.
func (b *Backend) RMSNorm(a kernels.RMSNormArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("RMSNorm", a.Out, a.X, a.Weight); err != nil {
		return err
	}
	// The quotient is rounded to bf16 only where both operands are bf16.
	round := a.RoundFirst && a.Out.DType == kernels.BF16 && a.X.DType == kernels.BF16
	return b.norm(kRmsnormWarp, kRmsnormCta, a.Out, a.X, normParams{Weight: at(a.Weight), Eps: a.Eps, RoundFirst: flag(round)})
}

// LayerNorm normalises by mean and variance.
func (b *Backend) LayerNorm(a kernels.LayerNormArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("LayerNorm", a.Out, a.X, a.Weight, a.Bias); err != nil {
		return err
	}
	return b.norm(kLayernormWarp, kLayernormCta, a.Out, a.X, normParams{Weight: at(a.Weight), Bias: at(a.Bias), Eps: a.Eps})
}

// ArgMax picks the largest logit of each row.
func (b *Backend) ArgMax(a kernels.ArgMaxArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("ArgMax", a.IDs, a.LogProbs, a.Logits); err != nil {
		return err
	}
	rows, vocab := a.Logits.Rows(), a.Logits.RowLen()
	parts := argMaxParts(vocab)
	return b.do(func() error {
		partial, err := b.scratch(workArgMax, argMaxBytes(rows, vocab))
		if err != nil {
			return err
		}
		p := argMaxParams{
			Ids: at(a.IDs), LogProbs: at(a.LogProbs), Logits: at(a.Logits), Partial: partial,
			Stride: int64(a.Logits.RowStride()), Rows: int32(rows), Vocab: int32(vocab), Parts: int32(parts),
		}
		return inSlices(rows, maxGridY, func(lo, n int) error {
			q := p
			q.Logits += driver.Ptr(int64(lo) * q.Stride * 4)
			q.Partial += driver.Ptr(lo * parts * 16)
			q.Ids += driver.Ptr(lo * 4)
			if q.LogProbs != 0 {
				q.LogProbs += driver.Ptr(lo * 4)
			}
			if err := run(b, kArgmaxPart, driver.Dim{X: parts, Y: n, Z: 1}, 256, 0, &q); err != nil {
				return err
			}
			return run(b, kArgmaxJoin, driver.Dim{X: n, Y: 1, Z: 1}, 32, 0, &q)
		})
	})
}

// maxGridY is the largest extent of a grid in its second and third dimension.
const maxGridY = 65535

// inSlices calls fn for consecutive slices of at most limit of n items.
func inSlices(n, limit int, fn func(lo, count int) error) error {
	for lo := 0; lo < n; lo += limit {
		if err := fn(lo, min(limit, n-lo)); err != nil {
			return err
		}
	}
	return nil
}

// Patchify turns 8-bit tiles into rows for the patch-embedding product.
func (b *Backend) Patchify(a kernels.PatchifyArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Patchify", a.Out, a.Tiles, a.LUT); err != nil {
		return err
	}
	p := patchifyParams{
		Out: at(a.Out), Tiles: at(a.Tiles), Lut: at(a.LUT), OutStride: int64(a.Out.RowStride()),
		Rows: int64(a.Out.Rows()), Cols: int32(a.Out.RowLen()), Side: int32(a.Tiles.Shape[1]), Patch: int32(a.PatchSize), OutDt: code(a.Out.DType),
	}
	if !a.Tiles.Contiguous() || !a.LUT.Contiguous() {
		return &kernels.ArgError{Op: "Patchify", Arg: "Tiles", Want: "contiguous tiles and table", Got: a.Tiles.String()}
	}
	return b.do(func() error { return run(b, kPatchify, b.blocks(p.Rows*256), 256, 0, &p) })
}

// VisionEmbed assembles the encoder input.
func (b *Backend) VisionEmbed(a kernels.VisionEmbedArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("VisionEmbed", a.Out, a.X, a.Class, a.Pos); err != nil {
		return err
	}
	if !a.Pos.Contiguous() {
		return &kernels.ArgError{Op: "VisionEmbed", Arg: "Pos", Want: "contiguous rows", Got: a.Pos.String()}
	}
	p := visionEmbedParams{
		Out: at(a.Out), X: at(a.X), Cls: at(a.Class), Pos: at(a.Pos), OutStride: int64(a.Out.RowStride()), XStride: int64(a.X.RowStride()),
		Tiles: int32(a.Out.Rows()), Rows: int32(a.Out.Shape[1]), Cols: int32(a.Out.Shape[2]), OutDt: code(a.Out.DType), XDt: code(a.X.DType),
		Vec: flag(aligned(a.Out) && aligned(a.X) && aligned(a.Pos) && a.Class.Offset%16 == 0),
	}
	return b.do(func() error { return run(b, kVisionEmbed, b.blocks(vectors(a.Out.Elements(), p.Vec)), 256, 0, &p) })
}

// PixelShuffle merges neighbouring patches.
func (b *Backend) PixelShuffle(a kernels.PixelShuffleArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("PixelShuffle", a.Out, a.X); err != nil {
		return err
	}
	grid := 0
	for grid*grid < a.X.Shape[1]-1 {
		grid++
	}
	p := pixelShuffleParams{
		Out: at(a.Out), X: at(a.X), OutStride: int64(a.Out.RowStride()), XStride: int64(a.X.RowStride()),
		Tiles: int32(a.X.Rows()), Grid: int32(grid), Factor: int32(a.Factor), Cols: int32(a.X.Shape[2]), Dt: code(a.X.DType), Version: int32(a.Version),
		Vec: flag(aligned(a.Out) && aligned(a.X) && a.X.Shape[2]%8 == 0),
	}
	return b.do(func() error { return run(b, kPixelShuffle, b.blocks(vectors(a.Out.Elements(), p.Vec)), 256, 0, &p) })
}
