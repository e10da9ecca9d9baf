package tokenizer

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"

	"metacap/tokenizer/internal/pretoken"
)

// encode appends the ids of normalized text.
func (t *Tokenizer) encode(dst []int32, text string) []int32 {
	if text == "" {
		return dst
	}
	m := mergers.Get().(*merger)
	for i := 0; i < len(text); {
		end, _ := pretoken.Next(text, i)
		dst = t.word(dst, text[i:end], m)
		i = end
	}
	mergers.Put(m)
	return dst
}

// word appends the ids of one piece of text.
func (t *Tokenizer) word(dst []int32, word string, m *merger) []int32 {
	if len(word) == 1 {
		return append(dst, t.byteID[word[0]])
	}
	if t.ignoreMerges {
		if id, ok := t.lookup.find(&t.arena, []byte(word)); ok {
			return append(dst, id)
		}
	}
	if len(word) > maxCachedWord {
		if len(word) > maxQuadratic {
			return m.long(t, dst, word)
		}
		return m.short(t, dst, word)
	}
	slot, ids := t.words.find(word)
	if ids != nil {
		return append(dst, ids...)
	}
	start := len(dst)
	dst = m.short(t, dst, word)
	t.words.store(slot, word, dst[start:])
	return dst
}

// Merging: start with one token a byte, then merge the adjacent pair of lowest
// rank, the leftmost of equals, until no pair is in the table. Words of text are
// short, so short scans for the lowest each time. long keeps a heap of pairs and
// a linked list of tokens: O(n log n) for input that is one huge word.
const (
	maxQuadratic  = 96 // bytes: above, the heap is faster and the bound matters
	maxCachedWord = 48
	noRank        = math.MaxUint32
)

// merger is the scratch memory of one encoding goroutine.
type merger struct {
	ids        []int32
	ranks      []uint32 // rank of the pair that starts at this token
	prev, next []int32
	heap       []uint64 // rank in the high half, position in the low half
}

var mergers = sync.Pool{New: func() any { return new(merger) }}

// keepBytes: larger scratch memory is given back to the collector.
const keepBytes = 1 << 16

func (m *merger) short(t *Tokenizer, dst []int32, word string) []int32 {
	m.ids, m.ranks = m.ids[:0], m.ranks[:0]
	for i := range len(word) {
		m.ids = append(m.ids, t.byteID[word[i]])
	}
	ids := m.ids
	for i := 0; i+1 < len(ids); i++ {
		m.ranks = append(m.ranks, t.rank(ids[i], ids[i+1]))
	}
	m.ranks = append(m.ranks, noRank)
	ranks := m.ranks
	for len(ids) > 1 {
		at, low := 0, uint32(noRank)
		for i, r := range ranks {
			if r < low {
				at, low = i, r
			}
		}
		if low == noRank {
			break
		}
		_, id, _ := t.pairs.find(ids[at], ids[at+1])
		ids[at] = id
		ids = append(ids[:at+1], ids[at+2:]...)
		ranks = append(ranks[:at+1], ranks[at+2:]...)
		if at+1 < len(ids) {
			ranks[at] = t.rank(id, ids[at+1])
		} else {
			ranks[at] = noRank
		}
		if at > 0 {
			ranks[at-1] = t.rank(ids[at-1], id)
		}
	}
	return append(dst, ids...)
}

func (t *Tokenizer) rank(left, right int32) uint32 {
	if rank, _, ok := t.pairs.find(left, right); ok {
		return rank
	}
	return noRank
}

func (m *merger) long(t *Tokenizer, dst []int32, word string) []int32 {
	n := len(word)
	if cap(m.prev) < n {
		m.ids, m.ranks = make([]int32, n), make([]uint32, n)
		m.prev, m.next = make([]int32, n), make([]int32, n)
	}
	ids, ranks, prev, next := m.ids[:n], m.ranks[:n], m.prev[:n], m.next[:n]
	for i := range n {
		ids[i], prev[i], next[i] = t.byteID[word[i]], int32(i-1), int32(i+1)
	}
	m.heap = m.heap[:0]
	ranks[n-1] = noRank
	for i := range n - 1 {
		if ranks[i] = t.rank(ids[i], ids[i+1]); ranks[i] != noRank {
			m.heap = append(m.heap, uint64(ranks[i])<<32|uint64(i))
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	// set files a new pair at position i; an older entry of the heap for i is stale.
	set := func(i int32) {
		ranks[i] = noRank
		if j := next[i]; int(j) < n {
			if ranks[i] = t.rank(ids[i], ids[j]); ranks[i] != noRank {
				m.push(uint64(ranks[i])<<32 | uint64(i))
			}
		}
	}
	for len(m.heap) > 0 {
		top := m.pop()
		i := int32(uint32(top))
		if ranks[i] != uint32(top>>32) {
			continue
		}
		j := next[i]
		_, ids[i], _ = t.pairs.find(ids[i], ids[j])
		ranks[j] = noRank
		if next[i] = next[j]; int(next[i]) < n {
			prev[next[i]] = i
		}
		set(i)
		if prev[i] >= 0 {
			set(prev[i])
		}
	}
	for i := int32(0); int(i) < n; i = next[i] {
		dst = append(dst, ids[i])
	}
	if n > keepBytes {
		*m = merger{}
	}
	return dst
}

func (m *merger) push(v uint64) {
	m.heap = append(m.heap, v)
	h := m.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up] <= v {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = v
}

func (m *merger) pop() uint64 {
	h := m.heap
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	m.heap = h[:last]
	if last > 0 {
		m.down(0)
	}
	return top
}

func (m *merger) down(i int) {
	h := m.heap
	v := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if v <= h[c] {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = v
}

// wordCache remembers the ids of recent words. It is direct-mapped: a word has
// one slot and the newest stays, so that memory is bounded (at most 16,384 words
// of 48 bytes, about 5 MB) and readers need no lock.
type wordCache struct {
	seed  maphash.Seed
	slots [1 << 14]atomic.Pointer[cachedWord]
}

type cachedWord struct {
	word string
	ids  []int32
}

func newWordCache() *wordCache { return &wordCache{seed: maphash.MakeSeed()} }

// find returns the slot of a word and its ids, nil if another word is there.
func (c *wordCache) find(word string) (slot *atomic.Pointer[cachedWord], ids []int32) {
	slot = &c.slots[maphash.String(c.seed, word)%uint64(len(c.slots))]
	if w := slot.Load(); w != nil && w.word == word {
		return slot, w.ids
	}
	return slot, nil
}

func (c *wordCache) store(slot *atomic.Pointer[cachedWord], word string, ids []int32) {
	w := &cachedWord{word: string([]byte(word)), ids: append([]int32(nil), ids...)}
	slot.Store(w)
}
