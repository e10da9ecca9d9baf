package cuda

import "metacap/kernels"

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
	return b.do(func() error { return run(b, kPatchify, b.blocks(p.Rows*int64(p.Cols)), 256, 0, &p) })
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
	}
	return b.do(func() error { return run(b, kVisionEmbed, b.blocks(a.Out.Elements()), 256, 0, &p) })
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
	}
	return b.do(func() error { return run(b, kPixelShuffle, b.blocks(a.Out.Elements()), 256, 0, &p) })
}
