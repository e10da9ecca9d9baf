package parity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"metacap/vision"
)

const (
	imagesFile = "images.json"
	gridFile   = "grid.csv"
	resizeFile = "resize.json"
	brokenFile = "broken.json"

	// Decoders of lossy formats may differ from the reference's by this much, in
	// levels of 255: the inverse transform is not specified to the bit.
	lossyMax  = 4
	lossyMean = 0.2
	// normalisedMax bounds the difference of normalised values.
	normalisedMax = 2e-6
)

// imageRow is a row of images.json.
type imageRow struct {
	Name        string
	File        string
	Lossless    bool
	Size        [2]int
	MaxNum      int `json:"max_num"`
	Grid        [2]int
	Tiles       int
	RGB         string       `json:"rgb_sha256"`
	TileSums    []string     `json:"tile_sha256"`
	AltRGB      string       `json:"alt_rgb_sha256"`  // replaces RGB where the reference's reading is not sensible
	AltTiles    []string     `json:"alt_tile_sha256"` //
	Stored      []int        `json:"stored_tiles"`
	TilesPNG    string       `json:"tiles_png"` // the stored tiles, top to bottom
	Decoded     string       // the decoded picture, for lossy formats
	Upright     string       // the picture turned by its EXIF orientation
	UprightGrid [2]int       `json:"upright_grid"`
	Normalised  [][5]float64 // tile, channel, y, x, value
}

