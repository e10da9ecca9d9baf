package engine_test

import (
	"encoding/json"
	"image"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/internal/demo"
)

const drawn = "../testdata/drawn"

// drawnSample is a picture, or the frames of a video, of the demo model's world.
type drawnSample struct {
	Domain  string
	Files   []string
	Prompts map[string]string
	Greedy  map[string]string `json:"model_greedy"`
}

func drawnSamples(t testing.TB) (list []drawnSample) {
	raw, err := os.ReadFile(filepath.Join(drawn, "samples.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &list))
	return list
}

func (s drawnSample) part() engine.Part {
	if len(s.Files) == 1 {
		return engine.Part{Image: &engine.Image{Path: filepath.Join(drawn, s.Files[0])}}
	}
	v := &engine.Video{}
	for _, f := range s.Files {
		v.Frames = append(v.Frames, engine.Image{Path: filepath.Join(drawn, f)})
	}
	return engine.Part{Video: v}
}

func (s drawnSample) message(prompt string) []engine.Message {
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{s.part(), {Text: prompt}}}}
}

func openDemo(t testing.TB, c engine.Config) *engine.Engine {
	c.Verify = true
	e, err := engine.OpenFS(t.Context(), demo.FS(), "demo", c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// TestDemo runs the recorded prompts of the drawn samples together. The weights
// are bfloat16 and so was the reference: answers may leave it at near ties.
func TestDemo(t *testing.T) {
	e := openDemo(t, engine.Config{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	same, all := 0, 0
	samples := drawnSamples(t)
	if !fast {
		samples = samples[:1]
	}
	for _, s := range samples {
		prompt, want := s.Prompts["caption"], s.Greedy["caption"]
		wg.Go(func() {
			r, err := e.Generate(t.Context(), engine.Request{Messages: s.message(prompt), MaxTokens: 200})
			mu.Lock()
			defer mu.Unlock()
			all++
			if err != nil {
				t.Error(err)
			} else if r.Text == want {
				same++
			} else {
				t.Logf("%s: got %q, recorded %q", s.Files[0], r.Text, want)
			}
		})
	}
	wg.Wait()
	require.GreaterOrEqual(t, same, all-2)
}

// TestCrop refuses a rectangle outside the picture.
func TestCrop(t *testing.T) {
	e := openDemo(t, engine.Config{})
	_, err := e.Estimate(t.Context(), engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{
		{Image: &engine.Image{Path: filepath.Join(drawn, "natural_700000.png"), Crop: image.Rect(0, 0, 9000, 9)}},
	}}}})
	require.ErrorIs(t, err, engine.ErrInvalidRequest)
	var im *engine.ImageError
	require.ErrorAs(t, err, &im)
	require.Contains(t, im.Path, "natural_700000.png")
}
