package cuda

import (
	"fmt"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// weight is a packed linear layer: tiled bf16 (src/linear.cuh), or row-major parts
// for the float32 kernel.
type weight struct {
	owner *Backend
	n, k  int
	bytes int64
	gated bool // tiled with gate and up interleaved
	tiled *buffer
	maps  [len(tileKernels)]driver.TensorMap // of tiled; Hopper only
	parts []part
}

// part is a row-major matrix with outputs at n0 .. n0+n.
type part struct {
	n0, n         int
	dt            int32
	group         int
	data          *buffer
	scales, zeros *buffer
}

func (w *weight) Dims() (n, k int) { return w.n, w.k }
func (w *weight) Bytes() int64     { return w.bytes }

// Free frees the weight's memory. Idempotent.
func (w *weight) Free() {
	for _, f := range w.buffers() {
		f.Free()
	}
	w.tiled, w.parts = nil, nil
}

func (w *weight) buffers() []*buffer {
	var all []*buffer
	if w.tiled != nil {
		all = append(all, w.tiled)
	}
	for _, p := range w.parts {
		for _, f := range []*buffer{p.data, p.scales, p.zeros} {
			if f != nil {
				all = append(all, f)
			}
		}
	}
	return all
}

// paddedK is the width of a tiled weight: whole stages of the kernels.
func paddedK(k int) int { return (k + 63) &^ 63 }

// PackLinear copies a weight to the device. Dense bf16 layers are repacked there
// into tiles; others stay row-major.
func (b *Backend) PackLinear(src kernels.LinearSource) (kernels.Weight, error) {
	if err := b.notCapturing("pack"); err != nil {
		return nil, err
	}
	n, err := src.Check()
	if err != nil {
		return nil, err
	}
	w := &weight{owner: b, n: n, k: src.K}
	tiled := src.Precision == kernels.PrecisionNative
	for _, p := range src.Parts {
		tiled = tiled && p.DType == kernels.BF16 && p.Quant == nil
	}
	err = b.do(func() error {
		if tiled {
			return b.packTiled(w, src)
		}
		return b.packRows(w, src)
	})
	if err != nil {
		w.Free()
		return nil, fmt.Errorf("cuda: pack %s: %w", src.Name, err)
	}
	for _, f := range w.buffers() {
		w.bytes += f.bytes
	}
	return w, nil
}

// packTiled streams the parts through the slots; a kernel puts each piece in place.
func (b *Backend) packTiled(w *weight, src kernels.LinearSource) error {
	kp := paddedK(w.k)
	half := w.n / 2
	w.gated = src.Gated && len(src.Parts) == 2 && src.Parts[0].N == half && half*2 == w.n && half%8 == 0
	var err error
	if w.tiled, err = b.allocRaw(int64((w.n+15)&^15) * int64(kp) * 2); err != nil {
		return err
	}
	if w.n%16 != 0 { // nobody else writes what is behind the last row
		strip := int64(kp) * 32
		if err := b.stream.Fill(w.tiled.ptr+driver.Ptr(int64(w.n/16)*strip), 0, strip); err != nil {
			return err
		}
		if err := b.stream.Synchronize(); err != nil {
			return err
		}
	}
	rowBytes := w.k * 2
	if rowBytes > slotBytes {
		return fmt.Errorf("a row of %d inputs exceeds the staging memory of %d bytes: %w", w.k, slotBytes, kernels.ErrUnsupported)
	}
	piece := slotBytes / rowBytes * rowBytes
	row0 := 0
	for _, p := range src.Parts {
		err := b.through(p.Data, piece, func(s *slot, offset int64, n int) error {
			if err := s.stream.CopyToDevice(s.scratch.ptr, s.host.Bytes()[:n]); err != nil {
				return err
			}
			q := packParams{
				Out: w.tiled.ptr, Src: s.scratch.ptr, Rows: int64(n / rowBytes), Row0: int64(row0) + offset/int64(rowBytes),
				K: int32(w.k), KPadded: int32(kp), SrcDt: dtBF16, Interleave: flag(w.gated), Half: int32(half),
			}
			return launchOn(b, s.launch, kPackTiled, b.blocks(q.Rows*int64(kp/8)), &q)
		})
		if err != nil {
			return err
		}
		row0 += p.N
	}
	return b.mapWeight(w)
}

// packRows copies the parts as they are: the kernel reads every stored type.
func (b *Backend) packRows(w *weight, src kernels.LinearSource) error {
	n0 := 0
	for _, m := range src.Parts {
		w.parts = append(w.parts, part{n0: n0, n: m.N, dt: code(m.DType)})
		p := &w.parts[len(w.parts)-1]
		n0 += m.N
		if m.Quant != nil {
			p.dt, p.group = dtQ8, m.Quant.Group
			if m.Quant.Bits == 4 {
				p.dt = dtQ4
			}
		}
		var err error
		if p.data, err = b.copyIn(m.Data); err != nil {
			return err
		}
		if m.Quant == nil {
			continue
		}
		if p.scales, err = b.copyIn(m.Quant.Scales); err != nil {
			return err
		}
		if m.Quant.Zeros == nil {
			continue
		}
		if p.zeros, err = b.copyIn(m.Quant.Zeros); err != nil {
			return err
		}
	}
	return nil
}

// copyIn makes a buffer with the given contents.
func (b *Backend) copyIn(data []byte) (*buffer, error) {
	f, err := b.allocRaw(int64(len(data)))
	if err != nil {
		return nil, err
	}
	err = b.through(data, slotBytes, func(s *slot, offset int64, n int) error {
		return s.stream.CopyToDevice(f.ptr+driver.Ptr(offset), s.host.Bytes()[:n])
	})
	if err != nil {
		f.Free()
		return nil, err
	}
	return f, nil
}

// Linear multiplies rows by a packed weight.
func (b *Backend) Linear(a kernels.LinearArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	w, err := b.linearOperands("Linear", a)
	if err != nil {
		return err
	}
	p := linearParamsOf(a, w)
	if w.gated {
		p.Gated = gatedPlain
	}
	return b.do(func() error {
		if w.tiled == nil {
			return b.linearRows(p, w)
		}
		return b.linearTiled(p, a.X, w)
	})
}

// What becomes of a gated weight's tiles (src/linear.cuh).
const (
	gatedProduct = 1
	gatedPlain   = 2
)

func (b *Backend) linearOperands(op string, a kernels.LinearArgs) (*weight, error) {
	w, ok := a.W.(*weight)
	if !ok || w.owner != b || w.tiled == nil && w.parts == nil {
		return nil, &kernels.ArgError{Op: op, Arg: "W", Want: "a weight of this backend that is not freed", Got: fmt.Sprintf("%T", a.W)}
	}
	return w, b.own(op, a.Out, a.X, a.Bias, a.Residual, a.Scale)
}

func linearParamsOf(a kernels.LinearArgs, w *weight) linearParams {
	return linearParams{
		Out: at(a.Out), X: at(a.X), Bias: at(a.Bias), Residual: at(a.Residual), LayerScale: at(a.Scale),
		OutStride: int64(a.Out.RowStride()), XStride: int64(a.X.RowStride()), ResidualStride: int64(a.Residual.RowStride()),
		Rows: int32(a.X.Rows()), N: int32(w.n), K: int32(w.k), KPadded: int32(paddedK(w.k)),
		OutDt: code(a.Out.DType), XDt: code(a.X.DType), WDt: dtBF16, Act: int32(a.Act),
		Vec: flag(aligned(a.Out) && (a.Residual.Buf == nil || aligned(a.Residual)) && a.Bias.Offset%16 == 0 && a.Scale.Offset%16 == 0),
	}
}

// linearRows runs the float32 kernel, a launch a part.
func (b *Backend) linearRows(p linearParams, w *weight) error {
	outBytes := driver.Ptr(4)
	if p.OutDt == dtBF16 {
		outBytes = 2
	}
	for _, m := range w.parts {
		q := p
		n0 := driver.Ptr(m.n0)
		q.W, q.WDt, q.N, q.Group = m.data.ptr, m.dt, int32(m.n), int32(m.group)
		q.Out += n0 * outBytes
		if m.scales != nil {
			q.Scales = m.scales.ptr
		}
		if m.zeros != nil {
			q.Zeros = m.zeros.ptr
		}
		if q.Bias != 0 {
			q.Bias += n0 * 4
		}
		if q.LayerScale != 0 {
			q.LayerScale += n0 * 4
		}
		if q.Residual != 0 {
			q.Residual += n0 * outBytes
		}
		const tile = 64
		err := inSlices(int(q.Rows), maxGridY*tile, func(lo, n int) error {
			r := q
			shiftRows(&r, lo, n)
			return run(b, kLinearSimt, driver.Dim{X: (m.n + tile - 1) / tile, Y: (n + tile - 1) / tile, Z: 1}, 256, 0, &r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shiftRows makes p compute rows lo .. lo+n only.
func shiftRows(p *linearParams, lo, n int) {
	size := func(dt int32) driver.Ptr {
		if dt == dtF32 {
			return 4
		}
		return 2
	}
	p.Rows = int32(n)
	p.X += driver.Ptr(lo) * driver.Ptr(p.XStride) * size(p.XDt)
	p.Out += driver.Ptr(lo) * driver.Ptr(p.OutStride) * size(p.OutDt)
	if p.Residual != 0 {
		p.Residual += driver.Ptr(lo) * driver.Ptr(p.ResidualStride) * size(p.OutDt)
	}
}

// linearTiled stages x if the tiled kernels cannot read it, and chooses a kernel.
func (b *Backend) linearTiled(p linearParams, x kernels.Tensor, w *weight) error {
	p.W = w.tiled.ptr
	if x.DType != kernels.BF16 || w.k%64 != 0 || !aligned(x) {
		kp := int(p.KPadded)
		ws, err := b.scratch(workRows, stagedBytes(int(p.Rows), w.k))
		if err != nil {
			return err
		}
		s := rowsParams{Out: ws, A: p.X, OutStride: int64(kp), AStride: p.XStride, Rows: int64(p.Rows), Cols: int64(p.K), ADt: p.XDt, OutDt: dtBF16}
		if err := run(b, kStageRows, b.blocks(s.Rows*int64(kp/8)), 256, 0, &s); err != nil {
			return err
		}
		p.X, p.XStride, p.XDt = ws, int64(kp), dtBF16
	}
	return b.tiled(&p, w)
}

// A tiled kernel: the most rows it is meant for, its tile and its shared bytes.
type tiledKernel struct {
	id              kernelID
	bm, bn, threads int
	shared          int
}

var (
	skinny8   = tiledKernel{kLinearSkinny8, 8, 16, 32, 10 * 4 * (512 + 256)}
	skinny16  = tiledKernel{kLinearSkinny16, 16, 16, 32, 8 * 4 * (512 + 2*256)}
	gemm64x32 = tiledKernel{kLinearGemm64x32, 64, 32, 128, 8 * (64 + 32) * 128}
	gemm64x64 = tiledKernel{kLinearGemm64x64, 64, 64, 128, 6 * (64 + 64) * 128}
	gemm128   = tiledKernel{kLinearGemm128x128, 128, 128, 256, 3 * (128 + 128) * 128}
)

// allowShared raises the limits of kernels whose shared memory, with the static part,
// exceeds the default, and says how a multiprocessor's memory is to be divided for them.
func (b *Backend) allowShared() error {
	limits := map[kernelID]int{
		kAttentionWalk128: attentionShared(128, 2), kAttentionTile128: attentionShared(128, 2),
		kAttentionShared64: attentionShared(64, 2), kAttentionShared128: attentionShared(128, 2),
		kAttentionSplit64: attentionShared(64, b.splitTiles(64)), kAttentionSplit128: attentionShared(128, b.splitTiles(128)),
	}
	for _, k := range []tiledKernel{skinny8, skinny16, gemm64x32, gemm64x64, gemm128} {
		limits[k.id] = k.shared
	}
	for _, t := range tileKernels {
		limits[t.id] = t.shared()
	}
	for _, k := range []attentionKernel{wgmmaWalk64, wgmmaWalk128, wgmmaTile64, wgmmaTile128} {
		limits[k.id] = k.shared()
	}
	for _, k := range streamKernels {
		f := b.mods.functions[k.id]
		if f == nil {
			continue
		}
		limits[k.id] = b.ctaShared
		// Measured: with any other preference a decode step takes 5 % more.
		if err := f.PreferShared(0); err != nil {
			return err
		}
	}
	for id, bytes := range limits {
		if b.mods.functions[id] != nil {
			if err := b.mods.functions[id].AllowShared(bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// tiled chooses by the number of rows; every choice gives the same bits.
func (b *Backend) tiled(p *linearParams, w *weight) error {
	rows, n := int(p.Rows), int(p.N)
	if b.hopper && (rows > streamRows || b.forceTile > 0) && b.forceTile >= 0 {
		return b.tile(p, w)
	}
	if b.hopper && rows <= streamRows {
		if ok, err := b.streamLinear(p, nil); ok || err != nil {
			return err
		}
	}
	var k tiledKernel
	switch {
	case rows <= skinny8.bm:
		k = skinny8
	case rows <= skinny16.bm:
		k = skinny16
	case rows <= gemm64x32.bm && (n+63)/64 < 2*b.sms:
		k = gemm64x32
	case rows <= gemm64x64.bm:
		k = gemm64x64
	default:
		k = gemm128
	}
	grid := (rows + k.bm - 1) / k.bm * ((n + k.bn - 1) / k.bn)
	return run(b, k.id, driver.Dim{X: grid, Y: 1, Z: 1}, k.threads, k.shared, p)
}
