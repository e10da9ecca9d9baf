package grammar

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Spec says what an answer must look like. Exactly one field is set.
type Spec struct {
	Enum       []string // one of these strings
	Regexp     string   // RE2 syntax; the whole answer matches
	JSONSchema []byte   // the subset in the package comment
}

// Limits of a grammar in use.
const (
	maxEnumBytes = 1 << 20
	maxWeight    = 8 << 20  // words of determinised states kept
	maxMaskBytes = 64 << 20 // masks kept
	// maxWork bounds the states that are visited for one mask: some tenths of
	// a second. Nested counts that can be read in many ways would take minutes.
	maxWork = 4 << 20
)

// Grammar is a compiled specification for one vocabulary. It may be used by
// several goroutines; a lock guards what is built while it is used.
type Grammar struct {
	vocab *Vocab
	nfa   []nfaState
	dist  []int32 // by state of nfa: fewest bytes to acceptance
	class [256]uint8
	count int // byte classes
	init  []int32

	mu    sync.Mutex
	nodes map[string]*node
	held  int // words that nodes hold
	start *node
	masks []*node // nodes that hold a mask
	mark  []int32 // by state of nfa: the last closure that visited it
	stamp int32
	stack []int32
	key   []byte
	path  []*node // scratch of walk
	work  int     // states visited since the present mask was begun
	size  atomic.Int64
}

// Bytes is about what the grammar holds now, what was built while it was used included.
func (g *Grammar) Bytes() int64 { return g.size.Load() }

// account computes Bytes. The lock is held.
func (g *Grammar) account() {
	const word, state = 8, 48
	g.size.Store(int64(g.held)*word + int64(len(g.masks)*g.vocab.Words())*word + int64(len(g.nfa))*state)
}

// exceeded reports whether the work on the present mask is over its bound.
func (g *Grammar) exceeded() bool { return g.work > maxWork }

// tooMuch is the error for it.
func (g *Grammar) tooMuch() error {
	return fmt.Errorf("grammar: %w: more than %d states for the tokens of one position: simplify nested counts and alternatives", ErrLimit, maxWork)
}

// node is a determinised state: a set of nfa states that all can still accept.
type node struct {
	set     []int32
	next    []*node // by class; nil = not built, dead = none
	dist    int32   // fewest bytes to acceptance
	tokens  int32   // tokens of the canonical shortest completion, -1 = not known
	largest int32   // most tokens to completion after an allowed token
	near    *node   // after the first byte of the canonical completion, by
	by      byte
	mask    []uint64
}

var dead = &node{dist: never}

// Compile checks a specification and builds its automaton. Determinised states
// and masks are built when they are first needed.
func Compile(spec Spec, vocab *Vocab) (*Grammar, error) {
	n := newNFA()
	p, err := parse(n, spec)
	if err == nil {
		init := p(accept)
		if err = n.err; err == nil {
			return assemble(n, init, vocab)
		}
	}
	return nil, fmt.Errorf("grammar: %w", err)
}

func parse(n *nfa, spec Spec) (part, error) {
	set := 0
	for _, is := range []bool{spec.Enum != nil, spec.Regexp != "", spec.JSONSchema != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return nil, fmt.Errorf("%w: %d of enum, regexp and schema are set, want one", ErrSyntax, set)
	}
	switch {
	case spec.Enum != nil:
		total := 0
		for i, s := range spec.Enum {
			if s == "" {
				return nil, fmt.Errorf("%w: enum: label %d is empty", ErrSyntax, i)
			}
			if !utf8.ValidString(s) { // an answer is text: it could not come out as it went in
				return nil, fmt.Errorf("%w: enum: label %d, %q, is not UTF-8", ErrSyntax, i, s)
			}
			total += len(s)
		}
		if len(spec.Enum) == 0 || total > maxEnumBytes {
			return nil, fmt.Errorf("%w: enum: %d labels of %d bytes, want at least one and at most %d bytes", ErrLimit, len(spec.Enum), total, maxEnumBytes)
		}
		return n.oneOf(spec.Enum), nil
	case spec.Regexp != "":
		re, err := parseExpression(spec.Regexp)
		if err != nil {
			return nil, err
		}
		return expression{n, n.runes}.whole(re), nil
	}
	return compileSchema(n, spec.JSONSchema)
}

func assemble(n *nfa, init int32, vocab *Vocab) (*Grammar, error) {
	g := &Grammar{vocab: vocab, nfa: n.states, dist: n.distances(), mark: make([]int32, len(n.states))}
	if g.dist[init] == never {
		return nil, fmt.Errorf("grammar: %w: nothing matches", ErrSyntax)
	}
	// Bytes that no range tells apart are one class.
	var border [257]bool
	for _, s := range n.states {
		if s.out != noState {
			border[s.lo], border[int(s.hi)+1] = true, true
		}
	}
	for b := range 256 {
		if b > 0 && border[b] {
			g.count++
		}
		g.class[b] = uint8(g.count)
	}
	g.count++
	g.init = []int32{init}
	g.forget()
	g.account()
	return g, nil
}

