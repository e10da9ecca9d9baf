package tokenizer_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"metacap/tokenizer"
)

// FuzzTokenizerJSON: any file opens or fails, and what opens encodes and decodes.
func FuzzTokenizerJSON(f *testing.F) {
	good, _ := json.Marshal(tiny())
	f.Add(good)
	f.Add([]byte(`{"model":{"vocab":{"a":0},"merges":[]}}`))
	f.Add([]byte(`{"added_tokens":[{"id":1,"content":"x"}],"model":{"merges":[["a","b"]],"vocab":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: data}})
		if err == nil {
			roundTrip(t, tok, string(data))
		}
	})
}

// FuzzVocabMerges: the layout with three files.
func FuzzVocabMerges(f *testing.F) {
	vocab, _ := json.Marshal(tiny()["model"].(map[string]any)["vocab"])
	f.Add(vocab, []byte("#version: 0.2\na b\nab c\n"), []byte(`{"<s>":258}`))
	f.Add([]byte(`{}`), []byte(""), []byte(`{"x":-1}`))
	f.Fuzz(func(t *testing.T, vocab, merges, added []byte) {
		tok, err := tokenizer.OpenFS(fstest.MapFS{
			"vocab.json": {Data: vocab}, "merges.txt": {Data: merges}, "added_tokens.json": {Data: added},
		})
		if err == nil {
			roundTrip(t, tok, string(merges))
		}
	})
}

// FuzzConfig: tokenizer_config.json beside a good tokenizer.json.
func FuzzConfig(f *testing.F) {
	good, _ := json.Marshal(tiny())
	f.Add([]byte(`{"eos_token":"<s>","chat_template":"{{ messages[0].content }}","added_tokens_decoder":{"258":{"content":"<s>"}}}`))
	f.Add([]byte(`{"eos_token":{"content":"<s>"},"chat_template":[{"name":"default","template":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: good}, "tokenizer_config.json": {Data: data}})
		if err == nil {
			roundTrip(t, tok, string(data))
		}
	})
}

// roundTrip: decoding what was encoded gives the normal form of the text.
func roundTrip(t *testing.T, tok *tokenizer.Tokenizer, text string) {
	if len(text) > 2000 {
		text = text[:2000]
	}
	plain := tok.Encode(text)
	tok.EncodeSpecial(text)
	if !utf8.ValidString(text) {
		return
	}
	got := tok.Decode(plain, false)
	if got != text && norm.NFD.String(got) != norm.NFD.String(text) {
		t.Fatalf("got %q, want the normal form of %q", got, text)
	}
}

// FuzzEncode: round trip on the real vocabulary; user text yields no added token;
// an open text and its continuation give the ids of the whole.
func FuzzEncode(f *testing.F) {
	for _, s := range []string{"Hello, world", "a\u0301\u0323", "  \n x", "it's '9", "<|im_end|><img>", "\xff\xfe", "각\u1100\u1161", "\u200d\U0001F468"} {
		f.Add(s, "\n"+s)
	}
	tok := real()
	chat, err := tokenizer.NewChat(tok, "internvl")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, more string) {
		roundTrip(t, tok, text)
		for _, id := range tok.Encode(text) {
			if tok.IsAdded(id) {
				t.Fatalf("added token %d from %q", id, text)
			}
		}
		prefix, err := chat.Open([]tokenizer.Message{tokenizer.Text("user", text)}, tokenizer.RenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		whole, err := chat.Render([]tokenizer.Message{tokenizer.Text("user", text+more)}, tokenizer.RenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		equalIDs(t, whole.IDs, append(prefix.IDs, prefix.Continue(more)...), text+" + "+more)
	})
}

// FuzzStream: chunks and tail join to the whole decoding, and every chunk is valid UTF-8.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 80, 255, 255})
	f.Add([]byte("\x00\x7b\x00\x7c\xf0\x9f"))
	tok := real()
	f.Fuzz(func(t *testing.T, data []byte) {
		var ids []int32
		for i := 0; i+2 < len(data); i += 3 {
			id := int32(data[i])<<16 | int32(data[i+1])<<8 | int32(data[i+2])
			if data[i]&1 == 0 {
				id %= 256 // mostly single bytes
			}
			ids = append(ids, id)
		}
		for _, keep := range []bool{false, true} {
			s := tok.NewStream(keep)
			var out strings.Builder
			for _, id := range ids {
				c := s.Next(id)
				if !utf8.ValidString(c) {
					t.Fatalf("chunk %q", c)
				}
				out.WriteString(c)
			}
			out.WriteString(s.Flush())
			if got, want := out.String(), tok.Decode(ids, !keep); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	})
}

// FuzzTemplate: any template renders or fails, in bounded time and memory, and a
// user's text never adds a special token.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		qwen3Template, qwen25Template, qwen2VLTemplate, deepSeekTemplate, "{{ messages | tojson }}",
		"{% for i in range(9) %}{{ i }}{% endfor %}", "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
	} {
		f.Add(s, "hello <|im_end|>")
	}
	base := goldenFSForFuzz(f)
	f.Fuzz(func(t *testing.T, template, text string) {
		base["chat_template.jinja"] = &fstest.MapFile{Data: []byte(template)}
		tok, err := tokenizer.OpenFS(base)
		if err != nil {
			return
		}
		chat, err := tokenizer.NewChat(tok, tokenizer.StyleTemplate)
		if err != nil {
			return
		}
		p, err := chat.Render([]tokenizer.Message{tokenizer.Text("user", text)}, tokenizer.RenderOptions{})
		if err != nil {
			return
		}
		q, err := chat.Render([]tokenizer.Message{tokenizer.Text("user", "x")}, tokenizer.RenderOptions{})
		if err == nil && !strings.Contains(template, "content") && count(p.IDs, tok) > count(q.IDs, tok) {
			t.Fatalf("a user's text added special tokens")
		}
	})
}

// goldenFSForFuzz is a small vocabulary with the ChatML tokens, quick to open.
func goldenFSForFuzz(f *testing.F) fstest.MapFS {
	m := tiny()
	m["added_tokens"] = []any{
		map[string]any{"id": 258, "content": "<|im_start|>", "special": true},
		map[string]any{"id": 259, "content": "<|im_end|>", "special": true},
		map[string]any{"id": 260, "content": "<think>"},
	}
	data, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return fstest.MapFS{"tokenizer.json": {Data: data}}
}
