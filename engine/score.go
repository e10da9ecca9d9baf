package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// LabelQuery is a question with a closed set of answers: the probability that
// the answer starts with AnswerPrefix and a label, given AnswerPrefix.
type LabelQuery struct {
	Instruction  string
	AnswerPrefix string
	Labels       []string
}

// maxLabels bounds the labels of a query.
const maxLabels = 4096

// ScoreLabels returns, for each label, the natural logarithm of the probability
// that the answer to instruction starts with answerPrefix+label, given
// answerPrefix. Nothing is sampled. A label of several tokens has the sum of
// their log-probabilities. Labels of one token each take a single step.
//
// Where the tokenizer joins the end of answerPrefix with the start of a label,
// the joined token counts as the label's. A label that starts another one
// ("A", "AB") includes its probability.
func (s *Session) ScoreLabels(ctx context.Context, instruction, answerPrefix string, labels []string) ([]float64, error) {
	r, err := s.ScoreLabelsBatch(ctx, []LabelQuery{{Instruction: instruction, AnswerPrefix: answerPrefix, Labels: labels}})
	if err != nil {
		return nil, err
	}
	return r[0], nil
}

// ScoreLabelsBatch is ScoreLabels for several queries, which run together.
func (s *Session) ScoreLabelsBatch(ctx context.Context, queries []LabelQuery) ([][]float64, error) {
	out, err := s.scoreLabels(ctx, queries)
	if err != nil {
		return nil, fmt.Errorf("engine: session: score labels: %w", err)
	}
	return out, nil
}

// labelRun is a query on its way: first scores the first token of every label,
// rest those of the labels that have more, as forks of first.
type labelRun struct {
	labels [][]int32 // what is scored of each label
	prompt *prompt
	first  *request
	rest   []*request // of each label; nil if it has one token
}

func (s *Session) scoreLabels(ctx context.Context, queries []LabelQuery) ([][]float64, error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("session: %w", ErrClosed)
	}
	runs := make([]labelRun, len(queries))
	var batch []*request
	for i, q := range queries {
		if err := s.planLabels(&runs[i], q); err != nil {
			return nil, fmt.Errorf("query %d: %w", i, err)
		}
		batch = append(batch, runs[i].first)
	}
	defer func() {
		for i := range runs {
			if r := runs[i].first; r.seq.Hold && r.ended.Load() {
				s.engine.release(r)
			}
		}
	}()
	if err := s.runAll(ctx, batch); err != nil {
		return nil, err
	}
	batch = batch[:0]
	for i := range runs {
		batch = append(batch, s.planRest(&runs[i])...)
	}
	if err := s.runAll(ctx, batch); err != nil {
		return nil, err
	}
	out := make([][]float64, len(queries))
	for i := range runs {
		out[i] = runs[i].sums()
	}
	return out, nil
}

