package engine_test

import (
	"encoding/json"
	"errors"
	"image"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/trace"
	"metacap/internal/parity"
	"metacap/kernels/cuda/sim"
)

var simulator = sync.OnceValues(func() (string, error) { return sim.Build(sim.Options{}) })

// needSimulator makes the device "sim" available or skips the test.
var needSimulator = func() func(t *testing.T) {
	var once sync.Once
	return func(t *testing.T) {
		lib, err := simulator()
		if errors.Is(err, sim.ErrNoCompiler) {
			t.Skip(err)
		}
		require.NoError(t, err)
		once.Do(func() { engine.OpenSimulator(lib) })
	}
}()

// TestSimulatedGPU decodes greedily on the CUDA backend over the simulated
// driver, recorded steps included, and compares log-probabilities with the
// reference's: tolerance 2e-4, see testdata/README.md.
func TestSimulatedGPU(t *testing.T) {
	needSimulator(t)
	raw, err := os.ReadFile("../testdata/goldens/qwen3-tied-bf16.json")
	require.NoError(t, err)
	var g struct {
		Prompts []struct {
			ID     string
			IDs    []int32 `json:"input_ids"`
			Greedy struct {
				IDs      []int32
				LogProbs []float64
				Margin   []float64
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &g))
	m, err := trace.Open(t.Context(), "../testdata/models/qwen3-tied-bf16", trace.Options{Device: "sim", DType: "f32"})
	require.NoError(t, err)
	defer m.Close()
	var in []trace.Input
	var forced [][]int32
	for _, p := range g.Prompts {
		if len(p.IDs) <= 70 && len(in) < 3 {
			in, forced = append(in, trace.Input{IDs: p.IDs}), append(forced, p.Greedy.IDs[:10])
		}
	}
	require.Len(t, in, 3)
	steps, err := m.Greedy(t.Context(), in, 10, forced)
	require.NoError(t, err)
	for i := range in {
		p := g.Prompts[0]
		for _, q := range g.Prompts {
			if &q.IDs[0] == &in[i].IDs[0] {
				p = q
			}
		}
		for j, st := range steps[i] {
			if p.Greedy.Margin[j] > 2e-3 {
				require.Equal(t, p.Greedy.IDs[j], st.ID, "%s step %d", p.ID, j)
			}
			if diff := math.Abs(st.LogProb - p.Greedy.LogProbs[j]); !(diff <= 2e-4) {
				t.Fatalf("%s step %d: log-probability %g, want %g", p.ID, j, st.LogProb, p.Greedy.LogProbs[j])
			}
		}
	}
}

// TestParitySimulatedHopper compares a fixture model, in bfloat16 too, on the simulated Hopper
// device, whose backend takes the wgmma and streaming kernels, with the reference.
func TestParitySimulatedHopper(t *testing.T) {
	needSimulator(t)
	bf16 := 0
	o := parity.Options{Device: "sim:1", Only: []string{parity.PartModels}, Match: "internvl35-56-remote"}
	_, err := parity.Run(t.Context(), "../testdata", o, func(c parity.Check) {
		require.Equal(t, parity.Pass, c.Verdict, "%+v", c)
		if c.Mode == "bf16" {
			bf16++
		}
	})
	require.NoError(t, err)
	require.NotZero(t, bf16)
}

// TestDifferentialSimulatedGPU: alone and in company, bit for bit, on the CUDA backend.
func TestDifferentialSimulatedGPU(t *testing.T) {
	needSimulator(t)
	for name, device := range map[string]string{"ampere": "sim", "hopper": "sim:1"} {
		t.Run(name, func(t *testing.T) { differentialSimulatedGPU(t, device) })
	}
}

func differentialSimulatedGPU(t *testing.T, device string) {
	open := func(cfg engine.Config) *engine.Engine {
		cfg.Verify, cfg.Device, cfg.ContextTokens = true, device, 512
		e, err := engine.Open(t.Context(), filepath.Join("../testdata/models", "internvl3-qwen25-hf-bf16"), cfg)
		require.NoError(t, err)
		return e
	}
	s := newRealScenario(1)
	s.requests = s.requests[:min(3, len(s.requests))]
	for i := range s.requests {
		s.requests[i].LogProbs, s.requests[i].MaxTokens = true, min(s.requests[i].MaxTokens, 6)
	}
	want, _ := s.alone(t, open)
	got := s.together(t, open, engine.Config{MaxSequences: 3, StepTokens: 40, KVBlocks: 20}, new(engine.Stats))
	require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty()))
}

