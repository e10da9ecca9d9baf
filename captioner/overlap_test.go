package captioner_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine"
	"metacap/engine/fake"
	"metacap/vision"
)

// preparing is an engine that decodes and tiles a picture before it takes it, as
// engines of real models do in the caller's goroutine; the fake one looks only at
// the bytes.
type preparing struct {
	*engine.Engine
	pool *vision.Pool
}

func (p *preparing) Generate(ctx context.Context, r engine.Request) (*engine.Result, error) {
	for _, m := range r.Messages {
		for _, part := range m.Parts {
			if part.Image == nil {
				continue
			}
			out := p.pool.Prepare(ctx, vision.Job{Data: part.Image.Data})
			if out.Err != nil {
				return nil, out.Err
			}
			p.pool.Recycle(out.Tiles)
		}
	}
	return p.Engine.Generate(ctx, r)
}

// TestOverlap runs a job whose engine needs a stated time a step and whose pictures
// must be decoded and tiled: 1280×960, 13 tiles each. The engine must not wait for
// them. With METACAP_OVERLAP set the job must reach 95 % of the rate at which the
// engine answers the same requests without any decoding, which needs a machine
// that does nothing else; without, the test checks what the summary says.
func TestOverlap(t *testing.T) {
	strict := os.Getenv("METACAP_OVERLAP") != ""
	n, step := 24, 2*time.Millisecond
	if strict {
		n, step = 600, 8*time.Millisecond
	}
	dir := t.TempDir()
	img := image.NewRGBA(image.Rect(0, 0, 1280, 960))
	for y := range 960 {
		for x := range 1280 {
			img.SetRGBA(x, y, color.RGBA{uint8(x * y >> 9), uint8(x ^ y), uint8((x + 2*y) >> 3), 255})
		}
	}
	var data bytes.Buffer
	require.NoError(t, jpeg.Encode(&data, img, &jpeg.Options{Quality: 80}))
	pool := vision.NewPool(vision.PoolConfig{Recipe: vision.Recipe{MaxTiles: 12}})
	out := pool.Prepare(t.Context(), vision.Job{Data: data.Bytes()})
	require.NoError(t, out.Err)
	require.Equal(t, 13, out.Tiles.Count())
	for i := range n {
		file := append(append([]byte{0xFF, 0xD8, 0xFF, 0xFE, 0, 6}, fmt.Sprintf("%04d", i)...), data.Bytes()[2:]...)
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%04d.jpg", i)), file, 0o644))
	}
	const sequences = 16
	o := fake.Options{
		StepTime: step, Tiles: 13, TileTokens: 1, Engine: engine.Config{MaxSequences: sequences, StepTokens: 1024},
		Answer: func(fake.Prompt) string { return "A picture of " + strings.Repeat("colour ", 6) + "." },
	}
	alone := 0.0
	if strict {
		alone = engineRate(t, open(t, o), dir, n)
	}
	j := job(dir)
	j.Write, j.Recipe.Filters.Duplicates = []string{"jsonl"}, -1
	rep := run(t, &preparing{open(t, o), pool}, j)
	require.Equal(t, n, rep.Done)
	t.Logf("%d pictures, a step of %v, %d sequences, %d processors: job %.1f images/s, engine busy %.1f %%, slowest stage %s",
		n, step, sequences, runtime.GOMAXPROCS(0), rep.Rate, 100*rep.EngineBusy, rep.Bottleneck)
	require.Positive(t, rep.Busy[captioner.StagePrepare])
	require.Positive(t, rep.EngineBusy)
	require.NotEmpty(t, rep.Bottleneck)
	if strict {
		t.Logf("engine alone %.1f images/s: the job has %.1f %% of it", alone, 100*rep.Rate/alone)
		require.Equal(t, captioner.StageDecode, rep.Bottleneck)
		require.GreaterOrEqual(t, rep.Rate, 0.95*alone)
	}
	t.Run("slow pictures are named", func(t *testing.T) {
		slow := &preparing{open(t, fake.Options{Tiles: 1, TileTokens: 1, Answer: o.Answer}), pool}
		j := j
		j.Dir, j.InFlight = filepath.Join(dir, "job"), 1 // one at a time: nothing overlaps
		rep := run(t, slow, j)
		require.Equal(t, captioner.StagePrepare, rep.Bottleneck, "%+v", rep.Busy)
	})
}

// engineRate is the rate at which an engine alone answers the job's requests.
func engineRate(t *testing.T, e *engine.Engine, dir string, n int) float64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jpg"))
	require.NoError(t, err)
	require.Len(t, names, n)
	prompt := "Describe this image in detail."
	for _, p := range captioner.Presets() {
		if p.Name == captioner.DefaultPreset {
			prompt = p.Prompt
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			data, err := os.ReadFile(name)
			if err == nil {
				_, err = e.Generate(t.Context(), engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Data: data}}, {Text: prompt}}}}})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}
