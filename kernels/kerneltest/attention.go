package kerneltest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"metacap/kernels"
)

// sorted orders cases by name, for those made from a map.
func sorted(all []testCase) []testCase {
	slices.SortFunc(all, func(a, b testCase) int { return strings.Compare(a.name, b.name) })
	return all
}

// pagedSpec is a ragged batch over a cache.
type pagedSpec struct {
	rows, lens  []int // new tokens and length of each sequence
	hq, hkv, d  int
	kv, q, out  kernels.DType
	stride      int  // of Q
	sharedFirst int  // leading blocks that all sequences share
	hint        bool // attention is told that they do
}

// pages is a filled cache with the block tables of a batch.
type pages struct {
	kv     kernels.KV
	tables []int32
	width  int
}

const pagedLayer = 1

// fill stores the keys and values of all sequences, in blocks of shuffled order,
// one sequence after the other, and garbage in the slots after each sequence.
func (s pagedSpec) fill(w *world) pages {
	width, total := 1, 0
	for _, n := range s.lens {
		width = max(width, (n+31)/32+1)
		total += (n + 31) / 32
	}
	p := pages{width: width, tables: make([]int32, width*len(s.lens))}
	blocks := total + 2
	p.kv = w.cache(kernels.KVShape{Layers: 2, Blocks: blocks, Heads: s.hkv, HeadDim: s.d, DType: s.kv})
	order := w.rng.Perm(blocks)
	for i := range p.tables {
		p.tables[i] = int32(order[len(order)-1]) // valid, never read
	}
	next := 0
	for b, n := range s.lens {
		if n == 0 {
			continue
		}
		padded := (n + 31) / 32 * 32
		slots := make([]int32, padded)
		for i := 0; i < padded; i++ {
			if i%32 == 0 {
				if b > 0 && i/32 < s.sharedFirst {
					p.tables[b*width+i/32] = p.tables[i/32]
				} else {
					p.tables[b*width+i/32] = int32(order[next])
					next++
				}
			}
			slots[i] = p.tables[b*width+i/32]*32 + int32(i%32)
			if b > 0 && i/32 < s.sharedFirst {
				slots[i] = -1
			}
		}
		k, v := w.normal(padded*s.hkv*s.d, 1), w.normal(padded*s.hkv*s.d, 1)
		for i := n * s.hkv * s.d; i < len(k); i++ {
			k[i], v[i] = 1000*k[i], 1000*v[i]
		}
		name := fmt.Sprint(b)
		kt := w.floats("K"+name, s.kv, k, padded, s.hkv, s.d)
		vt := w.floats("V"+name, s.kv, v, padded, s.hkv, s.d)
		st := w.ints("Slots"+name, slots, padded)
		if w.err == nil {
			w.do(w.KVStore(kernels.KVStoreArgs{KV: p.kv, Layer: pagedLayer, K: kt, V: vt, Slots: st}))
		}
	}
	return p
}

// call runs attention for the given sequences; q and out hold their rows one after the other.
func (s pagedSpec) call(w *world, p pages, out, q kernels.Tensor, seqs, rows, lens []int) {
	starts, lengths := []int32{0}, []int32{}
	var tables []int32
	maxRows, maxLen := 1, 0
	for i, b := range seqs {
		starts = append(starts, starts[i]+int32(rows[i]))
		lengths = append(lengths, int32(lens[i]))
		tables = append(tables, p.tables[b*p.width:(b+1)*p.width]...)
		maxRows, maxLen = max(maxRows, rows[i]), max(maxLen, lens[i])
	}
	st := w.ints("Starts", starts, len(starts))
	lt := w.ints("Lens", lengths, len(lengths))
	tt := w.ints("Tables", tables, len(seqs), p.width)
	var hint kernels.Tensor
	if s.hint {
		pairs := make([]int32, 2*len(seqs))
		for i := range seqs[1:] {
			pairs[2*i+3] = int32(s.sharedFirst * kernels.BlockSize)
		}
		hint = w.ints("Shared", pairs, len(seqs), 2)
	}
	if w.err == nil {
		w.do(w.PagedAttention(kernels.PagedAttentionArgs{
			Out: out, Q: q, KV: p.kv, Layer: pagedLayer, Starts: st, Lens: lt, Tables: tt, Shared: hint,
			Scale: float32(1 / math.Sqrt(float64(s.d))), MaxRows: maxRows, MaxLen: maxLen,
		}))
	}
}

