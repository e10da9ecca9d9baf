package grammar_test

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"testing"

	"metacap/engine/internal/grammar"
	"metacap/engine/internal/grammar/grammartest"
)

// FuzzRegexp: an expression compiles or fails; what it generates matches.
func FuzzRegexp(f *testing.F) {
	for _, s := range []string{`[A-I]`, `(a|b)*a`, `^\d{2,4}$`, `(?i)k`, `[^a]+?`, `(?s).`, `\pL`, `()|x*`, `(x{2}){3}`} {
		f.Add(s, uint64(1))
	}
	v, tok := small()
	f.Fuzz(func(t *testing.T, expr string, seed uint64) {
		g, err := grammar.Compile(grammar.Spec{Regexp: expr}, v)
		if err != nil {
			return
		}
		if g.Start().MinTokens() > 400 {
			return
		}
		out := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 1)), 8)
		re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
		if err != nil { // an open \Q takes the closing bracket
			return
		}
		if !re.MatchString(out) {
			t.Fatalf("%q gives %q", expr, out)
		}
	})
}

// FuzzSchema: a schema compiles or fails; what it generates is JSON.
func FuzzSchema(f *testing.F) {
	for seed := range uint64(30) {
		text, _ := json.Marshal(grammartest.Schema(rand.New(rand.NewPCG(seed, 2)), 3))
		f.Add(text, seed)
	}
	f.Add([]byte(`{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"type":["null","string"]}]}}}`), uint64(1))
	v, tok := small()
	f.Fuzz(func(t *testing.T, schema []byte, seed uint64) {
		g, err := grammar.Compile(grammar.Spec{JSONSchema: schema}, v)
		if err != nil {
			return
		}
		if g.Start().MinTokens() > 400 {
			return
		}
		out := generate(t, g, v, tok, rand.New(rand.NewPCG(seed, 3)), 12)
		if !json.Valid([]byte(out)) {
			t.Fatalf("%s gives %q", schema, out)
		}
	})
}
