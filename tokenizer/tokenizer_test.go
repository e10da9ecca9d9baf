package tokenizer_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"metacap/tokenizer"
)

// TestVectors are encodings given by the model family's documentation of its tokenizer.
func TestVectors(t *testing.T) {
	tok := real()
	for text, want := range map[string][]int32{
		"Hello world":                    {9707, 1879},
		" Hello world":                   {21927, 1879},
		"a  b   c\n\n  d\t\te\r\nf":      {64, 220, 293, 256, 272, 271, 220, 294, 197, 7727, 319, 69},
		"1234 56":                        {16, 17, 18, 19, 220, 20, 21},
		"don't DON'T I'LL we've":         {15007, 944, 44273, 17323, 358, 6, 4086, 582, 3003},
		"e\u0301 \u212b \ufb01":          {963, 79252, 32495, 70731},
		"🙂👨‍👩‍👧":                         {145080, 145367, 378, 235, 145233, 378, 235, 145665},
		"\u00a0x":                        {4102, 87},
		"x\u3000y":                       {87, 22441, 88},
		"\r\n\r\n":                       {871},
		"  \n  x":                        {2303, 220, 856},
		"①²³":                            {48312, 254, 29456, 43201},
		"<think>\nok\n</think>\n\n":      {151667, 198, 562, 198, 151668, 271},
		"<ref>cat</ref><box>[[1]]</box>": {151674, 4616, 151675, 151676, 15505, 16, 5053, 151677},
	} {
		equalIDs(t, want, tok.EncodeSpecial(text), fmt.Sprintf("%q", text))
	}
}

// TestLookup covers ids and flags, in and out of range.
func TestLookup(t *testing.T) {
	tok := real()
	for name, want := range map[string]int32{"<img>": 151669, "</img>": 151670, "<IMG_CONTEXT>": 151671, "Hello": 9707, " world": 1879} {
		id, ok := tok.ID(name)
		require.True(t, ok, name)
		require.Equal(t, want, id)
		require.Equal(t, name, tok.Token(id))
	}
	_, ok := tok.ID("no such token, surely")
	require.False(t, ok)
	require.Equal(t, []int32{151645, 151643}, tok.EOS())
	require.True(t, tok.IsSpecial(151645))
	require.False(t, tok.IsSpecial(151667), "<think> is text")
	require.True(t, tok.IsAdded(151667))
	require.False(t, tok.IsAdded(5))
	for _, id := range []int32{-1, 151678, 151935, 1 << 30} {
		require.Empty(t, tok.Bytes(id))
		require.False(t, tok.IsSpecial(id))
		require.False(t, tok.IsAdded(id))
		require.Empty(t, tok.NewStream(false).Next(id))
	}
	require.Equal(t, "a", tok.Decode([]int32{-5, 64, 151935}, false))
}

// TestLinearTime: one huge word of one character, in many kinds, takes well under
// a second for a megabyte. The bound is loose for slow machines; a quadratic
// merge would take minutes.
func TestLinearTime(t *testing.T) {
	tok := real()
	for _, unit := range []string{"a", " ", "\n", "=", "1", "é", "\u0301", "ab", "가", "\u1100", "<", "<|", "'", "a\u0300", "\u200d", "\xff"} {
		text := strings.Repeat(unit, 1<<20/len(unit))
		start := time.Now()
		ids := tok.EncodeSpecial(text)
		took := time.Since(start)
		require.Less(t, took, 4*time.Second, "%q", unit)
		if utf8.ValidString(text) && unit != "a\u0300" && unit != "\u1100" {
			require.Equal(t, text, tok.Decode(ids, false), "%q", unit)
		}
		t.Logf("%-10q %8d ids %v", unit, len(ids), took.Round(time.Millisecond))
	}
}

// TestLongWordsEqualShort: the heap and the scan give the same merges.
func TestLongWordsEqualShort(t *testing.T) {
	tok := real()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var word strings.Builder
		for word.Len() < 97+rng.IntN(200) {
			word.WriteByte("etaoinshrdlu"[rng.IntN(12)])
		}
		ids := tok.Encode(word.String())
		require.Equal(t, word.String(), tok.Decode(ids, false))
		require.Equal(t, naive(t, tok, word.String()), ids)
	}
}

var rankOf map[[2]string]int