func (s pagedSpec) sequences() []int {
	seqs := make([]int, len(s.lens))
	for i := range seqs {
		seqs[i] = i
	}
	return seqs
}

func total(v []int) int {
	n := 0
	for _, x := range v {
		n += x
	}
	return n
}

func (s pagedSpec) run(w *world) {
	p := s.fill(w)
	q := w.place("Q", s.q, encode(s.q, w.normal(total(s.rows)*s.hq*s.d, 2)), s.stride, total(s.rows), s.hq, s.d).t
	s.call(w, p, w.out("Out", s.out, total(s.rows), s.hq, s.d), q, s.sequences(), s.rows, s.lens)
}

func pagedCases() []testCase {
	var all []testCase
	batches := []struct {
		name       string
		rows, lens []int
	}{
		{"decode_1", []int{1}, []int{1}},
		{"decode_33", []int{1}, []int{33}},
		{"decode_border", []int{1, 1, 1}, []int{31, 32, 33}},
		{"decode_ragged", []int{1, 1, 1, 1}, []int{1, 300, 64, 257}},
		{"prefill_7", []int{7}, []int{7}},
		{"prefill_65", []int{65}, []int{65}},
		{"chunk", []int{40}, []int{301}},
		{"mixed", []int{5, 1, 33, 1}, []int{5, 290, 40, 32}},
		{"padding", []int{1, 1, 1}, []int{20, 0, 7}},
		{"deep", []int{2}, []int{1300}},
	}
	for _, h := range [][3]int{{8, 2, 32}, {4, 4, 16}, {32, 8, 128}, {2, 1, 64}, {6, 2, 80}, {14, 2, 64}, {2, 2, 8}} {
		for _, b := range batches {
			for i, d := range [][3]kernels.DType{{bf16, bf16, bf16}, {f32, f32, f32}, {bf16, f32, f32}, {f32, f32, bf16}} {
				if i > 1 && h[2] != 32 || h[0] > 14 && (b.name == "deep" || b.name == "mixed" || i == 1) {
					continue
				}
				s := pagedSpec{rows: b.rows, lens: b.lens, hq: h[0], hkv: h[1], d: h[2], kv: d[0], q: d[1], out: d[2]}
				if i == 2 {
					s.stride = s.hq*s.d + 2*s.hkv*s.d
				}
				all = append(all, bound("PagedAttention", fmt.Sprintf("%s/Hq=%d,Hkv=%d,D=%d/kv=%s,%s-%s", b.name, h[0], h[1], h[2], d[0], d[1], d[2]), s.run))
			}
		}
	}
	s := pagedSpec{rows: []int{9, 1, 3}, lens: []int{90, 70, 99}, hq: 4, hkv: 2, d: 32, kv: bf16, q: bf16, out: bf16, sharedFirst: 2}
	all = append(all, bound("PagedAttention", "shared_blocks", s.run))
	s = pagedSpec{rows: []int{1, 1, 1}, lens: []int{300, 258, 270}, hq: 8, hkv: 2, d: 64, kv: bf16, q: bf16, out: bf16, sharedFirst: 8, hint: true}
	all = append(all, bound("PagedAttention", "shared_blocks_hint", s.run))
	all = append(all, copyCase(), staleCase(), largeScores(f32), largeScores(bf16))
	return all
}

// copyCase copies blocks to others, all layers, and attends over the copies; the
// sources are overwritten after the copy.
func copyCase() testCase {
	s := pagedSpec{rows: []int{3}, lens: []int{50}, hq: 4, hkv: 2, d: 32, kv: bf16, q: f32, out: f32}
	return bound("KVCopy", "two_blocks", func(w *world) {
		p := s.fill(w)
		var spare []int32
		for b := int32(0); b < 4; b++ {
			if b != p.tables[0] && b != p.tables[1] {
				spare = append(spare, b)
			}
		}
		if w.err != nil {
			return
		}
		// All layers are copied: none may be empty.
		var every []int32
		for _, b := range p.tables[:2] {
			for i := range int32(kernels.BlockSize) {
				every = append(every, b*kernels.BlockSize+i)
			}
		}
		first := w.floats("First", bf16, make([]float32, len(every)*2*32), len(every), 2, 32)
		w.do(w.KVStore(kernels.KVStoreArgs{KV: p.kv, Layer: 1 - pagedLayer, K: first, V: first, Slots: w.ints("Every", every, len(every))}))
		w.do(w.KVCopy(kernels.KVCopyArgs{KV: p.kv, Pairs: [][2]int32{{p.tables[0], spare[0]}, {p.tables[1], spare[1]}}}))
		slots := []int32{p.tables[0] * 32, p.tables[1] * 32}
		other := w.random("Other", bf16, 2, 2, 32)
		w.do(w.KVStore(kernels.KVStoreArgs{KV: p.kv, Layer: pagedLayer, K: other, V: other, Slots: w.ints("More", slots, 2)}))
		p.tables[0], p.tables[1] = spare[0], spare[1]
		q := w.random("Q", f32, 3, 4, 32)
		s.call(w, p, w.out("Out", f32, 3, 4, 32), q, []int{0}, s.rows, s.lens)
	})
}

