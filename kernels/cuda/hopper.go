package cuda

import (
	"fmt"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// mapWeight makes the tensor maps of a tiled weight: rows of 1 KiB (8 rows of 64
// columns, as swizzled), two a block, by strips, by blocks along k.
func (b *Backend) mapWeight(w *weight) error {
	if !b.hopper {
		return nil
	}
	blocks := uint64(paddedK(w.k)) / 64
	for i, t := range tileKernels {
		m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
			Type: driver.TensorU32, Base: w.tiled.ptr,
			Dims: []uint64{256, 2, uint64(w.n+15) / 16, blocks}, Strides: []uint64{1024, blocks * blockBytes, blockBytes},
			Box: []uint32{256, 2, uint32(t.bn / 16 / t.ctas), 1}, // each cta of a cluster copies its share of a tile
		})
		if err != nil {
			return err
		}
		w.maps[i] = m
	}
	return nil
}

// blockBytes is the size of a block of a tiled weight: 16 rows of 64 columns.
const blockBytes = 2048

// rowsMap identifies a tensor map of rows of k columns: activations, keys and values.
type rowsMap struct {
	base       driver.Ptr
	rows, cols int32
	stride     int64
	width, box int // columns and rows of a copy
	swizzle    int
}

// maxRowsMaps bounds the cache of tensor maps.
const maxRowsMaps = 4096

// mapRows returns the tensor map of the rows that p reads, box at a time.
func (b *Backend) mapRows(p *linearParams, box int) (driver.TensorMap, error) {
	return b.mapBox(rowsMap{p.X, p.Rows, p.KPadded, p.XStride, 64, box, driver.Swizzle128})
}

// mapBox returns a tensor map of bf16 rows. Activations keep their addresses from
// layer to layer, so maps are cached.
func (b *Backend) mapBox(key rowsMap) (driver.TensorMap, error) {
	if m, ok := b.rowMaps[key]; ok {
		return m, nil
	}
	m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
		Type: driver.TensorBF16, Base: key.base,
		Dims: []uint64{uint64(key.cols), uint64(key.rows)}, Strides: []uint64{uint64(key.stride) * 2},
		Box: []uint32{uint32(key.width), uint32(key.box)}, Swizzle: key.swizzle,
	})
	if err != nil {
		return m, err
	}
	if b.rowMaps == nil || len(b.rowMaps) >= maxRowsMaps {
		b.rowMaps = map[rowsMap]driver.TensorMap{}
	}
	b.rowMaps[key] = m
	return m, nil
}

// tileKernel is a variant of src/linear_tile.cu. All variants give the same bits.
type tileKernel struct {
	id             kernelID
	name           string
	bm, bn, stages int
	ctas, threads  int // of a cluster; of a cta
	alternating    bool
	cost           tileCost
}

// tileCost is what a variant's time is made of, in nanoseconds (docs/kernels.md).
type tileCost struct {
	launch float64              // once
	tile   float64              // a wave of tiles
	step   float64              // 64 columns of k of a wave
	load   float64              // the same, as far as multiprocessors are busy: the clock sinks
	finish [numFinishes]float64 // a wave's results
}

var tileKernels = [...]tileKernel{
	{kLinearCoop192x192, "coop192x192", 192, 192, 4, 1, 512, false, tileCost{817, 2677, 525, 323, [...]float64{2312, 203, 2312, 1738, 904}}},
	{kLinearCoop128x128, "coop128x128", 128, 128, 6, 1, 384, false, tileCost{2063, 191, 343, 95, [...]float64{1978, 803, 1757, 1978, 0}}},
	{kLinearCoop128x256Pair, "coop128x256pair", 128, 256, 4, 2, 384, false, tileCost{2186, 1727, 391, 408, [...]float64{3835, 0, 1909, 2848, 3835}}},
	{kLinearTurns128x192, "turns128x192", 128, 192, 4, 1, 384, true, tileCost{4849, 1035, 266, 350, [...]float64{0, 248, 3676, 1594, 1225}}},
}

// shared is the dynamic shared memory of the variant: the ring, and the results of
// alternating consumers.
func (t tileKernel) shared() int {
	bytes := t.stages * (t.bm + t.bn) * 128
	if t.alternating {
		bytes += t.bm * t.bn * 2
	}
	return bytes
}

// tiles is the number of tiles of a product; the ctas of a cluster count as one.
func (t tileKernel) tiles(rows, n int) int {
	bm := t.bm * t.ctas
	return (rows + bm - 1) / bm * ((n + t.bn - 1) / t.bn)
}

// time estimates a product on a device of sms multiprocessors.
func (t tileKernel) time(rows, n, k, sms int, finish int32) float64 {
	tiles, at := t.tiles(rows, n), sms/t.ctas
	waves, steps := float64((tiles+at-1)/at), float64((k+63)/64)
	return t.cost.launch + waves*(t.cost.tile+t.cost.finish[finish]+steps*t.cost.step) + float64(tiles)/float64(at)*steps*t.cost.load
}

// What becomes of the sums (src/linear_tile.cu).
const (
	finishGeneral = iota
	finishSum
	finishGELU
	finishResidual
	finishGated
	numFinishes
)

// finishOf chooses the fastest way that does what p asks.
func finishOf(p *linearParams) int32 {
	switch {
	case p.Vec == 0 || p.OutDt != dtBF16 || p.Gated == gatedPlain:
		return finishGeneral
	case p.Gated == gatedProduct:
		return finishGated
	case p.Residual != 0 && p.Act == int32(kernels.ActNone):
		return finishResidual
	case p.Residual != 0:
		return finishGeneral
	case p.Act == int32(kernels.ActNone):
		return finishSum
	case p.Act == int32(kernels.ActGELU):
		return finishGELU
	}
	return finishGeneral
}

