package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"metacap/engine/internal/sched"
)

// loop is the engine's goroutine: it alone touches the scheduler and the device.
// It ends when Close is called, after the step in progress.
func (e *Engine) loop() {
	defer close(e.ended)
	if e.parts.Locked {
		runtime.LockOSThread() // the thread ends with the goroutine
	}
	for {
		if e.takeInbox() {
			e.shutdown()
			return
		}
		if err := e.fatalError(); err != nil { // what came in while the last step failed
			e.endAll(err)
		}
		now := time.Now()
		e.sweep(now)
		if e.sched.Running()+e.sched.Waiting() == 0 {
			<-e.wake
			continue
		}
		if err := e.step(now); err != nil {
			e.fail(err)
		}
	}
}

// takeInbox gives new requests to the scheduler and runs calls. It reports whether the engine closes.
func (e *Engine) takeInbox() (closing bool) {
	e.mu.Lock()
	e.inbox, e.taken = e.taken[:0], e.inbox
	e.calls, e.called = e.called[:0], e.calls
	closing = e.closing
	e.mu.Unlock()
	for i, r := range e.taken {
		e.taken[i] = nil
		r.live = len(e.live)
		e.live = append(e.live, r)
		if !r.deadline.IsZero() {
			e.due(r.deadline)
		}
		e.sched.Add(&r.seq)
	}
	for i, f := range e.called {
		e.called[i] = nil
		f()
	}
	return closing
}

// do runs f on the loop's goroutine, between steps, unless the engine closes
// first. It does not wait.
func (e *Engine) do(f func()) {
	e.mu.Lock()
	if !e.closing { // else nobody would take it
		e.calls = append(e.calls, f)
	}
	e.mu.Unlock()
	e.signal()
}

// due notes that a deadline comes.
func (e *Engine) due(t time.Time) {
	if e.nextDue.IsZero() || t.Before(e.nextDue) {
		e.nextDue = t
	}
}

// sweep ends cancelled and overdue requests.
func (e *Engine) sweep(now time.Time) {
	due := !e.nextDue.IsZero() && !now.Before(e.nextDue)
	if !e.dirty.Swap(false) && !due {
		return
	}
	e.nextDue = time.Time{}
	for _, r := range slices.Backward(e.live) { // finish moves the last one into the gap
		switch {
		case !r.deadline.IsZero() && !now.Before(r.deadline):
			e.finish(r, FinishCancel, fmt.Errorf("%w: %w", ErrDeadline, context.DeadlineExceeded))
		case r.cancelled.Load():
			err := r.ctxErr()
			if err == nil {
				err = context.Canceled
			}
			e.finish(r, FinishCancel, err)
		case !r.deadline.IsZero():
			e.due(r.deadline)
		}
	}
}

// step plans, runs and commits one step.
func (e *Engine) step(start time.Time) error {
	b := e.schedule()
	if b.Empty() {
		return fmt.Errorf("engine: step: nothing to run, %d sequences run and %d wait", e.sched.Running(), e.sched.Waiting())
	}
	e.batch = b
	e.mapRows(b)
	if err := e.parts.Runner.Run(b, (*sink)(e)); err != nil {
		return fmt.Errorf("engine: step: %w", err)
	}
	now := time.Now()
	vision := e.parts.Runner.Timing().Vision
	for i := range b.Items {
		e.commit(i, start, now, vision)
	}
	e.sched.Finish()
	if b.PrefillTokens == 0 && len(b.Encodes) == 0 {
		e.price.Observe(b.Tokens(), now.Sub(start))
	}
	if e.cfg.Verify {
		if err := e.sched.Check(); err != nil {
			return fmt.Errorf("engine: verify: %w", err)
		}
	}
	e.observe(b, now.Sub(start))
	return nil
}

// schedule plans a step: the one that the runner has begun already, if any.
func (e *Engine) schedule() *sched.Batch {
	if e.beginner != nil && e.beginner.Begun() {
		if b := e.sched.ScheduleEarly(); !b.Empty() {
			return b
		}
	}
	return e.sched.Schedule()
}

