package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// pagedBatch is a ragged batch for comparisons of bits.
type pagedBatch struct {
	heads, kvHeads, d int
	rows, lens        []int // new tokens, length of each sequence
}

func (p pagedBatch) String() string {
	return fmt.Sprintf("%d/%d heads of %d, rows %v of %v", p.heads, p.kvHeads, p.d, p.rows, p.lens)
}

// run attends on a backend, to a cache whose unused slots are NaN, and returns the
// output's bits. Rows of a sequence go through in the given chunks.
func (p pagedBatch) run(t *testing.T, b *Backend, chunk int) []byte {
	t.Helper()
	var owned []kernels.Tensor
	defer func() {
		for _, x := range owned {
			x.Buf.Free()
		}
	}()
	make := func(d kernels.DType, v []float32, shape ...int) kernels.Tensor {
		x, err := tensor(b, d, v, shape...)
		require.NoError(t, err)
		owned = append(owned, x)
		return x
	}
	total, blocks, width := 0, 0, 0
	for i, n := range p.lens {
		total += p.rows[i]
		blocks += (n + kernels.BlockSize - 1) / kernels.BlockSize
		width = max(width, (n+kernels.BlockSize-1)/kernels.BlockSize)
	}
	kv, err := b.NewKV(kernels.KVShape{Layers: 2, Blocks: blocks + 1, Heads: p.kvHeads, HeadDim: p.d, DType: kernels.BF16})
	require.NoError(t, err)
	defer kv.Free()
	slots := (blocks + 1) * kernels.BlockSize
	bad, all := slices.Repeat([]float32{float32(math.NaN())}, slots*p.kvHeads*p.d), []float32{}
	for i := range slots {
		all = append(all, float32(i))
	}
	nan, every := make(kernels.BF16, bad, slots, p.kvHeads, p.d), make(kernels.I32, all, slots)
	for l := range 2 {
		require.NoError(t, b.KVStore(kernels.KVStoreArgs{KV: kv, Layer: l, K: nan, V: nan, Slots: every}))
	}
	order := rand.New(rand.NewPCG(3, 4)).Perm(blocks)
	table := slices.Repeat([]float32{float32(blocks)}, width*len(p.lens))
	q := make(kernels.BF16, normal(total*p.heads*p.d), total, p.heads, p.d)
	out := make(kernels.F32, slices.Repeat([]float32{7}, total*p.heads*p.d), total, p.heads, p.d)
	for s, n := range p.lens {
		at := []float32{}
		for i := range n {
			if i%kernels.BlockSize == 0 {
				table[s*width+i/kernels.BlockSize] = float32(order[0])
				order = order[1:]
			}
			at = append(at, table[s*width+i/kernels.BlockSize]*kernels.BlockSize+float32(i%kernels.BlockSize))
		}
		values := normal(2*n*p.kvHeads*p.d + s)[s:]
		half := n * p.kvHeads * p.d
		k, v := make(kernels.BF16, values[:half], n, p.kvHeads, p.d), make(kernels.BF16, values[half:], n, p.kvHeads, p.d)
		require.NoError(t, b.KVStore(kernels.KVStoreArgs{KV: kv, Layer: 1, K: k, V: v, Slots: make(kernels.I32, at, n)}))
	}
	tables := make(kernels.I32, table, len(p.lens), width)
	call := func(lo, rows int, starts, lens []float32, first int) {
		most, longest := 0, 0
		for i, n := range lens {
			most, longest = max(most, int(starts[i+1]-starts[i])), max(longest, int(n))
		}
		require.NoError(t, b.PagedAttention(kernels.PagedAttentionArgs{
			Out: out.Slice(lo, lo+rows), Q: q.Slice(lo, lo+rows), KV: kv, Layer: 1,
			Starts: make(kernels.I32, starts, len(starts)), Lens: make(kernels.I32, lens, len(lens)), Tables: tables.Slice(first, first+len(lens)),
			Scale: float32(1 / math.Sqrt(float64(p.d))), MaxRows: most, MaxLen: longest,
		}))
	}
	if chunk == 0 {
		starts, lens := []float32{0}, []float32{}
		for i, n := range p.lens {
			starts = append(starts, starts[i]+float32(p.rows[i]))
			lens = append(lens, float32(n))
		}
		call(0, total, starts, lens, 0)
	} else {
		at := 0
		for s, n := range p.lens {
			for done := 0; done < p.rows[s]; done += chunk {
				rows := min(chunk, p.rows[s]-done)
				call(at+done, rows, []float32{0, float32(rows)}, []float32{float32(n - p.rows[s] + done + rows)}, s)
			}
			at += p.rows[s]
		}
	}
	got := slices.Repeat([]byte{0}, total*p.heads*p.d*4)
	require.NoError(t, b.Download(got, out))
	return got
}

