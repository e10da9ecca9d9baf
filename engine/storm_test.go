package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
	"metacap/engine/internal/grammar/grammartest"
)

// Many requests at once. METACAP_LONG=1 makes the numbers those of docs/results/share.md.

const tinyModel = "../testdata/models/internvl35-56-remote-bf16" // random weights

func openTiny(t testing.TB, c engine.Config) *engine.Engine {
	e, err := engine.Open(t.Context(), tinyModel, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// TestConstrained generates JSON of random schemas from noise and from a model of
// random weights: every answer must parse and be valid.
func TestConstrained(t *testing.T) {
	for _, c := range []struct {
		name string
		e    *engine.Engine
		n    int
	}{
		{"noise", openFake(t, fake.Options{}), count(300, 2000)},
		{"random weights", openTiny(t, engine.Config{ContextTokens: 512}), count(40, 2000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !fast && c.n > 300 {
				c.n = 300
			}
			each(c.n, 32, func(i int) {
				if err := constrained(t.Context(), c.e, uint64(i)); err != nil {
					t.Errorf("seed %d: %v", i, err)
				}
			})
			require.Zero(t, c.e.Stats().BlocksUsed)
		})
	}
}

// constrained makes one answer of a random schema.
func constrained(ctx context.Context, e *engine.Engine, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 21))
	text, err := json.Marshal(grammartest.Schema(rng, 3))
	if err != nil {
		return err
	}
	r := engine.Request{
		Messages: userText(fmt.Sprint("object ", seed)), MaxTokens: 160 + rng.IntN(100), Grammar: engine.Grammar{JSONSchema: text},
		Sampling: engine.Sampling{Temperature: float64(seed%3) * 0.7, Seed: seed + 1},
	}
	res, err := e.Generate(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	var schema map[string]any
	var x any
	if err := errors.Join(json.Unmarshal(text, &schema), json.Unmarshal([]byte(res.Text), &x)); err != nil {
		return fmt.Errorf("%s gives %q: %w", text, res.Text, err)
	}
	if !grammartest.Valid(schema, x) {
		return fmt.Errorf("%s gives %q, which is not valid", text, res.Text)
	}
	return nil
}

// each runs f for 0 to n-1, so many at a time.
func each(n, together int, f func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range together {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// TestNoCrossTalk asks the same text about two pictures, many times at once.
func TestNoCrossTalk(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		e, err := fake.Open(fake.Options{Engine: engine.Config{MaxSequences: 16, MaxWaiting: 20000, KVBlocks: 200, ContextTokens: 64}})
		require.NoError(t, err)
		defer e.Close()
		crossTalk(t, e, 10000, 64, "What is it?", [2]engine.Image{{Data: []byte("left")}, {Data: []byte("right")}})
	})
	t.Run("cpu", func(t *testing.T) {
		n := count(400, 10000)
		if !fast {
			n = 20
		}
		e := openTiny(t, engine.Config{KVBlocks: 64, ContextTokens: 512})
		const media = "../testdata/goldens/media/"
		crossTalk(t, e, n, 64, strings.Repeat("What is it? ", 12), [2]engine.Image{{Path: media + "tall.png", MaxTiles: 2}, {Path: media + "wide.png", MaxTiles: 2}})
	})
}

func crossTalk(t *testing.T, e *engine.Engine, n, together int, text string, pictures [2]engine.Image) {
	ask := func(i int) outcome {
		r, err := e.Generate(t.Context(), engine.Request{
			Messages:  []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &pictures[i]}, {Text: text}}}},
			MaxTokens: 6, IgnoreEOS: true, LogProbs: true,
		})
		if err != nil {
			t.Error(err)
			return outcome{}
		}
		return outcomeOf(r)
	}
	want := [2]outcome{ask(0), ask(1)}
	require.NotEqual(t, want[0].Tokens, want[1].Tokens)
	rng := rand.New(rand.NewPCG(1, 1))
	which := make([]int, n)
	for i := range which {
		which[i] = rng.IntN(2)
	}
	var wrong atomic.Int64
	each(n, together, func(i int) {
		if got := ask(which[i]); fmt.Sprint(got) != fmt.Sprint(want[which[i]]) && wrong.Add(1) < 5 {
			t.Errorf("request %d: got %+v, want %+v", i, got, want[which[i]])
		}
	})
	require.Zero(t, wrong.Load())
	st := e.Stats()
	require.Positive(t, st.HitTokens)
	require.Zero(t, st.BlocksUsed)
}

// settled waits until nothing runs and every block is given back.
func settled(t *testing.T, e *engine.Engine) {
	require.Eventually(t, func() bool {
		s := e.Stats()
		return s.BlocksUsed == 0 && s.Running == 0 && s.Waiting == 0
	}, 20*time.Second, time.Millisecond, "%+v", e.Stats())
}