// mapRows notes which item each logits row belongs to.
func (e *Engine) mapRows(b *sched.Batch) {
	e.rowItem = slices.Grow(e.rowItem[:0], len(b.LogitRows))[:len(b.LogitRows)]
	for i := range b.Items {
		it := &b.Items[i]
		for r := it.Row; r < it.Row+it.Rows; r++ {
			e.rowItem[r] = int32(i)
		}
	}
}

// commit records what the step did for item i and ends its request if it is done.
func (e *Engine) commit(i int, start, now time.Time, vision time.Duration) {
	it := &e.batch.Items[i]
	r := it.Seq.Owner.(*request)
	if r.ended.Load() { // a prefix that was dropped and is computed again
		e.sched.Commit(i, nil)
		return
	}
	e.clock(r, it, start, now, vision)
	next := r.next
	r.next, r.missed = r.next[:0], false
	r.width.Learn(it.Draft, e.sched.Commit(i, next))
	switch {
	case r.kind == generate && r.closed:
		e.finish(r, r.result.Finish, r.failure)
	case r.kind == generate && len(next) > 0:
		e.guess(r, next)
	case r.kind != generate && it.Seq.Computed() == len(it.Seq.Tokens):
		e.finish(r, FinishStop, nil)
	}
}

// guess proposes what comes after the tokens that r just got.
func (e *Engine) guess(r *request, next []int32) {
	x := r.index
	if x == nil {
		return
	}
	if x.Len() == 0 {
		r.indexPrompt()
	}
	x.Append(next...)
	a, b, c, ok := x.Last()
	if !ok {
		return
	}
	n := min(r.width.Next(e.price.Price(len(e.batch.Items))), r.seq.Limit-len(r.seq.Tokens)-1)
	r.seq.Draft = x.Propose(r.seq.Draft[:0], a, b, c, n)
	if len(r.seq.Draft) == 0 && r.shared != nil {
		r.seq.Draft = r.shared.Propose(r.seq.Draft, a, b, c, n)
	}
}

// indexPrompt reads the text of the prompt, without its pictures.
func (r *request) indexPrompt() {
	from := 0
	for _, s := range r.seq.Spans {
		r.index.Append(r.seq.Tokens[from:s.Start]...)
		r.index.Border()
		from = s.End
	}
	r.index.Append(r.seq.Tokens[from:r.seq.Prompt]...)
}

// clock books the step's time on a request.
func (e *Engine) clock(r *request, it *sched.Item, start, now time.Time, vision time.Duration) {
	u := &r.result.Usage
	if r.first.IsZero() {
		r.first = start
		u.Queue = start.Sub(r.created)
	}
	took := now.Sub(start)
	if it.Encoded {
		u.VisionTime += vision
		took -= vision
	}
	if it.Tokens-it.Draft == 1 && it.Seq.Computed() >= it.Seq.Prompt {
		u.DecodeTime += took
	} else {
		u.PrefillTime += took
	}
	if u.FirstToken == 0 && len(r.result.Tokens) > 0 {
		u.FirstToken = now.Sub(r.created)
	}
}

// finish ends a request: its blocks go back, its caller gets the result.
func (e *Engine) finish(r *request, why FinishReason, err error) {
	if !r.seq.Hold || err != nil {
		e.sched.Remove(&r.seq)
	}
	last := len(e.live) - 1
	e.live[r.live] = e.live[last]
	e.live[r.live].live = r.live
	e.live[last] = nil
	e.live = e.live[:last]
	r.stop()

	res, c := &r.result, r.seq.Counters
	res.Finish, res.Images = why, r.images
	u := &res.Usage
	u.PromptTokens, u.ImageTokens, u.CachedTokens, u.OutputTokens = r.seq.Prompt, r.imgToks, c.Cached, len(res.Tokens)
	u.Tiles, u.TilesEncoded, u.Verified, u.Steps = r.tiles, c.TilesEncoded, c.Accepted, c.Steps
	u.Total = time.Since(r.created)
	r.err = err
	tail := ""
	if r.kind == generate {
		r.remember()
		if !r.stopped {
			tail, _ = r.stops.Next(r.stream.Flush())
			tail += r.stops.Flush()
			r.text.WriteString(tail)
		}
		res.Text = r.text.String()
	}
	if r.watch {
		r.mu.Lock()
		r.events = append(r.events, Event{Text: tail, Result: res})
		r.mu.Unlock()
	}
	r.ended.Store(true)
	e.mu.Lock()
	e.waiting-- // first: who waits for done finds the place free
	e.mu.Unlock()
	close(r.done)
	if e.cfg.Observer != nil {
		e.cfg.Observer.Request(*u, why, err)
	}
}

