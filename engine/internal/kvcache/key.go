package kvcache

import (
	"crypto/sha256"
	"encoding/binary"
)

// Key names the content of a prefix that ends at a block border: 128 bits of a
// SHA-256 chain. The zero Key is the empty prefix.
type Key [16]byte

// ContentKey names what stands behind the placeholder tokens of an image range:
// a hash of the decoded tiles and their arrangement.
type ContentKey [32]byte

// Span is an image range [Start,End) of a sequence's tokens with the content
// behind it. Spans of a sequence are ascending and do not overlap.
type Span struct {
	Start, End int
	Content    ContentKey
}

// keyer computes block keys without allocating.
type keyer struct {
	buf []byte
}

// next returns the key of the block of tokens [start,start+len(tokens)) that
// follows a prefix with key parent. spans are all image ranges of the sequence.
func (k *keyer) next(parent Key, start int, tokens []int32, spans []Span) Key {
	b := append(k.buf[:0], parent[:]...)
	for _, id := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	end := start + len(tokens)
	for i := range spans {
		s := &spans[i]
		if s.End <= start {
			continue
		}
		if s.Start >= end {
			break
		}
		b = append(b, s.Content[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(max(start, s.Start)-start))   // where in the block
		b = binary.LittleEndian.AppendUint32(b, uint32(min(end, s.End)-start))       // and up to where
		b = binary.LittleEndian.AppendUint32(b, uint32(max(start, s.Start)-s.Start)) // where in the image
	}
	k.buf = b
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}
