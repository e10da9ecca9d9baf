package engine

import (
	"context"
	"fmt"
	"iter"
)

// Generate runs a request to its end. If it ends early, by cancellation, a deadline
// or Close, it returns the partial result with the error; a request that was not
// accepted has none. After cancellation the error is context.Canceled and, if the
// context has one, its cause.
func (e *Engine) Generate(ctx context.Context, r Request) (*Result, error) {
	q, err := e.request(ctx, &r)
	if err == nil {
		err = e.submit(ctx, q)
	}
	if err != nil {
		return nil, fmt.Errorf("engine: generate: %w", err)
	}
	if err := q.wait(); err != nil {
		return &q.result, fmt.Errorf("engine: generate: %w", err)
	}
	return &q.result, nil
}

// Stream runs a request and yields its events in order. The last event carries
// the Result. An error ends the stream and is yielded once, with the partial
// Result if there is one. Breaking out of the loop, or cancelling ctx, frees
// the request's memory within one step. A slow reader does not slow the engine.
// Nothing happens before the first event is asked for, and every loop over the
// sequence runs the request anew.
func (e *Engine) Stream(ctx context.Context, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		q, err := e.request(ctx, &r)
		if err == nil {
			err = e.yield(ctx, q, yield)
		}
		if err != nil {
			yield(Event{}, fmt.Errorf("engine: stream: %w", err))
		}
	}
}

// request prepares a request.
func (e *Engine) request(ctx context.Context, r *Request) (*request, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	p, err := e.prepare(ctx, r.Messages, r.Thinking)
	if err != nil {
		return nil, err
	}
	return e.newGeneration(p, r)
}

// yield submits a request and passes its events on. The error says that it was not accepted.
func (e *Engine) yield(ctx context.Context, q *request, yield func(Event, error) bool) error {
	q.watch = true
	if err := e.submit(ctx, q); err != nil {
		return err
	}
	ended := false
	defer func() { // the reader broke off, or its goroutine ends: by a panic, or runtime.Goexit
		if !ended {
			e.cancel(q)
		}
	}()
	var taken []Event
	for {
		last := false
		select {
		case <-q.ready:
		case <-q.done:
			last = true
		}
		q.mu.Lock()
		taken, q.events = q.events, taken[:0]
		q.mu.Unlock()
		for _, ev := range taken {
			var err error
			if ev.Result != nil && q.err != nil {
				err = fmt.Errorf("engine: stream: %w", q.err)
			}
			if !yield(ev, err) {
				return nil
			}
		}
		if last {
			ended = true
			return nil
		}
	}
}
