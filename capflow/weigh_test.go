package capflow_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/engine"
	"metacap/engine/fake"
)

// answering opens a model whose answers the test gives.
func answering(t *testing.T, config string, answer func(fake.Prompt) string) capflow.Model {
	e, err := fake.Open(fake.Options{Engine: engine.Config{ContextTokens: 8192}, Answer: answer})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return capflow.Local(e, capflow.ModelInfo{Name: "scripted", Config: config})
}

// readings is a model that misreads in its plain caption what perception and summary read rightly.
func readings(yes func(claim string) bool) func(fake.Prompt) string {
	return func(p fake.Prompt) string {
		switch {
		case strings.Contains(p.Text, "Which domain"):
			return "A"
		case strings.Contains(p.Text, "Does the image"):
			return "No"
		case strings.Contains(p.Text, "Yes or No"):
			if yes(p.Text) {
				return "Yes"
			}
			return "No"
		case strings.Contains(p.Text, "Rate the"):
			return "3"
		case strings.Contains(p.Text, "Please describe"):
			return "A scene. There are 9 birds. A car is red."
		case strings.Contains(p.Text, "Natural perception"), strings.Contains(p.Text, "from the evidence"):
			return "There are 2 birds. A car is red. The sky is blue and clear."
		}
		return "A scene."
	}
}

func find(r *capflow.Record, text string) capflow.ClaimRecord {
	for _, c := range r.Checks.Claims {
		if c.Text == text {
			return c
		}
	}
	return capflow.ClaimRecord{}
}

// TestWeighWithoutWeights: for a model that the weights are not of, what the
// claim question denies gives way to an alternative, and a sentence only other readings have is added.
func TestWeighWithoutWeights(t *testing.T) {
	m := answering(t, "", readings(func(s string) bool { return !strings.Contains(s, "9 birds") }))
	r := caption(t, m, capflow.Options{}, "picture")
	require.Nil(t, r.Error)
	require.Equal(t, "A scene. There are 2 birds. A car is red. The sky is blue and clear.", r.Captions.Long)
	require.Equal(t, "caption", r.Summary.Base)
	wrong, right := find(r, "There are 9 birds."), find(r, "There are 2 birds.")
	require.Equal(t, "drop", wrong.Action)
	require.Contains(t, wrong.Reasons[len(wrong.Reasons)-1], `likelier: "There are 2 birds."`)
	require.Equal(t, "add", right.Action)
	require.Equal(t, 2, right.Agents)
	require.Contains(t, strings.Join(r.Checks.Off, "\n"), "weights:")
}

// TestWeighOff: each switch does what it says.
func TestWeighOff(t *testing.T) {
	m := answering(t, "", readings(func(s string) bool { return !strings.Contains(s, "9 birds") }))
	r := caption(t, m, capflow.Options{Off: []string{capflow.OffWeigh}}, "picture")
	require.Contains(t, r.Captions.Long, "9 birds")
	r = caption(t, m, capflow.Options{Off: []string{capflow.OffLooks}}, "picture")
	require.Empty(t, r.Summary.Base)
	require.Equal(t, "A scene. There are 2 birds. A car is red. The sky is blue and clear.", r.Captions.Long, "texture perception's sentence, then the summary's")
	r = caption(t, m, capflow.Options{Off: []string{capflow.OffClaims}}, "picture")
	require.Zero(t, find(r, "A car is red.").Looks)
}

// TestRenderings: any number of forms of a caption reads the picture not once more.
func TestRenderings(t *testing.T) {
	m := answering(t, "", readings(func(string) bool { return true }))
	cost := func(o capflow.Options) (tiles, image, renders int) {
		r := caption(t, m, o, "picture")
		require.Nil(t, r.Error)
		for _, p := range r.Usage.Prefixes {
			if p.Name == capflow.SeesImage {
				image = p.Uses
				require.LessOrEqual(t, p.Computed, p.Tokens)
			}
		}
		if r.Captions.Short != "" {
			renders = 3 + len(r.Captions.Other)
		}
		return r.Usage.Tiles, image, renders
	}
	tiles, image, renders := cost(capflow.Options{Off: []string{capflow.OffRender}})
	require.Zero(t, renders)
	_, again, renders := cost(capflow.Options{Render: []string{"alt", "words:20", "language:French"}})
	require.Equal(t, 6, renders)
	require.Equal(t, image, again, "questions on the picture's prefix")
	require.Positive(t, tiles)
}
