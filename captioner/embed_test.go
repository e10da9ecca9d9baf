package captioner_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/captioner/internal/xmp"
	"metacap/engine/fake"
	"metacap/vision"
)

// album writes four pictures of different formats and returns their paths.
func album(t testing.TB, dir string) []string {
	t.Helper()
	img := image.NewPaletted(image.Rect(0, 0, 20, 10), color.Palette{color.Black, color.White, color.RGBA{200, 30, 30, 255}})
	for i := range img.Pix {
		img.Pix[i] = uint8(i * i % 3)
	}
	var paths []string
	for _, c := range []struct {
		name   string
		encode func(*bytes.Buffer) error
	}{
		{"a.jpg", func(b *bytes.Buffer) error { return jpeg.Encode(b, img, nil) }},
		{"b.png", func(b *bytes.Buffer) error { return png.Encode(b, img) }},
		{"d.gif", func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) }},
	} {
		var b bytes.Buffer
		require.NoError(t, c.encode(&b))
		paths = append(paths, filepath.Join(dir, c.name))
		require.NoError(t, os.WriteFile(paths[len(paths)-1], b.Bytes(), 0o640))
	}
	data, err := os.ReadFile("../testdata/images/files/lossless.webp")
	require.NoError(t, err)
	paths = append(paths, filepath.Join(dir, "c.webp"))
	require.NoError(t, os.WriteFile(paths[3], data, 0o640))
	return paths
}

func pixels(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	p, err := vision.Decode(data, vision.Options{})
	require.NoError(t, err)
	return p.Pix
}

// inside is the description in a picture's own file.
func inside(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	packet, err := xmp.Packet(data)
	require.NoError(t, err)
	if packet == nil {
		return ""
	}
	text, err := xmp.Description(packet)
	require.NoError(t, err)
	return text
}

func embedding(dir string) captioner.Job {
	j := job(dir)
	j.Write, j.Embed = []string{"jsonl"}, true
	return j
}

// short says something short of a picture: the bytes of a real one are no text.
func short(p fake.Prompt) string { return fmt.Sprintf("A picture of %d bytes.", len(p.Images[0])) }

func TestEmbed(t *testing.T) {
	dir := t.TempDir()
	paths := album(t, dir)
	before, want := map[string][]byte{}, map[string]string{}
	for _, p := range paths {
		before[p] = pixels(t, p)
		st, err := os.Stat(p)
		require.NoError(t, err)
		want[p] = fmt.Sprintf("A picture of %d bytes.", st.Size())
	}
	e := open(t, fake.Options{Answer: short})
	rep := run(t, e, embedding(dir))
	require.Equal(t, 4, rep.Done)
	for _, p := range paths {
		require.Equal(t, before[p], pixels(t, p), p)
		st, err := os.Stat(p)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o640), st.Mode().Perm())
		if strings.HasSuffix(p, ".gif") {
			side, err := os.ReadFile(filepath.Join(dir, "d.xmp"))
			require.NoError(t, err, "a format without XMP gets a sidecar")
			require.Contains(t, string(side), want[p])
			continue
		}
		require.Equal(t, want[p], inside(t, p))
	}
	t.Run("the changed files are known again", func(t *testing.T) {
		rep := run(t, e, embedding(dir))
		require.Equal(t, 0, rep.Done)
		require.Equal(t, 4, rep.Before)
	})
	t.Run("killed before the journal said done", func(t *testing.T) {
		file := journalOf(t, dir)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var kept []byte
		for line := range bytes.Lines(data) {
			var e struct{ Status, Key string }
			require.NoError(t, json.Unmarshal(line, &e))
			if e.Status != "done" || strings.HasSuffix(e.Key, ".gif") {
				kept = append(kept, line...)
			}
		}
		require.NoError(t, os.WriteFile(file, kept, 0o644))
		was, err := os.ReadFile(paths[0])
		require.NoError(t, err)
		never := open(t, fake.Options{Answer: func(fake.Prompt) string { return "A caption made twice." }})
		rep := run(t, never, embedding(dir))
		require.Equal(t, 3, rep.Done)
		now, err := os.ReadFile(paths[0])
		require.NoError(t, err)
		require.Equal(t, was, now, "written once, captioned once")
	})
	t.Run("existing", func(t *testing.T) {
		for _, c := range []struct {
			mode captioner.Existing
			want string
		}{
			{captioner.ExistingSkip, want[paths[0]]},
			{captioner.ExistingAppend, want[paths[0]] + "\nAnother."},
			{captioner.ExistingPrepend, "Another.\n" + want[paths[0]] + "\nAnother."},
			{captioner.ExistingOverwrite, "Another."},
		} {
			j := embedding(dir)
			j.Inputs, j.Existing, j.Fresh = paths[:1], c.mode, true
			other := open(t, fake.Options{Answer: func(fake.Prompt) string { return "Another." }})
			require.Equal(t, 1, run(t, other, j).Done, c.mode)
			require.Equal(t, c.want, inside(t, paths[0]), c.mode)
		}
		j := embedding(dir)
		j.Inputs, j.Existing, j.Fresh = paths[:1], captioner.ExistingFail, true
		require.Equal(t, 1, run(t, e, j).Failed)
	})
	t.Run("another job", func(t *testing.T) {
		j := embedding(dir)
		j.Embed = false
		_, err := captioner.Run(t.Context(), []captioner.Engine{e}, j)
		require.ErrorContains(t, err, "embed was true, is false")
	})
}

