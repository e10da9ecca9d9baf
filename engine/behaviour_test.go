package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
)

func openFake(t testing.TB, o fake.Options) *engine.Engine {
	o.Engine.Verify = true
	e, err := fake.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func userText(text string) []engine.Message {
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Text: text}}}}
}

func userImage(name, text string) []engine.Message {
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Data: []byte(name)}}, {Text: text}}}}
}

func TestAnswers(t *testing.T) {
	answer := "Zwölf Äpfel. The end and more"
	e := openFake(t, fake.Options{Answer: func(p fake.Prompt) string {
		if strings.Contains(p.Text, "loop") {
			return strings.Repeat("again and ", 100)
		}
		return answer
	}})
	ask := func(r engine.Request) *engine.Result {
		if r.Messages == nil {
			r.Messages = userText("hello")
		}
		res, err := e.Generate(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, len(res.Tokens), res.Usage.OutputTokens)
		return res
	}
	t.Run("whole", func(t *testing.T) {
		r := ask(engine.Request{})
		require.Equal(t, answer, r.Text)
		require.Equal(t, engine.FinishStop, r.Finish)
	})
	t.Run("length", func(t *testing.T) {
		r := ask(engine.Request{MaxTokens: 3})
		require.Equal(t, "Zw\uFFFD", r.Text) // ends inside a character
		require.Equal(t, engine.FinishLength, r.Finish)
	})
	t.Run("stop string across tokens", func(t *testing.T) {
		r := ask(engine.Request{Stop: []string{"nothing", " The end"}})
		require.Equal(t, "Zwölf Äpfel.", r.Text)
		require.Equal(t, engine.FinishStop, r.Finish)
	})
	t.Run("loop", func(t *testing.T) {
		r := ask(engine.Request{Messages: userText("loop")})
		require.Equal(t, engine.FinishLoop, r.Finish)
		require.GreaterOrEqual(t, r.Repeated, 80)
		require.Less(t, len(r.Tokens), 200)
		r = ask(engine.Request{Messages: userText("loop"), DisableLoopGuard: true})
		require.Equal(t, engine.FinishStop, r.Finish)
	})
	t.Run("stream equals generate", func(t *testing.T) {
		var text strings.Builder
		tokens := 0
		for ev, err := range e.Stream(t.Context(), engine.Request{Messages: userText("hello")}) {
			require.NoError(t, err)
			text.WriteString(ev.Text)
			if ev.Token != nil {
				tokens++
			}
			if ev.Result != nil {
				require.Equal(t, ev.Result.Text, text.String())
				require.Equal(t, len(ev.Result.Tokens), tokens)
			}
		}
		require.Equal(t, answer, text.String())
	})
}

