package bench_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
	"metacap/internal/bench"
)

func load() bench.Load {
	return bench.Load{
		Requests: 40, Concurrency: 4, Sizes: []bench.Size{{Width: 8, Height: 8, Weight: 3}, {Width: 16, Height: 8, Weight: 1}},
		Pictures: 5, Words: [2]int{2, 6}, Tokens: [2]int{1, 9}, Seed: 3,
	}
}

func TestQuantile(t *testing.T) {
	require.True(t, math.IsNaN(bench.Quantile(nil, 0.5)))
	require.Equal(t, 2.5, bench.Quantile([]float64{4, 1, 3, 2}, 0.5))
	require.Equal(t, 4.0, bench.Quantile([]float64{4, 1, 3, 2}, 1))
	require.InDelta(t, 3.97, bench.Quantile([]float64{4, 1, 3, 2}, 0.99), 1e-12) // as numpy.percentile
}

// TestPlan: equal loads are equal plans; the draws are what was asked for.
func TestPlan(t *testing.T) {
	l := load()
	l.Requests, l.Rate = 4000, 50
	a, err := l.Plan()
	require.NoError(t, err)
	b, err := l.Plan()
	require.NoError(t, err)
	require.Equal(t, a, b)
	l.Seed++
	b, err = l.Plan()
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	require.NoError(t, bench.CheckPlan(a))
	require.True(t, bench.Timed(a))

	// 4,000 exponential gaps of 20 ms: their sum is 80 s with a deviation of 1.3 s.
	require.InDelta(t, 80, a[len(a)-1].At, 8)
	late := 0
	sizes := map[int]int{} // by picture
	for i, q := range a {
		require.LessOrEqual(t, len(strings.Fields(q.Text)), 6)
		require.True(t, q.Tokens >= 1 && q.Tokens <= 9)
		if w, ok := sizes[q.Picture]; ok {
			require.Equal(t, w, q.Width, "one picture has one size")
		}
		sizes[q.Picture] = q.Width
		if i > 0 && q.At-a[i-1].At > 1/l.Rate {
			late++
		}
	}
	require.Len(t, sizes, 5)
	require.InDelta(t, math.Exp(-1), float64(late)/4000, 0.05, "gaps are not exponential")
}

func TestRefusedPlans(t *testing.T) {
	for name, change := range map[string]func(*bench.Load){
		"requests": func(l *bench.Load) { l.Requests = 0 }, "rate": func(l *bench.Load) { l.Rate = math.NaN() },
		"concurrency": func(l *bench.Load) { l.Concurrency = 0 }, "pictures": func(l *bench.Load) { l.Pictures = -1 },
		"words": func(l *bench.Load) { l.Words = [2]int{3, 2} }, "tokens": func(l *bench.Load) { l.Tokens = [2]int{0, 2} },
	} {
		l := load()
		change(&l)
		_, err := l.Plan()
		require.ErrorContains(t, err, name)
	}
	for _, text := range []string{"", "8", "8x", "0x8", "8x8:0", "99999x1", "8x8,"} {
		_, err := bench.ParseSizes(text)
		require.Error(t, err, text)
	}
	good := bench.Arrival{Text: "a", Tokens: 1}
	for _, bad := range []bench.Arrival{
		{At: -1, Text: "a", Tokens: 1},
		{At: math.NaN(), Text: "a", Tokens: 1},
		{Width: 8, Text: "a", Tokens: 1},
		{Width: 9000, Height: 8, Text: "a", Tokens: 1},
		{Picture: -1, Text: "a", Tokens: 1},
		{Text: "a"},
		{Tokens: 1},
	} {
		require.NoError(t, bench.CheckPlan([]bench.Arrival{good}))
		require.Error(t, bench.CheckPlan([]bench.Arrival{good, bad}), "%+v", bad)
	}
	require.Error(t, bench.CheckPlan(nil))
}

// TestSimulate runs both kinds of load on a fake engine and counts.
func TestSimulate(t *testing.T) {
	e, err := fake.Open(fake.Options{})
	require.NoError(t, err)
	defer e.Close()
	for _, rate := range []float64{0, 4000} {
		l := load()
		l.Rate = rate
		plan, err := l.Plan()
		require.NoError(t, err)
		clients := l.Concurrency
		if rate > 0 {
			clients = 0
		}
		sim, err := bench.Simulate(t.Context(), e, plan, clients, true)
		require.NoError(t, err)
		r := sim.Report(bench.Objective{})
		want := 0
		for i, q := range plan {
			want += q.Tokens
			s := sim.Served[i]
			require.Equal(t, q, s.Arrival)
			require.Len(t, s.Gaps, q.Tokens-1)
			require.True(t, s.First > 0 && s.First <= s.Total && s.Sent >= q.At, "%+v", s)
		}
		require.Equal(t, []int{len(plan), 0, want, len(plan)}, []int{r.Completed, r.Failed, r.Output, r.Good})
		require.Positive(t, r.Cached, "five pictures, forty requests")
		require.Positive(t, r.Prompt-r.Cached)
		if rate == 0 {
			require.LessOrEqual(t, r.Peak, l.Concurrency)
		}
	}
}

