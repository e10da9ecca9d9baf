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

// mapWeight makes the tensor maps of a tiled weight: 256-byte pieces (16 rows of 8
// columns), by strips of 16 rows, by groups of 8 columns.
func (b *Backend) mapWeight(w *weight) error {
	if !b.hopper {
		return nil
	}
	kp := uint64(paddedK(w.k))
	for i, t := range wgmmaTiles {
		m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
			Type: driver.TensorU32, Base: w.tiled.ptr,
			Dims: []uint64{64, uint64(w.n+15) / 16, kp / 8}, Strides: []uint64{kp * 32, 256},
			Box: []uint32{64, uint32(t.bn / 16), 4},
		})
		if err != nil {
			return err
		}
		w.maps[i] = m
	}
	return nil
}

// rowsMap identifies a tensor map of activations.
type rowsMap struct {
	base    driver.Ptr
	rows, k int32
	stride  int64
}

// maxRowsMaps bounds the cache of tensor maps.
const maxRowsMaps = 4096

// mapRows returns the tensor map of the rows that p reads. Activations keep their
// addresses from layer to layer, so maps are cached.
func (b *Backend) mapRows(p *linearParams) (driver.TensorMap, error) {
	key := rowsMap{p.X, p.Rows, p.KPadded, p.XStride}
	if m, ok := b.rowMaps[key]; ok {
		return m, nil
	}
	m, err := b.driver.EncodeTensorMap(driver.TensorMapConfig{
		Type: driver.TensorBF16, Base: p.X,
		Dims: []uint64{uint64(p.KPadded), uint64(p.Rows)}, Strides: []uint64{uint64(p.XStride) * 2},
		Box: []uint32{64, 128}, Swizzle: driver.Swizzle128,
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
	x, err := b.mapRows(p)
	if err != nil {
		return err
	}
	t := wgmmaTiles[best]
	m := linearMapParams{XMap: x, WMap: w.maps[best], Linear: *p}
	tiles := pairs * ((int(p.N) + t.bn - 1) / t.bn)
	return run(b, t.id, driver.Dim{X: 2 * min(tiles, clusters), Y: 1, Z: 1}, 384, t.shared(), &m)
}
