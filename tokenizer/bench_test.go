package tokenizer_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/tokenizer"
)

// mixedText is the goldens' texts: 44 languages, code, emoji, white space.
func mixedText(b *testing.B) string {
	var text strings.Builder
	for _, r := range rows[encodeRow](b, filepath.Join(goldenDir, "encode.jsonl.gz")) {
		if len(r.Text) < 4000 {
			text.WriteString(r.Text)
			text.WriteByte('\n')
		}
	}
	return text.String()
}

func BenchmarkEncode(b *testing.B) {
	tok := real()
	english := strings.Repeat("The photograph, taken at dusk, shows a narrow harbour; 12 fishing boats rest on calm water.\n", 2000)
	mixed := mixedText(b)
	for name, text := range map[string]string{"english": english, "mixed": mixed} {
		b.Run("text="+name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			var ids []int32
			for b.Loop() {
				ids = tok.AppendEncode(ids[:0], text)
			}
		})
	}
	fsys := goldenFS(b, "vocab.json", "merges.txt")
	b.Run("text=mixed-cold", func(b *testing.B) {
		b.SetBytes(int64(len(mixed)))
		for b.Loop() {
			b.StopTimer()
			fresh, err := tokenizer.OpenFS(fsys)
			require.NoError(b, err)
			b.StartTimer()
			fresh.Encode(mixed)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	fast, slow := goldenFS(b), goldenFS(b, "tokenizer.json")
	b.Run("files=tokenizer.json", func(b *testing.B) {
		for b.Loop() {
			_, err := tokenizer.OpenFS(fast)
			require.NoError(b, err)
		}
	})
	b.Run("files=vocab.json", func(b *testing.B) {
		for b.Loop() {
			_, err := tokenizer.OpenFS(slow)
			require.NoError(b, err)
		}
	})
	b.Run("files=tiny", func(b *testing.B) {
		for b.Loop() {
			_, err := tokenizer.Open("../testdata/models/qwen3-tied-bf16")
			require.NoError(b, err)
		}
	})
}

func BenchmarkRender(b *testing.B) {
	msgs := []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{
		{Image: &tokenizer.Image{Tokens: 3328}}, {Text: "Please describe the image in detail."},
	}}}
	for _, style := range []tokenizer.Style{"jinja", "template"} {
		b.Run("style="+string(style), func(b *testing.B) {
			chat, err := tokenizer.NewChat(real(), style)
			require.NoError(b, err)
			for b.Loop() {
				_, err := chat.Render(msgs, tokenizer.RenderOptions{})
				require.NoError(b, err)
			}
		})
	}
}
