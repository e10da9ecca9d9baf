package engine_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/fake"
	"metacap/internal/demo"
)

func benchDemo(b *testing.B, c engine.Config) *engine.Engine {
	e, err := engine.OpenFS(b.Context(), demo.FS(), "demo", c)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, e.Close()) })
	return e
}

// BenchmarkDecode decodes answers of 128 tokens on the embedded model.
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("backend=cpu/batch=%d", n), func(b *testing.B) {
			e := benchDemo(b, engine.Config{Device: "cpu", Threads: 1})
			s, err := e.NewSession(b.Context(), drawnSamples(b)[0].message(""), engine.SessionOptions{})
			require.NoError(b, err)
			b.ReportAllocs()
			tokens := 0
			for b.Loop() {
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() {
						_, err := s.Generate(b.Context(), "Describe.", engine.Request{MaxTokens: 128, IgnoreEOS: true, DisableSpeculation: true, DisableLoopGuard: true})
						require.NoError(b, err)
					})
				}
				wg.Wait()
				tokens += n * 128
			}
			b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}

// BenchmarkShare asks seven questions about one picture, with one prefix and with none shared.
func BenchmarkShare(b *testing.B) {
	sample := drawnSamples(b)[0]
	for _, share := range []bool{true, false} {
		b.Run(fmt.Sprintf("backend=cpu/share=%v", share), func(b *testing.B) {
			c := engine.Config{Device: "cpu", DisablePrefixCache: true, EncoderCacheBytes: -1}
			e := benchDemo(b, c)
			r := engine.Request{MaxTokens: 24, IgnoreEOS: true, DisableSpeculation: true}
			for b.Loop() {
				ask := func(prompt string) error {
					q := r
					q.Messages = sample.message(prompt)
					_, err := e.Generate(b.Context(), q)
					return err
				}
				if share {
					s, err := e.NewSession(b.Context(), []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{sample.part()}}}, engine.SessionOptions{})
					require.NoError(b, err)
					defer s.Close()
					ask = func(prompt string) error {
						_, err := s.Generate(b.Context(), prompt, r)
						return err
					}
				}
				var wg sync.WaitGroup
				for i := range 7 {
					wg.Go(func() { require.NoError(b, ask(fmt.Sprintf("Describe part %d of the image.", i))) })
				}
				wg.Wait()
			}
		})
	}
}

// BenchmarkSpeculation copies evidence that stands in the prompt.
func BenchmarkSpeculation(b *testing.B) {
	sample := drawnSamples(b)[0]
	evidence := sample.Greedy["caption"]
	for _, off := range []bool{false, true} {
		for name, prompt := range map[string]string{"copy": "Evidence: " + evidence + " Please describe the image in detail.", "plain": "Please describe the image in detail."} {
			b.Run(fmt.Sprintf("backend=cpu/text=%s/guess=%v", name, !off), func(b *testing.B) {
				e := benchDemo(b, engine.Config{Device: "cpu", Threads: 1})
				tokens, steps := 0, 0
				for b.Loop() {
					r, err := e.Generate(b.Context(), engine.Request{Messages: sample.message(prompt), MaxTokens: 120, DisableSpeculation: off})
					require.NoError(b, err)
					tokens += r.Usage.OutputTokens
					steps += r.Usage.Steps
				}
				b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tok/s")
				b.ReportMetric(float64(tokens)/float64(steps), "tok/step")
			})
		}
	}
}

// BenchmarkSteps is the engine's own cost: sequences of a fake model whose steps take no time.
func BenchmarkSteps(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("sequences=%d", n), func(b *testing.B) {
			e, err := fake.Open(fake.Options{Engine: engine.Config{MaxSequences: n, StepTokens: 16 * n}, Answer: func(fake.Prompt) string { return strings.Repeat("x", 1000) }})
			require.NoError(b, err)
			defer e.Close()
			b.ReportAllocs()
			done := 0
			for b.Loop() {
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() {
						_, err := e.Generate(b.Context(), engine.Request{Messages: userText("x"), MaxTokens: 200, DisableSpeculation: true, DisableLoopGuard: true})
						require.NoError(b, err)
					})
				}
				wg.Wait()
				done += n * 200
			}
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "seq-steps/s")
		})
	}
}
