package cuda

import (
	"math"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// attentionKernel is a kernel of src/attention_wgmma.cu.
type attentionKernel struct {
	id                kernelID
	headDim           int
	consumers, stages int // warpgroups of 64 rows each; tiles of the ring
}

var (
	wgmmaWalk64  = attentionKernel{kAttentionWgmmaWalk64, 64, 2, 8}
	wgmmaWalk128 = attentionKernel{kAttentionWgmmaWalk128, 128, 2, 5}
	wgmmaTile64  = attentionKernel{kAttentionWgmmaTile64, 64, 3, 8}
	wgmmaTile128 = attentionKernel{kAttentionWgmmaTile128, 128, 2, 5}
)

// rows is the number of rows of a tile.
func (k attentionKernel) rows() int { return k.consumers * 64 }

// shared is the dynamic shared memory: query rows and the ring.
func (k attentionKernel) shared() int { return (k.rows() + k.stages*partitionKeys) * k.headDim * 2 }

// maxAttentionSequences is the most sequences or segments of a launch of the wgmma kernels.
const maxAttentionSequences = 128

// wgmmaPaged is pagedMMA's walking kernel on Hopper. ok is false where it cannot take
// the operands. The bits are the same.
func (b *Backend) wgmmaPaged(p *attentionParams, c *cache, layer, maxRows int) (ok bool, err error) {
	rows := c.shape.Blocks * 2 * c.shape.Heads * kernels.BlockSize // of a layer
	if !b.hopper || c.shape.Layers*rows > math.MaxInt32 {
		return false, nil
	}
	m, err := b.mapBox(rowsMap{c.buf.ptr, int32(c.shape.Layers * rows), p.HeadDim, int64(p.HeadDim), 64, kernels.BlockSize, driver.Swizzle128})
	if err != nil {
		return false, err
	}
	q := attentionMapParams{KMap: m, VMap: m, Attention: *p, Row0: int32(layer * rows)}
	kernel := wgmmaWalk128
	if p.HeadDim == 64 {
		kernel = wgmmaWalk64
	}
	return true, b.wgmmaAttention(kernel, &q, maxRows)
}

// wgmmaSegments is the same for segments.
func (b *Backend) wgmmaSegments(p *attentionParams, tokens, maxRows int) (ok bool, err error) {
	if !b.hopper {
		return false, nil
	}
	q := attentionMapParams{Attention: *p}
	if q.KMap, err = b.mapBox(rowsMap{p.K, int32(tokens), p.KvHeads * p.HeadDim, p.KStride, 64, kernels.BlockSize, driver.Swizzle128}); err != nil {
		return false, err
	}
	if q.VMap, err = b.mapBox(rowsMap{p.V, int32(tokens), p.KvHeads * p.HeadDim, p.VStride, 64, kernels.BlockSize, driver.Swizzle128}); err != nil {
		return false, err
	}
	kernel := wgmmaTile128
	if p.HeadDim == 64 {
		kernel = wgmmaTile64
	}
	return true, b.wgmmaAttention(kernel, &q, maxRows)
}

func (b *Backend) wgmmaAttention(k attentionKernel, p *attentionMapParams, maxRows int) error {
	group := int(p.Attention.QHeads / p.Attention.KvHeads)
	tiles := (maxRows*group + k.rows() - 1) / k.rows()
	return inSlices(int(p.Attention.Sequences), maxAttentionSequences, func(lo, n int) error {
		q := *p
		q.Attention.Sequences = int32(n)
		q.Attention.Starts += driver.Ptr(4 * lo)
		q.Attention.Lens += driver.Ptr(4 * lo)
		q.Attention.Tables += driver.Ptr(int64(lo) * q.Attention.TableStride * 4)
		items := tiles * int(p.Attention.KvHeads) * n
		return run(b, k.id, driver.Dim{X: min(items, b.sms), Y: 1, Z: 1}, 128*(k.consumers+1), k.shared(), &q)
	})
}
