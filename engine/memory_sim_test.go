package engine_test

import (
	"errors"
	"image"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
)

// simControl steers the simulated driver that the device "sim" uses.
func simControl(t *testing.T) (c sim.Control, count func(sim.Counter) int64) {
	needSimulator(t)
	lib, err := simulator()
	require.NoError(t, err)
	d, err := driver.Open(driver.Options{Library: lib})
	require.NoError(t, err)
	c = sim.Control{Driver: d}
	t.Cleanup(func() { require.NoError(t, c.SetMemory(2<<30)) })
	return c, func(which sim.Counter) int64 {
		n, err := c.Count(which)
		require.NoError(t, err)
		return int64(n)
	}
}

// full is the largest load that an engine admits: every sequence with its longest
// prompt, a picture of the most tiles among them, and enough answer to fill the context.
func full(t *testing.T, e *engine.Engine, sequences int) {
	t.Helper()
	done := make(chan error)
	for i := range sequences {
		r := engine.Request{IgnoreEOS: true, DisableLoopGuard: true, MaxTokens: 4}
		parts := []engine.Part{{Text: strings.Repeat("a ", e.Info().ContextTokens-120)}}
		if i%2 == 0 {
			parts = []engine.Part{{Image: &engine.Image{Decoded: grey(12*56, 56)}}, {Text: strings.Repeat("b ", e.Info().ContextTokens-220)}}
			r.Sampling.Temperature = 1
		}
		r.Messages = []engine.Message{{Role: engine.RoleUser, Parts: parts}}
		go func() {
			_, err := e.Generate(t.Context(), r)
			done <- err
		}()
	}
	for range sequences {
		require.NoError(t, <-done)
	}
}

// TestMemoryBudget checks on the simulated GPU that what Open allocates is the plan, to
// the byte, that the largest load allocates nothing more, and that a device of any size
// refuses at Open or serves to the end: it never runs out in between.
func TestMemoryBudget(t *testing.T) {
	c, count := simControl(t)
	files := smallModel(t)
	// Blocks for one context and a bit: sequences wait and are preempted.
	config := engine.Config{Device: "sim", Verify: true, MaxSequences: 4, StepTokens: 128, ContextTokens: 320, EncoderCacheBytes: 64 << 10}
	open := func(blocks int) (*engine.Engine, error) {
		config.KVBlocks = blocks
		return engine.OpenFS(t.Context(), files, "small", config)
	}
	// The driver's own share of a recording is set aside, not allocated by us.
	const recordings = 128 << 20

	require.Zero(t, count(sim.Allocations), "something else is alive")
	e, err := open(16)
	require.NoError(t, err)
	b := e.Info().Budget
	require.Equal(t, b.Total()-recordings, count(sim.AllocatedBytes), "%s", b)
	require.Positive(t, b.Backend-recordings, "the kernels of this shape need workspace")
	// Arrays and ids of two lanes, and pixels of tiles.
	require.EqualValues(t, 5, count(sim.HostAllocations), "staging memory of the loader stays")
	held := count(sim.Allocations)
	full(t, e, 6)
	require.Equal(t, held, count(sim.Allocations), "a step allocated device memory")
	require.Equal(t, b.Total()-recordings, count(sim.AllocatedBytes))
	require.NoError(t, e.Close())
	require.Zero(t, count(sim.AllocatedBytes))

	// All of a device: the plan leaves a tenth to others.
	enough := b.Total()*10/9 + 4096
	opened, refused := 0, 0
	for _, bytes := range []int64{1 << 20, b.Weights, b.Total() / 2, b.Total() - 1, enough - 1<<20, enough, enough + 1<<20} {
		require.NoError(t, c.SetMemory(bytes))
		e, err := open(0)
		if err != nil {
			require.ErrorIs(t, err, engine.ErrOutOfMemory, "a device of %d bytes", bytes)
			require.Zero(t, count(sim.AllocatedBytes), "a device of %d bytes", bytes)
			refused++
			continue
		}
		opened++
		b := e.Info().Budget
		require.LessOrEqual(t, b.Total(), bytes/10*9, "a device of %d bytes: %s", bytes, b)
		full(t, e, 2)
		require.NoError(t, e.Close(), "a device of %d bytes", bytes)
	}
	require.Positive(t, opened)
	require.GreaterOrEqual(t, refused, 3)
}