// naive merges by the definition, on strings.
func naive(t *testing.T, tok *tokenizer.Tokenizer, word string) []int32 {
	if rankOf == nil {
		rankOf = map[[2]string]int{}
		lines := strings.Split(string(gunzip(t, goldenDir+"/merges.txt.gz")), "\n")
		for i, line := range lines[1:] {
			if left, right, ok := strings.Cut(line, " "); ok {
				rankOf[[2]string{left, right}] = i
			}
		}
	}
	parts := strings.Split(word, "")
	for {
		at, low := -1, len(rankOf)
		for i := range len(parts) - 1 {
			if r, ok := rankOf[[2]string{parts[i], parts[i+1]}]; ok && r < low {
				at, low = i, r
			}
		}
		if at < 0 {
			break
		}
		parts[at] += parts[at+1]
		parts = append(parts[:at+1], parts[at+2:]...)
	}
	var ids []int32
	for _, p := range parts {
		id, ok := tok.ID(p)
		require.True(t, ok)
		ids = append(ids, id)
	}
	return ids
}

// TestLongMarks: x/text would break runs of more than 30 marks; the reference does not.
func TestLongMarks(t *testing.T) {
	tok := real()
	marks := strings.Repeat("\u0323\u0301", 40)
	got := tok.Decode(tok.Encode("e"+marks), false)
	require.Equal(t, "\u1eb9"+strings.Repeat("\u0323", 39)+strings.Repeat("\u0301", 40), got)
	require.Equal(t, "각"+strings.Repeat("\u11a8", 50), tok.Decode(tok.Encode("\u1100\u1161"+strings.Repeat("\u11a8", 51)), false))
}

