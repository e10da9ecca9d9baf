package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/internal/demo"
)

// odd is a way in which a file of a collection is not what captioners expect.
type odd struct {
	name   string
	reason string // part of the recorded reason; "" = it is a good picture
	inTar  bool
	make   func(t testing.TB, path string, n int)
}

// odds are the ways. CMYK, 16 bits, animations, a wrong extension and a broken
// EXIF block are good pictures: package vision reads them.
var odds = []odd{
	{"truncated", "corrupt", true, func(t testing.TB, path string, n int) {
		data := drawJPEG(t, n)
		put(t, path+".jpg", data[:len(data)*2/3])
	}},
	{"empty", "empty", true, func(t testing.TB, path string, _ int) { put(t, path+".jpg", nil) }},
	{"wrong_extension", "", true, func(t testing.TB, path string, n int) { put(t, path+".jpg", drawPNG(t, n)) }},
	{"huge", "exceeds the limit", true, func(t testing.TB, path string, n int) { put(t, path+".png", hugePNG(t, 20_000, byte(n))) }},
	{"cmyk", "", true, func(t testing.TB, path string, n int) {
		data, err := os.ReadFile("../../testdata/images/files/cmyk.jpg")
		require.NoError(t, err)
		put(t, path+".jpg", comment(data, n))
	}},
	{"sixteen_bits", "", true, func(t testing.TB, path string, n int) {
		img := image.NewRGBA64(image.Rect(0, 0, 64, 48))
		for i := range img.Pix {
			img.Pix[i] = uint8(i*7 + n)
		}
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, img))
		put(t, path+".png", b.Bytes())
	}},
	{"animated", "", true, func(t testing.TB, path string, n int) {
		g := &gif.GIF{}
		for k := range 3 {
			p := image.NewPaletted(image.Rect(0, 0, 40, 30), color.Palette{color.Black, color.White, color.RGBA{uint8(n), uint8(n >> 8), 200, 255}})
			for i := range p.Pix {
				p.Pix[i] = uint8((i/(7+k) + k + n) % 3)
			}
			g.Image, g.Delay = append(g.Image, p), append(g.Delay, 10)
		}
		var b bytes.Buffer
		require.NoError(t, gif.EncodeAll(&b, g))
		put(t, path+".gif", b.Bytes())
	}},
	{"bad_exif", "", true, func(t testing.TB, path string, n int) {
		put(t, path+".jpg", segment(drawJPEG(t, n), 0xE1, "Exif\x00\x00II*\x00\xff\xff\xff\x7f\x01\x00\x12\x01garbage"))
	}},
	{"directory", "is a directory", false, func(t testing.TB, path string, _ int) { require.NoError(t, os.Mkdir(path+".jpg", 0o755)) }},
	{"unreadable", "", false, func(t testing.TB, path string, n int) {
		if os.Geteuid() != 0 {
			put(t, path+".jpg", drawJPEG(t, n))
			require.NoError(t, os.Chmod(path+".jpg", 0))
			return
		}
		require.NoError(t, os.Symlink(filepath.Base(path)+".jpg", path+".jpg")) // root reads everything but a link to itself
	}},
}

func init() {
	odds[len(odds)-1].reason = "permission denied"
	if os.Geteuid() == 0 {
		odds[len(odds)-1].reason = "too many levels of symbolic links"
	}
}

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o644))
}

// draw makes picture n: rectangles on a ground, every n another picture.
func draw(n int) image.Image {
	r := rand.New(rand.NewPCG(uint64(n), 8))
	img := image.NewRGBA(image.Rect(0, 0, 160+r.IntN(160), 120+r.IntN(120)))
	paint := func(box image.Rectangle) {
		c := color.RGBA{uint8(r.IntN(256)), uint8(r.IntN(256)), uint8(r.IntN(256)), 255}
		for y := box.Min.Y; y < box.Max.Y; y++ {
			for x := box.Min.X; x < box.Max.X; x++ {
				img.SetRGBA(x, y, c)
			}
		}
	}
	paint(img.Rect)
	for range 6 {
		x, y := r.IntN(img.Rect.Dx()), r.IntN(img.Rect.Dy())
		paint(image.Rect(x, y, x+8+r.IntN(80), y+8+r.IntN(80)).Intersect(img.Rect))
	}
	return img
}

// drawJPEG is picture n as a file; its number is in a comment, so that no two are equal.
func drawJPEG(t testing.TB, n int) []byte {
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, draw(n), nil))
	return comment(b.Bytes(), n)
}

func drawPNG(t testing.TB, n int) []byte {
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, draw(n)))
	return b.Bytes()
}