// maxShared bounds the tokens of earlier answers that a session keeps for guessing.
const maxShared = 1 << 15

// remember adds an answer to what later answers of its session may guess from.
func (r *request) remember() {
	if r.shared == nil {
		return
	}
	if r.shared.Len()+len(r.result.Tokens) > maxShared {
		r.shared.Reset()
	}
	r.shared.Append(r.seq.Tokens[min(r.seq.Prompt, len(r.seq.Tokens)):]...)
	r.shared.Border()
}

// fail ends every request after an error of the device: the engine cannot go on.
func (e *Engine) fail(err error) {
	e.log.Error("engine stopped", "error", err)
	e.mu.Lock()
	e.fatal = err
	e.mu.Unlock()
	e.sched.Finish()
}

// endAll ends every request with an error.
func (e *Engine) endAll(err error) {
	for len(e.live) > 0 {
		e.finish(e.live[len(e.live)-1], FinishCancel, err)
	}
}

func (e *Engine) fatalError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fatal
}

// shutdown ends every request and gives the device back.
func (e *Engine) shutdown() {
	e.endAll(ErrClosed)
	var err error
	if e.cfg.Verify {
		err = e.sched.Check()
	}
	e.closeErr = errors.Join(err, e.parts.Close())
}

func (e *Engine) observe(b *sched.Batch, took time.Duration) {
	if e.cfg.Observer == nil {
		return
	}
	st := e.sched.Pool().Stats()
	e.cfg.Observer.Step(StepStats{
		Duration: took, Sequences: len(b.Items), PrefillTokens: b.PrefillTokens, DecodeTokens: b.DecodeTokens, VerifyTokens: b.DraftTokens,
		BlocksUsed: st.Used, BlocksCached: st.Cached, BlocksFree: st.Free, Waiting: e.sched.Waiting(),
	})
}

// Stats are momentary figures and counters since Open.
type Stats struct {
	Running, Waiting                     int
	BlocksUsed, BlocksCached, BlocksFree int
	Evictions                            int64 // cached blocks given to new content
	BlockCopies                          int64 // blocks copied on write
	Preemptions                          int64 // sequences whose blocks were taken back to be computed again
	LookupTokens, HitTokens              int64 // prompt tokens looked up in the prefix cache, and found
	TilesCached                          int
	TileHits, TilesEncoded               int64
	StepsBegun, StepsTaken               int64 // decode steps that the device began before they were planned; those that were planned then
}

// Stats returns the engine's figures, taken between two steps; zero after Close.
func (e *Engine) Stats() Stats {
	got := make(chan Stats, 1)
	e.do(func() {
		k, t := e.sched.Pool().Stats(), e.sched.TileStats()
		var begun, taken int64
		if e.beginner != nil {
			begun, taken = e.beginner.BegunSteps()
		}
		got <- Stats{
			StepsBegun: begun, StepsTaken: taken,
			Running: e.sched.Running(), Waiting: e.sched.Waiting(),
			BlocksUsed: k.Used, BlocksCached: k.Cached, BlocksFree: k.Free, Evictions: k.Evictions, BlockCopies: k.Copies, Preemptions: e.sched.Preemptions(),
			LookupTokens: k.QueryTokens, HitTokens: k.HitTokens, TilesCached: t.Full, TileHits: t.Hits, TilesEncoded: t.Encoded,
		}
	})
	select {
	case s := <-got:
		return s
	case <-e.ended:
		return Stats{}
	}
}
