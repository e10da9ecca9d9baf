package ref

import (
	"fmt"
	"math"

	"metacap/kernels"
)

// kv keeps keys and values row-major: [Layers, Blocks*BlockSize, Heads, HeadDim].
type kv struct {
	shape kernels.KVShape
	k, v  kernels.Tensor
}

func (c *kv) Shape() kernels.KVShape { return c.shape }
func (c *kv) Bytes() int64           { return 2 * c.k.Elements() * int64(c.shape.DType.Size()) }
func (c *kv) Free() {
	c.k.Buf.Free()
	c.v.Buf.Free()
}

func (b *backend) NewKV(s kernels.KVShape) (kernels.KV, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	c := &kv{shape: s}
	for _, t := range []*kernels.Tensor{&c.k, &c.v} {
		*t = kernels.Tensor{DType: s.DType, Shape: []int{s.Layers * s.Blocks * kernels.BlockSize, s.Heads, s.HeadDim}}
		buf, err := b.Alloc(t.Elements() * int64(s.DType.Size()))
		if err != nil {
			return nil, err
		}
		t.Buf = buf
	}
	return c, nil
}

// slotRow is the row of k and v that holds a slot of a layer.
func (c *kv) slotRow(layer, slot int) int {
	return layer*c.shape.Blocks*kernels.BlockSize + slot
}

func (b *backend) cache(op string, given kernels.KV) (*kv, error) {
	c, ok := given.(*kv)
	if !ok || c.k.Buf.(*buffer).owner != b {
		return nil, &kernels.ArgError{Op: op, Arg: "KV", Want: "a cache of this backend", Got: fmt.Sprintf("%T", given)}
	}
	return c, nil
}

func (b *backend) KVStore(a kernels.KVStoreArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("KVStore", a.K, a.V, a.Slots); err != nil {
		return err
	}
	c, err := b.cache("KVStore", a.KV)
	if err != nil {
		return err
	}
	slots := c.shape.Blocks * kernels.BlockSize
	for t, slot := range ints(a.Slots) {
		if slot >= slots {
			b.deviceError("KVStore", "slot %d of row %d is outside [0,%d)", slot, t, slots)
			continue
		}
		if slot >= 0 {
			store(c.k, c.slotRow(a.Layer, slot), load[float64](a.K, t))
			store(c.v, c.slotRow(a.Layer, slot), load[float64](a.V, t))
		}
	}
	return nil
}

func (b *backend) KVCopy(a kernels.KVCopyArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	c, err := b.cache("KVCopy", a.KV)
	if err != nil {
		return err
	}
	for layer := 0; layer < c.shape.Layers; layer++ {
		for _, p := range a.Pairs {
			for i := 0; i < kernels.BlockSize; i++ {
				from := c.slotRow(layer, int(p[0])*kernels.BlockSize+i)
				to := c.slotRow(layer, int(p[1])*kernels.BlockSize+i)
				copy(row(c.k, to), row(c.k, from))
				copy(row(c.v, to), row(c.v, from))
			}
		}
	}
	return nil
}

func (b *backend) PagedAttention(a kernels.PagedAttentionArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("PagedAttention", a.Out, a.Q, a.Starts, a.Lens, a.Tables); err != nil {
		return err
	}
	c, err := b.cache("PagedAttention", a.KV)
	if err != nil {
		return err
	}
	if b.opt.Naive {
		pagedAttention[float32](b, a, c)
	} else {
		pagedAttention[float64](b, a, c)
	}
	return nil
}