// segments runs SegmentAttention over segments of a fused projection.
func segments(t *testing.T, b *Backend, heads, d int, lens []int) []byte {
	t.Helper()
	starts, most := []float32{0}, 0
	for i, n := range lens {
		starts = append(starts, starts[i]+float32(n))
		most = max(most, n)
	}
	rows, width := int(starts[len(lens)]), heads*d
	x, err := tensor(b, kernels.BF16, normal(rows*3*width), rows, 3*width)
	require.NoError(t, err)
	defer x.Buf.Free()
	st, err := tensor(b, kernels.I32, starts, len(starts))
	require.NoError(t, err)
	defer st.Buf.Free()
	out, err := tensor(b, kernels.F32, make([]float32, rows*width), rows, heads, d)
	require.NoError(t, err)
	defer out.Buf.Free()
	head := func(i int) kernels.Tensor { return x.Cols(i*width, (i+1)*width).Reshape(rows, heads, d) }
	require.NoError(t, b.SegmentAttention(kernels.SegmentAttentionArgs{
		Out: out, Q: head(0), K: head(1), V: head(2), Starts: st, Scale: float32(1 / math.Sqrt(float64(d))), MaxRows: most,
	}))
	got := make([]byte, rows*width*4)
	require.NoError(t, b.Download(got, out))
	return got
}

// sameBytes reports how many bytes differ and where the first does.
func sameBytes(t *testing.T, what string, want, got []byte) {
	t.Helper()
	require.Len(t, got, len(want), what)
	differ, first := 0, 0
	for i := range want {
		if want[i] != got[i] {
			if differ == 0 {
				first = i
			}
			differ++
		}
	}
	if differ > 0 {
		t.Errorf("%s: %d of %d bytes differ, the first at element %d: %x, want %x", what, differ, len(want), first/4, got[first&^3:first&^3+4], want[first&^3:first&^3+4])
	}
}

// attentionPair compares the wgmma kernels with those of mma.sync.
type attentionPair struct{ wgmma, mma *Backend }

// paged compares a batch, and the same in chunks.
func (a attentionPair) paged(t *testing.T, p pagedBatch, chunks ...int) {
	want := p.run(t, a.mma, 0)
	sameBytes(t, p.String(), want, p.run(t, a.wgmma, 0))
	for _, chunk := range chunks {
		sameBytes(t, fmt.Sprintf("%s in chunks of %d", p, chunk), want, p.run(t, a.wgmma, chunk))
	}
}

func (a attentionPair) segments(t *testing.T, heads, d int, lens ...int) {
	what := fmt.Sprintf("segments %v, %d heads of %d", lens, heads, d)
	sameBytes(t, what, segments(t, a.mma, heads, d, lens), segments(t, a.wgmma, heads, d, lens))
}

// TestSameAttention compares the bits of the wgmma kernels with those of mma.sync, and
// of chunks with those of a whole.
func TestSameAttention(t *testing.T) {
	t.Run("simulator", func(t *testing.T) {
		wgmma, _ := simulatedOn(t, simHopper)
		mma, err := Open(Options{Library: library(t), Device: simHopper, Portable: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, mma.Close()) }()
		a := attentionPair{wgmma, mma}
		a.paged(t, pagedBatch{8, 2, 128, []int{20, 1, 37, 5}, []int{20, 200, 37, 301}})
		a.paged(t, pagedBatch{7, 1, 64, []int{45}, []int{150}}, 19)
		a.segments(t, 2, 64, 5, 0, 65, 260)
		a.segments(t, 1, 128, 130)
	})
	t.Run("device", func(t *testing.T) {
		a := attentionPair{device(t, Options{}), device(t, Options{Portable: true})}
		if !a.wgmma.hopper {
			t.Skip("no wgmma on this device")
		}
		for _, h := range [][3]int{{8, 2, 128}, {4, 4, 128}, {8, 1, 128}, {6, 2, 128}, {4, 2, 64}, {14, 2, 64}} {
			for _, s := range [][2]int{{17, 17}, {33, 33}, {32, 128}, {130, 130}, {40, 301}, {77, 1000}, {257, 513}} {
				a.paged(t, pagedBatch{h[0], h[1], h[2], []int{s[0]}, []int{s[1]}}, 19, 64)
			}
			a.paged(t, pagedBatch{h[0], h[1], h[2], []int{20, 1, 37, 1, 3, 200}, []int{20, 555, 37, 65, 300, 231}})
		}
		a.paged(t, pagedBatch{32, 8, 128, []int{2304}, []int{2304}})
		many := pagedBatch{heads: 4, kvHeads: 2, d: 128}
		for i := range 140 {
			many.rows, many.lens = append(many.rows, 1+i%23), append(many.lens, 1+i%23+i)
		}
		a.paged(t, many)
		for _, lens := range [][]int{{1}, {5}, {63, 64, 65}, {17, 0, 300}, {128, 129, 127, 192, 193}, {1025}, slices.Repeat([]int{1025}, 13)} {
			a.segments(t, 4, 64, lens...)
			a.segments(t, 2, 128, lens...)
		}
	})
}

