package grammar

import (
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// maxStates bounds the automaton of a grammar: about 8,000 characters of counted
// text, or a schema of some thousand lines.
const maxStates = 1 << 18

// nfa is a nondeterministic automaton over bytes. A state has one edge for a
// range of bytes, or free edges, or is the accepting one. States are made back to
// front: a part is built knowing the state that follows it.
type nfa struct {
	states []nfaState
	err    error
}

type nfaState struct {
	lo, hi byte
	out    int32   // target of the byte edge, noState = none
	free   []int32 // targets without input
}

const (
	noState = int32(-1)
	accept  = int32(0)
)

// part builds an automaton that goes on to next and returns its first state.
type part func(next int32) int32

func newNFA() *nfa { return &nfa{states: []nfaState{{out: noState}}} }

func (n *nfa) fail(err error) {
	if n.err == nil {
		n.err = err
	}
}

func (n *nfa) state(s nfaState) int32 {
	if len(n.states) >= maxStates {
		n.fail(fmt.Errorf("%w: more than %d states: bound lengths and counts lower", ErrLimit, maxStates))
		return accept
	}
	n.states = append(n.states, s)
	return int32(len(n.states) - 1)
}

func (n *nfa) bytes(lo, hi byte, next int32) int32 {
	return n.state(nfaState{lo: lo, hi: hi, out: next})
}

func (n *nfa) choice(starts ...int32) int32 {
	if len(starts) == 1 {
		return starts[0]
	}
	return n.state(nfaState{out: noState, free: starts})
}

// literal is the bytes of s.
func (n *nfa) literal(s string) part {
	return func(next int32) int32 {
		for i := len(s) - 1; i >= 0 && n.err == nil; i-- {
			next = n.bytes(s[i], s[i], next)
		}
		return next
	}
}

// oneOf is any of the strings, sharing their common starts so that many labels
// make few states.
func (n *nfa) oneOf(list []string) part {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	return func(next int32) int32 { return n.prefixes(sorted, next) }
}

func (n *nfa) prefixes(sorted []string, next int32) int32 {
	if n.err != nil {
		return next
	}
	if len(sorted) == 1 {
		return n.literal(sorted[0])(next)
	}
	common := sorted[0]
	for last := sorted[len(sorted)-1]; len(common) > len(last) || last[:len(common)] != common; {
		common = common[:len(common)-1]
	}
	var starts []int32
	for i := 0; i < len(sorted); {
		rest := sorted[i][len(common):]
		if rest == "" {
			starts = append(starts, next)
			i++
			continue
		}
		var group []string
		for ; i < len(sorted) && len(sorted[i]) > len(common) && sorted[i][len(common)] == rest[0]; i++ {
			group = append(group, sorted[i][len(common):])
		}
		starts = append(starts, n.prefixes(group, next))
	}
	return n.literal(common)(n.choice(starts...))
}

func sequence(parts ...part) part {
	return func(next int32) int32 {
		for i := len(parts) - 1; i >= 0; i-- {
			next = parts[i](next)
		}
		return next
	}
}

func (n *nfa) alternatives(parts ...part) part {
	return func(next int32) int32 {
		starts := make([]int32, len(parts))
		for i, p := range parts {
			starts[i] = p(next)
		}
		if len(starts) == 0 {
			return n.state(nfaState{out: noState}) // matches nothing
		}
		return n.choice(starts...)
	}
}

// repeat is at least min and at most max times p; max < 0 = without bound.
func (n *nfa) repeat(p part, min, max int) part {
	return func(next int32) int32 {
		end := next
		if max < 0 {
			loop := n.state(nfaState{out: noState})
			start := p(loop)
			if n.err == nil {
				n.states[loop].free = []int32{start, next}
			}
			next = loop
		}
		for i := min; i < max && n.err == nil; i++ {
			next = n.choice(p(next), end)
		}
		for i := 0; i < min && n.err == nil; i++ {
			next = p(next)
		}
		return next
	}
}

// runes is one character of the ranges (pairs of first and last), as UTF-8.
func (n *nfa) runes(ranges []rune) part {
	return func(next int32) int32 {
		u := utf8Ranges{n: n, cache: map[nfaEdge]int32{}}
		var starts []int32
		for i := 0; i+1 < len(ranges); i += 2 {
			starts = u.add(starts, ranges[i], ranges[i+1], next)
		}
		slices.Sort(starts)
		starts = slices.Compact(starts)
		if len(starts) == 0 {
			return n.state(nfaState{out: noState})
		}
		return n.choice(starts...)
	}
}

// utf8Ranges turns ranges of characters into ranges of bytes. Equal edges to the
// same target are one state: most characters share their continuation bytes.
type utf8Ranges struct {
	n     *nfa
	cache map[nfaEdge]int32
}

type nfaEdge struct {
	lo, hi byte
	out    int32
}

func (u *utf8Ranges) edge(lo, hi byte, out int32) int32 {
	e := nfaEdge{lo, hi, out}
	s, ok := u.cache[e]
	if !ok {
		s = u.n.bytes(lo, hi, out)
		u.cache[e] = s
	}
	return s
}

// add appends the first states for the characters lo…hi: the range is cut until
// its ends have equal length and, but for the last bytes, full continuations.
func (u *utf8Ranges) add(starts []int32, lo, hi rune, next int32) []int32 {
	lo, hi = max(lo, 0), min(hi, utf8.MaxRune)
	if lo > hi || u.n.err != nil {
		return starts
	}
	for _, cut := range []rune{0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff} {
		if lo <= cut && cut < hi {
			return u.add(u.add(starts, lo, cut, next), cut+1, hi, next)
		}
	}
	if 0xd800 <= lo && hi <= 0xdfff {
		return starts // surrogates are no characters
	}
	for shift := 6; shift <= 18 && hi >= utf8.RuneSelf; shift += 6 {
		low := rune(1)<<shift - 1
		if lo&^low == hi&^low {
			break
		}
		if lo&low != 0 {
			return u.add(u.add(starts, lo, lo|low, next), (lo|low)+1, hi, next)
		}
		if hi&low != low {
			return u.add(u.add(starts, lo, hi&^low-1, next), hi&^low, hi, next)
		}
	}
	var a, b [utf8.UTFMax]byte
	k := utf8.EncodeRune(a[:], lo)
	utf8.EncodeRune(b[:], hi)
	for i := k - 1; i >= 0; i-- {
		next = u.edge(a[i], b[i], next)
	}
	return append(starts, next)
}

// distances returns for each state the fewest bytes to acceptance, never = none.
func (n *nfa) distances() []int32 {
	const free, byByte = 0, 1
	type edge struct {
		from int32
		cost int32
	}
	back := make([][]edge, len(n.states))
	for i, s := range n.states {
		if s.out != noState {
			back[s.out] = append(back[s.out], edge{int32(i), byByte})
		}
		for _, t := range s.free {
			back[t] = append(back[t], edge{int32(i), free})
		}
	}
	dist := make([]int32, len(n.states))
	for i := range dist {
		dist[i] = never
	}
	dist[accept] = 0
	for level, now := int32(0), []int32{accept}; len(now) > 0; level++ {
		var later []int32
		for len(now) > 0 {
			s := now[len(now)-1]
			now = now[:len(now)-1]
			if dist[s] != level {
				continue
			}
			for _, e := range back[s] {
				d := level + e.cost
				if d >= dist[e.from] {
					continue
				}
				dist[e.from] = d
				if e.cost == free {
					now = append(now, e.from)
				} else {
					later = append(later, e.from)
				}
			}
		}
		now = later
	}
	return dist
}

const never = math.MaxInt32