// staleCase reuses a block whose old tokens were infinite: a new sequence that
// starts in it must not see them.
func staleCase() testCase {
	return bound("PagedAttention", "stale_infinities", func(w *world) {
		kv := w.cache(kernels.KVShape{Layers: 1, Blocks: 1, Heads: 1, HeadDim: 16, DType: bf16})
		old := make([]float32, 32*16)
		slots := make([]int32, 32)
		for i := range old {
			old[i] = float32(math.Inf(1 - i%2*2))
		}
		for i := range slots {
			slots[i] = int32(i)
		}
		bad := w.floats("Old", bf16, old, 32, 1, 16)
		k, v := w.random("K", bf16, 5, 1, 16), w.random("V", bf16, 5, 1, 16)
		all, five := w.ints("All", slots, 32), w.ints("Five", slots[:5], 5)
		q, out := w.random("Q", f32, 5, 1, 16), w.out("Out", f32, 5, 1, 16)
		starts, lens, tables := w.ints("Starts", []int32{0, 5}, 2), w.ints("Lens", []int32{5}, 1), w.ints("Tables", []int32{0}, 1, 1)
		if w.err != nil {
			return
		}
		w.do(w.KVStore(kernels.KVStoreArgs{KV: kv, K: bad, V: bad, Slots: all}))
		w.do(w.KVStore(kernels.KVStoreArgs{KV: kv, K: k, V: v, Slots: five}))
		w.do(w.PagedAttention(kernels.PagedAttentionArgs{Out: out, Q: q, KV: kv, Starts: starts, Lens: lens, Tables: tables, Scale: 0.25, MaxRows: 5, MaxLen: 5}))
	})
}

// largeScores has scores of some hundred, where a softmax without its maximum overflows.
func largeScores(d kernels.DType) testCase {
	s := pagedSpec{rows: []int{4}, lens: []int{300}, hq: 2, hkv: 1, d: 32, kv: d, q: d, out: f32}
	return bound("PagedAttention", "large_scores/"+d.String(), func(w *world) {
		p := s.fill(w)
		q := w.floats("Q", s.q, w.normal(4*2*32, 60), 4, 2, 32)
		s.call(w, p, w.out("Out", f32, 4, 2, 32), q, []int{0}, s.rows, s.lens)
	})
}

