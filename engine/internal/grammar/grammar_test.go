package grammar_test

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/engine/internal/grammar"
	"metacap/engine/internal/grammar/grammartest"
	"metacap/tokenizer"
)

// small is the vocabulary of the tiny checkpoints: 700 base tokens, 35 added.
var small = sync.OnceValues(func() (*grammar.Vocab, *tokenizer.Tokenizer) {
	tok, err := tokenizer.Open("../../../testdata/models/qwen3-tied-bf16")
	if err != nil {
		panic(err)
	}
	return vocabOf(tok), tok
})

func vocabOf(tok *tokenizer.Tokenizer) *grammar.Vocab {
	v, err := grammar.NewVocab(tok.VocabSize(), func(id int32) []byte {
		if tok.IsAdded(id) {
			return nil
		}
		return tok.Bytes(id)
	}, tok.EOS())
	if err != nil {
		panic(err)
	}
	return v
}

// generate picks allowed tokens at random until the answer ends or the budget is used.
func generate(t require.TestingT, g *grammar.Grammar, v *grammar.Vocab, tok *tokenizer.Tokenizer, rng *rand.Rand, extra int) string {
	s := g.Start()
	budget := s.MinTokens() + extra
	mask := make([]uint64, v.Words())
	var ids []int32
	for left := budget; left > 0 && !s.Done(); left-- {
		require.LessOrEqual(t, s.MinTokens(), left)
		require.NoError(t, s.MaskWithin(mask, left))
		id, ok := pick(mask, rng)
		require.True(t, ok, "no token allowed after %q", tok.Decode(ids, false))
		next, ok := s.Advance(id)
		require.True(t, ok, "the mask allows token %d, Advance does not", id)
		s = next
		if s.Ended() {
			break
		}
		ids = append(ids, id)
	}
	require.True(t, s.Accepting(), "budget %d used by %q", budget, tok.Decode(ids, false))
	return tok.Decode(ids, false)
}

func pick(mask []uint64, rng *rand.Rand) (int32, bool) {
	n := 0
	for _, w := range mask {
		n += bits.OnesCount64(w)
	}
	if n == 0 {
		return 0, false
	}
	k := rng.IntN(n)
	for i, w := range mask {
		if c := bits.OnesCount64(w); k >= c {
			k -= c
			continue
		}
		for ; k > 0; k-- {
			w &= w - 1
		}
		return int32(i*64 + bits.TrailingZeros64(w)), true
	}
	return 0, false
}

// TestRandomSchemas: 2,000 random walks through random schemas all parse and validate.
func TestRandomSchemas(t *testing.T) {
	v, tok := small()
	kinds := map[byte]int{}
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 6))
		text, err := json.Marshal(grammartest.Schema(rng, 3))
		require.NoError(t, err)
		g, err := grammar.Compile(grammar.Spec{JSONSchema: text}, v)
		require.NoError(t, err, "seed %d: %s", seed, text)
		out := generate(t, g, v, tok, rng, []int{0, 3, 40, 120}[rng.IntN(4)])
		var schema map[string]any
		require.NoError(t, json.Unmarshal(text, &schema))
		var x any
		require.NoError(t, json.Unmarshal([]byte(out), &x), "seed %d: %s gives %q", seed, text, out)
		require.True(t, grammartest.Valid(schema, x), "seed %d: %s gives %q", seed, text, out)
		kinds[out[0]]++
	}
	for _, c := range []byte(`"{[tn-1`) {
		require.Greater(t, kinds[c], 5, "few answers start with %q", c)
	}
}