func TestRefusals(t *testing.T) {
	e := openFake(t, fake.Options{Engine: engine.Config{ContextTokens: 64}})
	text := openFake(t, fake.Options{TextOnly: true})
	for _, c := range []struct {
		name string
		e    *engine.Engine
		r    engine.Request
		want error
	}{
		{"no messages", e, engine.Request{}, engine.ErrInvalidRequest},
		{"temperature", e, engine.Request{Messages: userText("a"), Sampling: engine.Sampling{Temperature: math.NaN()}}, engine.ErrInvalidRequest},
		{"top p", e, engine.Request{Messages: userText("a"), Sampling: engine.Sampling{TopP: 1.5}}, engine.ErrInvalidRequest},
		{"long prompt", e, engine.Request{Messages: userText(strings.Repeat("a", 64))}, engine.ErrContextTooLong},
		{"long answer", e, engine.Request{Messages: userText("a"), MaxTokens: 64}, engine.ErrContextTooLong},
		{"broken picture", e, engine.Request{Messages: userImage("broken", "a")}, engine.ErrImageDecode},
		{"missing picture", e, engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Path: "/no/such.png"}}}}}}, engine.ErrImageDecode},
		{"empty picture", e, engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{}}}}}}, engine.ErrInvalidRequest},
		{"role", e, engine.Request{Messages: []engine.Message{{Role: "tool"}}}, engine.ErrInvalidRequest},
		{"picture for a text model", text, engine.Request{Messages: userImage("x", "a")}, engine.ErrNoVision},
		{"bad grammar", e, engine.Request{Messages: userText("a"), Grammar: engine.Grammar{Regexp: "("}}, engine.ErrInvalidRequest},
		{"grammar without room", e, engine.Request{Messages: userText("a"), MaxTokens: 2, Grammar: engine.Grammar{Enum: []string{"long"}}}, engine.ErrInvalidRequest},
		{"no labels", e, engine.Request{Messages: userText("a"), Grammar: engine.Grammar{Enum: []string{}}}, engine.ErrInvalidRequest},
		{"empty schema", e, engine.Request{Messages: userText("a"), Grammar: engine.Grammar{JSONSchema: []byte{}}}, engine.ErrInvalidRequest},
		{"two grammars", e, engine.Request{Messages: userText("a"), Grammar: engine.Grammar{Enum: []string{"a"}, Regexp: "a"}}, engine.ErrInvalidRequest},
		{"priority", e, engine.Request{Messages: userText("a"), Priority: math.MaxInt}, engine.ErrInvalidRequest},
		{"past deadline", e, engine.Request{Messages: userText("a"), Deadline: time.Now().Add(-time.Second)}, engine.ErrDeadline},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.e.Generate(t.Context(), c.r)
			require.ErrorIs(t, err, c.want)
			var im *engine.ImageError
			require.Equal(t, errors.Is(c.want, engine.ErrImageDecode) || c.name == "empty picture", errors.As(err, &im))
		})
	}
	t.Run("closed", func(t *testing.T) {
		c, err := fake.Open(fake.Options{})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
		_, err = c.Generate(t.Context(), engine.Request{Messages: userText("a")})
		require.ErrorIs(t, err, engine.ErrClosed)
		require.Zero(t, c.Stats())
	})
	t.Run("device error", func(t *testing.T) {
		f := openFake(t, fake.Options{FailStep: 3})
		_, err := f.Generate(t.Context(), engine.Request{Messages: userText("a"), IgnoreEOS: true, MaxTokens: 20})
		require.ErrorIs(t, err, fake.ErrStep)
		_, err = f.Generate(t.Context(), engine.Request{Messages: userText("a")})
		require.ErrorIs(t, err, fake.ErrStep)
	})
	t.Run("device error while others come", func(t *testing.T) {
		f := openFake(t, fake.Options{FailStep: 4, StepTime: 20 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 50 { // some arrive during the step that fails
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 2 * time.Millisecond)
				if _, err := f.Generate(ctx, engine.Request{Messages: userText("a"), IgnoreEOS: true, MaxTokens: 200}); !errors.Is(err, fake.ErrStep) {
					t.Errorf("request %d: got %v, want the device's error", i, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("session priority", func(t *testing.T) {
		_, err := e.NewSession(t.Context(), userText("a"), engine.SessionOptions{Priority: math.MinInt})
		require.ErrorIs(t, err, engine.ErrInvalidRequest)
	})
	t.Run("overload", func(t *testing.T) {
		f := openFake(t, fake.Options{StepTime: time.Millisecond, Engine: engine.Config{MaxSequences: 1, MaxWaiting: 1}})
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 8 {
			wg.Go(func() {
				_, err := f.Generate(t.Context(), engine.Request{Messages: userText("a"), IgnoreEOS: true, MaxTokens: 30})
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, engine.ErrOverloaded) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Positive(t, refused)
		require.Less(t, refused, 8)
	})
}

// TestConfigRefusals: what cannot be meant is not taken for a default.
func TestConfigRefusals(t *testing.T) {
	for _, c := range []engine.Config{
		{Threads: -1},
		{MemoryBytes: -1},
		{MaxSequences: -1},
		{StepTokens: -1},
		{KVBlocks: -1},
		{ContextTokens: -1},
		{MaxWaiting: -1},
		{PromptStyle: "jnija"},
		{ImageRecipe: "exct"},
	} {
		_, err := fake.Open(fake.Options{Engine: c})
		require.ErrorIs(t, err, engine.ErrInvalidRequest, "%+v", c)
		_, err = engine.Open(t.Context(), tinyModel, c)
		require.ErrorIs(t, err, engine.ErrInvalidRequest, "%+v", c)
	}
}

// TestContextErrors: a context's error is found by errors.Is wherever it strikes:
// before the request, while pictures are read, and in a running request.
func TestContextErrors(t *testing.T) {
	e := openFake(t, fake.Options{StepTime: time.Millisecond})
	reason := errors.New("the user left")
	for _, messages := range [][]engine.Message{userText("x"), userImage("p", "x")} {
		r := engine.Request{Messages: messages, IgnoreEOS: true, MaxTokens: 1000, DisableLoopGuard: true}
		past, cancel := context.WithTimeout(t.Context(), -time.Second)
		_, err := e.Generate(past, r)
		cancel()
		require.ErrorIs(t, err, engine.ErrDeadline)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		res, err := e.Generate(soon, r)
		cancel()
		require.ErrorIs(t, err, engine.ErrDeadline)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if res != nil { // a slow machine may not have begun
			require.Equal(t, engine.FinishCancel, res.Finish)
		}

		left, leave := context.WithCancelCause(t.Context())
		defer leave(nil)
		for ev, err := range e.Stream(left, r) {
			leave(reason)
			if err != nil {
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, err, reason)
				require.NotEmpty(t, ev.Result.Tokens)
			}
		}
		_, err = e.Generate(left, r)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, reason)
		_, err = e.NewSession(left, messages, engine.SessionOptions{})
		require.ErrorIs(t, err, reason)
	}
}

// TestScore checks scores against the log-probabilities of a generation.
func TestScore(t *testing.T) {
	e := openFake(t, fake.Options{})
	s, err := e.NewSession(t.Context(), userImage("one", "Here is a picture. "), engine.SessionOptions{})
	require.NoError(t, err)
	defer s.Close()
	res, err := s.Generate(t.Context(), "Say something", engine.Request{MaxTokens: 20, IgnoreEOS: true, LogProbs: true, Grammar: engine.Grammar{}})
	require.NoError(t, err)
	text := res.Text
	for i, tok := range res.Tokens { // compare up to the first byte that is no character by itself
		if tok.Text == "" || tok.Text == "\uFFFD" || tok.ID > 127 {
			text = res.Text[:i]
			break
		}
	}
	require.NotEmpty(t, text)
	scored, err := s.ScoreText(t.Context(), "Say something", text)
	require.NoError(t, err)
	sum := 0.0
	for i, tok := range scored {
		require.InDelta(t, res.Tokens[i].LogProb, tok.LogProb, 1e-6, "token %d", i)
		sum += tok.LogProb
	}
	labels := []string{text, "no", "x", text[:1]}
	lp, err := s.ScoreLabels(t.Context(), "Say something", "", labels)
	require.NoError(t, err)
	require.InDelta(t, sum, lp[0], 1e-9)
	require.Equal(t, scored[0].LogProb, lp[3])
	many, err := s.ScoreLabelsBatch(t.Context(), []engine.LabelQuery{
		{Instruction: "Say something", Labels: labels},
		{Instruction: "Other", AnswerPrefix: "It is ", Labels: []string{"a", "b"}},
	})
	require.NoError(t, err)
	require.Equal(t, lp, many[0])
	require.Len(t, many[1], 2)
	_, err = s.ScoreLabels(t.Context(), "x", "", []string{""})
	require.ErrorIs(t, err, engine.ErrInvalidRequest)
}

// TestManyLabels asks for more labels of several tokens than the queue takes at once.
func TestManyLabels(t *testing.T) {
	e := openFake(t, fake.Options{Engine: engine.Config{MaxSequences: 2, MaxWaiting: 3}})
	s, err := e.NewSession(t.Context(), userText("which? "), engine.SessionOptions{})
	require.NoError(t, err)
	defer s.Close()
	labels := make([]string, 60)
	for i := range labels {
		labels[i] = fmt.Sprintf("%02d", i)
	}
	all, err := s.ScoreLabels(t.Context(), "", "", labels)
	require.NoError(t, err)
	one, err := s.ScoreLabels(t.Context(), "", "", labels[41:42])
	require.NoError(t, err)
	require.Equal(t, one[0], all[41])
}

// TestReaderEnds ends the goroutine that reads a stream by other means than
// break: the request must not go on for nobody.
func TestReaderEnds(t *testing.T) {
	e := openFake(t, fake.Options{StepTime: 5 * time.Millisecond})
	r := engine.Request{Messages: userText("x"), IgnoreEOS: true, MaxTokens: 2000, DisableLoopGuard: true} // ten seconds
	for name, leave := range map[string]func(){
		"Goexit": runtime.Goexit, // what FailNow of a test calls
		"panic":  func() { panic("reader") },
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			for range e.Stream(t.Context(), r) {
				leave()
			}
		}()
		<-done
		require.Eventually(t, func() bool { return e.Stats().Running == 0 }, 5*time.Second, time.Millisecond, name)
	}
}

func TestLabelsFollowTheAnswer(t *testing.T) {
	e := openFake(t, fake.Options{Answer: func(p fake.Prompt) string {
		if p.Images[0] == "cat.jpg" {
			return "B"
		}
		return "natural"
	}})
	for _, name := range []string{"cat.jpg", "dog.jpg"} {
		s, err := e.NewSession(t.Context(), userImage(name, ""), engine.SessionOptions{})
		require.NoError(t, err)
		lp, err := s.ScoreLabels(t.Context(), "Which?", "", []string{"A", "B", "natural", "nothing"})
		require.NoError(t, err)
		best := 0
		for i := range lp {
			if lp[i] > lp[best] {
				best = i
			}
		}
		require.Equal(t, map[string]int{"cat.jpg": 1, "dog.jpg": 2}[name], best, "%v", lp)
		require.NoError(t, s.Close())
	}
}

// TestSharing counts what forks of one picture cost.
func TestSharing(t *testing.T) {
	e := openFake(t, fake.Options{})
	s, err := e.NewSession(t.Context(), userImage("one", "A picture. "), engine.SessionOptions{})
	require.NoError(t, err)
	require.Equal(t, 3, s.Usage().TilesEncoded)
	const calls = 7
	var wg sync.WaitGroup
	var mu sync.Mutex
	cached, tiles := 0, 0
	for i := range calls {
		wg.Go(func() {
			r, err := s.Generate(t.Context(), fmt.Sprintf("agent %d", i), engine.Request{MaxTokens: 20})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			cached += r.Usage.CachedTokens
			tiles += r.Usage.TilesEncoded
			mu.Unlock()
		})
	}
	wg.Wait()
	require.Equal(t, calls*s.PrefixTokens(), cached)
	require.Zero(t, tiles)
	require.NoError(t, s.Close())
	_, err = s.Generate(t.Context(), "late", engine.Request{})
	require.ErrorIs(t, err, engine.ErrClosed)
	require.Zero(t, e.Stats().BlocksUsed)
}

// evidence is what an answer copies.
const evidence = "The blue house has 4 windows; the red one 17. A sign reads OPEN 9 to 5, closed on Mondays. Two dogs sleep under the tree."

// TestSpeculation copies a long passage: the answer is the same with and without
// guessing, and guessing needs at most half the steps.
func TestSpeculation(t *testing.T) {
	e := openFake(t, fake.Options{StepTime: 300 * time.Microsecond, Answer: func(fake.Prompt) string { return "Summary. " + evidence }})
	ask := func(off bool) *engine.Result {
		r, err := e.Generate(t.Context(), engine.Request{Messages: userText("Sum up: " + evidence), DisableSpeculation: off})
		require.NoError(t, err)
		return r
	}
	plain, guessed := ask(true), ask(false)
	require.Equal(t, outcomeOf(plain), outcomeOf(guessed))
	require.Zero(t, plain.Usage.Verified)
	require.Equal(t, plain.Usage.OutputTokens, guessed.Usage.OutputTokens)
	require.LessOrEqual(t, 2*guessed.Usage.Steps, plain.Usage.Steps, "%+v", guessed.Usage)
	t.Logf("%d tokens in %d steps", guessed.Usage.OutputTokens, guessed.Usage.Steps)

	s, err := e.NewSession(t.Context(), userImage("x", ""), engine.SessionOptions{})
	require.NoError(t, err)
	defer s.Close()
	first, err := s.Generate(t.Context(), "a", engine.Request{})
	require.NoError(t, err)
	second, err := s.Generate(t.Context(), "b", engine.Request{})
	require.NoError(t, err)
	require.Equal(t, first.Text, second.Text)
	require.Less(t, 2*second.Usage.Steps, first.Usage.Steps, "the second answer is guessed from the first")
}
