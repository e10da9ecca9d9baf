package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"metacap/engine/internal/grammar"
	"metacap/engine/internal/parts"
	"metacap/engine/internal/sample"
	"metacap/engine/internal/sched"
	"metacap/engine/internal/speculate"
)

// kind is what a request wants.
type kind uint8

const (
	generate kind = iota
	score         // log-probabilities of given tokens
	hold          // a session's prefix
)

// request is the engine's record of a request. The loop owns it from submission
// until done is closed, except for the fields under mu and the atomic flag.
type request struct {
	seq      sched.Sequence
	kind     kind
	created  time.Time
	deadline time.Time
	images   []ImageReport
	tiles    int
	imgToks  int
	live     int // index in Engine.live

	cancelled atomic.Bool
	ended     atomic.Bool // the result is final
	stop      func() bool // ends the watch on the caller's context
	ctxErr    func() error

	// generate
	params    sample.Params
	maxTokens int
	logProbs  bool
	top       int
	ignoreEOS bool
	guard     *sample.Loop
	stops     sample.Stops
	stream    parts.Stream
	text      strings.Builder
	seen      []int32 // ids of prompt and answer, each once, for the repetition penalty
	seenSet   map[int32]struct{}
	// Constrained answers: the position in the grammar.
	constrained bool
	state       grammar.State
	next        []int32 // tokens chosen in this step
	missed      bool    // a draft was wrong: later rows of this step mean nothing
	closed      bool    // the answer has ended
	stopped     bool    // by a stop string: held-back text is dropped
	failure     error   // why the answer cannot go on
	tops        []int32 // working memory

	// Speculation: text of the prompt and the answer, and the session's earlier answers.
	index  *speculate.Index
	shared *speculate.Index
	width  speculate.Width

	// score: wanted[k] are the ids whose log-probabilities after position scoreFrom+k are wanted.
	scoreFrom int
	wanted    [][]int32
	found     [][]float64

	result Result
	err    error
	first  time.Time // first step
	done   chan struct{}

	mu     sync.Mutex
	events []Event // not yet taken by the reader
	watch  bool    // somebody reads events
	ready  chan struct{}
}

// newRequest returns a request around a prompt.
func (e *Engine) newRequest(k kind, p *prompt, priority int, deadline time.Time) *request {
	r := &request{
		kind: k, created: time.Now(), deadline: deadline, images: p.reports, tiles: p.tileCount, imgToks: p.imageTokens,
		done: make(chan struct{}), ready: make(chan struct{}, 1),
	}
	r.seq = sched.Sequence{
		ID: e.lastID.Add(1), Tokens: p.ids, Prompt: len(p.ids), Spans: p.spans, Tiles: p.tiles, Limit: len(p.ids),
		Priority: priority, RowsFrom: len(p.ids) - 1, Owner: r,
	}
	return r
}

// newGeneration returns a request that generates as o says.
func (e *Engine) newGeneration(p *prompt, o *Request) (*request, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	limit := e.parts.Context
	if len(p.ids) >= limit {
		return nil, fmt.Errorf("prompt of %d tokens leaves no room in the context of %d: %w", len(p.ids), limit, ErrContextTooLong)
	}
	if o.MaxTokens > 0 {
		if len(p.ids)+o.MaxTokens > limit {
			return nil, fmt.Errorf("prompt of %d tokens and MaxTokens %d exceed the context of %d: %w", len(p.ids), o.MaxTokens, limit, ErrContextTooLong)
		}
		limit = len(p.ids) + o.MaxTokens
	}
	r := e.newRequest(generate, p, o.Priority, o.Deadline)
	r.seq.Limit = limit
	r.maxTokens = limit - len(p.ids)
	s := o.Sampling
	r.params = sample.Params{Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, Penalty: s.RepetitionPenalty, Seed: s.Seed}
	if r.params.Seed == 0 {
		r.params.Seed = seedOf(p)
	}
	r.result.Seed = r.params.Seed
	r.logProbs, r.top, r.ignoreEOS = o.LogProbs || o.TopLogProbs > 0, o.TopLogProbs, o.IgnoreEOS
	if err := e.constrain(r, o); err != nil {
		return nil, err
	}
	if !o.DisableLoopGuard && !r.constrained {
		r.guard = new(sample.Loop)
	}
	if !o.DisableSpeculation {
		r.index = new(speculate.Index)
	}
	r.stops = sample.NewStops(o.Stop)
	r.stream = e.parts.Text.NewStream()
	r.seq.FullLogits, r.seq.LogProb = r.top > 0 || r.constrained || !r.params.Plain(), r.logProbs
	if r.params.Penalty != 0 && r.params.Penalty != 1 {
		r.seenSet = map[int32]struct{}{}
		for _, id := range p.ids {
			r.see(id)
		}
	}
	return r, nil
}