// TestRegexps: random walks match, and what matches is allowed token by token.
func TestRegexps(t *testing.T) {
	v, tok := small()
	for _, c := range []struct {
		expr string
		in   []string
		out  []string
	}{
		{`[A-I]`, []string{"A", "I"}, []string{"J", "AA", ""}},
		{`^(yes|no|not sure)$`, []string{"yes", "no", "not sure"}, []string{"nots", "maybe"}},
		{`(a|b)*a(a|b){6}`, []string{"abbbbbb", "bbaaaaaaa"}, []string{"bbbbbbb"}},
		{`\d{4}-\d{2}`, []string{"2026-11"}, []string{"2026-1"}},
		{`(?i)ſtop\.?`, []string{"STOP", "stop.", "ſtop"}, []string{"sto"}},
		{`[^\n]{1,5}`, []string{"héé€𝄞"}, []string{"a\nb"}},
		{`(?s).{2}`, []string{"\n𝄞", "é€"}, []string{"a", "abc"}},
		{`\pL+( \pL+)*`, []string{"Grüße aus Köln", "你好"}, []string{"a  b", "1"}},
		{`((a*)*b?)*c`, []string{"c", "aabc"}, []string{"ab"}},
		{`[\x{7f}-\x{900}]`, []string{"é", "\u0800", "\x7f"}, []string{"a", "你"}},
	} {
		g, err := grammar.Compile(grammar.Spec{Regexp: c.expr}, v)
		require.NoError(t, err, c.expr)
		re := regexp.MustCompile(`^(?:` + c.expr + `)$`)
		for seed := range uint64(60) {
			out := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 7)), int(seed))
			require.True(t, re.MatchString(out), "%s gives %q", c.expr, out)
		}
		for _, text := range c.in {
			require.True(t, accepts(g, tok, text), "%s: %q", c.expr, text)
		}
		for _, text := range c.out {
			require.False(t, accepts(g, tok, text), "%s: %q", c.expr, text)
		}
	}
}

// accepts feeds a text token by token.
func accepts(g *grammar.Grammar, tok *tokenizer.Tokenizer, text string) bool {
	s := g.Start()
	for _, id := range tok.Encode(text) {
		next, ok := s.Advance(id)
		if !ok {
			return false
		}
		s = next
	}
	return s.Accepting()
}

// TestEnum: labels of many tokens, one a prefix of another, at the tightest budget.
func TestEnum(t *testing.T) {
	v, tok := small()
	labels := []string{"natural image", "natural", "structured chart", "document", "图表", "natural image, night"}
	g, err := grammar.Compile(grammar.Spec{Enum: labels}, v)
	require.NoError(t, err)
	seen := map[string]bool{}
	for seed := range uint64(300) {
		out := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 8)), int(seed%30))
		require.Contains(t, labels, out)
		seen[out] = true
	}
	require.Len(t, seen, len(labels), "some label is never reached")
	s := g.Start()
	require.False(t, s.Accepting())
	_, ok := s.Advance(tok.EOS()[0])
	require.False(t, ok, "end token before a complete label")
	for _, id := range tok.Encode("natural") {
		s, ok = s.Advance(id)
		require.True(t, ok)
	}
	require.True(t, s.Accepting())
	require.False(t, s.Done())
	s, ok = s.Advance(tok.EOS()[0])
	require.True(t, ok)
	require.True(t, s.Ended() && s.Done())
	for _, bad := range []int32{-1, int32(tok.VocabSize()), 1 << 30} {
		_, ok = g.Start().Advance(bad)
		require.False(t, ok)
	}
}

// TestMaskEqualsAdvance: a mask holds exactly the ids that Advance takes, with and
// without a budget.
func TestMaskEqualsAdvance(t *testing.T) {
	v, tok := small()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 9))
		text, err := json.Marshal(grammartest.Schema(rng, 2))
		require.NoError(t, err)
		g, err := grammar.Compile(grammar.Spec{JSONSchema: text}, v)
		require.NoError(t, err)
		s := g.Start()
		mask, tight := make([]uint64, v.Words()), make([]uint64, v.Words())
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			<-s.Prepare()
			require.NoError(t, s.Mask(mask))
			left := s.MinTokens() + rng.IntN(3)
			require.NoError(t, s.MaskWithin(tight, left))
			for id := range int32(tok.VocabSize()) {
				next, ok := s.Advance(id)
				require.Equal(t, ok, mask[id>>6]>>(id&63)&1 == 1, "token %d", id)
				fits := ok && (next.Ended() || next.MinTokens() < left)
				require.Equal(t, fits, tight[id>>6]>>(id&63)&1 == 1, "token %d with %d left", id, left)
			}
			id, ok := pick(mask, rng)
			require.True(t, ok)
			if s, _ = s.Advance(id); s.Ended() {
				break
			}
		}
	})
}

