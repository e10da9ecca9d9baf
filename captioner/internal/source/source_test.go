package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func collect(t *testing.T, opts Options, inputs ...string) []Item {
	t.Helper()
	var items []Item
	for it, err := range List(context.Background(), inputs, opts) {
		require.NoError(t, err)
		items = append(items, it)
	}
	return items
}

func keys(items []Item) []string {
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = it.Key
	}
	return out
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func rel(root string, items []Item) []string {
	out := keys(items)
	for i := range out {
		out[i] = strings.TrimPrefix(strings.TrimPrefix(out[i], filepath.ToSlash(root)), "/")
	}
	return out
}

func TestListDirectory(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a10.jpg", "a2.jpg", "a1.PNG", "note.txt", ".hidden.jpg", "b/x.webp", "b/c/deep.gif", ".git/y.jpg", "clip.mp4"} {
		write(t, filepath.Join(root, name), name)
	}
	require.NoError(t, os.Mkdir(filepath.Join(root, "folder.jpg"), 0o755))

	t.Run("natural order, files before folders, hidden and other files left out", func(t *testing.T) {
		items := collect(t, Options{}, root)
		require.Equal(t, []string{"a1.PNG", "a2.jpg", "a10.jpg", "clip.mp4", "folder.jpg", "b/x.webp", "b/c/deep.gif"}, rel(root, items))
		require.Equal(t, Video, items[3].Kind)
		require.ErrorContains(t, items[4].Err, "is a directory")
		for i, it := range items {
			require.EqualValues(t, i, it.N)
		}
		data, err := items[0].Read(context.Background(), 1<<20)
		require.NoError(t, err)
		require.Equal(t, "a1.PNG", string(data))
	})
	t.Run("include, exclude, top only, limit", func(t *testing.T) {
		require.Equal(t, []string{"a2.jpg", "a10.jpg"}, rel(root, collect(t, Options{Include: []string{"a*.jpg"}}, root)))
		require.Equal(t, []string{"a1.PNG", "clip.mp4"}, rel(root, collect(t, Options{NoRecurse: true, Exclude: []string{"*.jpg"}}, root)))
		require.Len(t, collect(t, Options{Limit: 2}, root), 2)
	})
	t.Run("a byte limit is an error with both numbers", func(t *testing.T) {
		items := collect(t, Options{}, root)
		_, err := items[0].Read(context.Background(), 3)
		var large *TooLargeError
		require.ErrorAs(t, err, &large)
		require.EqualValues(t, 6, large.Bytes)
	})
	t.Run("a missing input ends the listing", func(t *testing.T) {
		for _, err := range List(context.Background(), []string{filepath.Join(root, "nope")}, Options{}) {
			require.ErrorContains(t, err, "nope")
		}
	})
	t.Run("a cancelled context ends the listing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		n := 0
		for _, err := range List(ctx, []string{root}, Options{}) {
			require.ErrorIs(t, err, context.Canceled)
			n++
		}
		require.Equal(t, 1, n)
	})
}

func TestFrameDirs(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "v1/f1.png"), "1")
	write(t, filepath.Join(root, "v1/f2.png"), "2")
	write(t, filepath.Join(root, "mixed/f1.png"), "1")
	write(t, filepath.Join(root, "mixed/readme.md"), "2")
	items := collect(t, Options{FrameDirs: true}, root)
	require.Equal(t, []string{"mixed/f1.png", "v1/"}, rel(root, items))
	require.Equal(t, Frames, items[1].Kind)
}

// TestShard: n parts cover every key once, whatever n.
func TestShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "n")
		key := rapid.String().Draw(t, "key")
		owners := 0
		for i := range n {
			if (Shard{i, n}).Has(key) {
				owners++
			}
		}
		if owners != 1 {
			t.Fatalf("key %q belongs to %d of %d parts", key, owners, n)
		}
	})
	counts := make([]int, 4)
	for k := range 4000 {
		for i := range counts {
			if (Shard{i, 4}).Has(fmt.Sprintf("img/%06d.jpg", k)) {
				counts[i]++
			}
		}
	}
	for _, c := range counts {
		require.InDelta(t, 1000, c, 150, "parts are uneven: %v", counts) // 5 standard deviations of a fair split are 137
	}
}

func TestSample(t *testing.T) {
	root := t.TempDir()
	for i := range 50 {
		write(t, filepath.Join(root, fmt.Sprintf("%d.jpg", i)), "x")
	}
	a := keys(collect(t, Options{Sample: 7, Seed: 1}, root))
	require.Len(t, a, 7)
	require.Equal(t, a, keys(collect(t, Options{Sample: 7, Seed: 1}, root)))
	require.NotEqual(t, a, keys(collect(t, Options{Sample: 7, Seed: 2}, root)))
	require.Len(t, collect(t, Options{Sample: 70}, root), 50)
}