// attentionInvariance compares a sequence alone with the same in a batch, and a
// prompt in one piece with the same in chunks, bit for bit.
func attentionInvariance() []testCase {
	var all []testCase
	for _, c := range []struct {
		kv, q kernels.DType
		heads [][3]int
	}{
		{f32, f32, [][3]int{{8, 2, 32}, {4, 4, 16}, {8, 2, 128}}},
		{bf16, f32, [][3]int{{8, 2, 32}, {4, 4, 16}, {8, 2, 128}}},
		{bf16, bf16, [][3]int{{8, 2, 128}, {7, 1, 64}}},
	} {
		for _, h := range c.heads {
			name := fmt.Sprintf("%s/Hq=%d,Hkv=%d,D=%d", c.kv, h[0], h[1], h[2])
			if c.q != f32 {
				name = fmt.Sprintf("%s-%s", c.q, name)
			}
			s := pagedSpec{rows: []int{20, 1, 37, 1, 3}, lens: []int{20, 555, 37, 65, 300}, hq: h[0], hkv: h[1], d: h[2], kv: c.kv, q: c.q, out: f32}
			all = append(all, testCase{op: "PagedAttention", name: "alone_and_together/" + name, run: func(w *world) {
				p := s.fill(w)
				q := w.random("Q", s.q, total(s.rows), s.hq, s.d)
				whole, alone := w.out("Whole", f32, total(s.rows), s.hq, s.d), w.out("Alone", f32, total(s.rows), s.hq, s.d)
				s.call(w, p, whole, q, s.sequences(), s.rows, s.lens)
				lo := 0
				for b, n := range s.rows {
					s.call(w, p, alone.Slice(lo, lo+n), q.Slice(lo, lo+n), []int{b}, []int{n}, []int{s.lens[b]})
					lo += n
				}
				w.equal("sequences alone", alone, whole)
			}})
			one := pagedSpec{rows: []int{330}, lens: []int{330}, hq: h[0], hkv: h[1], d: h[2], kv: c.kv, q: c.q, out: f32}
			all = append(all, testCase{op: "PagedAttention", name: "chunked_and_whole/" + name, run: func(w *world) {
				p := one.fill(w)
				q := w.random("Q", one.q, 330, one.hq, one.d)
				whole, chunks := w.out("Whole", f32, 330, one.hq, one.d), w.out("Chunks", f32, 330, one.hq, one.d)
				one.call(w, p, whole, q, []int{0}, []int{330}, []int{330})
				for lo, step := 0, 1; lo < 330; lo, step = lo+step, step*2 {
					hi := min(lo+step, 330)
					one.call(w, p, chunks.Slice(lo, hi), q.Slice(lo, hi), []int{0}, []int{hi - lo}, []int{hi})
				}
				w.equal("prompt in chunks", chunks, whole)
			}})
		}
	}
	for _, d := range []kernels.DType{f32, bf16} {
		all = append(all, testCase{op: "SegmentAttention", name: "alone_and_together/" + d.String(), run: func(w *world) {
			starts := []int32{0, 17, 17, 60, 61}
			shape := []int{61, 4, 32}
			q, k, v := w.random("Q", d, shape...), w.random("K", d, shape...), w.random("V", d, shape...)
			whole, alone := w.out("Whole", d, shape...), w.out("Alone", d, shape...)
			call := func(out kernels.Tensor, lo, hi int, starts []int32) {
				st := w.ints("Starts", starts, len(starts))
				if w.err == nil {
					w.do(w.SegmentAttention(kernels.SegmentAttentionArgs{
						Out: out.Slice(lo, hi), Q: q.Slice(lo, hi), K: k.Slice(lo, hi), V: v.Slice(lo, hi),
						Starts: st, Scale: 0.17, MaxRows: hi - lo,
					}))
				}
			}
			call(whole, 0, 61, starts)
			for i := 0; i+1 < len(starts); i++ {
				if n := starts[i+1] - starts[i]; n > 0 {
					call(alone, int(starts[i]), int(starts[i+1]), []int32{0, n})
				}
			}
			w.equal("segments alone", alone, whole)
		}})
	}
	return all
}

func segmentCases() []testCase {
	var all []testCase
	for _, d := range []struct {
		in, out kernels.DType
		allow   bool
	}{{f32, f32, false}, {f32, f32, true}, {bf16, bf16, false}, {bf16, f32, false}} {
		for _, h := range [][2]int{{16, 64}, {4, 16}, {2, 32}, {1, 80}, {3, 8}, {2, 64}, {1, 128}} {
			for _, starts := range [][]int32{{0, 1}, {0, 17}, {0, 33, 66}, {0, 5, 5, 45}, {0, 300}} {
				n := int(starts[len(starts)-1])
				if n > 100 && h[0] > 4 {
					continue
				}
				fused := h[0]*h[1]*3 + 16 // Q, K and V are columns of one matrix
				all = append(all, bound("SegmentAttention", fmt.Sprintf("%s-%s,allow=%v/H=%d,D=%d/%v", d.in, d.out, d.allow, h[0], h[1], starts), func(w *world) {
					qkv := w.random("QKV", d.in, n, fused)
					width := h[0] * h[1]
					st := w.ints("Starts", starts, len(starts))
					out := w.out("Out", d.out, n, h[0], h[1])
					if w.err == nil {
						w.do(w.SegmentAttention(kernels.SegmentAttentionArgs{
							Q: qkv.Cols(0, width).Reshape(n, h[0], h[1]), K: qkv.Cols(width, 2*width).Reshape(n, h[0], h[1]),
							V: qkv.Cols(2*width, 3*width).Reshape(n, h[0], h[1]), Out: out, Starts: st,
							Scale: float32(1 / math.Sqrt(float64(h[1]))), MaxRows: n, AllowBF16: d.allow,
						}))
					}
				}))
			}
		}
	}
	return all
}
