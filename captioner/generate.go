package captioner

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"metacap/captioner/internal/filter"
	"metacap/engine"
)

// Engine is what Run needs of an engine; *engine.Engine is one.
type Engine interface {
	Info() engine.Info
	Generate(context.Context, engine.Request) (*engine.Result, error)
	NewSession(context.Context, []engine.Message, engine.SessionOptions) (*engine.Session, error)
}

var _ Engine = (*engine.Engine)(nil)

// answer is the caption of a key with what it cost.
type answer struct {
	text     string // polished, not dressed
	failed   []string
	finish   engine.FinishReason
	seed     uint64
	attempts int
	guess    bool     // as Job.Guess says of the first attempt
	mean     *float64 // what it was judged by
	usage    engine.Usage
	images   []engine.ImageReport
}

// faults are the filters that the answer fails, and guess if it is one.
func (a *answer) faults() []string {
	if a.guess {
		return append(slices.Clone(a.failed), filter.Guess)
	}
	return a.failed
}

// asker generates the captions of one input.
type asker struct {
	*runner
	eng    Engine
	key    string // of the input
	part   engine.Part
	prompt map[string]string
	sess   *engine.Session

	mu       sync.Mutex
	tokensIn int
	out      int
}

// ask answers all keys, from one encoding of the picture.
func (a *asker) ask(ctx context.Context) (map[string]*answer, []engine.ImageReport, error) {
	var messages []engine.Message
	if s := a.script.recipe.System; s != nil {
		messages = append(messages, engine.Message{Role: engine.RoleSystem, Parts: []engine.Part{{Text: *s}}})
	}
	messages = append(messages, engine.Message{Role: engine.RoleUser, Parts: []engine.Part{a.part}})
	captions := a.script.recipe.Captions
	if len(captions) == 1 {
		r, err := a.attempts(ctx, captions[0], messages)
		if err != nil {
			return nil, nil, err
		}
		return map[string]*answer{captions[0].Key: r}, r.images, nil
	}
	start := time.Now()
	sess, err := a.eng.NewSession(ctx, messages, engine.SessionOptions{})
	if err != nil {
		return nil, nil, err
	}
	defer sess.Close()
	a.sess = sess
	a.account(start, sess.Usage())
	out := map[string]*answer{}
	errs := make([]error, len(captions))
	var wg sync.WaitGroup
	for i, c := range captions {
		wg.Go(func() {
			r, err := a.attempts(ctx, c, nil)
			a.mu.Lock()
			defer a.mu.Unlock()
			out[c.Key], errs[i] = r, err
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	return out, sess.Images(), nil
}

// attempts asks for a caption until the filters pass it or the retries are spent.
// The best attempt is kept: the one that fails fewest filters that refuse, then fewest at all.
func (a *asker) attempts(ctx context.Context, c Caption, messages []engine.Message) (*answer, error) {
	var best *answer
	for n := 0; n <= a.script.recipe.Retries; n++ {
		r, err := a.once(ctx, c, messages, n, best)
		if err != nil && best != nil && ctx.Err() == nil {
			break // the changed request was refused, as when more tokens exceed the context
		}
		if err != nil {
			return nil, err
		}
		r.attempts = n + 1
		if best != nil { // a changed sampling says nothing about the picture
			r.guess, r.mean = best.guess, best.mean
		}
		if best == nil || a.badness(r) < a.badness(best) {
			best = r
		}
		best.attempts = n + 1
		if len(r.failed) == 0 {
			break
		}
		if n < a.script.recipe.Retries {
			a.progress.update(func(c *Counts) { c.Retries++ })
			a.event(Event{Kind: "retry", Key: a.key, Detail: fmt.Sprintf("%s: %v", c.Key, r.failed)})
		}
	}
	return best, nil
}

func (a *asker) badness(r *answer) int {
	bad := len(r.failed)
	for _, f := range r.failed {
		if a.script.refuse[f] {
			bad += 100
		}
	}
	return bad
}

// once asks one time. Later attempts sample, a little warmer each time, with a
// penalty on repetition after a loop and more room after a cut.
func (a *asker) once(ctx context.Context, c Caption, messages []engine.Message, n int, before *answer) (*answer, error) {
	r := engine.Request{Sampling: a.script.recipe.Sampling, MaxTokens: a.script.recipe.MaxTokens, Stop: a.script.recipe.Stop}
	judged := n == 0 && a.job.Guess != nil
	r.LogProbs = judged
	if n > 0 {
		vary(&r, n, before)
	}
	start := time.Now()
	res, err := a.generate(ctx, c, messages, r)
	if err != nil {
		return nil, err
	}
	a.account(start, res.Usage)
	looped, cut := res.Finish == engine.FinishLoop, res.Finish == engine.FinishLength
	text := a.script.polish(c.Key, res.Text, cut)
	failed := filter.Check(text, looped, cut, a.script.rules[c.Key])
	if most := a.script.recipe.Filters.Duplicates; most > 0 && a.seen.Count(c.Key, text) >= most {
		failed = append(failed, filter.Duplicate)
	}
	failed = slices.DeleteFunc(failed, func(f string) bool { return a.script.off[f] })
	out := &answer{text: text, failed: failed, finish: res.Finish, seed: res.Seed, usage: res.Usage, images: res.Images}
	if judged {
		out.guess, out.mean = a.job.Guess(a.prompt[c.Key], res)
		out.guess = out.guess && !a.script.off[filter.Guess]
	}
	return out, nil
}

func (a *asker) generate(ctx context.Context, c Caption, messages []engine.Message, r engine.Request) (*engine.Result, error) {
	if a.sess != nil {
		return a.sess.Generate(ctx, a.prompt[c.Key], r)
	}
	r.Messages = slices.Clone(messages)
	last := &r.Messages[len(r.Messages)-1]
	last.Parts = append(slices.Clone(last.Parts), engine.Part{Text: a.prompt[c.Key]})
	return a.eng.Generate(ctx, r)
}

// vary changes the sampling of attempt n ≥ 1.
func vary(r *engine.Request, n int, before *answer) {
	s := &r.Sampling
	s.Temperature = max(s.Temperature, 0.3) + 0.2*float64(n)
	if s.TopP == 0 {
		s.TopP = 0.95
	}
	s.Seed += uint64(n) * 0x9e3779b97f4a7c15
	if slices.Contains(before.failed, filter.Loop) {
		s.RepetitionPenalty = max(s.RepetitionPenalty, 1.05+0.05*float64(n))
	}
	if slices.Contains(before.failed, filter.Cut) && r.MaxTokens > 0 {
		r.MaxTokens += r.MaxTokens / 2 * n
	}
}

// account adds what a call cost: its time before the engine took it is decoding
// and tiling.
func (a *asker) account(start time.Time, u engine.Usage) {
	p := a.progress
	p.busy(StagePrepare, time.Since(start)-u.Total)
	p.busy(StageQueue, u.Queue)
	p.busy(StageVision, u.VisionTime)
	p.busy(StagePrefill, u.PrefillTime)
	p.busy(StageDecode, u.DecodeTime)
	p.engaged(time.Now().Add(-u.Total))
	p.update(func(c *Counts) {
		c.TokensIn += int64(u.PromptTokens)
		c.TokensOut += int64(u.OutputTokens)
		c.Tiles += int64(u.Tiles)
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokensIn += u.PromptTokens
	a.out += u.OutputTokens
}