// TestErrors: what is malformed, outside the subset or too large is named.
func TestErrors(t *testing.T) {
	v, _ := small()
	deep := strings.Repeat(`{"type":"array","items":`, 80) + `{"type":"null"}` + strings.Repeat("}", 80)
	for _, c := range []struct {
		spec grammar.Spec
		kind error
		want string
	}{
		{grammar.Spec{}, grammar.ErrSyntax, "0 of enum"},
		{grammar.Spec{Enum: []string{"a"}, Regexp: "a"}, grammar.ErrSyntax, "2 of enum"},
		{grammar.Spec{Enum: []string{"a", ""}}, grammar.ErrSyntax, "label 1 is empty"},
		{grammar.Spec{Enum: []string{}}, grammar.ErrLimit, "0 labels"},
		{grammar.Spec{Enum: []string{"a", "\xff"}}, grammar.ErrSyntax, "label 1"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","enum":[1,null]}`)}, grammar.ErrSyntax, "has type string"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"text","enum":[1,null]}`)}, grammar.ErrSyntax, `type "text"`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","pattern":"(^|x)a"}`)}, grammar.ErrUnsupported, "some of its alternatives"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","pattern":"a(b|c$)"}`)}, grammar.ErrUnsupported, "some of its alternatives"},
		{grammar.Spec{Regexp: "("}, grammar.ErrSyntax, "missing closing"},
		{grammar.Spec{Regexp: `a\bc`}, grammar.ErrUnsupported, `\b`},
		{grammar.Spec{Regexp: `a^b`}, grammar.ErrUnsupported, `inside an expression`},
		{grammar.Spec{Regexp: `[^\x00-\x{10FFFF}]`}, grammar.ErrSyntax, "nothing matches"},
		{grammar.Spec{Regexp: `\pL{500}\pN{500}`}, grammar.ErrLimit, "states"},
		{grammar.Spec{Regexp: `\pL{100}`}, nil, ""},
		{grammar.Spec{Regexp: strings.Repeat("a", 70000)}, grammar.ErrLimit, "70000 bytes"},
		{grammar.Spec{JSONSchema: []byte(`[]`)}, grammar.ErrSyntax, "want an object"},
		{grammar.Spec{JSONSchema: []byte(`{`)}, grammar.ErrSyntax, "schema"},
		{grammar.Spec{JSONSchema: []byte(`{}`)}, grammar.ErrUnsupported, "any value"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","format":"date"}`)}, grammar.ErrUnsupported, `keyword "format"`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"integer","minimum":1}`)}, grammar.ErrUnsupported, `keyword "minimum"`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"object","properties":{"a":{"type":"string","not":{}}}}`)}, grammar.ErrUnsupported, `/a: keyword "not"`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"object","properties":{"a":{"type":"null"},"a":{"type":"null"}}}`)}, grammar.ErrSyntax, `"a" twice`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"object","properties":{},"required":["b"]}`)}, grammar.ErrUnsupported, `"b"`},
		{grammar.Spec{JSONSchema: []byte(`{"type":"array"}`)}, grammar.ErrUnsupported, "without items"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"array","items":{"type":"null"},"minItems":3,"maxItems":2}`)}, grammar.ErrSyntax, "minItems 3"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","maxLength":100000}`)}, grammar.ErrLimit, "100000"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","maxLength":-1}`)}, grammar.ErrSyntax, "-1"},
		{grammar.Spec{JSONSchema: []byte(`{"type":"array","maxItems":4096,"items":{"type":"array","maxItems":4096,"items":{"type":"string"}}}`)}, grammar.ErrLimit, "states"},
		{grammar.Spec{JSONSchema: []byte(deep)}, grammar.ErrLimit, "levels"},
		{grammar.Spec{JSONSchema: []byte(`{"$ref":"#/$defs/a","$defs":{"a":{"type":"array","items":{"$ref":"#/$defs/a"}}}}`)}, grammar.ErrUnsupported, "contains itself"},
		{grammar.Spec{JSONSchema: []byte(`{"$ref":"http://x"}`)}, grammar.ErrUnsupported, "http://x"},
		{grammar.Spec{JSONSchema: []byte(`{"$ref":"#/$defs/a","$defs":{"a":{"type":"integer"}}}`)}, nil, ""},
		{grammar.Spec{JSONSchema: []byte(`{"type":"string","pattern":"a","maxLength":3}`)}, grammar.ErrUnsupported, "pattern together"},
		{grammar.Spec{JSONSchema: []byte(`{"anyOf":[],"title":"x"}`)}, grammar.ErrSyntax, "anyOf"},
		{grammar.Spec{JSONSchema: []byte(`{"enum":[1],"minLength":3}`)}, grammar.ErrUnsupported, `beside "enum"`},
	} {
		g, err := grammar.Compile(c.spec, v)
		if c.kind == nil {
			require.NoError(t, err)
			require.NotNil(t, g)
			continue
		}
		require.ErrorIs(t, err, c.kind, "%+v", c.spec)
		require.ErrorContains(t, err, c.want)
		require.Less(t, len(err.Error()), 600)
	}
	_, err := grammar.NewVocab(3, func(id int32) []byte { return []byte{byte(id)} }, nil)
	require.ErrorIs(t, err, grammar.ErrVocab)
	_, err = grammar.NewVocab(256, func(id int32) []byte { return []byte{byte(id)} }, []int32{256})
	require.ErrorIs(t, err, grammar.ErrVocab)
}

