package tokenizer

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"metacap/tokenizer/internal/pretoken"
)

// encode appends the ids of normalized text.
func (t *Tokenizer) encode(dst []int32, text string) []int32 {
	return t.encodeTo(dst, text, len(text))
}

// encodeTo appends the ids of text[:end], where end is the end of a piece of text.
// That is not encode(text[:end]): what follows decides how white space is cut.
func (t *Tokenizer) encodeTo(dst []int32, text string, end int) []int32 {
	if end == 0 {
		return dst
	}
	m := mergers.Get().(*merger)
	for i := 0; i < end; {
		next, _ := pretoken.Next(text, i)
		dst = t.word(dst, text[i:next], m)
		i = next
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

// arena holds the byte strings of all tokens in one piece of memory: the bytes
// of a token are data[start:end] of its span. An unused id has an empty span.
type arena struct {
	data  []byte
	spans []span // by id
}

type span struct{ start, end uint32 }

func (a *arena) bytes(id int32) []byte {
	s := a.spans[id]
	return a.data[s.start:s.end:s.end]
}

// stringTable finds the id of a byte string: open addressing, linear probing,
// at most half full, hashed with a random seed because the strings come from
// outside. It refers to the arena and stores ids only.
type stringTable struct {
	seed  maphash.Seed
	slots []int32 // id+1, 0 = free
	tags  []uint32
	mask  uint64
}

func newStringTable(count int) *stringTable {
	n := 1 << bits.Len(uint(2*count+1))
	return &stringTable{seed: maphash.MakeSeed(), slots: make([]int32, n), tags: make([]uint32, n), mask: uint64(n - 1)}
}

// insert adds id and reports the id that already has the same bytes.
func (t *stringTable) insert(a *arena, id int32) (other int32, clash bool) {
	b := a.bytes(id)
	h := maphash.Bytes(t.seed, b)
	tag := uint32(h >> 32)
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		s := t.slots[i]
		if s == 0 {
			t.slots[i], t.tags[i] = id+1, tag
			return 0, false
		}
		if t.tags[i] == tag && string(a.bytes(s-1)) == string(b) {
			return s - 1, true
		}
	}
}

func (t *stringTable) find(a *arena, b []byte) (id int32, ok bool) {
	h := maphash.Bytes(t.seed, b)
	tag := uint32(h >> 32)
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		s := t.slots[i]
		if s == 0 {
			return 0, false
		}
		if t.tags[i] == tag && string(a.bytes(s-1)) == string(b) {
			return s - 1, true
		}
	}
}

// pairTable finds the rank and the result of merging two tokens. Same scheme.
type pairTable struct {
	entries []pairEntry
	mask    uint64
	salt    uint64
}

type pairEntry struct {
	key  uint64 // left+1 in the high half, right in the low half; 0 = free
	rank uint32
	id   int32
}

func newPairTable(count int) *pairTable {
	n := 1 << bits.Len(uint(2*count+1))
	return &pairTable{
		entries: make([]pairEntry, n), mask: uint64(n - 1),
		salt: maphash.String(maphash.MakeSeed(), "pairs"),
	}
}

func pairKey(left, right int32) uint64 { return uint64(uint32(left+1))<<32 | uint64(uint32(right)) }

func (t *pairTable) slot(key uint64) uint64 {
	hi, lo := bits.Mul64(key^t.salt, 0x9e3779b97f4a7c15)
	return (hi ^ lo) & t.mask
}

// insert adds a merge; the first of two equal pairs has the lower rank and stays.
func (t *pairTable) insert(left, right int32, rank uint32, id int32) {
	key := pairKey(left, right)
	for i := t.slot(key); ; i = (i + 1) & t.mask {
		e := &t.entries[i]
		if e.key == 0 {
			*e = pairEntry{key, rank, id}
			return
		}
		if e.key == key {
			return
		}
	}
}

// grow returns a table of twice the size with the same entries.
func (t *pairTable) grow() *pairTable {
	g := newPairTable(len(t.entries))
	for _, e := range t.entries {
		if e.key != 0 {
			g.insert(int32(e.key>>32)-1, int32(uint32(e.key)), e.rank, e.id)
		}
	}
	return g
}

func (t *pairTable) find(left, right int32) (rank uint32, id int32, ok bool) {
	key := pairKey(left, right)
	for i := t.slot(key); ; i = (i + 1) & t.mask {
		e := &t.entries[i]
		if e.key == key {
			return e.rank, e.id, true
		}
		if e.key == 0 {
			return 0, 0, false
		}
	}
}