// sharedBatch is a batch of which some sequences begin with the same blocks.
type sharedBatch struct {
	heads, kvHeads, d int
	lens              []int
	leaders, common   []int // of each sequence: whose blocks, and how many, it begins with
	rows              []int // new tokens of each; nil: one
}

// The blocks of what sequences have in common.
const (
	shared   = iota // the leader's
	copied          // their own, of the same contents
	poisoned        // the same, but NaN in partitions that the leader's stand for
)

// once is how many leading blocks of a sequence a decode step with the hint reads for its
// leader alone: whole partitions that were full before the step.
func (p sharedBatch) once(s int) int {
	l := p.leaders[s]
	if l == s || p.leaders[l] != l || p.rows != nil {
		return 0
	}
	const blocks = partitionKeys / kernels.BlockSize
	return min(p.common[s]/blocks, max(p.lens[s]-1, 0)/partitionKeys, max(p.lens[l]-1, 0)/partitionKeys) * blocks
}

// arrays are the block tables, and whose contents each block of the cache has: its own,
// another's, or -1 for NaN.
func (p sharedBatch) arrays(how int) (table []float32, width int, from []int) {
	blocks := func(l int) int { return (l + kernels.BlockSize - 1) / kernels.BlockSize }
	width = blocks(slices.Max(p.lens))
	table = make([]float32, len(p.lens)*width)
	first := make([]int, len(table)) // the block that had the contents first
	for s, l := range p.lens {
		for i := range blocks(l) {
			at, theirs := s*width+i, p.leaders[s]*width+i
			inherits := p.leaders[s] != s && i < p.common[s]
			if inherits && how == shared {
				table[at] = table[theirs]
				continue
			}
			id := len(from)
			table[at], first[at] = float32(id), id
			if inherits {
				first[at] = first[theirs]
			}
			if inherits && how == poisoned && i < p.once(s) {
				from = append(from, -1)
			} else {
				from = append(from, first[at])
			}
		}
	}
	return table, width, from
}

// sharedCall is a cache filled for a batch, and attention to it.
type sharedCall struct {
	t     *testing.T
	b     *Backend
	owned []kernels.Tensor
	kv    kernels.KV
	store kernels.KVStoreArgs
	hint  kernels.Tensor
	args  kernels.PagedAttentionArgs
}

func (c *sharedCall) load(d kernels.DType, v []float32, shape ...int) kernels.Tensor {
	x, err := tensor(c.b, d, v, shape...)
	require.NoError(c.t, err)
	c.owned = append(c.owned, x)
	return x
}

func (c *sharedCall) free() {
	for _, x := range c.owned {
		x.Buf.Free()
	}
	c.kv.Free()
}