// finishes reports whether the variant has a way of finishing.
func (t tileKernel) finishes(finish int32) bool { return !t.alternating || finish != finishGeneral }

// chooseTile returns the index of the variant that is expected to be fastest.
func (b *Backend) chooseTile(p *linearParams, finish int32) int {
	if v := b.forceTile - 1; v >= 0 && tileKernels[v].finishes(finish) {
		return v
	}
	best, bestTime := 0, 0.0
	for i, t := range tileKernels {
		if !t.finishes(finish) {
			continue
		}
		if ns := t.time(int(p.Rows), int(p.N), int(p.KPadded), b.sms, finish); i == 0 || ns < bestTime {
			best, bestTime = i, ns
		}
	}
	return best
}

// tile runs a product of many rows.
func (b *Backend) tile(p *linearParams, w *weight) error {
	m := linearTileParams{Linear: *p, Finish: finishOf(p)}
	variant := b.chooseTile(p, m.Finish)
	t := tileKernels[variant]
	m.WMap = w.maps[variant]
	var err error
	if m.XMap, err = b.mapRows(p, t.bm); err != nil {
		return err
	}
	if m.Finish != finishGeneral {
		out := rowsMap{p.Out, p.Rows, p.N, p.OutStride, 64, 64, driver.Swizzle128}
		if m.Finish == finishGated {
			out.cols, out.width, out.swizzle = p.N/2, 32, driver.Swizzle64
		}
		if m.OutMap, err = b.mapBox(out); err != nil {
			return err
		}
	}
	if m.Finish == finishResidual {
		if m.ResidualMap, err = b.mapBox(rowsMap{p.Residual, p.Rows, p.N, p.ResidualStride, 64, 64, driver.Swizzle128}); err != nil {
			return err
		}
	}
	grid := t.ctas * min(t.tiles(int(p.Rows), int(p.N)), b.sms/t.ctas)
	return run(b, t.id, driver.Dim{X: grid, Y: 1, Z: 1}, t.threads, t.shared(), &m)
}

// streamKernel is a variant of src/linear_stream.cu: for at most rows rows, with
// stages of cols columns, at most strips strips in a cta at a time, each of split warps
// and with wStages stages in its ring, xStages stages in the ring of x (0: x is one row,
// all of it), and at most limit strips for a multiprocessor (0: any).
type streamKernel struct {
	id                                                 kernelID
	rows, cols, strips, split, wStages, xStages, limit int
}

// In order of preference: long stages for few strips, which have few copies under way.
var streamKernels = [...]streamKernel{
	{kLinearStreamRow256, 1, 256, 3, 1, 8, 0, 3},
	{kLinearStreamRow128, 1, 128, 6, 1, 8, 0, 24},
	{kLinearStream8256, 8, 256, 3, 1, 8, 4, 3},
	{kLinearStream8128, 8, 128, 6, 1, 8, 4, 0},
	{kLinearStream162562, 16, 256, 3, 2, 8, 4, 3},
	{kLinearStream16128, 16, 128, 6, 1, 8, 4, 0},
	{kLinearStream322562, 32, 256, 3, 2, 4, 4, 24},
	{kLinearStream32128, 32, 128, 8, 1, 4, 4, 0},
	{kLinearStream642564, 64, 256, 2, 4, 4, 4, 2},
	{kLinearStream641282, 64, 128, 6, 2, 4, 4, 0},
}

const (
	streamRows   = 64   // the most rows of the streaming kernels
	rowNormCols  = 4096 // the longest row that they normalise
	rowNormWarps = 3    // the fewest warps that do
)

// shared is the dynamic shared memory of the variant with a number of strips and padded
// columns: barriers, x and the rings of weights.
func (k streamKernel) shared(strips, columns int) int {
	x := 2 * columns
	if k.xStages > 0 {
		x = k.xStages * k.rows * k.cols * 2
	}
	return 1024 + x + strips*k.wStages*16*k.cols*2
}

// streamLinear gives every multiprocessor one cta whose warps share the strips. It
// normalises the row first if there is a norm. ok is false where no variant fits.
func (b *Backend) streamLinear(p *linearParams, norm *normParams) (ok bool, err error) {
	all := (int(p.N) + 15) / 16
	per := (all + b.sms - 1) / b.sms // strips of a multiprocessor
	columns := int(p.KPadded)
	for i, k := range streamKernels {
		row := k.xStages == 0
		if int(p.Rows) > k.rows || columns%k.cols != 0 || k.limit > 0 && per > k.limit || norm != nil && !row || b.forceStream > 0 && b.forceStream != i+1 {
			continue
		}
		passes := (per + k.strips - 1) / k.strips
		strips := (per + passes - 1) / passes
		shared := k.shared(strips, columns)
		if shared > b.ctaShared || norm != nil && strips < rowNormWarps {
			continue
		}
		s := linearStreamParams{Linear: *p, Passes: int32(passes)}
		threads := 32 * strips * k.split
		if norm != nil {
			s.Norm, s.Eps, s.RoundFirst = norm.Weight, norm.Eps, norm.RoundFirst
		}
		if !row { // a warp fills the ring of x
			threads += 32
			if s.XMap, err = b.mapRows(p, k.rows); err != nil {
				return false, err
			}
		}
		grid := (all + strips*passes - 1) / (strips * passes)
		return true, run(b, k.id, driver.Dim{X: grid, Y: 1, Z: 1}, threads, shared, &s)
	}
	if b.forceStream > 0 {
		return false, fmt.Errorf("cuda: %s cannot take %d rows of %d columns: %w", kernelTable[streamKernels[b.forceStream-1].id].name, p.Rows, p.K, kernels.ErrUnsupported)
	}
	return false, nil
}