// constrain prepares a request's grammar.
func (e *Engine) constrain(r *request, o *Request) error {
	g := o.Grammar
	if g.Enum == nil && g.Regexp == "" && g.JSONSchema == nil { // an empty list of labels is an error, not freedom
		return nil
	}
	if o.IgnoreEOS || len(o.Stop) > 0 {
		return fmt.Errorf("Grammar excludes IgnoreEOS and Stop: %w", ErrInvalidRequest)
	}
	c, err := e.grammars.Compile(grammar.Spec{Enum: g.Enum, Regexp: g.Regexp, JSONSchema: g.JSONSchema}, func() (*grammar.Vocab, error) {
		return grammar.NewVocab(e.info.Vocabulary, e.parts.Text.Bytes, e.eos)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	r.constrained, r.state = true, c.Start()
	// The first mask is needed in any case; built here it refuses a grammar that is
	// too ambiguous before anything runs.
	if err := r.state.Mask(make([]uint64, e.grammars.Vocab().Words())); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	if n := r.state.MinTokens(); n > r.maxTokens {
		return fmt.Errorf("the shortest answer that Grammar allows may take %d tokens, there is room for %d: %w", n, r.maxTokens, ErrInvalidRequest)
	}
	return nil
}

// see notes that id occurs.
func (r *request) see(id int32) {
	if r.seenSet == nil {
		return
	}
	if _, ok := r.seenSet[id]; !ok {
		r.seenSet[id] = struct{}{}
		r.seen = append(r.seen, id)
	}
}

// seedOf derives a seed from the content of a prompt, so that equal requests have equal answers.
func seedOf(p *prompt) uint64 {
	h := uint64(len(p.ids))
	for _, id := range p.ids {
		h = sample.Seed(h, uint64(id))
	}
	for _, s := range p.spans {
		for i := 0; i < len(s.Content); i += 8 {
			for j, b := range s.Content[i : i+8] {
				h ^= uint64(b) << (8 * j)
			}
			h = sample.Seed(h, 1)
		}
	}
	return h
}

// maxPriority bounds priorities, so that ranks made of them do not overflow.
const maxPriority = 1 << 20

// maxTop bounds the alternatives a token may come with.
const maxTop = 100

// Validate checks the fields that can be checked without a model and its context.
// The error is ErrInvalidRequest and names field, value and limit.
func (o *Request) Validate() error {
	s := o.Sampling
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s is %v, want %s: %w", field, value, want, ErrInvalidRequest)
	}
	switch {
	case !(s.Temperature >= 0 && s.Temperature <= 100):
		return bad("Sampling.Temperature", s.Temperature, "0 to 100")
	case s.TopK < 0:
		return bad("Sampling.TopK", s.TopK, "0 or more")
	case !(s.TopP >= 0 && s.TopP <= 1):
		return bad("Sampling.TopP", s.TopP, "0 to 1")
	case !(s.MinP >= 0 && s.MinP <= 1):
		return bad("Sampling.MinP", s.MinP, "0 to 1")
	case !(s.RepetitionPenalty >= 0 && s.RepetitionPenalty <= 100):
		return bad("Sampling.RepetitionPenalty", s.RepetitionPenalty, "0 to 100")
	case o.Priority < -maxPriority || o.Priority > maxPriority:
		return bad("Priority", o.Priority, fmt.Sprintf("%d to %d", -maxPriority, maxPriority))
	case o.MaxTokens < 0:
		return bad("MaxTokens", o.MaxTokens, "0 or more")
	case o.TopLogProbs < 0 || o.TopLogProbs > maxTop:
		return bad("TopLogProbs", o.TopLogProbs, fmt.Sprintf("0 to %d", maxTop))
	case len(o.Stop) > 64:
		return bad("the number of Stop strings", len(o.Stop), "at most 64")
	}
	return nil
}

// contextError is the error of a context: nil, or one that is ctx.Err() and its
// cause, and ErrDeadline if its time was up.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrDeadline, err)
	}
	return err
}

// submit hands requests to the loop together, so that they can share a step,
// and ties them to ctx. All of them are accepted or none.
func (e *Engine) submit(ctx context.Context, rs ...*request) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	for _, r := range rs {
		r.stop = context.AfterFunc(ctx, func() { e.cancel(r) })
		r.ctxErr = func() error { return contextError(ctx) }
		if d, ok := ctx.Deadline(); ok && (r.deadline.IsZero() || d.Before(r.deadline)) {
			r.deadline = d
		}
	}
	e.mu.Lock()
	var err error
	switch {
	case e.fatal != nil:
		err = e.fatal
	case e.closing:
		err = ErrClosed
	case e.waiting+len(rs) > e.cfg.MaxWaiting+e.parts.Sched.MaxSequences:
		err = fmt.Errorf("%d requests are open, the limit is %d: %w", e.waiting, e.cfg.MaxWaiting+e.parts.Sched.MaxSequences, ErrOverloaded)
	default:
		e.waiting += len(rs)
		e.inbox = append(e.inbox, rs...)
	}
	e.mu.Unlock()
	if err != nil {
		for _, r := range rs {
			r.stop()
		}
		return err
	}
	e.signal()
	return nil
}

// cancel asks the loop to end a request.
func (e *Engine) cancel(r *request) {
	r.cancelled.Store(true)
	e.dirty.Store(true)
	e.signal()
}

// wait returns when the loop is done with r.
func (r *request) wait() error {
	<-r.done
	return r.err
}
