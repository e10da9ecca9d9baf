package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// cache is a paged key/value cache: [layers][blocks][2][heads][32][head size].
type cache struct {
	shape kernels.KVShape
	buf   *buffer
}

func (c *cache) Shape() kernels.KVShape { return c.shape }
func (c *cache) Bytes() int64           { return c.buf.bytes }
func (c *cache) Free()                  { c.buf.Free() }

// blockElements is the number of elements of a block of one layer.
func (c *cache) blockElements() int64 {
	return 2 * int64(c.shape.Heads) * kernels.BlockSize * int64(c.shape.HeadDim)
}

// layer is the address of a layer.
func (c *cache) layer(i int) driver.Ptr {
	return c.buf.ptr + driver.Ptr(int64(i)*int64(c.shape.Blocks)*c.blockElements()*int64(c.shape.DType.Size()))
}

// NewKV allocates a cache. Its contents are undefined until stored.
func (b *Backend) NewKV(shape kernels.KVShape) (kernels.KV, error) {
	if err := b.notCapturing("key/value cache"); err != nil {
		return nil, err
	}
	if err := shape.Check(); err != nil {
		return nil, err
	}
	if shape.HeadDim > maxHeadDim {
		return nil, fmt.Errorf("cuda: key/value cache: head size %d exceeds %d: %w", shape.HeadDim, maxHeadDim, kernels.ErrUnsupported)
	}
	c := &cache{shape: shape}
	bytes := int64(shape.Layers) * int64(shape.Blocks) * c.blockElements() * int64(shape.DType.Size())
	err := b.do(func() error {
		var err error
		c.buf, err = b.allocRaw(bytes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: key/value cache of %d bytes: %w", bytes, err)
	}
	return c, nil
}

// maxHeadDim is the largest head of the general attention kernel.
const maxHeadDim = 256

func (b *Backend) cacheOf(op string, kv kernels.KV) (*cache, error) {
	c, ok := kv.(*cache)
	if !ok || c.buf.owner != b || c.buf.ptr == 0 {
		return nil, &kernels.ArgError{Op: op, Arg: "KV", Want: "a cache of this backend that is not freed", Got: fmt.Sprintf("%T", kv)}
	}
	return c, nil
}

// sections are M-RoPE's counts as kernels take them: -1 without.
func sections(s []int) (first, second int32) {
	if s == nil {
		return -1, 0
	}
	return int32(s[0]), int32(s[1])
}

// Rope rotates heads in place.
func (b *Backend) Rope(a kernels.RopeArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Rope", a.X, a.Positions, a.InvFreq); err != nil {
		return err
	}
	p := ropeParams{
		X: at(a.X), Positions: at(a.Positions), InvFreq: at(a.InvFreq), XStride: int64(a.X.RowStride()), PosStride: int64(a.Positions.RowStride()),
		Tokens: int32(a.X.Rows()), Heads: int32(a.X.Shape[1]), HeadDim: int32(a.X.Shape[2]), XDt: code(a.X.DType), Factor: a.Factor,
	}
	if p.Factor == 0 {
		p.Factor = 1
	}
	p.Section1, p.Section2 = sections(a.Sections)
	return b.do(func() error { return run(b, kRope, b.blocks(a.X.Elements()/2), 256, 0, &p) })
}

// KVStore writes keys and values of new tokens.
func (b *Backend) KVStore(a kernels.KVStoreArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	c, err := b.cacheOf("KVStore", a.KV)
	if err != nil {
		return err
	}
	if err := b.own("KVStore", a.K, a.V, a.Slots); err != nil {
		return err
	}
	p := kvStoreParams{
		Cache: c.layer(a.Layer), K: at(a.K), V: at(a.V), Slots: at(a.Slots), KStride: int64(a.K.RowStride()), VStride: int64(a.V.RowStride()),
		BlockElements: c.blockElements(), Tokens: int32(a.K.Rows()), Heads: int32(c.shape.Heads), HeadDim: int32(c.shape.HeadDim),
		KDt: code(a.K.DType), VDt: code(a.V.DType), CacheDt: code(c.shape.DType),
	}
	return b.do(func() error { return run(b, kKvStore, b.blocks(a.K.Elements()), 256, 0, &p) })
}

// KVCopy copies whole blocks in all layers.
func (b *Backend) KVCopy(a kernels.KVCopyArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	c, err := b.cacheOf("KVCopy", a.KV)
	if err != nil {
		return err
	}
	if len(a.Pairs) == 0 {
		return nil
	}
	raw := make([]byte, 0, 8*len(a.Pairs))
	for _, p := range a.Pairs {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(p[0]))
		raw = binary.LittleEndian.AppendUint32(raw, uint32(p[1]))
	}
	blockBytes := c.blockElements() * int64(c.shape.DType.Size())
	return b.do(func() error {
		pairs, err := b.scratch(workPairs, int64(len(raw)))
		if err != nil {
			return err
		}
		if err := b.stream.CopyToDevice(pairs, raw); err != nil {
			return err
		}
		return inSlices(len(a.Pairs), maxGridY, func(lo, n int) error {
			return inSlices(c.shape.Layers, maxGridY, func(layer, layers int) error {
				p := kvCopyParams{
					Cache: c.layer(layer), Pairs: pairs + driver.Ptr(8*lo), LayerBytes: int64(c.shape.Blocks) * blockBytes,
					BlockBytes: blockBytes, PairsCount: int32(n), Layers: int32(layers),
				}
				parts := int(max(1, min(blockBytes/16/256, 16)))
				return run(b, kKvCopy, driver.Dim{X: parts, Y: n, Z: layers}, 256, 0, &p)
			})
		})
	})
}

