package capflow_test

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/pack"
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

// weighted is the test model as the one whose weights the pack has, and a picture
// of a size that views can be cut from.
func weighted(t *testing.T, o capflow.Options, answer func(fake.Prompt) string) *capflow.Record {
	m := answering(t, pack.Default().Support.Config, answer)
	f, err := capflow.New(m, o)
	require.NoError(t, err)
	r, err := f.Caption(context.Background(), capflow.Input{ID: "a", Images: []engine.Image{{Decoded: image.NewGray(image.Rect(0, 0, 200, 200))}}})
	require.NoError(t, err)
	require.Nil(t, r.Error)
	return r
}

// misread is a model that misreads the whole picture, and reads views of it rightly.
func misread(p fake.Prompt) string {
	if strings.Contains(p.Text, "Please describe") && len(p.Images) > 0 && strings.Contains(p.Images[0], "crop") {
		return "A scene. There are 2 birds. A car is red."
	}
	return readings(func(string) bool { return true })(p)
}

// TestWeighted: with the weights of the model, views outvote the whole picture, and
// each probability is the logistic sum that the pack describes.
func TestWeighted(t *testing.T) {
	r := weighted(t, capflow.Options{}, misread)
	require.Contains(t, r.Captions.Long, "There are 2 birds.")
	require.NotContains(t, r.Captions.Long, "9 birds")
	require.NotContains(t, strings.Join(r.Checks.Off, "\n"), "weights:")

	wrong, right := find(r, "There are 9 birds."), find(r, "There are 2 birds.")
	require.Equal(t, 1, wrong.Views, "the whole picture")
	require.Equal(t, 3, right.Views)
	require.Equal(t, 2, right.Agents, "perception and summary")
	require.Greater(t, *right.LogP, *wrong.LogP, "three of the four looks would say it")

	w := pack.Default().Support.Own
	asked := 0
	for _, c := range r.Checks.Claims {
		odds := w.OddsUnasked
		if c.Looks > 0 {
			asked++
			odds = max(-6, min(6, math.Log(*c.Claim/(1-*c.Claim))))
		}
		sum := w.Bias + w.LogProb*max(-8, *c.LogP) + w.Claim*odds + w.View*float64(c.Views) + w.Agent*float64(c.Agents)
		require.InDelta(t, 1/(1+math.Exp(-sum)), c.PTrue, 1e-9, c.Text)
	}
	require.Zero(t, find(r, "A car is red.").Looks, "all readings agree: the question could change nothing")
	require.Less(t, asked, len(r.Checks.Claims))
}

// TestWeightedHold: a sentence that only one look of four says falls without a substitute.
func TestWeightedHold(t *testing.T) {
	r := weighted(t, capflow.Options{Off: []string{capflow.OffRevise}}, func(p fake.Prompt) string {
		if strings.Contains(p.Text, "Please describe") && len(p.Images) > 0 && !strings.Contains(p.Images[0], "crop") {
			return "A car is red. A fox runs over the bridge."
		}
		if strings.Contains(p.Text, "Please describe") || strings.Contains(p.Text, "from the evidence") || strings.Contains(p.Text, "Natural perception") {
			return "A car is red."
		}
		return readings(func(s string) bool { return !strings.Contains(s, "fox") })(p)
	})
	require.Equal(t, "A car is red.", r.Captions.Long)
	fox := find(r, "A fox runs over the bridge.")
	require.Equal(t, "drop", fox.Action)
	require.Less(t, fox.PTrue, pack.Default().Thresholds.Hold)
}

// TestDensePage: text of many lines is read again in overlapping bands, and what two
// bands see counts once; text of few lines is not.
func TestDensePage(t *testing.T) {
	line := func(from, to int) string {
		var out []string
		for i := from; i < to; i++ {
			out = append(out, fmt.Sprintf("line %d", i))
		}
		return strings.Join(out, "\n")
	}
	for _, c := range []struct {
		lines int
		want  string
	}{{30, line(0, 60)}, {5, line(0, 5)}} {
		r := weighted(t, capflow.Options{Off: []string{capflow.OffRender}}, func(p fake.Prompt) string {
			if strings.Contains(p.Text, "readable text?") {
				return "Yes"
			}
			if !strings.Contains(p.Text, "Transcribe") {
				return readings(func(string) bool { return true })(p)
			}
			switch i := strings.Index(p.Images[0], " crop "); {
			case i < 0:
				return line(0, c.lines)
			case strings.HasSuffix(p.Images[0], "+0+0"):
				return line(0, 24)
			case strings.HasSuffix(p.Images[0], "+0+50"):
				return line(20, 44)
			}
			return line(40, 60)
		})
		i := slices.IndexFunc(r.Agents, func(a capflow.AgentRecord) bool { return a.ID == "ocr" })
		require.Equal(t, c.want, r.Agents[i].Text)
	}
}

// TestProbed: a probe that finds something calls its agent whatever the domain.
func TestProbed(t *testing.T) {
	for text, want := range map[string]bool{"Yes": true, "No": false} {
		m := answering(t, "", func(p fake.Prompt) string {
			if strings.Contains(p.Text, "source code?") {
				return text
			}
			return readings(func(string) bool { return true })(p)
		})
		r := caption(t, m, capflow.Options{}, "picture")
		require.Equal(t, "natural", r.Domain.Label)
		require.Equal(t, want, slices.ContainsFunc(r.Agents, func(a capflow.AgentRecord) bool { return a.ID == "coder" && a.Text != "" }))
	}
}
