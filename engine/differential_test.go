package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
)

// A scenario is a set of requests that share texts and pictures. Every answer
// must be the same, bit for bit, whatever company, memory and order it had.

var pieces = []string{"the cat sat on the mat. ", "Describe. ", "a b c d ", "sunset over a lake, ", "x", "count to ten: 1 2 3 4 5 6 7 ", ""}

type scenario struct {
	seed     uint64
	requests []engine.Request
}

func newScenario(seed uint64) scenario {
	rng := rand.New(rand.NewPCG(seed, 7))
	s := scenario{seed: seed}
	for range 2 + rng.IntN(8) {
		var parts []engine.Part
		for range rng.IntN(3) {
			parts = append(parts, engine.Part{Image: &engine.Image{Data: fmt.Appendf(nil, "picture %d", rng.IntN(3)), MaxTiles: rng.IntN(4)}})
		}
		for range 1 + rng.IntN(4) {
			parts = append(parts, engine.Part{Text: pieces[rng.IntN(len(pieces))]})
		}
		r := engine.Request{
			Messages:         []engine.Message{{Role: engine.RoleUser, Parts: parts}},
			MaxTokens:        1 + rng.IntN(50),
			Priority:         rng.IntN(3),
			DisableLoopGuard: rng.IntN(2) == 0,
		}
		if rng.IntN(2) == 0 {
			r.Messages = append([]engine.Message{{Role: engine.RoleSystem, Parts: []engine.Part{{Text: "You see pictures."}}}}, r.Messages...)
		}
		switch rng.IntN(5) {
		case 0:
			r.Sampling = engine.Sampling{Temperature: 0.7, TopP: 0.9, Seed: 1 + uint64(rng.IntN(3))}
		case 1:
			r.Sampling = engine.Sampling{Temperature: 1, TopK: 5, RepetitionPenalty: 1.1}
			r.LogProbs, r.TopLogProbs = true, 2
		case 2:
			r.Stop = []string{"sat", "7 "}
		case 3:
			r.Grammar = []engine.Grammar{{Regexp: `[a-z]{1,3}( [a-z ]+)?`}, {Enum: []string{"a", "b c", "b"}}, {JSONSchema: []byte(`{"type":"string"}`)}}[rng.IntN(3)]
			r.MaxTokens += 4 // room for the shortest
			r.Sampling.Temperature = float64(rng.IntN(2))
		}
		s.requests = append(s.requests, r)
	}
	return s
}

// outcome is what must not depend on circumstances.
type outcome struct {
	Text   string
	Tokens []engine.Token
	Finish engine.FinishReason
	Seed   uint64
}

func outcomeOf(r *engine.Result) outcome { return outcome{r.Text, r.Tokens, r.Finish, r.Seed} }

// alone runs every request by itself, with nothing shared or kept. It returns the
// KV blocks that the largest one takes, too.
func (s scenario) alone(t testing.TB, open func(engine.Config) *engine.Engine) (out []outcome, blocks int) {
	e := open(engine.Config{DisablePrefixCache: true, EncoderCacheBytes: -1})
	defer e.Close()
	size := e.Info().BlockTokens
	for _, r := range s.requests {
		est, err := e.Estimate(t.Context(), r)
		require.NoError(t, err)
		blocks = max(blocks, (est.PromptTokens+r.MaxTokens+size-1)/size)
		r.DisableSpeculation = true
		res, err := e.Generate(t.Context(), r)
		require.NoError(t, err)
		out = append(out, outcomeOf(res))
	}
	return out, blocks
}

// together runs all requests at once on an engine of random, tight sizes, some
// as continuations of a session, in the company of some that are cancelled. It adds
// what happened to seen.
func (s scenario) together(t testing.TB, open func(engine.Config) *engine.Engine, c engine.Config, seen *engine.Stats) []outcome {
	rng := rand.New(rand.NewPCG(s.seed, 9))
	e := open(c)
	out := make([]outcome, len(s.requests))
	var wg sync.WaitGroup
	for range rng.IntN(3) {
		r, after, forked := s.requests[rng.IntN(len(s.requests))], time.Duration(rng.IntN(2000))*time.Microsecond, rng.IntN(2) == 0
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := run(ctx, e, r, forked); err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrDeadline) {
				t.Errorf("seed %d, a request to be cancelled: %v", s.seed, err)
			}
		})
	}
	for i, r := range s.requests {
		delay := time.Duration(rng.IntN(3)) * 200 * time.Microsecond
		forked, twice := rng.IntN(3) == 0, rng.IntN(4) == 0
		wg.Go(func() {
			time.Sleep(delay)
			res, err := run(t.Context(), e, r, forked)
			if err == nil && twice {
				again, err2 := run(t.Context(), e, r, !forked)
				if err = err2; err == nil && !cmp.Equal(outcomeOf(res), outcomeOf(again), cmpopts.EquateEmpty()) {
					err = errors.New("a second run of the same request differs")
				}
			}
			if err != nil {
				t.Errorf("seed %d, request %d: %v", s.seed, i, err)
				return
			}
			out[i] = outcomeOf(res)
		})
	}
	wg.Wait()
	st := e.Stats()
	seen.Preemptions += st.Preemptions
	seen.Evictions += st.Evictions
	seen.BlockCopies += st.BlockCopies
	seen.HitTokens += st.HitTokens
	seen.TileHits += st.TileHits
	require.NoError(t, e.Close(), "seed %d", s.seed)
	return out
}