const (
	partitionKeys = 128 // keys of a partition (src/attention.cuh)
	mmaRows       = 16  // rows of one mma tile: what the split kernel takes
	maxShared     = 128 // sequences of the kernel for shared keys
)

// attentionShared is the dynamic shared memory of the tensor-core kernels for a head
// size, with tiles of keys and values.
func attentionShared(d, tiles int) int { return tiles * partitionKeys * d * 2 }

// splitShared is the static shared memory of the split kernel.
const splitShared = 5 << 10

// itemwise reports whether the kernel for shared keys is to take a step. Without shared
// keys it is faster (by 2 to 5 us on an H100 at 2,304 keys) while split has few ctas.
func (b *Backend) itemwise(p *attentionParams, maxRows int) bool {
	heads := int(p.Sequences * p.KvHeads)
	return p.Shared != 0 || b.walk == 0 && maxRows == 1 && p.Sequences > 1 && p.Sequences <= maxShared && 5*heads <= 4*b.sms
}

// sharedCtas is how many ctas of the kernel for shared keys fit on a multiprocessor.
const sharedCtas = 3

// splitTiles is how many tiles the split kernel has under way: three where they fit.
func (b *Backend) splitTiles(d int) int {
	if attentionShared(d, 3)+splitShared <= b.ctaShared {
		return 3
	}
	return 2
}

// splitWalk is how many of the partitions a cta of the split kernel takes: all, if
// there are then enough ctas, since that needs no join.
func (b *Backend) splitWalk(partitions, heads int) int {
	if b.walk > 0 {
		return min(b.walk, partitions)
	}
	ctas := max(1, 2*b.sms/heads) // of a sequence's kv head
	return (partitions + ctas - 1) / ctas
}

// tensorCores reports whether the tensor-core kernels can take these operands.
func tensorCores(kv kernels.DType, out kernels.Tensor, operands ...kernels.Tensor) bool {
	d := out.Shape[2]
	ok := kv == kernels.BF16 && (d == 64 || d == 128) && out.RowStride()%2 == 0
	for _, t := range operands {
		ok = ok && t.DType == kernels.BF16 && aligned(t)
	}
	return ok
}

// PagedAttention attends to the paged cache.
func (b *Backend) PagedAttention(a kernels.PagedAttentionArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	c, err := b.cacheOf("PagedAttention", a.KV)
	if err != nil {
		return err
	}
	if err := b.own("PagedAttention", a.Out, a.Q, a.Starts, a.Lens, a.Tables, a.Shared); err != nil {
		return err
	}
	s := c.shape
	p := attentionParams{
		Out: at(a.Out), Q: at(a.Q), Cache: c.layer(a.Layer), Starts: at(a.Starts), Lens: at(a.Lens), Tables: at(a.Tables),
		OutStride: int64(a.Out.RowStride()), QStride: int64(a.Q.RowStride()), TableStride: int64(a.Tables.RowStride()), BlockElements: c.blockElements(),
		Sequences: int32(a.Lens.Rows()), QHeads: int32(a.Q.Shape[1]), KvHeads: int32(s.Heads), HeadDim: int32(s.HeadDim),
		OutDt: code(a.Out.DType), QDt: code(a.Q.DType), KvDt: code(s.DType), Settled: flag(a.Settled), Scale: a.Scale,
	}
	if p.Sequences <= maxShared && a.MaxRows == 1 {
		p.Shared = at(a.Shared)
	}
	return b.do(func() error {
		return inSlices(int(p.Sequences), maxGridY, func(lo, n int) error {
			q := p
			q.Sequences = int32(n)
			q.Starts += driver.Ptr(4 * lo)
			q.Lens += driver.Ptr(4 * lo)
			q.Tables += driver.Ptr(int64(lo) * q.TableStride * 4)
			if !tensorCores(s.DType, a.Out, a.Q) {
				return run(b, kAttentionPaged, driver.Dim{X: a.MaxRows, Y: int(q.QHeads), Z: n}, 128, 0, &q)
			}
			return b.pagedMMA(&q, c, a.Layer, a.MaxRows, a.MaxLen)
		})
	})
}