// TestStepsBegunEarly: greedy requests of many lengths, which come and go while others
// decode, some ended by a stop string, some cancelled. Each answer is the one it has
// alone, and most steps began before they were planned.
func TestStepsBegunEarly(t *testing.T) {
	needSimulator(t)
	open := openSmall(t, "sim", 256)
	var requests []engine.Request
	for i := range 9 {
		r := engine.Request{IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: i != 5, MaxTokens: 12 + 6*i}
		r.Messages = []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Text: strings.Repeat("a b ", i) + strconv.Itoa(i)}}}}
		requests = append(requests, r)
	}
	alone := open(engine.Config{DisablePrefixCache: true})
	var want []outcome
	for i, r := range requests {
		r.DisableSpeculation = true
		res, err := alone.Generate(t.Context(), r)
		require.NoError(t, err)
		want = append(want, outcomeOf(res))
		if i == 4 { // ends in the middle, by what it says
			requests[i].Stop = []string{res.Tokens[20].Text}
			r.Stop = requests[i].Stop
			res, err = alone.Generate(t.Context(), r)
			require.NoError(t, err)
			want[i] = outcomeOf(res)
		}
	}
	st := alone.Stats()
	require.NoError(t, alone.Close())
	require.Equal(t, st.StepsBegun-1, st.StepsTaken, "one sequence alone: only the stop string is not foreseen")
	require.Greater(t, st.StepsTaken, int64(200))

	// Few blocks, so that some are preempted.
	for _, c := range []engine.Config{{MaxSequences: 8, StepTokens: 64}, {MaxSequences: 4, StepTokens: 64, KVBlocks: 12}} {
		e := open(c)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = cancelled(t.Context(), e, requests[8], 20) })
		got := allAtOnce(t, e, requests)
		wg.Wait()
		st := e.Stats()
		require.NoError(t, e.Close())
		require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty()))
		t.Logf("%d steps begun early, %d of them taken", st.StepsBegun, st.StepsTaken)
		require.Greater(t, st.StepsTaken, int64(25))
		require.Greater(t, st.StepsTaken, st.StepsBegun*8/10)
	}
}

// TestSharedPrefixSimulatedGPU: requests that begin with the same long text, decoded together in
// recorded steps that read its keys once, answer as each does alone.
func TestSharedPrefixSimulatedGPU(t *testing.T) {
	needSimulator(t)
	open := openSmall(t, "sim:1", 512)
	var requests []engine.Request
	for i := range 5 {
		r := engine.Request{IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: true, MaxTokens: 20 + i}
		r.Messages = []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Text: strings.Repeat("a b c ", 95) + strings.Repeat("d ", 7*i)}}}}
		requests = append(requests, r)
	}
	alone := open(engine.Config{DisablePrefixCache: true, MaxSequences: 1})
	var want []outcome
	for _, r := range requests {
		res, err := alone.Generate(t.Context(), r)
		require.NoError(t, err)
		require.Greater(t, res.Usage.PromptTokens, 256, "two partitions")
		want = append(want, outcomeOf(res))
	}
	require.NoError(t, alone.Close())

	e := open(engine.Config{MaxSequences: 8, StepTokens: 256})
	_, err := e.Generate(t.Context(), requests[0]) // the prefix is in the cache now
	require.NoError(t, err)
	got := allAtOnce(t, e, requests)
	require.NoError(t, e.Close())
	require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty()))
}

// openSmall opens engines on the small model, checked after every step.
func openSmall(t *testing.T, device string, context int) func(engine.Config) *engine.Engine {
	files := smallModel(t)
	return func(c engine.Config) *engine.Engine {
		c.Device, c.Verify, c.ContextTokens = device, true, context
		e, err := engine.OpenFS(t.Context(), files, "small", c)
		require.NoError(t, err)
		return e
	}
}

// allAtOnce answers requests side by side.
func allAtOnce(t *testing.T, e *engine.Engine, requests []engine.Request) []outcome {
	got := make([]outcome, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() {
			res, err := e.Generate(t.Context(), r)
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			got[i] = outcomeOf(res)
		})
	}
	wg.Wait()
	return got
}

// grey is a picture without much in it.
func grey(width, height int) image.Image {
	im := image.NewGray(image.Rect(0, 0, width, height))
	for i := range im.Pix {
		im.Pix[i] = uint8(i)
	}
	return im
}