// forget drops all determinised states but those that States still hold.
func (g *Grammar) forget() {
	g.nodes, g.masks, g.held = map[string]*node{}, nil, 0
	g.start = g.intern(g.init)
}

// intern returns the node of the closure of the given states.
func (g *Grammar) intern(from []int32) *node {
	if g.stamp++; g.stamp < 0 {
		clear(g.mark)
		g.stamp = 1
	}
	var set []int32
	best := int32(never)
	g.stack = append(g.stack[:0], from...)
	for len(g.stack) > 0 {
		s := g.stack[len(g.stack)-1]
		g.stack = g.stack[:len(g.stack)-1]
		g.work++
		if g.mark[s] == g.stamp || g.dist[s] == never {
			continue
		}
		g.mark[s] = g.stamp
		if st := &g.nfa[s]; st.out != noState || s == accept {
			set = append(set, s)
			best = min(best, g.dist[s])
		} else {
			g.stack = append(g.stack, st.free...)
		}
	}
	if len(set) == 0 {
		return dead
	}
	slices.Sort(set)
	g.key = g.key[:0]
	for _, s := range set {
		g.key = binary.AppendUvarint(g.key, uint64(s))
	}
	if n, ok := g.nodes[string(g.key)]; ok {
		return n
	}
	g.work += g.count
	n := &node{set: set, next: make([]*node, g.count), dist: best, tokens: -1}
	if best == 0 {
		n.tokens = 0
	}
	if g.held += len(set) + g.count + 16; g.held <= maxWeight {
		g.nodes[string(g.key)] = n
	}
	return n
}

// step returns the node after byte b; dead if there is none.
func (g *Grammar) step(n *node, b byte) *node {
	c := g.class[b]
	if to := n.next[c]; to != nil {
		return to
	}
	g.work += len(n.set)
	var targets []int32
	for _, s := range n.set {
		if st := &g.nfa[s]; st.out != noState && st.lo <= b && b <= st.hi {
			targets = append(targets, st.out)
		}
	}
	to := dead
	if len(targets) > 0 {
		to = g.intern(targets)
	}
	if g.held <= maxWeight {
		n.next[c] = to // else a large walk is on: its states are not kept
	}
	return to
}

// cheapest returns the smallest byte that brings a node nearer to acceptance, and
// the node after it. Following it spells the canonical shortest completion.
func (g *Grammar) cheapest(n *node) (byte, *node) {
	if n.near != nil {
		return n.by, n.near
	}
	for b := range 256 {
		if b > 0 && g.class[b] == g.class[b-1] {
			continue
		}
		if to := g.step(n, byte(b)); to.dist == n.dist-1 {
			n.by, n.near = byte(b), to
			return n.by, to
		}
	}
	panic("grammar: a live state without a way to acceptance")
}

// tokensLeft returns the fewest tokens that spell the canonical completion. The
// completion after a part of it is the rest of it, so that each step of a
// shortest spelling leaves one token less. It is never if the work exceeds its bound.
func (g *Grammar) tokensLeft(n *node) int32 {
	if n.tokens >= 0 {
		return n.tokens
	}
	var text []byte
	chain := []*node{n}
	for at := n; at.tokens < 0; {
		if g.exceeded() {
			return never
		}
		b, to := g.cheapest(at)
		text = append(text, b)
		chain = append(chain, to)
		at = to
	}
	// The known tail: its completion may start inside a token of ours.
	known := len(text)
	for at := chain[known]; at.dist > 0 && len(text)-known < g.vocab.deep; {
		if g.exceeded() {
			return never
		}
		b, to := g.cheapest(at)
		text = append(text, b)
		chain = append(chain, to)
		at = to
	}
	for i := known - 1; i >= 0; i-- {
		best := int32(never)
		for _, k := range g.vocab.prefixes(text[i:]) {
			if to := chain[i+k]; to.tokens >= 0 {
				best = min(best, to.tokens+1)
			}
		}
		chain[i].tokens = best
	}
	return n.tokens
}

// prefixes returns the lengths of the tokens that text starts with.
func (v *Vocab) prefixes(text []byte) (lengths []int) {
	at, end := int32(0), int32(len(v.b))
	for k, b := range text {
		for at < end && v.b[at] < b {
			at = v.skip[at]
		}
		if at >= end || v.b[at] != b {
			break
		}
		if v.first[at] < v.first[at+1] {
			lengths = append(lengths, k+1)
		}
		at, end = at+1, v.skip[at]
	}
	return lengths
}
