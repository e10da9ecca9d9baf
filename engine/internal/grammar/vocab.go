package grammar

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Vocab is the vocabulary that masks are made for: the tokens in a trie, laid
// out in depth-first order. Build it once for a tokenizer; it is immutable.
type Vocab struct {
	size   int
	text   [][]byte // by id; empty = never allowed
	eos    []int32
	single [256]int32 // id of each one-byte token

	// The trie without its root, in depth-first order: node i is reached by byte
	// b[i] from the last node before it of depth depth[i]-1, its subtree ends
	// before skip[i], and the tokens that end at it are ends[first[i]:first[i+1]].
	b     []byte
	depth []uint16
	skip  []int32
	first []int32
	ends  []int32
	deep  int
}

// maxTokenBytes bounds the depth of the trie.
const maxTokenBytes = 1 << 14

// NewVocab builds the trie of a vocabulary of size ids. text gives the bytes of
// an id, nothing for ids that constrained text must not contain (special and
// other added tokens, unused rows); the slices must not change afterwards. eos
// are the ids that end an answer. ErrVocab if a byte has no token of its own:
// then completion could not be guaranteed.
func NewVocab(size int, text func(id int32) []byte, eos []int32) (*Vocab, error) {
	v := &Vocab{size: size, text: make([][]byte, size), eos: slices.Clone(eos)}
	for i := range v.single {
		v.single[i] = -1
	}
	order := make([]int32, 0, size)
	for id := range int32(size) {
		t := text(id)
		if len(t) == 0 || slices.Contains(eos, id) {
			continue
		}
		if len(t) > maxTokenBytes {
			return nil, fmt.Errorf("grammar: vocabulary: %w: token %d of %d bytes, at most %d", ErrVocab, id, len(t), maxTokenBytes)
		}
		v.text[id] = t
		order = append(order, id)
		if len(t) == 1 && v.single[t[0]] < 0 {
			v.single[t[0]] = id
		}
	}
	for b, id := range v.single {
		if id < 0 {
			return nil, fmt.Errorf("grammar: vocabulary: %w: byte %#02x has no token", ErrVocab, b)
		}
	}
	for _, id := range eos {
		if id < 0 || int(id) >= size {
			return nil, fmt.Errorf("grammar: vocabulary: %w: end token %d outside 0…%d", ErrVocab, id, size-1)
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return bytes.Compare(v.text[a], v.text[b]) })
	v.build(order)
	return v, nil
}

// build lays out the trie of the tokens, given in the order of their bytes.
func (v *Vocab) build(order []int32) {
	var open []int32 // nodes from the root to the last token
	var last []byte
	closeTo := func(depth int) {
		for len(open) > depth {
			v.skip[open[len(open)-1]] = int32(len(v.b))
			open = open[:len(open)-1]
		}
	}
	for _, id := range order {
		t := v.text[id]
		common := 0
		for common < len(t) && common < len(last) && t[common] == last[common] {
			common++
		}
		closeTo(common)
		for _, b := range t[common:] {
			open = append(open, int32(len(v.b)))
			v.b = append(v.b, b)
			v.depth = append(v.depth, uint16(len(open)))
			v.skip = append(v.skip, 0)
			v.first = append(v.first, int32(len(v.ends)))
			v.deep = max(v.deep, len(open))
		}
		v.ends = append(v.ends, id)
		last = t
	}
	closeTo(0)
	v.first = append(v.first, int32(len(v.ends)))
}

// Words returns the length of a mask: 64 ids a word.
func (v *Vocab) Words() int { return (v.size + 63) / 64 }

// Errors of this package; the text says which part of which input.
var (
	// ErrSyntax: the specification is malformed or matches nothing.
	ErrSyntax = errors.New("bad grammar")
	// ErrUnsupported: a valid specification that is outside the subset.
	ErrUnsupported = errors.New("not supported")
	// ErrLimit: a specification over a limit of this package.
	ErrLimit = errors.New("grammar too large")
	// ErrVocab: a vocabulary that is not byte-level.
	ErrVocab = errors.New("unsuitable vocabulary")
)
