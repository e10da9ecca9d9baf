package cuda

import (
	"metacap/kernels/cuda/driver"
)

// wgmmaRows is the number of rows from which the wgmma kernels are used: a cluster
// computes 256 at a time.
const wgmmaRows = 128

// wgmmaTile is a variant of src/linear_wgmma.cu.
type wgmmaTile struct {
	id         kernelID
	bn, stages int
}

var wgmmaTiles = [...]wgmmaTile{{kLinearWgmma128, 128, 6}, {kLinearWgmma192, 192, 5}, {kLinearWgmma256, 256, 4}}

// shared is the dynamic shared memory of the variant: the ring and the exchange
// buffer of the epilogue.
func (t wgmmaTile) shared() int { return t.stages*(128+t.bn)*128 + 2*64*40*4 }

// mapWeight makes the tensor maps of a tiled weight: rows of 1 KiB (8 rows of 64
// columns, as swizzled), two a block, by strips, by blocks along k.
func (b *Backend) mapWeight(w *weight) error {
	if !b.hopper {
		return nil
	}
	blocks := uint64(paddedK(w.k)) / 64
	for i, t := range wgmmaTiles {
		m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
			Type: driver.TensorU32, Base: w.tiled.ptr,
			Dims: []uint64{256, 2, uint64(w.n+15) / 16, blocks}, Strides: []uint64{1024, blocks * blockBytes, blockBytes},
			Box: []uint32{256, 2, uint32(t.bn / 32), 1}, // each cta of a cluster copies half of a tile
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
	base    driver.Ptr
	rows, k int32
	stride  int64
	box     int
}

// maxRowsMaps bounds the cache of tensor maps.
const maxRowsMaps = 4096

// mapRows returns the tensor map of the rows that p reads, box at a time. Activations keep their
// addresses from layer to layer, so maps are cached.
func (b *Backend) mapRows(p *linearParams, box int) (driver.TensorMap, error) {
	return b.mapOf(rowsMap{p.X, p.Rows, p.KPadded, p.XStride, box})
}

// mapOf returns a tensor map of bf16 rows: boxes of some rows and 64 columns, with the 128-byte swizzle.
func (b *Backend) mapOf(key rowsMap) (driver.TensorMap, error) {
	if m, ok := b.rowMaps[key]; ok {
		return m, nil
	}
	m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
		Type: driver.TensorBF16, Base: key.base,
		Dims: []uint64{uint64(key.k), uint64(key.rows)}, Strides: []uint64{uint64(key.stride) * 2},
		Box: []uint32{64, uint32(key.box)}, Swizzle: driver.Swizzle128,
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

// wgmma runs the variant whose last wave of tiles wastes least. All variants give
// the same bits.
func (b *Backend) wgmma(p *linearParams, w *weight) error {
	clusters := b.sms / 2
	pairs := (int(p.Rows) + 255) / 256
	best, bestCost := 0, 0
	for i, t := range wgmmaTiles {
		tiles := pairs * ((int(p.N) + t.bn - 1) / t.bn)
		const fixed = 24 // what a tile costs besides its products, in columns
		cost := (tiles + clusters - 1) / clusters * (t.bn + fixed)
		if i == 0 || cost <= bestCost {
			best, bestCost = i, cost
		}
	}
	x, err := b.mapRows(p, 128)
	if err != nil {
		return err
	}
	t := wgmmaTiles[best]
	m := linearMapParams{XMap: x, WMap: w.maps[best], Linear: *p}
	tiles := pairs * ((int(p.N) + t.bn - 1) / t.bn)
	return run(b, t.id, driver.Dim{X: 2 * min(tiles, clusters), Y: 1, Z: 1}, 384, t.shared(), &m)
}

// streamKernel is a variant of src/linear_stream.cu: for at most rows rows, with
// stages of cols columns and at most warps consumer warps a cta.
type streamKernel struct {
	id                kernelID
	rows, cols, warps int
}

// In order of preference: long stages for few warps, which have few copies under
// way. With up to 16 rows two kernels fit on a multiprocessor, so that the next one
// can load weights while this one ends.
var streamKernels = [...]streamKernel{
	{kLinearStream8256, 8, 256, 3},
	{kLinearStream8128, 8, 128, 6},
	{kLinearStream16256, 16, 256, 3},
	{kLinearStream16128, 16, 128, 5},
	{kLinearStream32128, 32, 128, 8},
	{kLinearStream64128, 64, 128, 8},
}

// shared is the dynamic shared memory of the variant with a number of consumer
// warps: barriers, four stages of x, four stages of weights a warp.
func (k streamKernel) shared(warps int) int {
	return 1024 + 4*k.rows*k.cols*2 + warps*4*16*k.cols*2
}

// streamRows is the most rows of the streaming kernels.
const streamRows = 64

// streamLinear gives every multiprocessor one cta whose warps share the strips. ok
// is false where no variant fits.
func (b *Backend) streamLinear(p *linearParams, w *weight) (ok bool, err error) {
	strips := (int(p.N) + 15) / 16
	per := (strips + b.sms - 1) / b.sms // strips of a multiprocessor
	for _, k := range streamKernels {
		short := k.cols == 256 && per > 3 // long stages are for few strips
		if int(p.Rows) > k.rows || int(p.KPadded)%k.cols != 0 || short {
			continue
		}
		passes := (per + k.warps - 1) / k.warps
		warps := (per + passes - 1) / passes
		if passes > 1 && k.cols == 256 {
			continue
		}
		x, err := b.mapRows(p, k.rows)
		if err != nil {
			return false, err
		}
		s := linearStreamParams{XMap: x, Linear: *p, Passes: int32(passes)}
		grid := (strips + warps*passes - 1) / (warps * passes)
		return true, run(b, k.id, driver.Dim{X: grid, Y: 1, Z: 1}, 32*(warps+1), k.shared(warps), &s)
	}
	return false, nil
}
