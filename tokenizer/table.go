package tokenizer

import (
	"hash/maphash"
	"math/bits"
)

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