// TestEncodingRecorded: a picture whose tiles are encoded by a recording, which another
// picture of as many tiles made, gets the answer that it gets from a new engine.
func TestEncodingRecorded(t *testing.T) {
	_, count := simControl(t)
	files := smallModel(t)
	for _, device := range []string{"sim", "sim:1"} {
		t.Run(device, func(t *testing.T) {
			answer := func(shades ...uint8) (last outcome, recordings int64) {
				e, err := engine.OpenFS(t.Context(), files, "small", engine.Config{Device: device, MaxSequences: 2, StepTokens: 64, ContextTokens: 128, KVBlocks: 8})
				require.NoError(t, err)
				defer func() { require.NoError(t, e.Close()) }()
				for _, shade := range shades {
					im := image.NewGray(image.Rect(0, 0, 3*56, 56))
					for i := range im.Pix {
						im.Pix[i] = shade + uint8(i*i>>5)
					}
					res, err := e.Generate(t.Context(), engine.Request{
						Messages:  []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Decoded: im, MaxTiles: 3}}, {Text: "What?"}}}},
						MaxTokens: 1, IgnoreEOS: true, LogProbs: true,
					})
					require.NoError(t, err)
					require.EqualValues(t, 4, res.Usage.TilesEncoded)
					last, recordings = outcomeOf(res), count(sim.Graphs)
				}
				return last, recordings
			}
			want, recordings := answer(90)
			require.EqualValues(t, 1, recordings)
			got, recordings := answer(7, 90)
			require.EqualValues(t, 1, recordings)
			require.Equal(t, want, got)
			other, _ := answer(7)
			require.NotEqual(t, other, got, "the pictures do not differ")
		})
	}
}

// TestEngineSurvivesFailures makes driver calls of an engine's life fail, one at a time
// and spread over it. Whatever fails, the error is the driver's, every request ends, and
// closing leaves nothing behind.
func TestEngineSurvivesFailures(t *testing.T) {
	c, count := simControl(t)
	files := smallModel(t)
	life := func() error {
		e, err := engine.OpenFS(t.Context(), files, "small", engine.Config{
			Device: "sim", MaxSequences: 2, StepTokens: 64, ContextTokens: 128, KVBlocks: 8, EncoderCacheBytes: 64 << 10,
		})
		if err != nil {
			return err
		}
		var errs []error
		for _, text := range []string{"one", "two"} {
			_, err := e.Generate(t.Context(), engine.Request{
				Messages:  []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Decoded: grey(56, 56)}}, {Text: text}}}},
				MaxTokens: 4, IgnoreEOS: true,
			})
			errs = append(errs, err)
		}
		return errors.Join(append(errs, e.Close())...)
	}
	before := count(sim.Calls)
	require.NoError(t, life())
	calls := int(count(sim.Calls) - before)
	const lives = 48
	for i := range lives {
		at := i * calls / lives
		require.NoError(t, c.Fail(at, driver.CodeIllegalAddress))
		err := life()
		require.NoError(t, c.Fail(-1, 0))
		require.Error(t, err, "call %d of %d", at, calls)
		require.ErrorContains(t, err, "CUDA_ERROR_ILLEGAL_ADDRESS", "call %d of %d", at, calls)
		leaks, lerr := c.Leaks()
		require.NoError(t, lerr)
		if len(leaks) > 0 {
			// A free that failed cannot be made up for.
			require.Regexp(t, "cuMemFree|Destroy|cuModuleUnload|cuCtxSetCurrent|Release", err.Error(), "call %d: %v is alive", at, leaks)
			_, err := c.Driver.Extension("sim_reset")
			require.NoError(t, err)
		}
	}
	require.NoError(t, life(), "the next engine works")
}
