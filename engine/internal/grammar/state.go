package grammar

// State is a position in an answer. The zero value is not usable: see
// Grammar.Start. States are small values and may be kept, compared and used from
// any goroutine.
type State struct {
	g     *Grammar
	n     *node
	ended bool
}

// Start returns the state of an empty answer.
func (g *Grammar) Start() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return State{g: g, n: g.start}
}

// Accepting says whether the text so far is a complete answer.
func (s State) Accepting() bool { return s.n.dist == 0 }

// Ended says whether an end token was taken.
func (s State) Ended() bool { return s.ended }

// Done says whether nothing can follow but an end token: a caller may stop
// without asking the model for it.
func (s State) Done() bool {
	if s.ended {
		return true
	}
	if s.n.dist != 0 {
		return false
	}
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	for b := range 256 {
		if s.g.step(s.n, byte(b)) != dead {
			return false
		}
	}
	return true
}

// MinTokens returns how many tokens certainly suffice to complete the answer, the
// end token not counted; 0 if it is complete. A request whose MaxTokens is less
// than Start().MinTokens() must be refused.
func (s State) MinTokens() int {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.work = 0
	return int(s.g.tokensLeft(s.n))
}

// Advance takes a token. ok is false if the grammar does not allow it here; the
// state is then unchanged.
func (s State) Advance(id int32) (next State, ok bool) {
	v := s.g.vocab
	if s.ended || id < 0 || int(id) >= v.size {
		return s, false
	}
	text := v.text[id]
	if len(text) == 0 {
		if s.Accepting() && v.isEnd(id) {
			return State{g: s.g, n: s.n, ended: true}, true
		}
		return s, false
	}
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	n := s.n
	for _, b := range text {
		if n = s.g.step(n, b); n == dead {
			return s, false
		}
	}
	s.g.limit()
	return State{g: s.g, n: n}, true
}

func (v *Vocab) isEnd(id int32) bool {
	for _, e := range v.eos {
		if e == id {
			return true
		}
	}
	return false
}

// Mask sets the bits of the allowed ids in dst, of Vocab.Words words, and clears
// the others. End tokens are allowed when the answer is complete. Equal states
// share one computation.
func (s State) Mask(dst []uint64) error { return s.MaskWithin(dst, int(never)) }

// MaskWithin is Mask with the tokens left, this one counted and an end token not:
// it leaves out the tokens after which the answer could not be completed in time.
// If MinTokens() <= left, some token is allowed, and following the masks until
// left is 0 ends in a complete answer. ErrLimit if the grammar is so ambiguous here
// that the mask would take too long: the answer cannot go on.
func (s State) MaskWithin(dst []uint64, left int) error {
	clear(dst)
	if s.ended {
		return nil
	}
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.work = 0
	if left > 0 {
		g.prepare(s.n)
		if s.n.mask != nil && int(s.n.largest) < left {
			copy(dst, s.n.mask)
		} else {
			g.walk(s.n, func(id int32, to *node) {
				if int(g.tokensLeft(to)) < left {
					dst[id>>6] |= 1 << (id & 63)
				}
			})
		}
		if g.exceeded() {
			clear(dst)
			g.forget() // what was built is of no use
			return g.tooMuch()
		}
	}
	if s.n.dist == 0 {
		for _, id := range g.vocab.eos {
			dst[id>>6] |= 1 << (id & 63)
		}
	}
	g.limit()
	g.account()
	return nil
}

// Prepare computes the mask of the state in another goroutine, so that a later
// Mask finds it ready: call it before the model runs. The returned channel is
// closed when it is; a caller need not wait for it.
func (s State) Prepare() <-chan struct{} {
	if s.ended || s.prepared() {
		return already
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.g.mu.Lock()
		defer s.g.mu.Unlock()
		s.g.work = 0
		s.g.prepare(s.n)
		s.g.account()
	}()
	return done
}

// already is the channel of a mask that is there.
var already = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// prepared reports whether the mask is there.
func (s State) prepared() bool {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	return s.n.mask != nil
}

// prepare fills the mask of a node, without end tokens, unless that is too much work.
func (g *Grammar) prepare(n *node) {
	if n.mask != nil {
		return
	}
	if words := g.vocab.Words(); (len(g.masks)+1)*words*8 > maxMaskBytes {
		for _, m := range g.masks {
			m.mask = nil
		}
		g.masks = g.masks[:0]
	}
	mask := make([]uint64, g.vocab.Words())
	largest := int32(0)
	g.walk(n, func(id int32, to *node) {
		mask[id>>6] |= 1 << (id & 63)
		largest = max(largest, g.tokensLeft(to))
	})
	if g.exceeded() {
		return
	}
	n.mask, n.largest = mask, largest
	g.masks = append(g.masks, n)
}

// walk calls yield for each token that the grammar allows after n, with the node
// after it: one pass over the trie that leaves out the subtrees of dead states. It
// stops early when the work exceeds its bound.
func (g *Grammar) walk(n *node, yield func(id int32, to *node)) {
	v := g.vocab
	if len(g.path) <= v.deep {
		g.path = make([]*node, v.deep+1)
	}
	path := g.path
	path[0] = n
	for i := 0; i < len(v.b) && !g.exceeded(); {
		d := v.depth[i]
		to := path[d-1].next[g.class[v.b[i]]]
		if to == nil {
			to = g.step(path[d-1], v.b[i])
		}
		if to == dead {
			i = int(v.skip[i])
			continue
		}
		path[d] = to
		for _, id := range v.ends[v.first[i]:v.first[i+1]] {
			yield(id, to)
		}
		i++
	}
}

// limit bounds what is kept between calls.
func (g *Grammar) limit() {
	if g.held > maxWeight {
		g.forget()
	}
}