// TestSchemaMeaning: what a schema allows and forbids where its parts interact.
func TestSchemaMeaning(t *testing.T) {
	v, tok := small()
	for _, c := range []struct {
		schema   string
		yes, not []string
	}{
		{`{"type":"string","pattern":"a|^b"}`, []string{`"b"`, `"bx"`, `"xa"`, `"xax"`}, []string{`"xb"`, `"x"`, `""`}},
		{`{"type":"string","pattern":"(a$|^b$)"}`, []string{`"b"`, `"xa"`}, []string{`"xb"`, `"bx"`, `"ax"`}},
		{`{"type":"string","pattern":"^(a|b)"}`, []string{`"bx"`}, []string{`"xb"`}},
		{`{"type":"string","enum":[1,"a",null]}`, []string{`"a"`}, []string{`1`, `null`}},
		{`{"type":["integer","null"],"enum":[1,1.5,2.0,"a",null]}`, []string{`1`, `2.0`, `null`}, []string{`1.5`, `"a"`}},
		{`{"type":"boolean","const":true}`, []string{`true`}, []string{`false`}},
	} {
		g, err := grammar.Compile(grammar.Spec{JSONSchema: []byte(c.schema)}, v)
		require.NoError(t, err, c.schema)
		for _, text := range c.yes {
			require.True(t, accepts(g, tok, text), "%s: %s", c.schema, text)
		}
		for _, text := range c.not {
			require.False(t, accepts(g, tok, text), "%s: %s", c.schema, text)
		}
	}
}

// TestAmbiguous: a grammar that can be read in very many ways is refused when its
// mask is wanted, instead of holding everybody up for minutes.
func TestAmbiguous(t *testing.T) {
	v, tok := large()
	g, err := grammar.Compile(grammar.Spec{Regexp: `(.{0,30}a.{0,30}){12}b`}, v)
	require.NoError(t, err)
	mask := make([]uint64, v.Words())
	for range 2 {
		err = g.Start().Mask(mask)
		require.ErrorIs(t, err, grammar.ErrLimit)
		require.ErrorContains(t, err, "simplify")
		_, ok := pick(mask, rand.New(rand.NewPCG(1, 1)))
		require.False(t, ok, "a mask that is not finished allows tokens")
	}
	<-g.Start().Prepare()
	g, err = grammar.Compile(grammar.Spec{JSONSchema: benchSchema}, v)
	require.NoError(t, err)
	generate(t, g, v, tok, rand.New(rand.NewPCG(1, 12)), 20)
}

