package vision_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

const goldens = "../testdata/images"

// golden is a row of images.json.
type golden struct {
	Name        string
	File        string
	Format      string
	PillowMode  string `json:"pillow_mode"`
	Size        [2]int
	Frames      int
	Orientation int `json:"exif_orientation"`
	Lossless    bool
	MaxNum      int `json:"max_num"`
	Grid        [2]int
	Tiles       int
	RGB         string   `json:"rgb_sha256"`
	TileSums    []string `json:"tile_sha256"`
	AltRGB      string   `json:"alt_rgb_sha256"`
	AltTiles    []string `json:"alt_tile_sha256"`
	Decoded     string
	Upright     string
	UprightGrid [2]int `json:"upright_grid"`
	Normalised  [][5]float64
}

func readGoldens(t testing.TB) []golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldens, "images.json"))
	require.NoError(t, err)
	var rows []golden
	require.NoError(t, json.Unmarshal(data, &rows))
	require.NotEmpty(t, rows)
	return rows
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldens, name))
	require.NoError(t, err)
	return data
}

func sum(pix []uint8) string {
	s := sha256.Sum256(pix)
	return hex.EncodeToString(s[:])
}

// readRGB reads a stored lossless picture.
func readRGB(t testing.TB, name string) (pix []uint8, w, h int) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(readFile(t, name)))
	require.NoError(t, err)
	p, err := vision.FromImage(img, vision.Options{})
	require.NoError(t, err)
	return p.Pix, p.Width, p.Height
}

func TestDecodeExact(t *testing.T) {
	for _, g := range readGoldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			p, err := vision.Decode(readFile(t, g.File), vision.Options{Exact: true, Name: g.Name})
			require.NoError(t, err)
			require.Equal(t, g.Size, [2]int{p.Width, p.Height})
			require.Equal(t, g.Orientation, p.Orientation)
			require.Equal(t, g.Frames, p.Frames)
			want, wantTiles := g.RGB, g.TileSums
			if g.AltRGB != "" {
				want, wantTiles = g.AltRGB, g.AltTiles
			}
			if got := sum(p.Pix); got != want {
				t.Errorf("got pixels %s, want %s; %s", got, want, difference(t, g, p.Pix))
			}
			tiles, err := vision.Tile(p, vision.Recipe{MaxTiles: g.MaxNum})
			require.NoError(t, err)
			require.Equal(t, g.Grid, [2]int{tiles.Cols, tiles.Rows})
			require.Equal(t, g.Tiles, tiles.Count())
			require.Equal(t, g.Tiles > 1, tiles.Thumbnail)
			for i, want := range wantTiles {
				if got := sum(tiles.Tile(i)); got != want {
					t.Errorf("tile %d: got %s, want %s", i, got, want)
				}
			}
			if g.AltRGB == "" && !t.Failed() {
				checkNormalised(t, g, tiles)
			}
		})
	}
}

// difference describes how decoded pixels differ from the stored ones, where stored.
func difference(t *testing.T, g golden, got []uint8) string {
	if g.Decoded == "" {
		return "no stored pixels"
	}
	want, _, _ := readRGB(t, g.Decoded)
	if len(want) != len(got) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	n, most, total := 0, 0, 0
	for i := range want {
		d := max(int(got[i])-int(want[i]), int(want[i])-int(got[i]))
		if d > 0 {
			n++
		}
		most, total = max(most, d), total+d
	}
	return fmt.Sprintf("%d of %d bytes differ, by %d at most, %.4f on average", n, len(want), most, float64(total)/float64(len(want)))
}

func checkNormalised(t *testing.T, g golden, tiles *vision.Tiles) {
	table := vision.NewNormTable(vision.ImageNetMean, vision.ImageNetStd)
	planes := make([]float32, 3*tiles.Size*tiles.Size)
	for _, v := range g.Normalised {
		tile, c, y, x := int(v[0]), int(v[1]), int(v[2]), int(v[3])
		table.Apply(planes, tiles.Tile(tile))
		got := float64(planes[(c*tiles.Size+y)*tiles.Size+x])
		if d := got - v[4]; !(d <= 2e-6 && d >= -2e-6) {
			t.Errorf("normalised value at %v: got %v, want %v", v[:4], got, v[4])
		}
	}
}