func pagedAttention[A number](b *backend, a kernels.PagedAttentionArgs, c *kv) {
	starts, lens, tables := ints(a.Starts), ints(a.Lens), ints(a.Tables)
	width := a.Tables.Shape[1]
	heads, d := a.Q.Shape[1], a.Q.Shape[2]
	round := b.opt.Naive && c.shape.DType == kernels.BF16
	for s, length := range lens {
		n := starts[s+1] - starts[s]
		if starts[s] < 0 || n < 0 || starts[s+1] > a.Q.Rows() || length > a.MaxLen || length > 0 && length < n {
			b.deviceError("PagedAttention", "sequence %d has rows [%d,%d) and %d tokens", s, starts[s], starts[s+1], length)
			continue
		}
		if length <= 0 {
			for t := starts[s]; t < starts[s+1]; t++ {
				store(a.Out, t, make([]A, heads*d))
			}
			continue
		}
		keys, values := make([][]A, length), make([][]A, length)
		for i := range keys {
			block := tables[s*width+i/kernels.BlockSize]
			if block < 0 || block >= c.shape.Blocks {
				b.deviceError("PagedAttention", "block %d of sequence %d is outside [0,%d)", block, s, c.shape.Blocks)
				return
			}
			r := c.slotRow(a.Layer, block*kernels.BlockSize+i%kernels.BlockSize)
			keys[i], values[i] = load[A](c.k, r), load[A](c.v, r)
		}
		b.parallel(n, func(j int) {
			t, seen := starts[s]+j, length-n+1+j
			out := load[A](a.Q, t)
			if round {
				roundBF16(out)
			}
			for h := 0; h < heads; h++ {
				lo := h / (heads / c.shape.Heads) * d
				attend(out[h*d:(h+1)*d], keys[:seen], values[:seen], lo, A(a.Scale), round)
			}
			store(a.Out, t, out)
		})
	}
}

// attend replaces a query by its attention over keys and values, whose head
// begins at element lo. round: probabilities are rounded to bf16 before the product.
func attend[A number](q []A, keys, values [][]A, lo int, scale A, round bool) {
	scores := make([]A, len(keys))
	largest := A(math.Inf(-1))
	for s, k := range keys {
		scores[s] = scale * dot(q, k[lo:lo+len(q)])
		largest = max(largest, scores[s])
	}
	var sum A
	for s := range scores {
		scores[s] = A(math.Exp(float64(scores[s] - largest)))
		sum += scores[s]
	}
	if round {
		roundBF16(scores)
	}
	for i := range q {
		q[i] = 0
		for s, v := range values {
			q[i] += scores[s] * v[lo+i]
		}
		q[i] /= sum
	}
}

func (b *backend) SegmentAttention(a kernels.SegmentAttentionArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("SegmentAttention", a.Out, a.Q, a.K, a.V, a.Starts); err != nil {
		return err
	}
	if b.opt.Naive {
		segmentAttention[float32](b, a)
	} else {
		segmentAttention[float64](b, a)
	}
	return nil
}

func segmentAttention[A number](b *backend, a kernels.SegmentAttentionArgs) {
	starts := ints(a.Starts)
	heads, d := a.Q.Shape[1], a.Q.Shape[2]
	allowed := a.AllowBF16 || a.Q.DType == kernels.BF16 || a.K.DType == kernels.BF16 || a.V.DType == kernels.BF16
	round := b.opt.Naive && allowed
	read := func(t kernels.Tensor, i int) []A {
		v := load[A](t, i)
		if round {
			roundBF16(v)
		}
		return v
	}
	for s := 0; s+1 < len(starts); s++ {
		lo, hi := starts[s], starts[s+1]
		if lo < 0 || hi < lo || hi > a.Q.Rows() || hi-lo > a.MaxRows {
			b.deviceError("SegmentAttention", "segment %d has rows [%d,%d) of %d, at most %d allowed", s, lo, hi, a.Q.Rows(), a.MaxRows)
			return
		}
		keys, values := make([][]A, hi-lo), make([][]A, hi-lo)
		for i := range keys {
			keys[i], values[i] = read(a.K, lo+i), read(a.V, lo+i)
		}
		b.parallel(hi-lo, func(j int) {
			out := read(a.Q, lo+j)
			for h := 0; h < heads; h++ {
				attend(out[h*d:(h+1)*d], keys, values, h*d, A(a.Scale), round)
			}
			store(a.Out, lo+j, out)
		})
	}
}
