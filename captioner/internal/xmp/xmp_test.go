package xmp

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
	"metacap/vision"
)

var said = Properties{
	Description: "A <red> fox & a \"brown\" dog – über alles.\nTwo lines.",
	Alt:         "Fox and dog",
	Subject:     []string{"fox", "dog & cat"},
}

// files are the pictures that the tests of package vision decode.
func files(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, ext := range []string{"jpg", "png", "webp"} {
		names, err := filepath.Glob("../../../testdata/images/files/*." + ext)
		require.NoError(t, err)
		out = append(out, names...)
	}
	require.Greater(t, len(out), 10)
	return out
}

// TestEmbed writes into every picture, twice, and compares pixels and bytes.
func TestEmbed(t *testing.T) {
	for _, name := range files(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			file, err := os.ReadFile(name)
			require.NoError(t, err)
			was, err := vision.Decode(file, vision.Options{Exact: true})
			if err != nil {
				t.Skip("not a picture")
			}
			first, err := Embed(file, said)
			require.NoError(t, err)
			packet, err := Packet(first)
			require.NoError(t, err)
			text, err := Description(packet)
			require.NoError(t, err)
			require.Equal(t, said.Description, text)
			now, err := vision.Decode(first, vision.Options{Exact: true})
			require.NoError(t, err)
			require.Equal(t, was.Pix, now.Pix)
			require.Equal(t, was.Orientation, now.Orientation)
			require.Equal(t, was.Frames, now.Frames)

			second, err := Embed(first, Properties{Description: "Another."})
			require.NoError(t, err)
			packet, err = Packet(second)
			require.NoError(t, err)
			text, err = Description(packet)
			require.NoError(t, err)
			require.Equal(t, "Another.", text)
			require.Equal(t, 1, strings.Count(string(packet), "<dc:description"))
			require.Contains(t, string(packet), "Fox and dog", "what was not given stays")
			require.Empty(t, cmpOutside(first, second), "bytes outside the packet")
		})
	}
}

// cmpOutside compares two files without their packets and lengths.
func cmpOutside(a, b []byte) string {
	cut := func(file []byte) []byte {
		c, err := open(file)
		if err != nil {
			return []byte(err.Error())
		}
		out, err := c.with([]byte("same"))
		if err != nil {
			return []byte(err.Error())
		}
		return out
	}
	if !slices.Equal(cut(a), cut(b)) {
		return "differ"
	}
	return ""
}

// TestMerge checks that what other programs wrote is kept.
func TestMerge(t *testing.T) {
	const packet = `<?xpacket begin="` + "\uFEFF" + `" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<r:Description r:about="" xmlns:d="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">
<d:description><r:Alt><r:li xml:lang="x-default">old</r:li><r:li xml:lang="de">alt</r:li></r:Alt></d:description>
<d:subject><r:Bag><r:li>fox</r:li><r:li>tree</r:li></r:Bag></d:subject>
<d:creator><r:Seq><r:li>Someone</r:li></r:Seq></d:creator>
</r:Description></r:RDF></x:xmpmeta><?xpacket end="w"?>`
	out, err := Merge([]byte(packet), said)
	require.NoError(t, err)
	for _, kept := range []string{`xmp:Rating="4"`, "<d:creator>", "<rdf:li>fox</rdf:li><rdf:li>tree</rdf:li><rdf:li>dog &amp; cat</rdf:li>"} {
		require.Contains(t, string(out), kept)
	}
	for _, gone := range []string{">old<", ">alt<", "<d:subject>"} {
		require.NotContains(t, string(out), gone)
	}
	text, err := Description(out)
	require.NoError(t, err)
	require.Equal(t, said.Description, text)
	again, err := Merge(out, said)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(again), "description>")/2)
	for _, broken := range []string{"", "<x", "<a></a>", "no markup", `<?xml version="1.0" encoding="UTF-16"?><a/>`} {
		_, err := Merge([]byte(broken), said)
		require.Error(t, err, broken)
	}
}

func TestUnsupported(t *testing.T) {
	for _, file := range []string{"", "GIF89a", "BM", "plain text"} {
		_, err := Embed([]byte(file), said)
		require.ErrorIs(t, err, ErrUnsupported)
	}
	file, err := os.ReadFile(files(t)[0])
	require.NoError(t, err)
	_, err = Embed(file, Properties{Description: strings.Repeat("x", 1<<16)})
	require.ErrorContains(t, err, "exceeds the limit of 65504")
}

// TestExifTool asks an independent reader.
func TestExifTool(t *testing.T) {
	tool := programtest.Path(t, "exiftool")
	dir := t.TempDir()
	n := 0
	for _, name := range files(t) {
		file, err := os.ReadFile(name)
		require.NoError(t, err)
		if _, err := vision.Decode(file, vision.Options{}); err != nil {
			continue
		}
		out, err := Embed(file, said)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(name)), out, 0o644))
		n++
	}
	data, err := exec.Command(tool, "-j", "-struct", "-validate", "-warning", "-error", "-XMP:all", dir).Output()
	require.NoError(t, err)
	var read []struct {
		SourceFile, Description, AltTextAccessibility, Error string
		Subject                                              []string
	}
	require.NoError(t, json.Unmarshal(data, &read))
	require.Len(t, read, n)
	for _, r := range read {
		require.Empty(t, r.Error, r.SourceFile)
		require.Equal(t, said.Description, r.Description, r.SourceFile)
		require.Equal(t, said.Alt, r.AltTextAccessibility, r.SourceFile)
		require.Equal(t, said.Subject, r.Subject, r.SourceFile)
	}
}

// FuzzEmbed looks for panics, and for files that lose pixels.
func FuzzEmbed(f *testing.F) {
	for _, name := range files(f) {
		if file, err := os.ReadFile(name); err == nil && len(file) < 4096 {
			f.Add(file)
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		out, err := Embed(file, said)
		if err != nil {
			return
		}
		was, err := vision.Decode(file, vision.Options{Exact: true, Limits: vision.Limits{Pixels: 1 << 16}})
		if err != nil {
			return
		}
		now, err := vision.Decode(out, vision.Options{Exact: true})
		require.NoError(t, err)
		require.Equal(t, was.Pix, now.Pix)
	})
}