func TestDecodeUpright(t *testing.T) {
	seen := 0
	for _, g := range readGoldens(t) {
		if g.Upright == "" {
			continue
		}
		seen++
		t.Run(g.Name, func(t *testing.T) {
			p, err := vision.Decode(readFile(t, g.File), vision.Options{})
			require.NoError(t, err)
			want, w, h := readRGB(t, g.Upright)
			require.Equal(t, [2]int{w, h}, [2]int{p.Width, p.Height})
			require.True(t, bytes.Equal(want, p.Pix), "pixels differ")
			tiles, err := vision.Tile(p, vision.Recipe{MaxTiles: g.MaxNum})
			require.NoError(t, err)
			require.Equal(t, g.UprightGrid, [2]int{tiles.Cols, tiles.Rows})
			require.Contains(t, p.Notes, fmt.Sprintf("EXIF orientation %d applied", g.Orientation))
		})
	}
	require.NotZero(t, seen)
}

func TestGrid(t *testing.T) {
	rows, err := csv.NewReader(bytes.NewReader(readFile(t, "grid.csv"))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 3001)
	for _, row := range rows[1:] {
		var v [7]int
		for i, s := range row {
			v[i], err = strconv.Atoi(s)
			require.NoError(t, err)
		}
		if c, r := vision.Grid(v[0], v[1], v[2], v[3], v[4]); c != v[5] || r != v[6] {
			t.Errorf("Grid(%v): got %d×%d, want %d×%d", v[:5], c, r, v[5], v[6])
		}
	}
}

// readTensors reads the U8 tensors of a gzipped safetensors file.
func readTensors(t testing.TB, name string) map[string]tensor {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(readFile(t, name)))
	require.NoError(t, err)
	data, err := io.ReadAll(zr)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(data)
	var head map[string]struct {
		Shape   []int
		Offsets [2]int `json:"data_offsets"`
	}
	require.NoError(t, json.Unmarshal(data[8:8+n], &head))
	body := data[8+n:]
	out := map[string]tensor{}
	for k, v := range head {
		out[k] = tensor{v.Shape, body[v.Offsets[0]:v.Offsets[1]]}
	}
	return out
}

type tensor struct {
	shape []int // [h,w,3]
	pix   []uint8
}

func TestTileResizes(t *testing.T) {
	tensors := readTensors(t, "resize.safetensors.gz")
	require.Len(t, tensors, 72)
	for i := range 36 {
		in, out := tensors[fmt.Sprintf("%03d.in", i)], tensors[fmt.Sprintf("%03d.out", i)]
		got := vision.Resize(&vision.Picture{Pix: in.pix, Width: in.shape[1], Height: in.shape[0]}, out.shape[1], out.shape[0])
		if !bytes.Equal(got.Pix, out.pix) {
			t.Errorf("case %d: %v to %v differs", i, in.shape, out.shape)
		}
	}
}

func TestBroken(t *testing.T) {
	var rows []struct{ File string }
	require.NoError(t, json.Unmarshal(readFile(t, "broken.json"), &rows))
	require.Len(t, rows, 7)
	for _, r := range rows {
		for _, exact := range []bool{false, true} {
			_, err := vision.Decode(readFile(t, r.File), vision.Options{Exact: exact, Name: r.File})
			var e *vision.ImageError
			require.ErrorAs(t, err, &e, r.File)
			require.Equal(t, r.File, e.Name)
			t.Log(err)
		}
	}
}

func TestHugeHeader(t *testing.T) {
	// A PNG header of 100,000×100,000 RGB pixels and nothing else.
	head := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01\x86\xa0\x00\x01\x86\xa0\x08\x02\x00\x00\x00\x27\x30\x9c\x9f")
	var e *vision.ImageError
	run := func() {
		_, err := vision.Decode(head, vision.Options{})
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, vision.ErrLimit)
	}
	run()
	require.Equal(t, "width", e.Quantity)
	require.Equal(t, 100000.0, e.Value)
	require.Equal(t, 65535.0, e.Limit)
	bytesPerRun := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run()
		}
	}).AllocedBytesPerOp()
	require.Less(t, bytesPerRun, int64(1<<20))
}