// runAll runs requests, as many together as the queue takes at once: a query may
// have more labels than that.
func (s *Session) runAll(ctx context.Context, batch []*request) error {
	room := s.engine.parts.Sched.MaxSequences
	room = min(4*room, room+s.engine.cfg.MaxWaiting)
	for part := range slices.Chunk(batch, room) {
		if err := s.runPart(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// runPart submits requests together and waits for all of them.
func (s *Session) runPart(ctx context.Context, batch []*request) error {
	if err := s.engine.submit(ctx, batch...); err != nil {
		return err
	}
	var errs []error
	for _, r := range batch {
		errs = append(errs, r.wait())
	}
	s.spentMu.Lock()
	for _, r := range batch {
		s.spent.add(&r.result.Usage)
	}
	s.spentMu.Unlock()
	return errors.Join(errs...)
}

// ScoreUsage sums what the scores of this session (ScoreLabels, ScoreText) have
// cost so far. Times are sums over requests that may have run together.
func (s *Session) ScoreUsage() Usage {
	s.spentMu.Lock()
	defer s.spentMu.Unlock()
	return s.spent
}

// add sums what requests of one session cost; their pictures are shared and stay out.
func (u *Usage) add(v *Usage) {
	u.PromptTokens += v.PromptTokens
	u.CachedTokens += v.CachedTokens
	u.Steps += v.Steps
	u.Queue += v.Queue
	u.Total += v.Total
	u.PrefillTime += v.PrefillTime
	u.DecodeTime += v.DecodeTime
}

// planLabels finds what is scored of each label and makes the request for the first tokens.
func (s *Session) planLabels(run *labelRun, q LabelQuery) error {
	if len(q.Labels) == 0 || len(q.Labels) > maxLabels {
		return fmt.Errorf("%d labels, want 1 to %d: %w", len(q.Labels), maxLabels, ErrInvalidRequest)
	}
	text := s.engine.parts.Text
	base := text.Encode(q.AnswerPrefix)
	shared := len(base)
	for _, label := range q.Labels {
		if label == "" {
			return fmt.Errorf("an empty label: %w", ErrInvalidRequest)
		}
		ids := text.Encode(q.AnswerPrefix + label)
		run.labels = append(run.labels, ids)
		n := 0
		for n < min(shared, len(ids)-1) && ids[n] == base[n] {
			n++
		}
		shared = n
	}
	longest := 0
	firsts := make([]int32, len(run.labels))
	for i, ids := range run.labels {
		run.labels[i] = ids[shared:]
		firsts[i] = ids[shared]
		longest = max(longest, len(ids)-shared)
	}
	run.prompt = s.continuation(q.Instruction, base[:shared]...)
	if n := len(run.prompt.ids) + longest; n > s.engine.parts.Context {
		return fmt.Errorf("prompt and label of %d tokens exceed the context of %d: %w", n, s.engine.parts.Context, ErrContextTooLong)
	}
	run.first = s.scorer(run.prompt.extend(), len(run.prompt.ids)-1, [][]int32{firsts})
	run.first.seq.Hold = longest > 1
	return nil
}

// scorer returns a request for the log-probabilities of wanted[k] after position from+k.
func (s *Session) scorer(p *prompt, from int, wanted [][]int32) *request {
	r := s.engine.newRequest(score, p, s.priority+1, time.Time{})
	r.seq.RowsFrom, r.seq.FullLogits = from, true
	r.scoreFrom, r.wanted, r.found = from, wanted, make([][]float64, len(wanted))
	s.fork(r)
	return r
}

// planRest makes the requests for what follows the first token of each label.
func (s *Session) planRest(run *labelRun) (batch []*request) {
	run.rest = make([]*request, len(run.labels))
	n := len(run.prompt.ids)
	for i, ids := range run.labels {
		if len(ids) < 2 {
			continue
		}
		var wanted [][]int32
		for _, id := range ids[1:] {
			wanted = append(wanted, []int32{id})
		}
		r := s.scorer(run.prompt.extend(ids[:len(ids)-1]), n, wanted)
		r.seq.Parent, r.seq.ForkTokens = &run.first.seq, n
		run.rest[i] = r
		batch = append(batch, r)
	}
	return batch
}

func (run *labelRun) sums() []float64 {
	out := make([]float64, len(run.labels))
	for i := range run.labels {
		out[i] = run.first.found[0][i]
		if r := run.rest[i]; r != nil {
			for _, f := range r.found {
				out[i] += f[0]
			}
		}
	}
	return out
}

// ScoreText returns the tokens of text with the log-probability that each has
// as the answer to instruction, given those before it. Nothing is sampled.
func (s *Session) ScoreText(ctx context.Context, instruction, text string) ([]Token, error) {
	tokens, err := s.scoreText(ctx, instruction, text)
	if err != nil {
		return nil, fmt.Errorf("engine: session: score text: %w", err)
	}
	return tokens, nil
}

func (s *Session) scoreText(ctx context.Context, instruction, text string) ([]Token, error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("session: %w", ErrClosed)
	}
	ids := s.engine.parts.Text.Encode(text)
	if len(ids) == 0 {
		return nil, nil
	}
	p := s.continuation(instruction, ids[:len(ids)-1]...)
	if n := len(p.ids) + 1; n > s.engine.parts.Context {
		return nil, fmt.Errorf("prompt and text of %d tokens exceed the context of %d: %w", n, s.engine.parts.Context, ErrContextTooLong)
	}
	wanted := make([][]int32, len(ids))
	for i := range ids {
		wanted[i] = ids[i : i+1]
	}
	r := s.scorer(p, len(p.ids)-len(ids), wanted)
	if err := s.runAll(ctx, []*request{r}); err != nil {
		return nil, err
	}
	out := make([]Token, len(ids))
	stream := s.engine.parts.Text.NewStream()
	for i, id := range ids {
		out[i] = Token{ID: id, Text: stream.Next(id), LogProb: r.found[i][0]}
	}
	out[len(out)-1].Text += stream.Flush()
	return out, nil
}
