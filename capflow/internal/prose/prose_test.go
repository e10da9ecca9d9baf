package prose_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/capflow/internal/prose"
)

func TestSentences(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"A cat.", []string{"A cat."}},
		{"It reads \"Stop. Now.\" here. It is 3.5 m! End", []string{"It reads \"Stop. Now.\" here.", "It is 3.5 m!", "End"}},
		{"See e.g. the cat. Two", []string{"See e.g. the cat.", "Two"}},
		{"one\n\ntwo", []string{"one", "two"}},
		{"An open \" quote\nnext. Last.", []string{"An open \" quote", "next.", "Last."}},
	} {
		require.Equal(t, c.want, prose.Sentences(c.text), c.text)
	}
}

// TestSentencesKeepText: no character but white space is lost.
func TestSentencesKeepText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune("aB. !?\n\"“”1,é"))).Draw(t, "text")
		strip := func(s string) string { return strings.Join(strings.Fields(s), "") }
		require.Equal(t, strip(text), strip(strings.Join(prose.Sentences(text), " ")))
		prose.Literals(text)
		prose.Words(text)
	})
}

func TestLiterals(t *testing.T) {
	var got []string
	for _, l := range prose.Literals(`Sales of $1,200.50 (3%) in "Births 2023", stone35 and 10um; 4 birds.`) {
		got = append(got, l.Kind+":"+l.Norm)
	}
	require.Equal(t, []string{"quote:births 2023", "number:1200.5", "number:3", "number:10", "number:4"}, got)
}

func TestSameButNumber(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"There are 2 birds.", "There are 4 birds.", true},
		{"There are 2 birds.", "There are 2 birds.", false},
		{"Car is 8.", "Boat is 8.", false},
		{"Car is 8.", "Boat is 4.", false},
		{`The button "OK" is enabled.`, `The button "Help" is enabled.`, false},
		{"2023 is 71.", "2024 is 71.", false},
		{`The title reads "A b".`, `The title reads "A b".`, false},
		{"The sky is blue.", "The sky is dark.", false},
	} {
		require.Equal(t, c.want, prose.SameButNumber(c.a, c.b), "%q %q", c.a, c.b)
	}
}

func TestMergeLines(t *testing.T) {
	require.Equal(t, "a\nb\nc\nd", prose.MergeLines([]string{"a\nb\nc", "b\nc\nd", ""}))
	require.Equal(t, "a\nx", prose.MergeLines([]string{"a", "x"}))
}

func TestTags(t *testing.T) {
	require.Equal(t, []string{"dog", "night sky"}, prose.Tags("dog, night sky, dog,."))
}
