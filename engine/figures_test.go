package engine_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
	"metacap/internal/demo"
)

// TestFigures measures what docs/results/share.md says of masks and of guessing, on
// the embedded model: METACAP_FIGURES=1 go test ./engine -run TestFigures -v. Both
// sides of a comparison take turns, the first turn does not count, and the figure
// is the median of the turns' ratios.
func TestFigures(t *testing.T) {
	if os.Getenv("METACAP_FIGURES") == "" {
		t.Skip("measures time: set METACAP_FIGURES on an idle machine")
	}
	e, err := engine.OpenFS(t.Context(), demo.FS(), demo.Name, engine.Config{Device: "cpu"})
	require.NoError(t, err)
	defer e.Close()
	t.Log(e.Info().Device)
	samples := slices.DeleteFunc(drawnSamples(t), func(s drawnSample) bool { return len(s.Greedy["caption"]) < 80 })
	t.Run("mask", func(t *testing.T) { maskFigures(t, e, samples) })
	t.Run("guessing", func(t *testing.T) { guessFigures(t, e, samples) })
}

const turns = 21

// perToken is the time of a request's decoding, a token. There must be one.
func perToken(t *testing.T, e *engine.Engine, r engine.Request) (seconds float64, res *engine.Result) {
	res, err := e.Generate(t.Context(), r)
	require.NoError(t, err)
	return res.Usage.DecodeTime.Seconds() / float64(res.Usage.OutputTokens), res
}

// compare lets two requests take turns and returns the median time of a's token
// and of b's, and the median of b/a.
func compare(t *testing.T, e *engine.Engine, a, b func(turn int) engine.Request) (first, second, ratio float64) {
	var x, y, ratios []float64
	for turn := range turns + 1 {
		var p, q float64
		if turn%2 == 0 {
			p, _ = perToken(t, e, a(turn))
			q, _ = perToken(t, e, b(turn))
		} else {
			q, _ = perToken(t, e, b(turn))
			p, _ = perToken(t, e, a(turn))
		}
		if turn > 0 {
			x, y, ratios = append(x, p), append(y, q), append(ratios, q/p)
		}
	}
	return median(x), median(y), median(ratios)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// maskFigures compares answers with the same answers under an expression that allows any text.
func maskFigures(t *testing.T, e *engine.Engine, samples []drawnSample) {
	plain := engine.Request{Messages: samples[0].message(samples[0].Prompts["caption"]), MaxTokens: 100, DisableSpeculation: true, DisableLoopGuard: true}
	masked := func(expression string) engine.Request {
		r := plain
		r.Grammar.Regexp = expression
		return r
	}
	_, want := perToken(t, e, plain)
	for _, c := range []struct {
		name string
		expr func(turn int) string
	}{
		{"masks known", func(int) string { return `(?s).{1,900}` }},
		{"masks built beside the steps", func(turn int) string { return fmt.Sprintf(`(?s).{1,%d}`, 700+turn) }},
	} {
		a, b, ratio := compare(t, e, func(int) engine.Request { return plain }, func(turn int) engine.Request { return masked(c.expr(turn)) })
		_, got := perToken(t, e, masked(c.expr(99)))
		require.Equal(t, want.Text, got.Text)
		t.Logf("%s: %.1f µs a token plain, %.1f µs masked, ratio %.4f", c.name, 1e6*a, 1e6*b, ratio)
		if c.name == "masks known" {
			require.Less(t, ratio, 1.05)
		}
	}
}

// guessFigures measures tokens a step where text is copied, and speed where nothing repeats.
func guessFigures(t *testing.T, e *engine.Engine, samples []drawnSample) {
	tokens, steps, plainSteps := 0, 0, 0
	var speed []float64
	for _, s := range samples {
		caption := s.Greedy["caption"]
		r := engine.Request{Messages: s.message("Evidence: " + caption + " " + s.Prompts["caption"]), MaxTokens: 200}
		off := r
		off.DisableSpeculation = true
		p, want := perToken(t, e, off)
		q, got := perToken(t, e, r)
		require.Equal(t, want.Text, got.Text)
		if !strings.Contains(got.Text, caption[:len(caption)/2]) {
			continue // this answer does not copy its evidence
		}
		tokens, steps, plainSteps = tokens+got.Usage.OutputTokens, steps+got.Usage.Steps, plainSteps+want.Usage.Steps
		speed = append(speed, p/q)
	}
	t.Logf("embedded model, %d answers that copy their evidence: %d tokens in %d steps, %d without guessing; %.2f tokens a step, %.2f times the speed (median)",
		len(speed), tokens, steps, plainSteps, float64(tokens)/float64(steps), median(speed))
	require.Greater(t, len(speed), 10)
	require.GreaterOrEqual(t, float64(plainSteps)/float64(steps), 2.0)

	f, err := fake.Open(fake.Options{StepTime: 300 * time.Microsecond, Answer: func(fake.Prompt) string { return "Summary. " + evidence }})
	require.NoError(t, err)
	defer f.Close()
	res, err := f.Generate(t.Context(), engine.Request{Messages: userText("Sum up: " + evidence)})
	require.NoError(t, err)
	t.Logf("constructed: %d tokens in %d steps", res.Usage.OutputTokens, res.Usage.Steps)
	require.LessOrEqual(t, 2*res.Usage.Steps, res.Usage.OutputTokens)

	for _, c := range []struct {
		name        string
		temperature float64
		prompt      string
	}{
		{"captions", 0, samples[0].Prompts["caption"]},
		{"noise (temperature 3)", 3, samples[0].Prompts["caption"]},
	} {
		request := func(turn int, off bool) engine.Request {
			return engine.Request{
				Messages: samples[turn%len(samples)].message(c.prompt), MaxTokens: 150, IgnoreEOS: c.temperature > 0, DisableLoopGuard: true,
				Sampling: engine.Sampling{Temperature: c.temperature, Seed: uint64(turn + 1)}, DisableSpeculation: off,
			}
		}
		a, b, ratio := compare(t, e, func(turn int) engine.Request { return request(turn, false) }, func(turn int) engine.Request { return request(turn, true) })
		t.Logf("%s: %.1f µs a token guessing, %.1f µs plain; %.4f of the plain speed", c.name, 1e6*a, 1e6*b, ratio)
		require.GreaterOrEqual(t, ratio, 0.97)
	}
}
