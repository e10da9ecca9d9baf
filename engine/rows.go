package engine

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"metacap/engine/internal/sample"
	"metacap/engine/internal/sched"
)

// The engine is the runner's sink: it receives the logits of a step row by row,
// in the order of a sequence's positions, and chooses tokens. What it chooses is
// committed when the step is over.

// chooser is working memory for choosing tokens on one goroutine.
type chooser struct {
	sampler sample.Sampler
	scratch []float32
	mask    []uint64
}

// manyLogits is the number of logits from which rows are shared among goroutines.
const manyLogits = 1 << 17

// sink is the engine as the runner sees it: what takes the rows of a step.
type sink Engine

// Logits receives whole rows. Sequences are independent of each other, so large
// rows are worked on by several goroutines, each with its sequences.
func (s *sink) Logits(lo, n int, logits []float32) error {
	e := (*Engine)(s)
	workers := min(len(e.choosers), int(e.rowItem[lo+n-1]-e.rowItem[lo])+1)
	if len(logits) < manyLogits {
		workers = 1
	}
	if workers <= 1 {
		e.rows(&e.choosers[0], lo, n, logits, 0, 1)
		return nil
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { e.rows(&e.choosers[w], lo, n, logits, w, workers) })
	}
	wg.Wait()
	return nil
}

// rows takes the rows of the items whose number is worker modulo workers.
func (e *Engine) rows(c *chooser, lo, n int, logits []float32, worker, workers int) {
	vocab := len(logits) / n
	for i := range n {
		k := int(e.rowItem[lo+i])
		if k%workers != worker {
			continue
		}
		it := &e.batch.Items[k]
		row := logits[i*vocab : (i+1)*vocab]
		r := it.Seq.Owner.(*request)
		switch {
		case r.ended.Load():
		case r.kind == score:
			r.score(it, lo+i-it.Row, row)
		case r.kind == generate && !r.closed && !r.missed:
			if id, ok := e.choose(c, r, row); ok {
				t := Token{ID: id}
				if r.logProbs {
					r.describe(e, &t, row)
				}
				e.accept(r, it, lo+i-it.Row, t)
			}
		}
	}
}

// ArgMax receives the greedy choice of rows of which nothing else is wanted.
func (s *sink) ArgMax(lo int, ids []int32, logProbs []float32) error {
	e := (*Engine)(s)
	for i, id := range ids {
		it := &e.batch.Items[e.rowItem[lo+i]]
		if r := it.Seq.Owner.(*request); r.kind == generate && !r.closed {
			t := Token{ID: id}
			if r.logProbs {
				t.LogProb = float64(logProbs[i])
			}
			e.accept(r, it, lo+i-it.Row, t)
		}
	}
	return nil
}

// choose picks a token from a row of logits; ok is false if the request failed
// because its grammar is too ambiguous here.
func (e *Engine) choose(c *chooser, r *request, row []float32) (id int32, ok bool) {
	if len(r.seen) > 0 || r.constrained && r.params.Temperature != 0 {
		c.scratch = append(c.scratch[:0], row...)
		row = c.scratch
		sample.Penalise(row, r.params.Penalty, r.seen)
	}
	if r.constrained {
		if c.mask == nil {
			c.mask = make([]uint64, e.grammars.Vocab().Words())
		}
		if err := r.state.MaskWithin(c.mask, r.maxTokens-len(r.result.Tokens)); err != nil {
			r.failure = err
			r.close(FinishStop)
			return 0, false
		}
		if r.params.Temperature == 0 {
			return sample.ArgMaxWithin(row, c.mask), true
		}
		forbid(row, c.mask)
	}
	return c.sampler.Pick(row, r.params, len(r.result.Tokens)), true
}

// accept takes the token chosen after row j of an item. A draft that differs
// makes the rows after it meaningless.
func (e *Engine) accept(r *request, it *sched.Item, j int, t Token) {
	if r.missed {
		return
	}
	id := t.ID
	if !r.ignoreEOS && slices.Contains(e.eos, id) {
		r.close(FinishStop)
		return
	}
	r.missed = j < it.Draft && it.Seq.Draft[j] != id
	r.next = append(r.next, id)
	r.see(id)
	text, stopped := r.stops.Next(r.stream.Next(id))
	t.Text = text
	r.text.WriteString(text)
	r.result.Tokens = append(r.result.Tokens, t)
	if r.watch {
		r.emit(t)
	}
	switch {
	case r.follow(id):
		r.close(FinishStop)
	case stopped:
		r.stopped = true
		r.close(FinishStop)
	case r.loops(id):
		r.close(FinishLoop)
	case len(r.result.Tokens) >= r.maxTokens:
		r.close(FinishLength)
	}
}

func (r *request) close(why FinishReason) {
	r.closed = true
	r.result.Finish = why
}

// loops feeds the loop guard.
func (r *request) loops(id int32) bool {
	if r.guard == nil {
		return false
	}
	_, repeated, found := r.guard.Next(id)
	if found {
		r.result.Repeated = repeated
	}
	return found
}

// describe adds the log-probabilities of a token and of its alternatives.
func (r *request) describe(e *Engine, t *Token, row []float32) {
	lp := sample.NewLogProbs(row)
	t.LogProb = lp.Of(t.ID)
	if r.top == 0 {
		return
	}
	r.tops = lp.Top(r.tops[:0], r.top)
	for _, id := range r.tops {
		t.Top = append(t.Top, TopToken{ID: id, Text: e.parts.Text.Display(id), LogProb: lp.Of(id)})
	}
}

// score takes row j of an item of a scoring request.
func (r *request) score(it *sched.Item, j int, row []float32) {
	pos := it.Seq.Computed() + it.Tokens - it.Rows + j
	k := pos - r.scoreFrom
	if k < 0 || k >= len(r.wanted) {
		return
	}
	lp := sample.NewLogProbs(row)
	r.found[k] = r.found[k][:0]
	for _, id := range r.wanted[k] {
		r.found[k] = append(r.found[k], lp.Of(id))
	}
}

// emit hands a token to the reader of a stream.
func (r *request) emit(t Token) {
	r.mu.Lock()
	r.events = append(r.events, Event{Text: t.Text, Token: &t})
	r.mu.Unlock()
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// forbid sets the logits of ids that are not in allowed to -Inf.
func forbid(row []float32, allowed []uint64) {
	forbidden := float32(math.Inf(-1))
	for w, word := range allowed {
		if word == math.MaxUint64 {
			continue
		}
		lo := w * 64
		for i := range row[lo:min(lo+64, len(row))] {
			if word>>i&1 == 0 {
				row[lo+i] = forbidden
			}
		}
	}
}

// follow moves a constrained answer past id and reports whether nothing can come after it.
func (r *request) follow(id int32) (done bool) {
	if !r.constrained {
		return false
	}
	next, ok := r.state.Advance(id)
	if !ok { // possible only if no logit was a number
		r.failure = fmt.Errorf("token %d was chosen against its grammar: the model's logits are not numbers", id)
		return true
	}
	r.state = next
	if next.Done() {
		return true
	}
	next.Prepare() // beside the next step
	return false
}