// TestCache: equal grammars are compiled once; those used last are kept, within
// limits on number and bytes; errors are not kept.
func TestCache(t *testing.T) {
	v, _ := small()
	var c grammar.Cache
	calls := 0
	get := func(spec grammar.Spec) *grammar.Grammar {
		g, err := c.Compile(spec, func() (*grammar.Vocab, error) { calls++; return v, nil })
		require.NoError(t, err)
		require.Positive(t, g.Bytes())
		return g
	}
	first := get(grammar.Spec{Enum: []string{"a", "b"}})
	require.NotSame(t, first, get(grammar.Spec{Enum: []string{"a,b"}}))
	require.NotSame(t, get(grammar.Spec{Regexp: "{}"}), get(grammar.Spec{Enum: []string{"{}"}}))
	for i := range 200 {
		get(grammar.Spec{Enum: []string{fmt.Sprint(i)}})
		require.Same(t, first, get(grammar.Spec{Enum: []string{"a", "b"}}), "used all the time")
	}
	require.Equal(t, 1, calls)
	require.Equal(t, 64, c.Kept())
	_, err := c.Compile(grammar.Spec{Regexp: "("}, nil)
	require.ErrorIs(t, err, grammar.ErrSyntax)
	require.Equal(t, 64, c.Kept())

	// Masks that are built later count.
	mask := make([]uint64, v.Words())
	before := first.Bytes()
	require.NoError(t, first.Start().Mask(mask))
	require.Greater(t, first.Bytes(), before)
	c.Limit(5 * first.Bytes() / 2)
	get(grammar.Spec{Enum: []string{"a", "b"}})
	require.Less(t, c.Kept(), 30)
	require.Same(t, first, get(grammar.Spec{Enum: []string{"a", "b"}}))

	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := c.Compile(grammar.Spec{Enum: []string{fmt.Sprint("x", i%3)}}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestRefSchemas: a schema with definitions, as generators of schemas write them.
func TestRefSchemas(t *testing.T) {
	v, tok := small()
	text := `{"$defs":{"Claim":{"type":"object","properties":{"text":{"type":"string","maxLength":20},"verdict":{"enum":["true","false","unsure"]}},
		"required":["text","verdict"]}},"type":"object","properties":{"claims":{"type":"array","items":{"$ref":"#/$defs/Claim"},"maxItems":3},
		"score":{"anyOf":[{"type":"number"},{"type":"null"}]}},"required":["claims","score"]}`
	g, err := grammar.Compile(grammar.Spec{JSONSchema: []byte(text)}, v)
	require.NoError(t, err)
	for seed := range uint64(100) {
		var out struct {
			Claims []struct{ Text, Verdict string }
			Score  *float64
		}
		answer := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 10)), int(seed))
		require.NoError(t, json.Unmarshal([]byte(answer), &out), answer)
		require.LessOrEqual(t, len(out.Claims), 3)
		for _, c := range out.Claims {
			require.Contains(t, []string{"true", "false", "unsure"}, c.Verdict)
		}
	}
	require.True(t, accepts(g, tok, `{"claims": [{"text": "A dog", "verdict": "true"}], "score": 0.5}`))
	require.False(t, accepts(g, tok, `{"score": 0.5, "claims": []}`), "order of the schema")
}

// TestConcurrentStates uses one grammar from several goroutines; run with -race.
func TestConcurrentStates(t *testing.T) {
	v, tok := small()
	g, err := grammar.Compile(grammar.Spec{JSONSchema: []byte(`{"type":"array","items":{"type":"string"}}`)}, v)
	require.NoError(t, err)
	var wg sync.WaitGroup
	out := make([]string, 4)
	for i := range out {
		wg.Go(func() { out[i] = generate(t, g, v, tok, rand.New(rand.NewPCG(uint64(i), 11)), 60) })
	}
	wg.Wait()
	for _, s := range out {
		require.True(t, json.Valid([]byte(s)), s)
	}
}
