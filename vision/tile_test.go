package vision_test

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"testing"

	"github.com/disintegration/imaging"
	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// ramp is a picture in which every pixel differs from its neighbours.
func ramp(w, h int) *vision.Picture {
	p := &vision.Picture{Pix: make([]uint8, 3*w*h), Width: w, Height: h, Orientation: 1, Frames: 1}
	for i := range p.Pix {
		p.Pix[i] = uint8(i*7 + i/w)
	}
	return p
}

func TestTile(t *testing.T) {
	t.Run("tiles_are_the_resized_picture_cut", func(t *testing.T) {
		p := ramp(300, 200)
		tiles, err := vision.Tile(p, vision.Recipe{Size: 56})
		require.NoError(t, err)
		require.Equal(t, [3]int{3, 2, 7}, [3]int{tiles.Cols, tiles.Rows, tiles.Count()})
		whole := vision.Resize(p, 3*56, 2*56)
		for i := range 6 {
			for y := range 56 {
				from := 3 * ((i/3*56+y)*whole.Width + i%3*56)
				require.Equal(t, whole.Pix[from:from+3*56], tiles.Tile(i)[3*56*y:3*56*(y+1)])
			}
		}
		require.Equal(t, vision.Resize(p, 56, 56).Pix, tiles.Tile(6))
	})
	t.Run("crop_equals_tiling_the_cut_out_part", func(t *testing.T) {
		p := ramp(120, 90)
		box := image.Rect(17, 9, 100, 60)
		cut := &vision.Picture{Width: box.Dx(), Height: box.Dy()}
		for y := box.Min.Y; y < box.Max.Y; y++ {
			cut.Pix = append(cut.Pix, p.Pix[3*(y*120+box.Min.X):3*(y*120+box.Max.X)]...)
		}
		want, err := vision.Tile(cut, vision.Recipe{Size: 28})
		require.NoError(t, err)
		got, err := vision.Tile(p, vision.Recipe{Size: 28, Crop: box})
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
	t.Run("limits_on_tiles", func(t *testing.T) {
		p := ramp(640, 480)
		for _, c := range []struct {
			r     vision.Recipe
			count int
			thumb bool
		}{
			{vision.Recipe{Size: 28}, 13, true},
			{vision.Recipe{Size: 28, NoThumbnail: true}, 12, false},
			{vision.Recipe{Size: 28, MaxTiles: 6}, 7, true},
			{vision.Recipe{Size: 28, MaxTiles: 1}, 1, false},
			{vision.Recipe{Size: 28, ThumbnailOnly: true}, 1, false},
			{vision.Recipe{Size: 28, ThumbnailOnly: true, MinTiles: 4, MaxTiles: 6}, 1, false},
		} {
			tiles, err := vision.Tile(p, c.r)
			require.NoError(t, err)
			require.Equal(t, c.count, tiles.Count(), "%+v", c.r)
			require.Equal(t, c.thumb, tiles.Thumbnail, "%+v", c.r)
			_, _, planned, err := c.r.Plan(640, 480)
			require.NoError(t, err)
			require.Equal(t, c.count, planned)
		}
	})
	t.Run("rejects_nonsense", func(t *testing.T) {
		p := ramp(10, 10)
		for _, r := range []vision.Recipe{
			{Size: -1},
			{Size: 5000},
			{MinTiles: 5, MaxTiles: 4},
			{MaxTiles: -1},
			{MaxTiles: 5000},
			{Crop: image.Rect(0, 0, 11, 5)},
			{Crop: image.Rect(3, 3, 3, 9)},
		} {
			_, err := vision.Tile(p, r)
			require.ErrorIs(t, err, vision.ErrRecipe, "%+v", r)
		}
		_, err := vision.Tile(&vision.Picture{Pix: make([]uint8, 5), Width: 2, Height: 2}, vision.Recipe{})
		require.ErrorIs(t, err, vision.ErrRecipe)
	})
	t.Run("hash", func(t *testing.T) {
		hash := func(p *vision.Picture, r vision.Recipe) [32]byte {
			tiles, err := vision.Tile(p, r)
			require.NoError(t, err)
			return tiles.Hash
		}
		for _, size := range []int{28, 448} { // the tiles are smaller, larger than the picture
			r := vision.Recipe{Size: size}
			seen := map[[32]byte]string{hash(ramp(150, 100), r): "base"}
			require.Contains(t, seen, hash(ramp(150, 100), r))
			changed := ramp(150, 100)
			for i := range changed.Pix[:300] {
				changed.Pix[i] ^= 128
			}
			for name, h := range map[string][32]byte{
				"pixels": hash(changed, r), "size": hash(ramp(150, 100), vision.Recipe{Size: size + 28}),
				"grid":      hash(ramp(150, 100), vision.Recipe{Size: size, MaxTiles: 2}),
				"thumbnail": hash(ramp(150, 100), vision.Recipe{Size: size, NoThumbnail: true}),
				"crop":      hash(ramp(150, 100), vision.Recipe{Size: size, Crop: image.Rect(0, 0, 150, 99)}),
				"shape":     hash(ramp(100, 150), r),
			} {
				require.NotContains(t, seen, h, name)
				seen[h] = name
			}
		}
	})
	t.Run("reuse", func(t *testing.T) {
		var tiler vision.Tiler
		var out vision.Tiles
		for _, size := range [][2]int{{64, 64}, {300, 200}, {20, 90}, {300, 200}} {
			want, err := vision.Tile(ramp(size[0], size[1]), vision.Recipe{Size: 56})
			require.NoError(t, err)
			require.NoError(t, tiler.TileInto(&out, ramp(size[0], size[1]), vision.Recipe{Size: 56}))
			require.Equal(t, *want, out)
		}
	})
}

// TestOrient compares the eight orientations with an independent implementation.
func TestOrient(t *testing.T) {
	base := readFile(t, "files/exif1.jpg")
	p, err := vision.Decode(base, vision.Options{})
	require.NoError(t, err)
	turns := map[int]func(image.Image) *image.NRGBA{
		2: imaging.FlipH, 3: imaging.Rotate180, 4: imaging.FlipV, 5: imaging.Transpose,
		6: imaging.Rotate270, 7: imaging.Transverse, 8: imaging.Rotate90,
	}
	for o, turn := range turns {
		want, err := vision.FromImage(turn(p), vision.Options{})
		require.NoError(t, err)
		got, err := vision.Decode(readFile(t, "files/exif"+string(rune('0'+o))+".jpg"), vision.Options{})
		require.NoError(t, err)
		require.Equal(t, want.Width, got.Width)
		require.Equal(t, want.Pix, got.Pix, "orientation %d", o)
	}
}

func TestThumbnail(t *testing.T) {
	for _, c := range []struct{ w, h, side, wantW, wantH int }{
		{300, 200, 100, 100, 66}, {3000, 20, 100, 100, 1}, {40, 30, 100, 40, 30}, {1, 1, 8, 1, 1},
	} {
		p := &vision.Picture{Width: c.w, Height: c.h, Pix: bytes.Repeat([]byte{200, 100, 50}, c.w*c.h)}
		data, err := vision.Thumbnail(p, c.side)
		require.NoError(t, err)
		img, err := jpeg.Decode(bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, [2]int{c.wantW, c.wantH}, [2]int{img.Bounds().Dx(), img.Bounds().Dy()})
		got := color.RGBAModel.Convert(img.At(0, 0)).(color.RGBA)
		for i, v := range []uint8{got.R, got.G, got.B} {
			require.InDelta(t, []int{200, 100, 50}[i], int(v), 4) // quality 85 quantises DC in steps of 5 or less
		}
	}
	_, err := vision.Thumbnail(ramp(3, 3), 0)
	require.ErrorIs(t, err, vision.ErrRecipe)
}