// pagedMMA runs the split kernels for sequences of few rows and the walking kernel
// for the others; which sequence is whose is decided on the device.
func (b *Backend) pagedMMA(p *attentionParams, c *cache, layer, maxRows, maxLen int) error {
	walk, split, shared, join := kAttentionWalk128, kAttentionSplit128, kAttentionShared128, kAttentionJoin128
	if p.HeadDim == 64 {
		walk, split, shared, join = kAttentionWalk64, kAttentionSplit64, kAttentionShared64, kAttentionJoin64
	}
	d, group := int(p.HeadDim), int(p.QHeads/p.KvHeads)
	if limit, rows := splitRows(group, maxRows); rows > 0 {
		parts := partitions(maxLen)
		per := b.splitWalk(parts, int(p.Sequences*p.KvHeads))
		itemwise := b.itemwise(p, maxRows)
		if itemwise {
			per = 0 // all leave partial results
		}
		tiles := b.splitTiles(d)
		p.SplitRows, p.PartialRows, p.Partitions, p.Walk, p.Slots = int32(limit), int32(rows), int32(parts), int32(per), int32(tiles)
		if per < parts {
			var err error
			if p.Partial, err = b.scratch(workAttention, partialBytes(int(p.Sequences), int(p.KvHeads), parts, rows, d)); err != nil {
				return err
			}
		}
		var err error
		if itemwise {
			items := parts * int(p.KvHeads*p.Sequences)
			err = run(b, shared, driver.Dim{X: min(items, sharedCtas*b.sms), Y: 1, Z: 1}, 128, attentionShared(d, 2), p)
		} else {
			grid := driver.Dim{X: (parts + per - 1) / per, Y: int(p.KvHeads), Z: int(p.Sequences)}
			// A cta of one partition has no third tile.
			err = run(b, split, grid, 128, attentionShared(d, min(tiles, 2*per)), p)
		}
		if err != nil {
			return err
		}
		if per < parts {
			if err := run(b, join, driver.Dim{X: rows, Y: int(p.KvHeads), Z: int(p.Sequences)}, d, 0, p); err != nil {
				return err
			}
		}
	}
	if maxRows*group > int(p.SplitRows) {
		if ok, err := b.wgmmaPaged(p, c, layer, maxRows); ok || err != nil {
			return err
		}
		tiles := (maxRows*group + 63) / 64
		return run(b, walk, driver.Dim{X: tiles, Y: int(p.KvHeads), Z: int(p.Sequences)}, 128, attentionShared(d, 2), p)
	}
	return nil
}

// SegmentAttention attends inside segments of rows.
func (b *Backend) SegmentAttention(a kernels.SegmentAttentionArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("SegmentAttention", a.Out, a.Q, a.K, a.V, a.Starts); err != nil {
		return err
	}
	heads, d := a.Q.Shape[1], a.Q.Shape[2]
	if d > maxHeadDim {
		return fmt.Errorf("cuda: SegmentAttention: head size %d exceeds %d: %w", d, maxHeadDim, kernels.ErrUnsupported)
	}
	if a.K.DType != a.V.DType {
		return fmt.Errorf("cuda: SegmentAttention: keys are %s and values %s: %w", a.K.DType, a.V.DType, kernels.ErrUnsupported)
	}
	p := attentionParams{
		Out: at(a.Out), Q: at(a.Q), K: at(a.K), V: at(a.V), Starts: at(a.Starts),
		OutStride: int64(a.Out.RowStride()), QStride: int64(a.Q.RowStride()), KStride: int64(a.K.RowStride()), VStride: int64(a.V.RowStride()),
		QHeads: int32(heads), KvHeads: int32(heads), HeadDim: int32(d),
		OutDt: code(a.Out.DType), QDt: code(a.Q.DType), KvDt: code(a.K.DType), Scale: a.Scale,
	}
	segments := a.Starts.Rows() - 1
	return b.do(func() error {
		return inSlices(segments, maxGridY, func(lo, n int) error {
			q := p
			q.Sequences = int32(n)
			q.Starts += driver.Ptr(4 * lo)
			if !tensorCores(a.K.DType, a.Out, a.Q, a.K, a.V) {
				return run(b, kAttentionSegment, driver.Dim{X: a.MaxRows, Y: heads, Z: n}, 128, 0, &q)
			}
			if ok, err := b.wgmmaSegments(&q, a.K.Rows(), a.MaxRows); ok || err != nil {
				return err
			}
			id := kAttentionTile128
			if d == 64 {
				id = kAttentionTile64
			}
			return run(b, id, driver.Dim{X: (a.MaxRows + 63) / 64, Y: heads, Z: n}, 128, attentionShared(d, 2), &q)
		})
	})
}

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
