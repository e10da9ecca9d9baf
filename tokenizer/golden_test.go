package tokenizer_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"metacap/tokenizer"
)

const (
	goldenDir = "../testdata/tokenizer"
	chatFile  = "../testdata/chat/chat.jsonl"
)

// gunzip returns the contents of a gzip file.
func gunzip(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	data, err := io.ReadAll(z)
	require.NoError(tb, err)
	return data
}

// goldenFS unpacks the real tokenizer's files into memory, but for those named.
func goldenFS(tb testing.TB, without ...string) fstest.MapFS {
	tb.Helper()
	entries, err := os.ReadDir(goldenDir)
	require.NoError(tb, err)
	fsys := fstest.MapFS{}
next:
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".gz")
		for _, w := range without {
			if name == w {
				continue next
			}
		}
		path := filepath.Join(goldenDir, e.Name())
		switch {
		case strings.Contains(name, ".jsonl"):
		case name != e.Name():
			fsys[name] = &fstest.MapFile{Data: gunzip(tb, path)}
		default:
			data, err := os.ReadFile(path)
			require.NoError(tb, err)
			fsys[name] = &fstest.MapFile{Data: data}
		}
	}
	return fsys
}

// real is the tokenizer of the 8B model, opened once.
var real = sync.OnceValue(func() *tokenizer.Tokenizer {
	fsys := fstest.MapFS{}
	for _, name := range []string{"tokenizer.json.gz", "tokenizer_config.json", "chat_template.jinja"} {
		data, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			panic(err)
		}
		if plain, ok := strings.CutSuffix(name, ".gz"); ok {
			z, err := gzip.NewReader(strings.NewReader(string(data)))
			if err != nil {
				panic(err)
			}
			if data, err = io.ReadAll(z); err != nil {
				panic(err)
			}
			name = plain
		}
		fsys[name] = &fstest.MapFile{Data: data}
	}
	t, err := tokenizer.OpenFS(fsys)
	if err != nil {
		panic(err)
	}
	return t
})

// rows decodes a file of JSON lines.
func rows[T any](tb testing.TB, path string) []T {
	tb.Helper()
	var data string
	if strings.HasSuffix(path, ".gz") {
		data = string(gunzip(tb, path))
	} else {
		b, err := os.ReadFile(path)
		require.NoError(tb, err)
		data = string(b)
	}
	var out []T
	sc := bufio.NewScanner(strings.NewReader(data))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var v T
		require.NoError(tb, json.Unmarshal(sc.Bytes(), &v))
		out = append(out, v)
	}
	require.NoError(tb, sc.Err())
	return out
}

type encodeRow struct {
	ID          string   `json:"id"`
	Text        string   `json:"text"`
	IDs         []int32  `json:"ids"`
	Plain       *[]int32 `json:"ids_plain"`
	Decoded     *string  `json:"decoded"`
	DecodedSkip *string  `json:"decoded_skip"`
}

type streamRow struct {
	ID     string   `json:"id"`
	IDs    []int32  `json:"ids"`
	Chunks []string `json:"chunks"`
	Tail   string   `json:"tail"`
}

// TestGoldens compares with the reference on the real vocabulary, from both
// layouts of files.
func TestGoldens(t *testing.T) {
	slow, err := tokenizer.OpenFS(goldenFS(t, "tokenizer.json"))
	require.NoError(t, err)
	bare, err := tokenizer.OpenFS(goldenFS(t, "tokenizer.json", "tokenizer_config.json"))
	require.NoError(t, err)
	for name, tok := range map[string]*tokenizer.Tokenizer{"tokenizer.json": real(), "vocab.json": slow, "added_tokens.json": bare} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 151678, tok.VocabSize())
			require.Equal(t, 151643, tok.BaseSize())
			encodeGoldens(t, tok)
			streamGoldens(t, tok)
		})
	}
}

func encodeGoldens(t *testing.T, tok *tokenizer.Tokenizer) {
	list := rows[encodeRow](t, filepath.Join(goldenDir, "encode.jsonl.gz"))
	require.Len(t, list, 1945)
	for _, r := range list {
		plain, decoded := r.IDs, r.Text
		if r.Plain != nil {
			plain = *r.Plain
		}
		if r.Decoded != nil {
			decoded = *r.Decoded
		}
		skipped := decoded
		if r.DecodedSkip != nil {
			skipped = *r.DecodedSkip
		}
		equalIDs(t, r.IDs, tok.EncodeSpecial(r.Text), r.ID)
		equalIDs(t, plain, tok.Encode(r.Text), r.ID)
		require.Equal(t, decoded, tok.Decode(r.IDs, false), r.ID)
		require.Equal(t, skipped, tok.Decode(r.IDs, true), r.ID)
	}
}

func streamGoldens(t *testing.T, tok *tokenizer.Tokenizer) {
	list := rows[streamRow](t, filepath.Join(goldenDir, "stream.jsonl.gz"))
	require.Len(t, list, 270)
	for _, r := range list {
		s := tok.NewStream(false)
		var joined strings.Builder
		for i, id := range r.IDs {
			chunk := s.Next(id)
			require.Equal(t, r.Chunks[i], chunk, "%s token %d", r.ID, i)
			joined.WriteString(chunk)
		}
		tail := s.Flush()
		require.Equal(t, r.Tail, tail, r.ID)
		require.Equal(t, tok.Decode(r.IDs, true), joined.String()+tail, r.ID)
	}
}

// equalIDs is require.Equal for ids without its cost on long slices.
func equalIDs(t *testing.T, want, got []int32, name string) {
	t.Helper()
	if len(want) == len(got) {
		same := true
		for i := range want {
			same = same && want[i] == got[i]
		}
		if same {
			return
		}
	}
	require.Equal(t, want, got, name)
}
