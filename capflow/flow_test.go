package capflow_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/engine"
	"metacap/engine/fake"
)

// open returns a scripted model, and the prompts that it saw.
func open(t *testing.T) (capflow.Model, func() []fake.Prompt) {
	var mu sync.Mutex
	var seen []fake.Prompt
	e, err := fake.Open(fake.Options{Engine: engine.Config{ContextTokens: 8192}, Answer: func(p fake.Prompt) string {
		mu.Lock()
		seen = append(seen, p)
		mu.Unlock()
		switch {
		case strings.Contains(p.Text, "Which domain"):
			if strings.Contains(p.Text, "A. natural") {
				return "A"
			}
			return "H"
		case strings.Contains(p.Text, "Is this statement true"), strings.Contains(p.Text, "Is it true?"), strings.Contains(p.Text, "True of the image?"):
			if strings.Contains(p.Text, "9 birds") {
				return "No"
			}
			return "Yes"
		case strings.Contains(p.Text, "Rate the"):
			return "3"
		case strings.Contains(p.Text, "from the evidence"):
			return "A scene. There are 9 birds. A car is red."
		case strings.Contains(p.Text, "Natural perception"):
			return "There are 2 birds. A car is red."
		case strings.Contains(p.Text, "Does the image"):
			return "No"
		}
		return "A scene."
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	m := capflow.Local(e, capflow.ModelInfo{Name: "scripted"})
	return m, func() []fake.Prompt {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func caption(t *testing.T, m capflow.Model, o capflow.Options, data string) *capflow.Record {
	f, err := capflow.New(m, o)
	require.NoError(t, err)
	r, err := f.Caption(context.Background(), capflow.Input{ID: "a", Images: []engine.Image{{Data: []byte(data)}}})
	require.NoError(t, err)
	return r
}

// TestFaithful: the summariser never sees the picture, and all marks must be 3.
func TestFaithful(t *testing.T) {
	m, seen := open(t)
	r := caption(t, m, capflow.Options{Mode: capflow.Faithful}, "picture")
	require.Equal(t, capflow.Accepted, r.Status)
	require.Equal(t, "A scene. There are 9 birds. A car is red.", r.Captions.Long)
	n := 0
	for _, p := range seen() {
		if strings.Contains(p.Text, "from the evidence") {
			n++
			require.Empty(t, p.Images)
		}
	}
	require.Positive(t, n)
}

// TestVerified: the false sentence goes, the true one of perception comes, and the picture is prefilled once.
func TestVerified(t *testing.T) {
	m, _ := open(t)
	r := caption(t, m, capflow.Options{}, "picture")
	require.Nil(t, r.Error)
	require.NotContains(t, r.Captions.Long, "9 birds")
	require.Contains(t, r.Captions.Long, "There are 2 birds.")
	for _, p := range r.Usage.Prefixes {
		require.LessOrEqual(t, p.Computed, p.Tokens, p.Name)
	}
}

// TestCorrupt: a picture that cannot be read is a record.
func TestCorrupt(t *testing.T) {
	m, _ := open(t)
	r := caption(t, m, capflow.Options{}, "broken")
	require.Equal(t, capflow.Failed, r.Status)
	require.NotNil(t, r.Error)
}