// tiny returns a tokenizer.json with 256 byte tokens and two merges, as a map to change.
func tiny() map[string]any {
	vocab := map[string]int{}
	next := 0x100
	for b := range 256 {
		r := rune(b)
		if b <= ' ' || b > '~' && b < 0xa1 || b == 0xad {
			r = rune(next)
			next++
		}
		vocab[string(r)] = b
	}
	vocab["ab"], vocab["abc"] = 256, 257
	return map[string]any{
		"added_tokens": []any{map[string]any{"id": 258, "content": "<s>", "special": true}},
		"normalizer":   map[string]any{"type": "NFC"},
		"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []any{
			map[string]any{"type": "Split", "behavior": "Isolated", "pattern": map[string]any{
				"Regex": `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
			}},
			map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
		}},
		"decoder": map[string]any{"type": "ByteLevel"},
		"model":   map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{"a b", []string{"ab", "c"}}},
	}
}

func files(t *testing.T, tree map[string]any) fstest.MapFS {
	data, err := json.Marshal(tree)
	require.NoError(t, err)
	return fstest.MapFS{"tokenizer.json": {Data: data}}
}

// TestFormatErrors: each defect is an error of the right kind that names file and field.
func TestFormatErrors(t *testing.T) {
	model := func(m map[string]any) map[string]any { return m["model"].(map[string]any) }
	vocab := func(m map[string]any) map[string]int { return model(m)["vocab"].(map[string]int) }
	pre := func(m map[string]any, i int) map[string]any {
		return m["pre_tokenizer"].(map[string]any)["pretokenizers"].([]any)[i].(map[string]any)
	}
	for _, c := range []struct {
		name   string
		change func(m map[string]any)
		kind   error
		want   string
	}{
		{"good", func(map[string]any) {}, nil, ""},
		{"no NFC", func(m map[string]any) { delete(m, "normalizer") }, nil, ""},
		{"bos added by post-processor", func(m map[string]any) { m["post_processor"] = map[string]any{"type": "TemplateProcessing"} }, nil, ""},
		{"normalizer", func(m map[string]any) { m["normalizer"] = map[string]any{"type": "NFKC"} }, tokenizer.ErrUnsupported, `tokenizer.json: normalizer: not supported: type "NFKC"`},
		{"regex", func(m map[string]any) { pre(m, 0)["pattern"] = map[string]any{"Regex": `\p{N}{1,3}`} }, tokenizer.ErrUnsupported, "not that of Qwen2"},
		{"use_regex", func(m map[string]any) { pre(m, 1)["use_regex"] = true }, tokenizer.ErrUnsupported, "use_regex"},
		{"prefix space", func(m map[string]any) { pre(m, 1)["add_prefix_space"] = true }, tokenizer.ErrUnsupported, "add_prefix_space"},
		{"pre-tokenizer", func(m map[string]any) { m["pre_tokenizer"] = map[string]any{"type": "Metaspace"} }, tokenizer.ErrUnsupported, "Metaspace"},
		{"decoder", func(m map[string]any) { m["decoder"] = map[string]any{"type": "WordPiece"} }, tokenizer.ErrUnsupported, "WordPiece"},
		{"byte_fallback", func(m map[string]any) { model(m)["byte_fallback"] = true }, tokenizer.ErrUnsupported, "model.byte_fallback"},
		{"unigram", func(m map[string]any) { model(m)["type"] = "Unigram" }, tokenizer.ErrUnsupported, "model.type"},
		{"dropout", func(m map[string]any) { model(m)["dropout"] = 0.1 }, tokenizer.ErrUnsupported, "model.dropout"},
		{"suffix", func(m map[string]any) { model(m)["end_of_word_suffix"] = "</w>" }, tokenizer.ErrUnsupported, "end_of_word_suffix"},
		{"byte missing", func(m map[string]any) { delete(vocab(m), "!") }, tokenizer.ErrUnsupported, "byte 0x21 has no token"},
		{"id twice", func(m map[string]any) { vocab(m)["zz"] = 3 }, tokenizer.ErrFormat, "token id 3 twice"},
		{"huge id", func(m map[string]any) { vocab(m)["zz"] = 1 << 24 }, tokenizer.ErrFormat, "exceeds"},
		{"merge unknown", func(m map[string]any) { model(m)["merges"] = []any{"q z"} }, tokenizer.ErrFormat, `the result "qz" is not`},
		{"merge of three", func(m map[string]any) { model(m)["merges"] = []any{"a b c"} }, tokenizer.ErrFormat, "not two tokens"},
		{"no merges", func(m map[string]any) { delete(model(m), "merges") }, tokenizer.ErrFormat, "no vocab or no merges"},
		{"added clash", func(m map[string]any) { m["added_tokens"] = []any{map[string]any{"id": 65, "content": "<s>"}} }, tokenizer.ErrFormat, "id 65"},
		{"added lstrip", func(m map[string]any) {
			m["added_tokens"] = []any{map[string]any{"id": 300, "content": "<m>", "lstrip": true}}
		}, tokenizer.ErrUnsupported, "lstrip"},
		{"added empty", func(m map[string]any) { m["added_tokens"] = []any{map[string]any{"id": 300, "content": ""}} }, tokenizer.ErrFormat, "empty content"},
		{"added huge id", func(m map[string]any) { m["added_tokens"] = []any{map[string]any{"id": 1 << 40, "content": "x!"}} }, tokenizer.ErrFormat, "id outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := tiny()
			c.change(m)
			tok, err := tokenizer.OpenFS(files(t, m))
			if c.kind == nil {
				require.NoError(t, err)
				require.Equal(t, []int32{257, 258, 256}, tok.EncodeSpecial("abc<s>ab"))
				return
			}
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.want)
			var fe *tokenizer.FileError
			require.ErrorAs(t, err, &fe)
		})
	}
}

// TestBrokenFiles: texts that are no JSON, end early or are too large.
func TestBrokenFiles(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "null": "null", "array": "[]", "cut": `{"model":{"vocab":{"a":`, "deep": strings.Repeat("[", 1000),
		"twice": `{"model":{},"model":{}}`, "trailing": `{} {}`, "control": "{\"\x01\":1}", "escape": `{"\q":1}`,
		"deep value": `{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`,
	} {
		_, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: []byte(text)}})
		require.ErrorIs(t, err, tokenizer.ErrFormat, name)
	}
	_, err := tokenizer.OpenFS(fstest.MapFS{})
	require.ErrorIs(t, err, tokenizer.ErrNotFound)
	_, err = tokenizer.OpenFS(fstest.MapFS{"vocab.json": {Data: []byte("{}")}})
	require.ErrorIs(t, err, tokenizer.ErrNotFound)
	_, err = tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: make([]byte, 64<<20+1)}})
	require.ErrorContains(t, err, "67108865 bytes exceed the limit of 67108864")
	fsys := files(t, tiny())
	fsys["tokenizer_config.json"] = &fstest.MapFile{Data: []byte(`{"chat_template":[{"name":"other","template":"x"}]}`)}
	_, err = tokenizer.OpenFS(fsys)
	require.ErrorContains(t, err, "chat_template")
	fsys["tokenizer_config.json"] = &fstest.MapFile{Data: []byte(`{"chat_template":[{"name":"default","template":"x"}],"eos_token":{"content":"<s>"}}`)}
	tok, err := tokenizer.OpenFS(fsys)
	require.NoError(t, err)
	require.Equal(t, "x", tok.Template())
	require.Equal(t, []int32{258}, tok.EOS())
}

// TestConcurrent shares one tokenizer; run with -race.
func TestConcurrent(t *testing.T) {
	tok := real()
	want := tok.Encode("the quick brown fox, 42 Füchse\n")
	done := make(chan bool)
	for range 4 {
		go func() {
			same := true
			for range 200 {
				got := tok.Encode("the quick brown fox, 42 Füchse\n")
				same = same && fmt.Sprint(got) == fmt.Sprint(want)
			}
			done <- same
		}()
	}
	for range 4 {
		require.True(t, <-done)
	}
}