// on fills a cache. A block holds what its position and its first owner say, whatever how is.
func (p sharedBatch) on(t *testing.T, b *Backend, how int) *sharedCall {
	t.Helper()
	c := &sharedCall{t: t, b: b}
	table, width, from := p.arrays(how)
	n, per := len(p.lens), kernels.BlockSize*p.kvHeads*p.d
	var pairs, lens, k, v, at []float32
	starts, most := []float32{0}, 1
	for s, l := range p.lens {
		rows := 1
		if p.rows != nil {
			rows = p.rows[s]
		}
		most = max(most, rows)
		pairs = append(pairs, float32(p.leaders[s]), float32(p.common[s]*kernels.BlockSize))
		lens, starts = append(lens, float32(l)), append(starts, starts[s]+float32(rows))
	}
	contents := make([][2][]float32, len(from))
	for s, l := range p.lens {
		for i := range (l + kernels.BlockSize - 1) / kernels.BlockSize {
			if id := int(table[s*width+i]); from[id] == id && contents[id][0] == nil {
				x := normal(2*per + s*width + i)
				contents[id] = [2][]float32{x[:per], x[per : 2*per]}
			}
		}
	}
	nan := slices.Repeat([]float32{float32(math.NaN())}, per)
	for _, id := range from {
		x := [2][]float32{nan, nan}
		if id >= 0 {
			x = contents[id]
		}
		k, v = append(k, x[0]...), append(v, x[1]...)
	}
	keys := len(from) * kernels.BlockSize
	for i := range keys {
		at = append(at, float32(i))
	}
	var err error
	c.kv, err = b.NewKV(kernels.KVShape{Layers: 1, Blocks: len(from), Heads: p.kvHeads, HeadDim: p.d, DType: kernels.BF16})
	require.NoError(t, err)
	c.store = kernels.KVStoreArgs{
		KV: c.kv, K: c.load(kernels.BF16, k, keys, p.kvHeads, p.d), V: c.load(kernels.BF16, v, keys, p.kvHeads, p.d),
		Slots: c.load(kernels.I32, at, keys),
	}
	require.NoError(t, b.KVStore(c.store))
	rows := int(starts[n])
	c.hint = c.load(kernels.I32, pairs, n, 2)
	c.args = kernels.PagedAttentionArgs{
		Q: c.load(kernels.BF16, normal(rows*p.heads*p.d), rows, p.heads, p.d), KV: c.kv, Starts: c.load(kernels.I32, starts, n+1),
		Lens: c.load(kernels.I32, lens, n), Tables: c.load(kernels.I32, table, n, width),
		Scale: float32(1 / math.Sqrt(float64(p.d))), MaxRows: most, MaxLen: slices.Max(p.lens),
	}
	return c
}

// attend returns the bits of attention, with the hint or without.
func (c *sharedCall) attend(hint bool) []byte {
	c.t.Helper()
	a := c.args
	a.Out = c.load(kernels.F32, slices.Repeat([]float32{7}, int(a.Q.Elements())), a.Q.Shape...)
	if hint {
		a.Shared = c.hint
	}
	require.NoError(c.t, c.b.PagedAttention(a))
	got := make([]byte, 4*a.Q.Elements())
	require.NoError(c.t, c.b.Download(got, a.Out))
	return got
}

// check compares all ways to attend with split over private copies, bit for bit.
func (p sharedBatch) check(t *testing.T, b *Backend) {
	t.Helper()
	c := p.on(t, b, copied)
	b.walk = math.MaxInt32 // split
	want := c.attend(false)
	b.walk = 0
	sameBytes(t, fmt.Sprintf("%+v copied, without the hint", p), want, c.attend(false))
	c.free()
	c = p.on(t, b, shared)
	for _, c.args.Settled = range []bool{false, true} {
		sameBytes(t, fmt.Sprintf("%+v shared, without the hint", p), want, c.attend(false))
		sameBytes(t, fmt.Sprintf("%+v shared, with the hint", p), want, c.attend(true))
	}
	c.free()
	// A follower's own keys are read nowhere: they would make its rows NaN.
	c = p.on(t, b, poisoned)
	sameBytes(t, fmt.Sprintf("%+v poisoned, with the hint", p), want, c.attend(true))
	c.free()
}

