package grammar_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"metacap/engine/internal/grammar"
	"metacap/tokenizer"
)

// large is the vocabulary of the 8B model.
var large = sync.OnceValues(func() (*grammar.Vocab, *tokenizer.Tokenizer) {
	packed, err := os.ReadFile("../../../testdata/tokenizer/tokenizer.json.gz")
	if err != nil {
		panic(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		panic(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		panic(err)
	}
	tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: data}})
	if err != nil {
		panic(err)
	}
	return vocabOf(tok), tok
})

var benchSchema = []byte(`{"type":"object","properties":{"label":{"enum":["natural","chart","document","ui"]},
	"caption":{"type":"string","maxLength":400},"objects":{"type":"array","items":{"type":"string"},"maxItems":20},
	"count":{"type":"integer"}},"required":["label","caption","objects"]}`)

// TestLargeVocabulary: the real vocabulary, whose tokens span quotes, commas and digits.
func TestLargeVocabulary(t *testing.T) {
	v, tok := large()
	g, err := grammar.Compile(grammar.Spec{JSONSchema: benchSchema}, v)
	require.NoError(t, err)
	for seed := range uint64(5) {
		out := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 12)), 20)
		require.Contains(t, out, `"label":`)
	}
	require.True(t, accepts(g, tok, `{"label": "ui", "caption": "A \"red\" button — 按钮 🙂", "objects": ["a", "b"], "count": 12}`))
}

// BenchmarkMask: cold is the first visit of a state, warm any later one.
func BenchmarkMask(b *testing.B) {
	for name, make := range map[string]func() (*grammar.Vocab, *tokenizer.Tokenizer){"735": small, "151678": large} {
		v, tok := make()
		b.Run("ids="+name+"/walk=cold", func(b *testing.B) { walkMasks(b, v, tok, true) })
		b.Run("ids="+name+"/walk=warm", func(b *testing.B) { walkMasks(b, v, tok, false) })
	}
}

// walkMasks reports the time a token of one answer of the schema.
func walkMasks(b *testing.B, v *grammar.Vocab, tok *tokenizer.Tokenizer, cold bool) {
	ids := tok.Encode(`{"label": "ui", "caption": "A red button beside a blue one, with a label that nobody can read.", "objects": ["button", "label"], "count": 12}`)
	g, err := grammar.Compile(grammar.Spec{JSONSchema: benchSchema}, v)
	require.NoError(b, err)
	mask := make([]uint64, v.Words())
	for b.Loop() {
		if cold {
			b.StopTimer()
			g, err = grammar.Compile(grammar.Spec{JSONSchema: benchSchema}, v)
			require.NoError(b, err)
			b.StartTimer()
		}
		s := g.Start()
		for i, id := range ids {
			if err := s.MaskWithin(mask, 1000-i); err != nil {
				b.Fatal(err)
			}
			var ok bool
			if s, ok = s.Advance(id); !ok {
				b.Fatal("not allowed")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(ids)), "µs/token")
}

func BenchmarkCompile(b *testing.B) {
	v, _ := small()
	for b.Loop() {
		_, err := grammar.Compile(grammar.Spec{JSONSchema: benchSchema}, v)
		require.NoError(b, err)
	}
}

func BenchmarkNewVocab(b *testing.B) {
	_, tok := large()
	for b.Loop() {
		vocabOf(tok)
	}
}