// TestStorms cancels, lets deadlines pass, abandons streams and closes sessions
// at random times, all of one kind and mixed: nothing may leak. TestMain looks for
// goroutines.
func TestStorms(t *testing.T) {
	small := engine.Config{KVBlocks: 60, ContextTokens: 256, MaxSequences: 5, StepTokens: 24, Verify: true}
	e, err := fake.Open(fake.Options{StepTime: 50 * time.Microsecond, Engine: small})
	require.NoError(t, err)
	defer e.Close()
	picture := func(i int) *engine.Image { return &engine.Image{Data: fmt.Appendf(nil, "picture %d", i%5)} }
	for how, name := range []string{"cancel", "deadline", "break", "session", "mixed"} {
		t.Run(name, func(t *testing.T) { storm(t, e, count(200, 5000), how, 20*time.Millisecond, picture) })
	}
	require.NoError(t, e.Close())
	t.Run("cpu", func(t *testing.T) {
		small.KVBlocks, small.StepTokens = 24, 64
		e := openTiny(t, small)
		picture := func(i int) *engine.Image {
			return &engine.Image{Path: "../testdata/goldens/media/" + []string{"tall.png", "wide.png", "third.png"}[i%3], MaxTiles: 1}
		}
		n := count(100, 5000)
		if !fast {
			n = 20
		}
		storm(t, e, n, 4, 40*time.Millisecond, picture)
	})
}

// storm makes n requests that end early: all as how says, or for 4 in all ways and not at all.
func storm(t *testing.T, e *engine.Engine, n, how int, within time.Duration, picture func(int) *engine.Image) {
	rng := rand.New(rand.NewPCG(3, uint64(how)))
	type plan struct {
		how   int
		after time.Duration
	}
	plans := make([]plan, n)
	for i := range plans {
		plans[i] = plan{how, time.Duration(rng.Int64N(int64(within)))}
		if how == 4 {
			plans[i].how = rng.IntN(5)
		}
	}
	each(n, 100, func(i int) {
		p := plans[i]
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		messages := []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: picture(i)}, {Text: "describe"}}}}
		r := engine.Request{Messages: messages, IgnoreEOS: true, MaxTokens: 60, DisableLoopGuard: true}
		var err error
		switch p.how {
		case 0:
			defer time.AfterFunc(p.after, cancel).Stop()
			_, err = e.Generate(ctx, r)
		case 1:
			r.Deadline = time.Now().Add(p.after)
			_, err = e.Generate(ctx, r)
		case 2: // stops reading
			tokens := 0
			for _, err = range e.Stream(ctx, r) {
				if tokens++; tokens > int(p.after%7) || err != nil {
					break
				}
			}
		case 3:
			var s *engine.Session
			messages[0].Parts = messages[0].Parts[:1]
			if s, err = e.NewSession(ctx, messages, engine.SessionOptions{}); err != nil {
				break
			}
			defer time.AfterFunc(p.after, cancel).Stop()
			r.Messages = nil
			_, err = s.Generate(ctx, "instruction", r)
			s.Close()
		default:
			_, err = e.Generate(ctx, r)
		}
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, engine.ErrDeadline) {
			t.Errorf("request %d, %+v: %v", i, p, err)
		}
	})
	settled(t, e)
}

// stepCounter counts the steps that have ended.
type stepCounter struct{ n atomic.Int64 }

func (c *stepCounter) Step(engine.StepStats)                            { c.n.Add(1) }
func (c *stepCounter) Request(engine.Usage, engine.FinishReason, error) {}

// TestClose closes a busy engine, some of whose readers have stopped reading for
// good: Close waits for the step in progress and for nobody else.
func TestClose(t *testing.T) {
	steps := &stepCounter{}
	e, err := fake.Open(fake.Options{StepTime: 2 * time.Millisecond, Engine: engine.Config{Observer: steps, MaxSequences: 4}})
	require.NoError(t, err)
	r := engine.Request{Messages: userText("x"), IgnoreEOS: true, MaxTokens: 1000, DisableLoopGuard: true}
	stuck, reading := make(chan struct{}), make(chan struct{}, 4)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			first := true
			for _, err := range e.Stream(t.Context(), r) {
				if first {
					first = false
					reading <- struct{}{}
					<-stuck
				}
				if err != nil && !errors.Is(err, engine.ErrClosed) {
					t.Errorf("got %v, want ErrClosed", err)
				}
			}
		})
	}
	for range 4 {
		<-reading
	}
	for range 20 { // wait for room
		wg.Go(func() {
			if _, err := e.Generate(t.Context(), r); !errors.Is(err, engine.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		})
	}
	before := steps.n.Load()
	require.NoError(t, e.Close())
	// The step in progress, and one more if it ended while Close was called.
	require.LessOrEqual(t, steps.n.Load()-before, int64(2))
	close(stuck)
	wg.Wait()
	_, err = e.Generate(t.Context(), r)
	require.ErrorIs(t, err, engine.ErrClosed)
}