// requireSeen fails if scenarios did not have what they are to have.
func requireSeen(t testing.TB, st *engine.Stats) {
	t.Logf("%d preemptions, %d evictions, %d block copies, %d prompt tokens from the cache", st.Preemptions, st.Evictions, st.BlockCopies, st.HitTokens)
	require.Positive(t, st.Preemptions)
	require.Positive(t, st.Evictions)
	require.Positive(t, st.BlockCopies)
	require.Positive(t, st.HitTokens)
	require.Positive(t, st.TileHits)
}

// run generates directly, or through a session over all but the last part of the last message.
func run(ctx context.Context, e *engine.Engine, r engine.Request, forked bool) (*engine.Result, error) {
	last := len(r.Messages) - 1
	parts := r.Messages[last].Parts
	if !forked || parts[len(parts)-1].Image != nil {
		return e.Generate(ctx, r)
	}
	prefix := append([]engine.Message{}, r.Messages[:last]...)
	prefix = append(prefix, engine.Message{Role: engine.RoleUser, Parts: parts[:len(parts)-1]})
	s, err := e.NewSession(ctx, prefix, engine.SessionOptions{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r.Messages = nil
	return s.Generate(ctx, parts[len(parts)-1].Text, r)
}

// count is how many of something a test tries: few as a rule, many when
// METACAP_LONG is set (docs/results/share.md).
func count(short, long int) int {
	if os.Getenv("METACAP_LONG") != "" {
		return long
	}
	return short
}

// TestDifferential is the randomised differential test on the fake runner, which
// computes from the block tables of the batch alone.
func TestDifferential(t *testing.T) {
	open := func(c engine.Config) *engine.Engine {
		c.Verify, c.ContextTokens = true, 256
		e, err := fake.Open(fake.Options{Engine: c, Ahead: c.MaxSequences%2 == 0})
		require.NoError(t, err)
		return e
	}
	n := count(300, 5000)
	var seen engine.Stats
	for seed := range uint64(n) {
		s := newScenario(seed)
		want, blocks := s.alone(t, open)
		rng := rand.New(rand.NewPCG(seed, 8))
		c := engine.Config{
			MaxSequences: 1 + rng.IntN(6), StepTokens: 6 + rng.IntN(60), KVBlocks: blocks + rng.IntN(1+rng.IntN(16)),
			DisablePrefixCache: rng.IntN(4) == 0, EncoderCacheBytes: int64(rng.IntN(3)-1) * 200,
		}
		got := s.together(t, open, c, &seen)
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("seed %d with %+v:\n%s", seed, c, d)
		}
	}
	requireSeen(t, &seen)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		code = leaks()
	}
	os.Exit(code)
}

// leaks waits for goroutines of closed engines to end and complains about others.
func leaks() int {
	for range 200 {
		if runtime.NumGoroutine() <= 2 {
			return 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s", buf[:runtime.Stack(buf, true)])
	return 1
}

// newRealScenario is a scenario with real pictures and more words.
func newRealScenario(seed uint64) scenario {
	s := newScenario(seed)
	media := []string{"square.png", "tall.png", "third.png", "wide.png"}
	for i := range s.requests {
		for _, m := range s.requests[i].Messages {
			for j := range m.Parts {
				if im := m.Parts[j].Image; im != nil {
					m.Parts[j].Image = &engine.Image{Path: "../testdata/goldens/media/" + media[int(im.Data[len(im.Data)-1])%len(media)], MaxTiles: im.MaxTiles}
				}
			}
		}
		s.requests[i].MaxTokens *= 2 // several blocks, for which memory runs out
	}
	return s
}

// TestDifferentialReal is the same on the backends, with a small random model:
// log-probabilities are compared bit for bit.
func TestDifferentialReal(t *testing.T) {
	for _, c := range []struct {
		device, model string
		n             int
	}{
		{"cpu", "internvl35-56-remote-bf16", count(24, 1500)},
		{"cpu", "internvl3-qwen25-remote-fp32", count(12, 500)},
		{"ref", "internvl3-qwen25-hf-bf16", 1},
	} {
		t.Run(c.device+"/"+c.model, func(t *testing.T) {
			if !fast {
				c.n = 1
			}
			open := func(cfg engine.Config) *engine.Engine {
				cfg.Verify, cfg.Device, cfg.ContextTokens = true, c.device, 512
				e, err := engine.Open(t.Context(), "../testdata/models/"+c.model, cfg)
				require.NoError(t, err)
				return e
			}
			var seen engine.Stats
			for seed := range uint64(c.n) {
				s := newRealScenario(seed)
				for i := range s.requests {
					s.requests[i].LogProbs = true
				}
				want, blocks := s.alone(t, open)
				rng := rand.New(rand.NewPCG(seed, 8))
				cfg := engine.Config{
					MaxSequences: 1 + rng.IntN(8), StepTokens: 16 + rng.IntN(100), KVBlocks: max(8, blocks) + rng.IntN(2), DisablePrefixCache: rng.IntN(4) == 0,
				}
				got := s.together(t, open, cfg, &seen)
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					t.Fatalf("seed %d with %+v:\n%s", seed, cfg, d)
				}
			}
			if c.n >= 24 { // enough for all of it to occur
				requireSeen(t, &seen)
			}
		})
	}
}
