package engine

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// SessionOptions says how a session is opened. The zero value is sane.
type SessionOptions struct {
	// Priority of the prefix and, unless a request gives its own, of its continuations.
	Priority int
	// Deadline ends the prefill of the prefix with ErrDeadline; zero = none.
	Deadline time.Time
}

// Session is a shared prefix: system text, the opened user turn, its pictures
// and text. The pictures are decoded, encoded and prefilled once; every
// continuation forks the prefix copy-on-write. A Session may be used by many
// goroutines at once. Under memory pressure the engine may drop the prefix's
// blocks and compute them again at the next continuation; results do not change.
type Session struct {
	engine *Engine
}

// LabelQuery is a question with a closed set of answers:
// the probability of each label as the start of the answer after AnswerPrefix.
type LabelQuery struct {
	Instruction  string
	AnswerPrefix string
	Labels       []string
}

// NewSession opens a session over prefix, whose last message must be of
// RoleUser and stays open: an instruction continues it. NewSession returns when
// the pictures are decoded and the prefix is prefilled.
func (e *Engine) NewSession(ctx context.Context, prefix []Message, o SessionOptions) (*Session, error) {
	return nil, fmt.Errorf("engine: new session: %w", ErrClosed)
}

// PrefixTokens is the number of prompt tokens that all continuations share.
func (s *Session) PrefixTokens() int { return 0 }

// Usage counts what opening the prefix cost.
func (s *Session) Usage() Usage { return Usage{} }

// Close unpins the prefix. Running continuations finish. Idempotent.
func (s *Session) Close() error { return nil }

// Generate answers instruction, the rest of the open user turn. r.Messages must
// be nil; the other fields mean what they mean in Engine.Generate.
func (s *Session) Generate(ctx context.Context, instruction string, r Request) (*Result, error) {
	return nil, fmt.Errorf("engine: session: generate: %w", ErrClosed)
}

// Stream is Generate, event by event. See Engine.Stream.
func (s *Session) Stream(ctx context.Context, instruction string, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		yield(Event{}, fmt.Errorf("engine: session: stream: %w", ErrClosed))
	}
}

// ScoreLabels returns, for each label, the natural logarithm of the probability
// that the answer to instruction starts with answerPrefix+label, given
// answerPrefix. Nothing is sampled. A label of several tokens has the sum of
// their log-probabilities. Labels of one token each take a single step.
func (s *Session) ScoreLabels(ctx context.Context, instruction, answerPrefix string, labels []string) ([]float64, error) {
	r, err := s.ScoreLabelsBatch(ctx, []LabelQuery{{Instruction: instruction, AnswerPrefix: answerPrefix, Labels: labels}})
	if err != nil {
		return nil, err
	}
	return r[0], nil
}

// ScoreLabelsBatch is ScoreLabels for several queries, which run together.
func (s *Session) ScoreLabelsBatch(ctx context.Context, queries []LabelQuery) ([][]float64, error) {
	return nil, fmt.Errorf("engine: session: score labels: %w", ErrClosed)
}

// ScoreText returns the tokens of text with the log-probability that each has
// as the answer to instruction, given those before it. Nothing is sampled.
func (s *Session) ScoreText(ctx context.Context, instruction, text string) ([]Token, error) {
	return nil, fmt.Errorf("engine: session: score text: %w", ErrClosed)
}
