package drawn_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/drawn"
	"metacap/capflow/pack"
	"metacap/engine/fake"
)

// set writes a set of two pictures and loads it.
func set(t *testing.T) []*drawn.Sample {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.png"), []byte("picture"), 0o644))
	entry := func(seed int, caption string, facts ...drawn.Fact) map[string]any {
		return map[string]any{
			"domain": "natural", "seed": seed, "files": []string{"a.png"}, "overview": "A scene.",
			"truth": map[string]any{"caption": caption, "ocr": "EXIT 7", "short": "A scene."}, "facts": facts,
		}
	}
	data, err := json.Marshal([]any{
		entry(1, "A scene. There are 2 birds. A car is red.", drawn.Fact{Kind: "count", True: "There are 2 birds.", False: "There are 5 birds."}, drawn.Fact{Kind: "color", True: "A car is red.", False: "A car is blue."}),
		entry(2, "A scene. There are 9 birds.", drawn.Fact{Kind: "count", True: "There are 9 birds.", False: "There are 8 birds."}),
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "samples.json"), data, 0o644))
	ss, err := drawn.Load(dir)
	require.NoError(t, err)
	require.Len(t, ss, 2)
	return ss
}

func record(caption string) *capflow.Record {
	return &capflow.Record{Status: capflow.Accepted, Captions: &capflow.Captions{Long: caption}}
}

// TestMeasure counts by hand.
func TestMeasure(t *testing.T) {
	s := set(t)[0]
	p := pack.Default()
	c := s.Measure(record("A scene. There are 3 birds. A car is red. The exit reads \"7\"."), p)
	require.Equal(t, 4, c.Sentences)
	require.Equal(t, 2, c.Wrong, "the birds, and a true sentence that is no fact")
	require.Equal(t, []int{2, 1}, []int{c.Facts, c.Found})
	require.Equal(t, []int{1, 0}, []int{c.Numbers, c.NumbersFound})
	require.Equal(t, []int{2, 1}, []int{c.Said, c.SaidWrong}, "7 is in the text of the picture, 3 is nowhere")
	require.Equal(t, []int{2, 2}, []int{c.Words, c.WordsFound})
	require.Zero(t, c.Leaks)
	for _, bad := range []string{"Sure, a scene.", "Caption: A scene.", "A scene <|im_end|>", p.Refusals[0]} {
		require.Equal(t, 1, s.Measure(record(bad), p).Leaks, bad)
	}
	require.Equal(t, 1, s.Measure(&capflow.Record{Status: capflow.Failed}, p).Failed)
}

// TestDifference: a variant that is wrong in one of four sentences more, in every
// picture, differs by exactly that, however the pictures themselves differ.
func TestDifference(t *testing.T) {
	var a, b []drawn.Counts
	for i := range 40 {
		b = append(b, drawn.Counts{Sentences: 4, Wrong: i % 4})
		a = append(a, drawn.Counts{Sentences: 4, Wrong: i%4 + 1})
	}
	wrong := func(c *drawn.Counts) (int, int) { return c.Wrong, c.Sentences }
	require.Equal(t, "+25.0 (+25.0 to +25.0)", drawn.Difference(a, b, wrong).Points())
	require.Equal(t, "–", drawn.Difference(a, make([]drawn.Counts, 40), wrong).Points(), "nothing was said")
}

// TestPlant changes one fact, the same each time.
func TestPlant(t *testing.T) {
	s := set(t)[1]
	got, ok := s.Plant()
	require.True(t, ok)
	require.Equal(t, "A scene. There are 8 birds.", got)
}

// TestRun evaluates a model that always says the first picture's caption.
func TestRun(t *testing.T) {
	asked := 0
	e, err := fake.Open(fake.Options{Answer: func(fake.Prompt) string {
		asked++
		return "A scene. There are 2 birds. A car is red."
	}})
	require.NoError(t, err)
	defer e.Close()
	p := pack.Default()
	var flows []string
	var records []*capflow.Record
	o := drawn.Options{
		Records: func(flow string, r []*capflow.Record) error {
			flows = append(flows, flow)
			records = r
			require.Len(t, r, 2)
			return nil
		},
	}
	m, samples := capflow.Local(e, capflow.ModelInfo{}), set(t)
	rep, err := drawn.Run(t.Context(), m, "set", samples, drawn.Variants(p, []string{"single"}, nil), o)
	require.NoError(t, err)
	require.Equal(t, []string{"single"}, flows)
	r := rep.Results[0]
	require.InDelta(t, 2.0/6, r.Wrong.Value, 1e-9)
	require.InDelta(t, 2.0/3, r.Recall.Value, 1e-9)
	require.LessOrEqual(t, r.Wrong.Lo, r.Wrong.Value)
	require.GreaterOrEqual(t, r.Wrong.Hi, r.Wrong.Value)
	require.Equal(t, [2]uint64{1, 2}, rep.Seeds)
	text := rep.Markdown("metacap eval drawn")
	require.Contains(t, text, "| single | 33.3 %")
	require.Contains(t, text, "| natural | 33.3 / 66.7 |")

	// An evaluation goes on where it was broken off, with records of the same flow only.
	o.Known = func(string) ([]*capflow.Record, error) { return records, nil }
	asked = 0
	again, err := drawn.Run(t.Context(), m, "set", samples, drawn.Variants(p, []string{"single"}, nil), o)
	require.NoError(t, err)
	require.Zero(t, asked)
	require.Equal(t, r.Wrong, again.Results[0].Wrong)
	other := drawn.Variants(p, []string{"single"}, nil)
	other[0].Options.MaxTiles = 1
	_, err = drawn.Run(t.Context(), m, "set", samples, other, o)
	require.NoError(t, err)
	require.Positive(t, asked)
}

func TestRates(t *testing.T) {
	w := drawn.Wilson(96, 100) // by hand: centre 0.9430, half width 0.0413
	require.InDelta(t, 0.9016, w.Lo, 5e-4)
	require.InDelta(t, 0.9843, w.Hi, 5e-4)
	require.InDelta(t, 0.25, drawn.Calibration([]float64{0.75, 0.75}, []bool{true, false}), 1e-9)
}