// journalOf is the only journal under a directory.
func journalOf(t testing.TB, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".metacap", "*", "journal.jsonl"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	return names[0]
}

// TestEmbedLink: a symbolic link and its target are one file. It is written into
// once, whichever comes first, and the other name has its record.
func TestEmbedLink(t *testing.T) {
	for _, name := range []string{"0_link.jpg", "z_link.jpg"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target := album(t, dir)[0]
			link := filepath.Join(dir, name)
			require.NoError(t, os.Symlink("a.jpg", link))
			var asked atomic.Int64
			count := func(fake.Prompt) string { return fmt.Sprintf("Caption number %d.", asked.Add(1)) }
			j := embedding(dir)
			j.Existing, j.Select.Include = captioner.ExistingAppend, []string{"*.jpg"}
			rep := run(t, open(t, fake.Options{Answer: func(p fake.Prompt) string { return short(p) }}), j)
			require.Equal(t, 2, rep.Done)
			require.Equal(t, 1, rep.Duplicates)
			recs := records(t, filepath.Join(dir, "captions.jsonl"))
			a, b := recs[filepath.ToSlash(target)], recs[filepath.ToSlash(link)]
			require.Equal(t, a.Captions, b.Captions)
			require.True(t, a.AliasOf == b.Key || b.AliasOf == a.Key, "%q %q", a.AliasOf, b.AliasOf)
			require.NotEqual(t, a.AliasOf == "", b.AliasOf == "", "one of them owns the file")
			require.Equal(t, a.Captions["caption"], inside(t, target), "appended once")
			st, err := os.Lstat(link)
			require.NoError(t, err)
			require.NotZero(t, st.Mode()&os.ModeSymlink, "the link stays one")

			again := run(t, open(t, fake.Options{Answer: count}), j)
			require.Equal(t, 2, again.Before)
			require.Zero(t, asked.Load())

			// Killed when one of them was done: the rest is the other name's record.
			file := journalOf(t, dir)
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			var kept []byte
			for line := range bytes.Lines(data) {
				if !bytes.Contains(line, []byte("alias_of")) {
					kept = append(kept, line...)
				}
			}
			require.NoError(t, os.WriteFile(file, kept, 0o644))
			rep = run(t, open(t, fake.Options{Answer: count}), j)
			require.Equal(t, []int{1, 1}, []int{rep.Before, rep.Done})
			require.Zero(t, asked.Load())
			require.Equal(t, a.Captions["caption"], inside(t, target), "still once")
		})
	}
}