// segment puts a marker segment behind a JPEG file's first marker.
func segment(data []byte, marker byte, body string) []byte {
	out := append([]byte{}, data[:2]...)
	out = append(out, 0xFF, marker, byte((len(body)+2)>>8), byte(len(body)+2))
	return append(append(out, body...), data[2:]...)
}

func comment(data []byte, n int) []byte { return segment(data, 0xFE, "picture "+strconv.Itoa(n)) }

// hugePNG is a whole, valid PNG of side×side black pixels of one bit.
func hugePNG(t testing.TB, side int, salt byte) []byte {
	var body bytes.Buffer
	z := zlib.NewWriter(&body)
	row := make([]byte, 1+(side+7)/8)
	for i := range side {
		if i == 0 {
			row[1] = salt // so that no two are equal
		}
		_, err := z.Write(row)
		require.NoError(t, err)
		row[1] = 0
	}
	require.NoError(t, z.Close())
	out := []byte("\x89PNG\r\n\x1a\n")
	chunk := func(name string, data []byte) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
		start := len(out)
		out = append(append(out, name...), data...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[start:]))
	}
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(side)), uint32(side))
	chunk("IHDR", append(head, 1, 0, 0, 0, 0))
	chunk("IDAT", body.Bytes())
	chunk("IEND", nil)
	return out
}

// collect writes n inputs, each of the odd ways every times, half of them in
// folders and half in tar shards, and returns what to expect of each: its key and
// the reason it must fail for, "" for the good ones.
func collect(t testing.TB, root string, n, each int) map[string]string {
	want := map[string]string{}
	kinds := make([]*odd, n)
	place := rand.New(rand.NewPCG(1, 2)).Perm(n)
	for k := range odds {
		for range each {
			i := place[0]
			place = place[1:]
			if !odds[k].inTar && i%2 == 1 { // odd numbers go into shards
				i--
				for kinds[i] != nil {
					i = (i + 2) % n
				}
			}
			for kinds[i] != nil {
				i = (i + 2) % n
			}
			kinds[i] = &odds[k]
		}
	}
	const shardSize = 500
	var shard *tar.Writer
	var file *os.File
	closeShard := func() {
		if shard != nil {
			require.NoError(t, errors.Join(shard.Close(), file.Close()))
			shard = nil
		}
	}
	temp := t.TempDir()
	for i, kind := range kinds {
		dir := filepath.Join(root, "folders", fmt.Sprintf("part%02d", i/2%20))
		if i%2 == 1 {
			dir = temp
		}
		require.NoError(t, os.MkdirAll(dir, 0o755))
		path := filepath.Join(dir, fmt.Sprintf("p%05d", i))
		reason := ""
		if kind != nil {
			kind.make(t, path, i)
			reason = kind.reason
		} else if i%5 == 0 {
			put(t, path+".png", drawPNG(t, i))
		} else {
			put(t, path+".jpg", drawJPEG(t, i))
		}
		names, err := filepath.Glob(path + ".*")
		require.NoError(t, err)
		require.Len(t, names, 1)
		if i%2 == 0 {
			want[filepath.ToSlash(names[0])] = reason
			continue
		}
		if i/2%shardSize == 0 {
			closeShard()
			file, err = os.Create(filepath.Join(root, fmt.Sprintf("shard%03d.tar", i/2/shardSize)))
			require.NoError(t, err)
			shard = tar.NewWriter(file)
		}
		data, err := os.ReadFile(names[0])
		require.NoError(t, err)
		member := filepath.Base(names[0])
		require.NoError(t, shard.WriteHeader(&tar.Header{Name: member, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1_700_000_000, 0)}))
		_, err = shard.Write(data)
		require.NoError(t, err)
		want[filepath.ToSlash(file.Name())+"/"+member] = reason
	}
	closeShard()
	return want
}

// metacap runs this test binary as the program.
func metacap(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return &exec.Cmd{Path: exe, Args: append([]string{"metacap"}, args...), Dir: dir}
}

func exitCode(t testing.TB, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	require.ErrorAs(t, err, &exit)
	return exit.ExitCode()
}

// needDemo skips a test that captions many pictures with the embedded model where
// that is not there, or takes minutes.
func needDemo(t *testing.T) {
	t.Helper()
	if !demo.Included() {
		t.Skip("built without the embedded model")
	}
	if !build().Cgo {
		t.Skip("pure Go is slow")
	}
}