func TestLists(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "a.jpg"), "A")
	write(t, filepath.Join(root, "sub dir/b.jpg"), "B")
	t.Run("lines, comments, folders and missing files", func(t *testing.T) {
		list := write(t, filepath.Join(root, "l.txt"), "# comment\n\na.jpg\r\nsub dir\nmissing.jpg\n")
		items := collect(t, Options{}, list)
		require.Equal(t, []string{"a.jpg", "sub dir/b.jpg", "missing.jpg"}, rel(root, items))
		require.ErrorIs(t, items[2].Err, os.ErrNotExist)
	})
	t.Run("NUL separated standard input", func(t *testing.T) {
		in := strings.NewReader(filepath.Join(root, "a.jpg") + "\x00" + filepath.Join(root, "sub dir/b.jpg"))
		require.Len(t, collect(t, Options{NUL: true, Stdin: in}, "-"), 2)
	})
	t.Run("a list that names itself ends", func(t *testing.T) {
		list := write(t, filepath.Join(root, "loop.txt"), "loop.txt\n")
		var last error
		for _, err := range List(context.Background(), []string{list}, Options{}) {
			last = err
		}
		require.ErrorContains(t, last, "nested deeper")
	})
	t.Run("tables: columns, base64, URLs, bad rows", func(t *testing.T) {
		b64 := "data:image/png;base64," + base64.StdEncoding.EncodeToString([]byte("PIX"))
		list := write(t, filepath.Join(root, "t.jsonl"),
			`{"image":"a.jpg","tags":"one, two","w":3}`+"\n"+`{"path":"`+b64+`"}`+"\n"+`{"image":"https://x/y.jpg"}`+"\n{broken\n{}\n")
		items := collect(t, Options{}, list)
		require.Len(t, items, 5)
		require.Equal(t, "one, two", items[0].Fields["tags"])
		require.Equal(t, "3", items[0].Fields["w"])
		data, err := items[1].Read(context.Background(), 100)
		require.NoError(t, err)
		require.Equal(t, "PIX", string(data))
		require.ErrorContains(t, items[2].Err, "nothing is downloaded")
		require.ErrorContains(t, items[3].Err, "line 4")
		require.ErrorContains(t, items[4].Err, "no column")
		csv := write(t, filepath.Join(root, "t.csv"), "file_name,caption\na.jpg,\"hello, you\"\n")
		items = collect(t, Options{}, csv)
		require.Equal(t, "hello, you", items[0].Fields["caption"])
		require.Equal(t, filepath.Join(root, "a.jpg"), items[0].Path)
	})
}

func makeTar(t *testing.T, members ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(members); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: members[i], Mode: 0o644, Size: int64(len(members[i+1]))}))
		_, err := w.Write([]byte(members[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func TestTar(t *testing.T) {
	long := strings.Repeat("d/", 80) // needs a PAX header before the member
	plain := makeTar(t, "000/1.jpg", "one", "000/1.json", `{"url":"u","width":7}`, "000/1.txt", " cap \n", "000/2.png", "two", long+"3.webp", "three", "readme.md", "x")
	root := t.TempDir()
	check := func(t *testing.T, name string) {
		items := collect(t, Options{}, name)
		require.Equal(t, []string{"000/1.jpg", "000/2.png", long + "3.webp"}, rel(name, items))
		require.Equal(t, map[string]string{"url": "u", "width": "7", "caption": "cap"}, items[0].Fields)
		for i, want := range []string{"one", "two", "three"} {
			data, err := items[i].Read(context.Background(), 10)
			require.NoError(t, err)
			require.Equal(t, want, string(data))
		}
	}
	t.Run("plain", func(t *testing.T) { check(t, write(t, filepath.Join(root, "00000.tar"), string(plain))) })
	t.Run("gzip", func(t *testing.T) {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		check(t, write(t, filepath.Join(root, "00001.tar.gz"), z.String()))
	})
	t.Run("a cut shard keeps its members and fails once", func(t *testing.T) {
		items := collect(t, Options{}, write(t, filepath.Join(root, "cut.tar"), string(plain[:4*512+100])))
		require.NotEmpty(t, items)
		require.NoError(t, items[0].Err)
		require.Error(t, items[len(items)-1].Err)
		require.Len(t, slices.DeleteFunc(items, func(it Item) bool { return it.Err == nil }), 1)
	})
}

func TestParquet(t *testing.T) {
	type row struct {
		Image   []byte `parquet:"image"`
		Path    string `parquet:"path"`
		Caption string `parquet:"caption"`
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "a.jpg"), "A")
	name := filepath.Join(root, "t.parquet")
	png := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 100)...)
	require.NoError(t, parquet.WriteFile(name, []row{{Path: "a.jpg", Caption: "x"}, {Image: png, Caption: "y"}}))
	items := collect(t, Options{}, name)
	require.Len(t, items, 2)
	data, err := items[0].Read(context.Background(), 10)
	require.NoError(t, err)
	require.Equal(t, "A", string(data))
	data, err = items[1].Read(context.Background(), 1000)
	require.NoError(t, err)
	require.Equal(t, png, data)
	require.Equal(t, "y", items[1].Fields["caption"])
}

func TestCompareNatural(t *testing.T) {
	got := []string{"b", "a10", "a", "a02", "a2", "a1b", "a1"}
	sortNatural(got)
	require.Equal(t, []string{"a", "a1", "a1b", "a2", "a02", "a10", "b"}, got)
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SliceOfN(rapid.StringMatching(`[ab0-2]{0,6}`), 3, 3).Draw(t, "s")
		if (compareNatural(s[0], s[1]) < 0) != (compareNatural(s[1], s[0]) > 0) {
			t.Fatalf("not antisymmetric: %q %q", s[0], s[1])
		}
		if compareNatural(s[0], s[1]) <= 0 && compareNatural(s[1], s[2]) <= 0 && compareNatural(s[0], s[2]) > 0 {
			t.Fatalf("not transitive: %q", s)
		}
	})
}