// TestSharedKeys compares attention that reads what sequences share once with attention
// that reads it for each, bit for bit.
func TestSharedKeys(t *testing.T) {
	cases := []sharedBatch{
		// Tails; five sequences of four rows; ends inside a partition.
		{heads: 8, kvHeads: 2, d: 128, lens: []int{300, 310, 290, 400, 257}, leaders: []int{0, 0, 0, 0, 0}, common: []int{0, 8, 8, 9, 8}},
		// Not adjacent; padding; the last follows a follower, which is no use.
		{heads: 4, kvHeads: 2, d: 64, lens: []int{260, 260, 140, 1, 0, 500, 300}, leaders: []int{0, 0, 2, 3, 4, 0, 5}, common: []int{0, 8, 0, 0, 0, 5, 9}},
		// Two groups that take turns; some are shorter than what the others share.
		{heads: 8, kvHeads: 2, d: 64, lens: []int{400, 700, 390, 500, 150, 0, 610, 129, 128}, leaders: []int{0, 1, 0, 1, 0, 5, 1, 1, 0}, common: []int{0, 0, 12, 15, 4, 0, 19, 4, 3}},
		// A prefix that is full by this step only.
		{heads: 8, kvHeads: 8, d: 128, lens: []int{129, 300, 128, 257}, leaders: []int{0, 0, 0, 1}, common: []int{0, 4, 3, 7}},
		// Sixteen rows a sequence.
		{heads: 16, kvHeads: 1, d: 64, lens: []int{600, 700, 800}, leaders: []int{0, 0, 0}, common: []int{0, 18, 12}},
		// Less than a partition in common.
		{heads: 6, kvHeads: 2, d: 64, lens: []int{100, 90, 700}, leaders: []int{0, 0, 2}, common: []int{0, 2, 0}},
		// A sequence without rows; guesses, for which the hint is no use.
		{heads: 8, kvHeads: 2, d: 128, lens: []int{300, 260, 290}, leaders: []int{0, 0, 0}, common: []int{0, 8, 8}, rows: []int{1, 0, 1}},
		{heads: 8, kvHeads: 2, d: 128, lens: []int{300, 310, 290, 280}, leaders: []int{0, 0, 0, 0}, common: []int{0, 8, 8, 8}, rows: []int{3, 1, 4, 2}},
	}
	read := 0
	for _, p := range cases {
		for s := range p.lens {
			read += p.once(s)
		}
	}
	require.Positive(t, read, "nothing is shared")
	all := func(t *testing.T, b *Backend) {
		for _, p := range cases {
			p.check(t, b)
		}
	}
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulatedOn(t, simHopper)
		all(t, b)
	})
	t.Run("simulator of sm_80", func(t *testing.T) {
		b, _ := simulated(t)
		all(t, b)
	})
	t.Run("device", func(t *testing.T) {
		b := device(t, Options{})
		all(t, b)
		many := sharedBatch{heads: 32, kvHeads: 8, d: 128}
		for i := range 100 {
			many.lens, many.leaders, many.common = append(many.lens, 1500+i), append(many.leaders, i%3), append(many.common, min(i/3, 1)*45)
		}
		many.check(t, b)
	})
}

// TestAttentionAfterStore stores keys directly in front of attention, with nothing between
// that waits: attention sees them all the same, unless it was told that there are none.
func TestAttentionAfterStore(t *testing.T) {
	check := func(t *testing.T, b *Backend, p sharedBatch) {
		c := p.on(t, b, shared)
		defer c.free()
		want := [2][]byte{c.attend(false), c.attend(true)}
		before := c.store
		n := int(before.K.Elements())
		before.K = c.load(kernels.BF16, slices.Repeat([]float32{float32(math.NaN())}, n), before.K.Shape...)
		before.V = before.K
		a := c.args
		for round := range 20 {
			for i, hint := range []kernels.Tensor{{}, c.hint} {
				a.Shared = hint
				a.Out = c.load(kernels.F32, slices.Repeat([]float32{7}, int(a.Q.Elements())), a.Q.Shape...)
				require.NoError(t, b.KVStore(before))
				require.NoError(t, b.Sync())
				require.NoError(t, b.KVStore(c.store))
				require.NoError(t, b.PagedAttention(a))
				got := make([]byte, len(want[i]))
				require.NoError(t, b.Download(got, a.Out))
				sameBytes(t, fmt.Sprintf("round %d, hint %v", round, hint.Buf != nil), want[i], got)
			}
		}
	}
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulatedOn(t, simHopper)
		check(t, b, sharedBatch{heads: 4, kvHeads: 2, d: 64, lens: []int{150, 290}, leaders: []int{0, 0}, common: []int{0, 4}})
	})
	t.Run("device", func(t *testing.T) {
		check(t, device(t, Options{}), sharedBatch{heads: 32, kvHeads: 8, d: 128, lens: []int{2300, 2304, 2200, 2000}, leaders: []int{0, 0, 0, 0}, common: []int{0, 64, 64, 60}})
	})
}