// TestCollection captions a generated collection with the embedded model, as a
// user would: good pictures in folders and tar shards, and ten ways of being odd.
// METACAP_COLLECTION=N makes N inputs, one in a hundred of them odd; the figures
// of docs/results/captioner.md are of 5000.
func TestCollection(t *testing.T) {
	needDemo(t)
	n, each := 30, 1
	if v := os.Getenv("METACAP_COLLECTION"); v != "" {
		var err error
		n, err = strconv.Atoi(v)
		require.NoError(t, err)
		each = max(1, n/100/len(odds))
	}
	root := t.TempDir()
	want := collect(t, root, n, each)
	require.Len(t, want, n)
	recipe := filepath.Join(t.TempDir(), "recipe.json")
	const prompt, tokens = "Describe the image.", "6"
	put(t, recipe, []byte(`{"captions": [{"key": "caption", "prompt": "`+prompt+`"}], "keep_cut": true, "keep_preamble": true, "filters": {"off": ["cut", "duplicate", "loop"]}}`))
	args := []string{"caption", "-q", "folders", "shard*.tar", "--recipe", recipe, "--max-tiles", "1", "--max-tokens", tokens, "--out", "out"}
	cmd := metacap(t, root, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.Equal(t, exitSomeFailed, exitCode(t, cmd.Run()), stderr.String())

	records := readRecords(t, filepath.Join(root, "out", "captions.jsonl"))
	good := 0
	for key, reason := range want {
		rel, err := filepath.Rel(filepath.ToSlash(root), key)
		require.NoError(t, err)
		rec := records[rel]
		require.Len(t, rec, 1, "records of %s", rel)
		if reason != "" {
			require.Contains(t, rec[0].Error, reason, rel)
			require.Empty(t, rec[0].Captions, rel)
			continue
		}
		good++
		require.Empty(t, rec[0].Error, rel)
		require.NotEmpty(t, rec[0].Captions["caption"], rel)
		if rec[0].Path != "" {
			data, err := os.ReadFile(key)
			require.NoError(t, err)
			sum := sha256.Sum256(data)
			require.Equal(t, hex.EncodeToString(sum[:]), rec[0].SHA256, rel)
		}
		delete(records, rel)
	}
	require.Equal(t, n-bad(each), good)
	require.Len(t, records, bad(each), "no record of anything else")
	sameAlone(t, root, want, prompt, tokens)

	var rep captioner.Report
	reports, err := filepath.Glob(filepath.Join(root, "out", ".metacap", "*", "report.json"))
	require.NoError(t, err)
	require.Len(t, reports, 1)
	data, err := os.ReadFile(reports[0])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &rep))
	require.True(t, rep.Complete)
	require.Equal(t, bad(each), rep.Failed)
	t.Logf("%d inputs: %d captioned, %d failed, %d copies, %.1f s, %.2f images/s, bottleneck %s", n, rep.Done, rep.Failed, rep.Duplicates, rep.Seconds, rep.Rate, rep.Bottleneck)
	for reason, k := range rep.Reasons {
		t.Logf("%d failed: %s", k, reason)
	}
}

// bad counts the inputs that must fail.
func bad(each int) int {
	n := 0
	for _, o := range odds {
		if o.reason != "" {
			n += each
		}
	}
	return n
}

func readRecords(t testing.TB, path string) map[string][]captioner.Record {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	out := map[string][]captioner.Record{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var r captioner.Record
		require.NoError(t, json.Unmarshal(sc.Bytes(), &r))
		out[r.Key] = append(out[r.Key], r)
	}
	require.NoError(t, sc.Err())
	return out
}

// sameAlone captions a few good pictures alone and compares: a caption of the job
// is the one of its own picture.
func sameAlone(t *testing.T, root string, want map[string]string, prompt, tokens string) {
	t.Helper()
	records := readRecords(t, filepath.Join(root, "out", "captions.jsonl"))
	var paths []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if reason := want[key]; reason == "" && strings.Contains(key, "/folders/") && !strings.HasSuffix(key, ".gif") {
			paths = append(paths, key)
		}
		if len(paths) == 8 {
			break
		}
	}
	cmd := metacap(t, root, append([]string{"caption", "-q", "--json", "-p", prompt, "--max-tiles", "1", "--max-tokens", tokens}, paths...)...)
	out, err := cmd.Output()
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(out))
	texts := map[string]bool{}
	for {
		var r struct{ Image, Caption string }
		if err := d.Decode(&r); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		rel, err := filepath.Rel(root, r.Image)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(r.Caption), records[filepath.ToSlash(rel)][0].Captions["caption"], rel)
		texts[r.Caption] = true
	}
	t.Logf("%d pictures captioned alone, %d different captions", len(paths), len(texts))
}
