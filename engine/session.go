package engine

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"metacap/engine/internal/parts"
	"metacap/engine/internal/speculate"
	"metacap/tokenizer"
)

// SessionOptions says how a session is opened. The zero value is sane.
type SessionOptions struct {
	// Priority of the prefix. A continuation without a priority of its own has one
	// more: what is open is finished before new pictures are begun.
	Priority int
	// Deadline ends the prefill of the prefix with ErrDeadline; zero = none.
	Deadline time.Time
	// Thinking selects the thinking switch of templates that have one; nil = the template's default.
	Thinking *bool
}

// Session is a shared prefix: system text, the opened user turn, its pictures
// and text. The pictures are decoded, encoded and prefilled once; every
// continuation forks the prefix copy-on-write. NewSession makes one; the zero value
// is not usable. A Session may be used by many
// goroutines at once. Under memory pressure the engine may drop the prefix's
// blocks and compute them again at the next continuation; results do not change.
type Session struct {
	engine   *Engine
	prefix   parts.Prefix
	prompt   *prompt
	anchor   *request // nil if the prefix has no token
	priority int
	closed   atomic.Bool
	answers  speculate.Index // of its continuations; owned by the engine's loop

	spentMu sync.Mutex
	spent   Usage // of scores
}

// NewSession opens a session over prefix, whose last message must be of
// RoleUser and stays open: an instruction continues it. NewSession returns when
// the pictures are decoded and the prefix is prefilled.
func (e *Engine) NewSession(ctx context.Context, prefix []Message, o SessionOptions) (*Session, error) {
	s, err := e.newSession(ctx, prefix, o)
	if err != nil {
		return nil, fmt.Errorf("engine: new session: %w", err)
	}
	return s, nil
}

func (e *Engine) newSession(ctx context.Context, messages []Message, o SessionOptions) (*Session, error) {
	pics, err := e.prepareImages(ctx, messages)
	if err != nil {
		return nil, err
	}
	conv, err := e.conversation(messages, pics)
	if err != nil {
		return nil, err
	}
	open, err := e.parts.Text.Open(conv, tokenizer.RenderOptions{Thinking: o.Thinking})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	p, err := e.assemblePrompt(open.Prompt(), pics, messages)
	if err != nil {
		return nil, err
	}
	if len(p.ids) >= e.parts.Context {
		return nil, fmt.Errorf("prefix of %d tokens leaves no room in the context of %d: %w", len(p.ids), e.parts.Context, ErrContextTooLong)
	}
	if o.Priority < -maxPriority || o.Priority >= maxPriority {
		return nil, fmt.Errorf("Priority is %d, want %d to %d: %w", o.Priority, -maxPriority, maxPriority-1, ErrInvalidRequest)
	}
	s := &Session{engine: e, prefix: open, prompt: p, priority: o.Priority}
	if len(p.ids) == 0 {
		return s, nil
	}
	s.anchor = e.newRequest(hold, p.extend(), o.Priority, o.Deadline)
	s.anchor.seq.Hold, s.anchor.seq.RowsFrom = true, len(p.ids)
	if err := e.submit(ctx, s.anchor); err != nil {
		return nil, err
	}
	if err := s.anchor.wait(); err != nil {
		return nil, err
	}
	return s, nil
}

// PrefixTokens is the number of prompt tokens that all continuations share.
func (s *Session) PrefixTokens() int { return len(s.prompt.ids) }

// Usage counts what opening the prefix cost.
func (s *Session) Usage() Usage {
	if s.anchor == nil {
		return Usage{}
	}
	return s.anchor.result.Usage
}

// Images says what was done to the pictures of the prefix.
func (s *Session) Images() []ImageReport { return s.prompt.reports }

// Close unpins the prefix. Running continuations finish. Idempotent.
func (s *Session) Close() error {
	if !s.closed.Swap(true) && s.anchor != nil {
		s.engine.release(s.anchor)
	}
	return nil
}

// release gives the blocks of a finished request that kept them back.
func (e *Engine) release(r *request) {
	e.do(func() { e.sched.Remove(&r.seq) })
}

// continuation returns the prompt of the prefix with an instruction and more ids of the answer.
func (s *Session) continuation(instruction string, answer ...int32) *prompt {
	return s.prompt.extend(s.prefix.Continue(instruction), answer)
}

// fork ties a request to the prefix.
func (s *Session) fork(r *request) {
	if s.anchor != nil {
		r.seq.Parent, r.seq.ForkTokens = &s.anchor.seq, len(s.prompt.ids)
	}
}

// request prepares a continuation.
func (s *Session) request(instruction string, r *Request) (*request, error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("session: %w", ErrClosed)
	}
	if r.Messages != nil || r.Thinking != nil {
		return nil, fmt.Errorf("Messages and Thinking belong to the session, not to a continuation: %w", ErrInvalidRequest)
	}
	if r.Priority == 0 {
		r.Priority = s.priority + 1
	}
	q, err := s.engine.newGeneration(s.continuation(instruction), r)
	if err != nil {
		return nil, err
	}
	s.fork(q)
	if q.index != nil {
		q.shared = &s.answers
	}
	return q, nil
}

// Generate answers instruction, the rest of the open user turn. r.Messages must
// be nil; the other fields mean what they mean in Engine.Generate.
func (s *Session) Generate(ctx context.Context, instruction string, r Request) (*Result, error) {
	q, err := s.request(instruction, &r)
	if err == nil {
		err = s.engine.submit(ctx, q)
	}
	if err != nil {
		return nil, fmt.Errorf("engine: session: generate: %w", err)
	}
	if err := q.wait(); err != nil {
		return &q.result, fmt.Errorf("engine: session: generate: %w", err)
	}
	return &q.result, nil
}

// Stream is Generate, event by event. See Engine.Stream.
func (s *Session) Stream(ctx context.Context, instruction string, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		r := r
		q, err := s.request(instruction, &r)
		if err == nil {
			err = s.engine.yield(ctx, q, yield)
		}
		if err != nil {
			yield(Event{}, fmt.Errorf("engine: session: stream: %w", err))
		}
	}
}
