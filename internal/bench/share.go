package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"metacap/engine"
)

// Share is the measurement of several agents that look at one picture: each asks
// its own question and gets an answer of Tokens tokens, all at the same time.
type Share struct {
	Agents int
	Tiles  int // of the picture, thumbnail included
	Tokens int // of an answer
}

// ShareMode is a way to let the agents look.
type ShareMode string

// The modes, in the order in which a repetition runs them.
const (
	// ShareNone gives every agent a picture of its own, of the same size: nothing can be shared.
	ShareNone ShareMode = "none"
	// ShareCache sends whole requests with the same picture; the prefix cache finds what is the same.
	ShareCache ShareMode = "cache"
	// ShareFork opens a session on the picture and forks it.
	ShareFork ShareMode = "fork"
)

// ShareModes are all modes.
var ShareModes = []ShareMode{ShareNone, ShareCache, ShareFork}

// ShareRun is what a mode cost in one repetition.
type ShareRun struct {
	Seconds      float64
	PromptTokens int // of all agents
	CachedTokens int // of these, taken from what was computed before
	Computed     int // prompt tokens that were computed, a session's prefix included
	TilesEncoded int
	OutputTokens int
	// Decoding is the sum of the agents' own rates between their first and their last
	// token, tokens a second: what decoding alone gives while all of them decode.
	Decoding float64

	prefix int // tokens of the session's prefix; 0 without one
}

// ShareResult has the repetitions of every mode.
type ShareResult struct {
	Share
	PrefixTokens int // tokens that the prompts have in common, the picture's included
	Runs         map[ShareMode][]ShareRun
}

// Saved is the number of prompt tokens that a run did not compute, as a multiple
// of the prefix: one less than the agents if the prefix was computed once.
func (r *ShareResult) Saved(run ShareRun) float64 {
	return float64(run.PromptTokens-run.Computed) / float64(r.PrefixTokens)
}

// Ratio is the median of a mode's time as a share of that of ShareNone in the same repetition.
func (r *ShareResult) Ratio(m ShareMode) float64 {
	var ratios []float64
	for i, run := range r.Runs[m] {
		ratios = append(ratios, run.Seconds/r.Runs[ShareNone][i].Seconds)
	}
	return Quantile(ratios, 0.5)
}

// Seconds are the times of a mode's repetitions.
func (r *ShareResult) Seconds(m ShareMode) (list []float64) {
	for _, run := range r.Runs[m] {
		list = append(list, run.Seconds)
	}
	return list
}

// Rate is the median of a mode's answer tokens a second.
func (r *ShareResult) Rate(m ShareMode) float64 {
	var rates []float64
	for _, run := range r.Runs[m] {
		rates = append(rates, float64(run.OutputTokens)/run.Seconds)
	}
	return Quantile(rates, 0.5)
}

// Decoding is the median of a mode's rate of decoding, tokens a second.
func (r *ShareResult) Decoding(m ShareMode) float64 {
	var rates []float64
	for _, run := range r.Runs[m] {
		rates = append(rates, run.Decoding)
	}
	return Quantile(rates, 0.5)
}

// RunShare measures s with every mode in turn, repetitions times after one round
// that is not measured. Every picture of every round and mode is another one, so
// that nothing is left in a cache. The engine must have its caches on.
// In the first round ShareCache and ShareFork look at the same picture, and their
// answers must be the same: an error says that they are not.
func RunShare(ctx context.Context, e *engine.Engine, s Share, repetitions int) (*ShareResult, error) {
	out, err := runShare(ctx, e, s, repetitions)
	if err != nil {
		return nil, fmt.Errorf("bench: share: %w", err)
	}
	return out, nil
}

func runShare(ctx context.Context, e *engine.Engine, s Share, repetitions int) (*ShareResult, error) {
	out := &ShareResult{Share: s, Runs: map[ShareMode][]ShareRun{}}
	seed := 0
	var answers [][]string
	for round := range repetitions + 1 {
		for _, m := range ShareModes {
			pictures, err := s.pictures(e, m, seed)
			if err != nil {
				return nil, err
			}
			if round > 0 || m != ShareCache { // the unmeasured fork looks at what the cache looked at
				seed += len(pictures)
			}
			run, texts, err := s.run(ctx, e, m, pictures)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m, err)
			}
			out.PrefixTokens = max(out.PrefixTokens, run.prefix)
			if round > 0 {
				out.Runs[m] = append(out.Runs[m], run)
			} else if m != ShareNone {
				answers = append(answers, texts)
			}
		}
	}
	if !slices.Equal(answers[0], answers[1]) {
		return nil, errors.New("forks of a session answer differently from whole requests")
	}
	return out, nil
}

// question is agent i's instruction: questions differ from their first word.
func question(i int) string {
	return fmt.Sprintf("%d is the part of the picture that you describe, with what stands there and how many.", i+1)
}

func (s Share) request() engine.Request {
	return engine.Request{MaxTokens: s.Tokens, IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: true}
}

// pictures draws what the agents of a mode look at.
func (s Share) pictures(e *engine.Engine, m ShareMode, seed int) ([]*engine.Image, error) {
	n := 1
	if m == ShareNone {
		n = s.Agents
	}
	list := make([]*engine.Image, n)
	for i := range list {
		im, err := Strip(e, s.Tiles, seed+i)
		if err != nil {
			return nil, err
		}
		list[i] = im
	}
	return list, nil
}

func looking(im *engine.Image, text string) []engine.Message {
	parts := []engine.Part{{Image: im}}
	if text != "" {
		parts = append(parts, engine.Part{Text: text})
	}
	return []engine.Message{{Role: engine.RoleUser, Parts: parts}}
}

// run lets all agents ask at once and returns what it cost and what they got.
func (s Share) run(ctx context.Context, e *engine.Engine, m ShareMode, pictures []*engine.Image) (ShareRun, []string, error) {
	var out ShareRun
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	ask := func(i int) (*engine.Result, error) {
		r := s.request()
		r.Messages = looking(pictures[i%len(pictures)], question(i))
		return e.Generate(ctx, r)
	}
	if m == ShareFork {
		session, err := e.NewSession(ctx, looking(pictures[0], ""), engine.SessionOptions{})
		if err != nil {
			return out, nil, err
		}
		defer session.Close()
		u := session.Usage()
		out.prefix = session.PrefixTokens()
		out.Computed, out.TilesEncoded = u.PromptTokens-u.CachedTokens, u.TilesEncoded
		ask = func(i int) (*engine.Result, error) { return session.Generate(ctx, question(i), s.request()) }
	}
	results, errs := make([]*engine.Result, s.Agents), make([]error, s.Agents)
	var wg sync.WaitGroup
	for i := range s.Agents {
		wg.Go(func() {
			if results[i], errs[i] = ask(i); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	out.Seconds = time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return out, nil, err
	}
	texts := make([]string, s.Agents)
	for i, r := range results {
		texts[i] = r.Text
		out.PromptTokens += r.Usage.PromptTokens
		out.CachedTokens += r.Usage.CachedTokens
		out.Computed += r.Usage.PromptTokens - r.Usage.CachedTokens
		out.TilesEncoded += r.Usage.TilesEncoded
		out.OutputTokens += r.Usage.OutputTokens
		if d := (r.Usage.Total - r.Usage.FirstToken).Seconds(); d > 0 {
			out.Decoding += float64(r.Usage.OutputTokens-1) / d
		}
	}
	return out, texts, nil
}