// images compares decoding, orientation, tiling, normalisation, grids and resizing.
func (r *runner) images(ctx context.Context, dir string) error {
	steps := []struct {
		file string
		run  func(context.Context, string) error
	}{{imagesFile, r.pictures}, {gridFile, r.grids}, {resizeFile, r.resizes}, {brokenFile, r.broken}}
	for _, s := range steps {
		if exists(filepath.Join(dir, s.file)) {
			if err := s.run(ctx, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *runner) pictures(ctx context.Context, dir string) error {
	var rows []imageRow
	if err := readJSON(filepath.Join(dir, imagesFile), &rows); err != nil {
		return err
	}
	for _, row := range rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !r.wants(row.Name) {
			continue
		}
		if row.AltRGB != "" {
			row.RGB, row.TileSums, row.Normalised = row.AltRGB, row.AltTiles, nil
		}
		c := Check{Part: PartImages, Case: row.Name}
		data, err := os.ReadFile(filepath.Join(dir, row.File))
		if err != nil {
			return err
		}
		p, err := vision.Decode(data, vision.Options{Exact: true, Name: row.Name})
		if err != nil {
			c.Stage = "decode"
			r.fail(c, err)
			continue
		}
		if err := r.picture(c, dir, row, p); err != nil {
			return err
		}
		if row.Upright != "" && exists(filepath.Join(dir, row.Upright)) {
			if err := r.upright(c, dir, row, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// picture compares decoded pixels, grid, tiles and normalised values.
func (r *runner) picture(c Check, dir string, row imageRow, p *vision.Picture) error {
	c.Stage = "decode"
	switch {
	case row.Lossless:
		c.Count = len(p.Pix)
		if sum(p.Pix) != row.RGB || row.Size != [2]int{p.Width, p.Height} {
			c.Measured, c.Detail = 1, fmt.Sprintf("%d×%d pixels differ from the reference's", p.Width, p.Height)
		}
		r.check(c)
	case row.Decoded != "" && exists(filepath.Join(dir, row.Decoded)):
		want, err := readRGB(filepath.Join(dir, row.Decoded))
		if err != nil {
			return err
		}
		r.levels(c, p.Pix, want.Pix)
	}
	tiles, err := vision.Tile(p, vision.Recipe{MaxTiles: row.MaxNum})
	if err != nil {
		c.Stage = "tiles"
		r.fail(c, err)
		return nil
	}
	c.Stage, c.Count, c.Measured, c.Detail = "grid", 1, 0, ""
	if got := [2]int{tiles.Cols, tiles.Rows}; got != row.Grid || tiles.Count() != row.Tiles {
		c.Measured, c.Detail = 1, fmt.Sprintf("got %v with %d tiles, want %v with %d", got, tiles.Count(), row.Grid, row.Tiles)
		r.check(c)
		return nil
	}
	r.check(c)
	if err := r.tiles(c, dir, row, tiles); err != nil {
		return err
	}
	if row.Lossless && len(row.Normalised) > 0 {
		r.normalised(c, row, tiles)
	}
	return nil
}

// tiles compares tiles: bit by bit for lossless files, within the decoder's bound else.
func (r *runner) tiles(c Check, dir string, row imageRow, tiles *vision.Tiles) error {
	c.Stage, c.Measured, c.Detail = "tiles", 0, ""
	if row.Lossless {
		var t tally
		for i := range tiles.Count() {
			t.compare(i < len(row.TileSums) && sum(tiles.Tile(i)) == row.TileSums[i], fmt.Sprintf("tile %d", i))
		}
		r.check(t.check(c))
		return nil
	}
	if !exists(filepath.Join(dir, row.TilesPNG)) {
		return nil // a set without stored tiles
	}
	want, err := readRGB(filepath.Join(dir, row.TilesPNG))
	if err != nil {
		return err
	}
	var got []uint8
	for _, i := range row.Stored {
		if i < 0 || i >= tiles.Count() {
			r.fail(c, fmt.Errorf("golden: stored tile %d of %d", i, tiles.Count()))
			return nil
		}
		got = append(got, tiles.Tile(i)...)
	}
	r.levels(c, got, want.Pix)
	return nil
}

// upright compares the default recipe, which applies the EXIF orientation.
func (r *runner) upright(c Check, dir string, row imageRow, data []byte) error {
	want, err := readRGB(filepath.Join(dir, row.Upright))
	if err != nil {
		return err
	}
	c.Stage, c.Measured, c.Allowed, c.Detail = "upright", 0, 0, ""
	p, err := vision.Decode(data, vision.Options{Name: row.Name})
	if err != nil {
		r.fail(c, err)
		return nil
	}
	if p.Width != want.Width || p.Height != want.Height {
		c.Measured, c.Detail = 1, fmt.Sprintf("got %d×%d, want %d×%d", p.Width, p.Height, want.Width, want.Height)
		r.check(c)
		return nil
	}
	if row.Lossless {
		c.Count = len(p.Pix)
		if !bytes.Equal(p.Pix, want.Pix) {
			c.Measured, c.Detail = 1, "pixels differ"
		}
		r.check(c)
	} else {
		r.levels(c, p.Pix, want.Pix)
	}
	c.Stage, c.Count, c.Measured, c.Detail = "upright grid", 1, 0, ""
	cols, rows, _, err := vision.Recipe{MaxTiles: row.MaxNum}.Plan(p.Width, p.Height)
	if err != nil {
		r.fail(c, err)
		return nil
	}
	if got := [2]int{cols, rows}; got != row.UprightGrid {
		c.Measured, c.Detail = 1, fmt.Sprintf("got %v, want %v", got, row.UprightGrid)
	}
	r.check(c)
	return nil
}

// levels compares 8-bit values of a lossy picture: largest and mean difference.
func (r *runner) levels(c Check, got, want []uint8) {
	c.Count = len(want)
	if len(got) != len(want) {
		r.fail(c, fmt.Errorf("got %d values, want %d", len(got), len(want)))
		return
	}
	most, total := 0, 0
	for i, w := range want {
		d := max(int(got[i])-int(w), int(w)-int(got[i]))
		most, total = max(most, d), total+d
	}
	mean := float64(total) / float64(max(1, len(want)))
	c.Measured, c.Allowed = float64(most), lossyMax
	r.check(c)
	c.Stage += " mean"
	c.Measured, c.Allowed = mean, lossyMean
	r.check(c)
}

func (r *runner) normalised(c Check, row imageRow, tiles *vision.Tiles) {
	table := vision.NewNormTable(vision.ImageNetMean, vision.ImageNetStd)
	planes := make([]float32, 3*tiles.Size*tiles.Size)
	c.Stage, c.Count, c.Measured, c.Allowed, c.Detail = "normalised", len(row.Normalised), 0, normalisedMax, ""
	last := -1
	for _, v := range row.Normalised {
		tile, ch, y, x := int(v[0]), int(v[1]), int(v[2]), int(v[3])
		if at := (ch*tiles.Size+y)*tiles.Size + x; tile < 0 || tile >= tiles.Count() || at < 0 || at >= len(planes) {
			r.fail(c, fmt.Errorf("golden: no value at %v", v[:4]))
			return
		}
		if tile != last {
			table.Apply(planes, tiles.Tile(tile))
			last = tile
		}
		c.Measured = math.Max(c.Measured, math.Abs(float64(planes[(ch*tiles.Size+y)*tiles.Size+x])-v[4]))
	}
	r.check(c)
}

// grids compares the choice of the tile grid.
func (r *runner) grids(_ context.Context, dir string) error {
	name := filepath.Join(dir, gridFile)
	if !r.wants(gridFile) {
		return nil
	}
	data, err := readFile(name)
	if err != nil {
		return err
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	want := []string{"width", "height", "min_num", "max_num", "image_size", "cols", "rows"}
	if len(rows) == 0 || !slices.Equal(rows[0], want) {
		return fmt.Errorf("%s: columns must be %v", name, want)
	}
	var t tally
	for n, row := range rows[1:] {
		var v [7]int
		for i := range v {
			if v[i], err = strconv.Atoi(row[i]); err != nil || v[i] < 1 {
				return fmt.Errorf("%s: row %d: %q is no positive number", name, n+2, row[i])
			}
		}
		cols, height := vision.Grid(v[0], v[1], v[2], v[3], v[4])
		t.compare(cols == v[5] && height == v[6], fmt.Sprintf("row %d %v: got %d×%d", n+2, row, cols, height))
	}
	r.check(t.check(Check{Part: PartImages, Case: gridFile, Stage: "grid"}))
	return nil
}

// resizes compares the resampling alone, without any decoder.
func (r *runner) resizes(ctx context.Context, dir string) error {
	if !r.wants("resize") {
		return nil
	}
	var cases []struct {
		Case    int
		Kind    string
		In, Out [2]int // width, height
	}
	if err := readJSON(filepath.Join(dir, resizeFile), &cases); err != nil {
		return err
	}
	tensors, cleanup, err := openTensors(filepath.Join(dir, "resize.safetensors"))
	if err != nil {
		return err
	}
	defer cleanup()
	c := Check{Part: PartImages, Case: "resize", Stage: "bytes that differ"}
	for _, cs := range cases {
		in, ok := tensors.Tensor(fmt.Sprintf("%03d.in", cs.Case))
		out, ok2 := tensors.Tensor(fmt.Sprintf("%03d.out", cs.Case))
		if !ok || !ok2 || len(in.Shape) != 3 || len(out.Shape) != 3 {
			return fmt.Errorf("%s: case %d has no tensors [h,w,3]", dir, cs.Case)
		}
		p := &vision.Picture{Pix: in.Data, Width: in.Shape[1], Height: in.Shape[0]}
		got := vision.Resize(p, out.Shape[1], out.Shape[0])
		bad := 0
		for i, w := range out.Data {
			if got.Pix[i] != w {
				bad++
			}
		}
		if bad > 0 && c.Detail == "" {
			c.Detail = fmt.Sprintf("first: case %d %s %v to %v, %d bytes", cs.Case, cs.Kind, cs.In, cs.Out, bad)
		}
		c.Count += len(out.Data)
		c.Measured += float64(bad)
	}
	r.check(c)
	return ctx.Err()
}

// broken checks that files which the reference refuses are refused.
func (r *runner) broken(_ context.Context, dir string) error {
	var rows []struct{ File string }
	if err := readJSON(filepath.Join(dir, brokenFile), &rows); err != nil {
		return err
	}
	for _, row := range rows {
		if !r.wants(row.File) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, row.File))
		if err != nil {
			return err
		}
		c := Check{Part: PartImages, Case: row.File, Stage: "refused", Count: 1}
		if _, err := vision.Decode(data, vision.Options{Name: row.File}); err == nil {
			c.Measured, c.Detail = 1, "was decoded"
		}
		r.check(c)
	}
	return nil
}

// sum is the SHA-256 of pixels, in hexadecimal.
func sum(pix []uint8) string {
	s := sha256.Sum256(pix)
	return hex.EncodeToString(s[:])
}
