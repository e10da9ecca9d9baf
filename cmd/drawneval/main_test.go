package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/internal/demo"
)

type fact struct{ Kind, True, False string }

type sample struct {
	Domain  string
	Files   []string
	Prompts map[string]string
	Truth   map[string]string
	Facts   []fact
}

// leastFacts is the share of true sentences that captions of the samples must
// hold. The model says 57 of 60 and 98 of 101; two and four fewer may be lost to
// another processor's rounding.
var leastFacts = map[string]float64{"pictures": 0.91, "text": 0.93}

// text names the domains in which most facts are printed strings.
var text = map[string]bool{"infographic_document": true, "code": true, "knowledge_edu": true, "ui": true, "structure_math": true}

// TestFacts captions the bundled samples with the embedded model and counts the
// facts it states, and the sentences it says instead that differ in one point.
func TestFacts(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	dir := "../../testdata/drawn"
	data, err := os.ReadFile(filepath.Join(dir, "samples.json"))
	require.NoError(t, err)
	var samples []sample
	require.NoError(t, json.Unmarshal(data, &samples))
	require.Len(t, samples, 36)
	var in, out bytes.Buffer
	for i, s := range samples {
		q := question{ID: i, Video: s.Domain == "video", Prompt: s.Prompts["caption"], Most: 220}
		for _, f := range s.Files {
			q.Files = append(q.Files, filepath.Join(dir, f))
		}
		require.NoError(t, json.NewEncoder(&in).Encode(q))
	}
	require.NoError(t, session{open: 8}.run("", engine.Config{Device: "cpu"}, &in, &out))
	states := func(caption, sentence string) bool { return strings.Contains(" "+caption+" ", " "+sentence+" ") }
	right, all, wrong := map[string]int{}, map[string]int{}, 0
	lines := bufio.NewScanner(&out)
	for lines.Scan() {
		var a answer
		require.NoError(t, json.Unmarshal(lines.Bytes(), &a))
		s := samples[a.ID]
		group := "pictures"
		if text[s.Domain] {
			group = "text"
		}
		for _, f := range s.Facts {
			all[group]++
			if states(a.Text, f.True) {
				right[group]++
			} else {
				t.Logf("%s: %q is not in %q", s.Files[0], f.True, a.Text)
			}
			if states(a.Text, f.False) {
				wrong++
			}
		}
		require.LessOrEqual(t, a.LogProb, 0.0)
	}
	for group, least := range leastFacts {
		share := float64(right[group]) / float64(all[group])
		t.Logf("%s: %d of %d facts", group, right[group], all[group])
		require.GreaterOrEqual(t, share, least, group)
	}
	require.LessOrEqual(t, wrong, (all["pictures"]+all["text"])/20)
}

// TestRunRefusesGarbage checks that a line that is no question ends the run with its text.
func TestRunRefusesGarbage(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	err := session{open: 1}.run("", engine.Config{Device: "cpu"}, strings.NewReader("not json\n"), &bytes.Buffer{})
	require.ErrorContains(t, err, "not json")
	err = session{open: 1}.run("", engine.Config{Device: "cpu"}, strings.NewReader(`{"id":3,"files":["absent.png"],"prompt":"x","most":1}`), &bytes.Buffer{})
	require.ErrorContains(t, err, "question 3")
}

// TestAnswerTokens checks the tokens of an answer and the alternatives to its first.
func TestAnswerTokens(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	var out bytes.Buffer
	in := strings.NewReader(`{"id":7,"files":["../../testdata/drawn/ui_700040.png"],"prompt":"Describe the image.","most":6,"top":5}`)
	require.NoError(t, session{open: 1, ids: true}.run("", engine.Config{Device: "cpu"}, in, &out))
	var a answer
	require.NoError(t, json.Unmarshal(out.Bytes(), &a))
	require.Equal(t, 7, a.ID)
	require.Len(t, a.IDs, 6)
	require.Len(t, a.Logs, 6)
	require.Len(t, a.First, 5)
	best, sum, mean := math.Inf(-1), 0.0, 0.0
	for _, v := range a.First {
		best = max(best, v)
		sum += math.Exp(v)
	}
	for _, v := range a.Logs {
		mean += v / 6
	}
	require.InDelta(t, a.Logs[0], best, 1e-6, "greedy takes the likeliest")
	require.LessOrEqual(t, sum, 1+1e-6)
	require.InDelta(t, a.LogProb, mean, 1e-9)
}