// TestSimulateFailures: requests that the engine refuses are counted with their reason.
func TestSimulateFailures(t *testing.T) {
	e, err := fake.Open(fake.Options{Engine: engine.Config{ContextTokens: 60}})
	require.NoError(t, err)
	defer e.Close()
	plan := []bench.Arrival{{Text: "a", Tokens: 3}, {Text: strings.Repeat("long ", 20), Tokens: 3}, {Text: "b", Tokens: 2}}
	sim, err := bench.Simulate(t.Context(), e, plan, 2, false)
	require.NoError(t, err)
	r := sim.Report(bench.Objective{Total: 1e-9})
	require.Equal(t, []int{2, 1, 5, 0}, []int{r.Completed, r.Failed, r.Output, r.Good})
	require.Len(t, r.Errors, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = bench.Simulate(ctx, e, plan, 2, false)
	require.ErrorIs(t, err, context.Canceled)
}

// TestReport computes known figures.
func TestReport(t *testing.T) {
	sim := bench.Simulation{Seconds: 2, Served: []bench.Served{
		{First: 0.1, Total: 0.5, Output: 5, Prompt: 10, Cached: 4, Gaps: []float64{0.1, 0.1, 0.1, 0.1}},
		{First: 0.3, Total: 0.3, Output: 1, Prompt: 10},
		{First: 0.2, Total: 1.2, Output: 3, Prompt: 10, Gaps: []float64{0.5, 0.5}},
		{Error: "no"},
	}}
	r := sim.Report(bench.Objective{First: 0.25, PerToken: 0.2})
	require.Equal(t, []int{3, 1, 9, 30, 4, 1}, []int{r.Completed, r.Failed, r.Output, r.Prompt, r.Cached, r.Good})
	require.Equal(t, map[string]int{"no": 1}, r.Errors)
	require.Equal(t, 0.5, r.Goodput)
	require.InDelta(t, 200, r.First.P50, 1e-9)
	require.InDelta(t, 300, r.PerToken.Mean, 1e-9) // of 100 and 500; one token has none
	require.InDelta(t, 1400.0/6, r.Gap.Mean, 1e-9)
	require.InDelta(t, 4.5, r.OutputRate, 1e-9)
}

// TestPicturesAreEncoded: every repetition and every request of a batch encodes its own tiles.
func TestPicturesAreEncoded(t *testing.T) {
	m := &bench.Meter{}
	e, err := engine.Open(t.Context(), "../../testdata/models/internvl35-56-remote-bf16", bench.Config(engine.Config{}, m))
	require.NoError(t, err)
	defer e.Close()
	for _, text := range []string{"vit1", "vit3*2", "ttft3@40", "cap112x56*2"} {
		test, err := bench.Parse(text)
		require.NoError(t, err)
		before := e.Stats().TilesEncoded
		const repetitions = 3
		r, err := bench.Run(t.Context(), e, m, test, repetitions)
		require.NoError(t, err)
		for _, rate := range r.Rates {
			require.False(t, math.IsNaN(rate) || math.IsInf(rate, 0) || rate <= 0, "%s: rate %g", text, rate)
		}
		require.Positive(t, r.Tiles)
		require.EqualValues(t, r.Tiles*max(test.Batch, 1)*(repetitions+1), e.Stats().TilesEncoded-before, text)
	}
}

// TestShare: the prefix is computed once, and what the ways compute adds up.
func TestShare(t *testing.T) {
	e, err := engine.Open(t.Context(), "../../testdata/models/internvl35-56-remote-bf16", engine.Config{Verify: true})
	require.NoError(t, err)
	defer e.Close()
	const agents = 4
	res, err := bench.RunShare(t.Context(), e, bench.Share{Agents: agents, Tiles: 13, Tokens: 3}, 2)
	require.NoError(t, err)
	block := e.Info().BlockTokens
	for i := range 2 {
		none, cache, fork := res.Runs[bench.ShareNone][i], res.Runs[bench.ShareCache][i], res.Runs[bench.ShareFork][i]
		require.Equal(t, []int{13 * agents, 13, 13}, []int{none.TilesEncoded, cache.TilesEncoded, fork.TilesEncoded})
		require.Equal(t, none.PromptTokens, none.Computed)
		require.Equal(t, agents*res.PrefixTokens, fork.CachedTokens)
		require.Equal(t, float64(agents-1), res.Saved(fork))
		// Prompts as short as these do not wait for each other: what arrives before the prefix is known computes it again.
		require.LessOrEqual(t, cache.CachedTokens, (agents-1)*(res.PrefixTokens/block*block))
		require.Zero(t, cache.CachedTokens%block)
		require.Equal(t, cache.PromptTokens, cache.Computed+cache.CachedTokens)
		for _, r := range []bench.ShareRun{none, cache, fork} {
			require.Equal(t, none.PromptTokens, r.PromptTokens)
			require.Equal(t, agents*3, r.OutputTokens)
			require.Greater(t, r.Decoding, float64(r.OutputTokens-agents)/r.Seconds, "without what comes before the first tokens")
		}
	}
	_, err = bench.RunShare(t.Context(), e, bench.Share{Agents: 2, Tiles: 99999, Tokens: 3}, 1)
	require.ErrorContains(t, err, "tiles")
}
