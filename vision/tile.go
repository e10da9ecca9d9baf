package vision

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"image"

	"metacap/vision/internal/resample"
)

// Recipe says how a picture becomes tiles. The zero value is InternVL3.5's: 448
// pixels, 1 to 12 tiles, thumbnail last.
type Recipe struct {
	Size        int  // pixels of a tile's side; 0 = 448. config: force_image_size
	MinTiles    int  // 0 = 1. config: min_dynamic_patch
	MaxTiles    int  // 0 = 12. config: max_dynamic_patch
	NoThumbnail bool // leave the thumbnail out. config: use_thumbnail false
	// ThumbnailOnly makes one tile of the whole picture, whatever MaxTiles says.
	ThumbnailOnly bool
	// Crop restricts the picture to a rectangle of it, in pixels; empty = all. It must lie inside.
	Crop image.Rectangle
}

// maxTiles bounds Recipe.MaxTiles and maxTileSize Recipe.Size, so that a wrong
// configuration cannot ask for unbounded memory.
const (
	maxTiles    = 1024
	maxTileSize = 4096
)

// withDefaults fills in zero fields and checks the values.
func (r Recipe) withDefaults() (Recipe, error) {
	r.Size, r.MinTiles, r.MaxTiles = cmp.Or(r.Size, 448), cmp.Or(r.MinTiles, 1), cmp.Or(r.MaxTiles, 12)
	switch {
	case r.Size < 1 || r.Size > maxTileSize:
		return r, fmt.Errorf("vision: tile: %w: tile size %d, want 1 to %d", ErrRecipe, r.Size, maxTileSize)
	case r.MinTiles < 1 || r.MaxTiles > maxTiles || r.MinTiles > r.MaxTiles:
		return r, fmt.Errorf("vision: tile: %w: %d to %d tiles, want 1 ≤ min ≤ max ≤ %d", ErrRecipe, r.MinTiles, r.MaxTiles, maxTiles)
	}
	if r.ThumbnailOnly {
		r.MinTiles, r.MaxTiles = 1, 1
	}
	return r, nil
}

// Plan says how many tiles a picture of width×height becomes under the recipe,
// without touching pixels: the grid and the count with its thumbnail.
func (r Recipe) Plan(width, height int) (cols, rows, tiles int, err error) {
	r, err = r.withDefaults()
	if err != nil {
		return 0, 0, 0, err
	}
	box, err := r.box(width, height)
	if err != nil {
		return 0, 0, 0, err
	}
	cols, rows = Grid(box.Dx(), box.Dy(), r.MinTiles, r.MaxTiles, r.Size)
	tiles = cols * rows
	if tiles > 1 && !r.NoThumbnail {
		tiles++
	}
	return cols, rows, tiles, nil
}

// box is the part of a picture of width×height to be tiled.
func (r Recipe) box(width, height int) (image.Rectangle, error) {
	all := image.Rect(0, 0, width, height)
	switch {
	case all.Empty():
		return all, fmt.Errorf("vision: tile: %w: picture of %d×%d pixels", ErrRecipe, width, height)
	case r.Crop == image.Rectangle{}:
		return all, nil
	case r.Crop.Empty() || !r.Crop.In(all):
		return all, fmt.Errorf("vision: tile: %w: crop %v does not lie in the picture %v", ErrRecipe, r.Crop, all)
	}
	return r.Crop, nil
}

// Tiles are the ViT's input pictures of one image.
type Tiles struct {
	Pix           []uint8 // [I,Size,Size,3] the grid row by row, then the thumbnail
	Size          int     // pixels of a side
	Cols, Rows    int     // the grid
	Thumbnail     bool    // the last tile is the whole picture
	Width, Height int     // pixels of the picture, or of its crop
	// Hash identifies the pixels and the geometry: equal hashes mean equal Pix.
	// SHA-256, so that nobody can make two pictures share a cache entry.
	Hash [32]byte
}

// Count is I, the number of tiles with the thumbnail.
func (t *Tiles) Count() int { return len(t.Pix) / (t.Size * t.Size * 3) }

// Tile returns tile i, [Size,Size,3]; it shares memory with t.
func (t *Tiles) Tile(i int) []uint8 {
	n := t.Size * t.Size * 3
	return t.Pix[i*n : (i+1)*n : (i+1)*n]
}

// Tile cuts a picture into tiles: it is scaled to the grid's size without keeping
// the aspect ratio, cut row by row, and the whole picture scaled to one tile comes
// last when there are several.
//
// Source: InternVL dynamic_preprocess; the resampling is Pillow's, see resample.
func Tile(p *Picture, r Recipe) (*Tiles, error) { return new(Tiler).Tile(p, r) }

// Tiler makes tiles of one picture after the other and reuses its working memory.
// The zero value is ready. One goroutine at a time.
type Tiler struct {
	resizer resample.Resizer
}

// Tile is like the function Tile. The tiles belong to the caller.
func (t *Tiler) Tile(p *Picture, r Recipe) (*Tiles, error) {
	out := new(Tiles)
	return out, t.TileInto(out, p, r)
}

// TileInto is like Tile but fills dst, whose Pix is reused when it is large enough.
func (t *Tiler) TileInto(dst *Tiles, p *Picture, r Recipe) error {
	cols, rows, count, err := r.Plan(p.Width, p.Height)
	if err != nil {
		return err
	}
	r, _ = r.withDefaults() // checked by Plan
	box, _ := r.box(p.Width, p.Height)
	if len(p.Pix) != 3*p.Width*p.Height {
		return fmt.Errorf("vision: tile: %w: picture of %d×%d pixels in %d bytes", ErrRecipe, p.Width, p.Height, len(p.Pix))
	}
	pix := dst.Pix
	if n := count * r.Size * r.Size * 3; cap(pix) < n {
		pix = make([]uint8, n)
	} else {
		pix = pix[:n]
	}
	*dst = Tiles{Pix: pix, Size: r.Size, Cols: cols, Rows: rows, Thumbnail: count > cols*rows, Width: box.Dx(), Height: box.Dy()}
	src := resample.Source{
		Pix:    p.Pix[3*(box.Min.Y*p.Width+box.Min.X):],
		Stride: 3 * p.Width, Width: box.Dx(), Height: box.Dy(),
	}
	g := resample.Grid{Cols: cols, Rows: rows, Size: r.Size}
	t.resizer.Tiles(pix[:g.Bytes()], src, g)
	if dst.Thumbnail {
		t.resizer.Resize(pix[g.Bytes():], src, r.Size, r.Size)
	}
	dst.Hash = hash(dst, src)
	return nil
}

// hash computes Tiles.Hash over whichever determines the tiles in fewer bytes: the
// tiles or the source pixels (with the geometry, each is a function of the other's
// input). The first word tells the two apart.
func hash(t *Tiles, src resample.Source) (sum [32]byte) {
	h := sha256.New()
	fromSource := 3*src.Width*src.Height < len(t.Pix)
	var head [8 * 7]byte
	for i, v := range []int{flag(fromSource), t.Size, t.Cols, t.Rows, flag(t.Thumbnail), t.Width, t.Height} {
		binary.LittleEndian.PutUint64(head[8*i:], uint64(v))
	}
	h.Write(head[:])
	if fromSource {
		for y := range src.Height {
			h.Write(src.Pix[y*src.Stride:][:3*src.Width])
		}
	} else {
		h.Write(t.Pix)
	}
	h.Sum(sum[:0])
	return sum
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Mean and std of ImageNet, RGB: what every InternVL checkpoint uses. A checkpoint's
// preprocessor_config.json decides; its class default is CLIP's.
var (
	ImageNetMean = [3]float64{0.485, 0.456, 0.406}
	ImageNetStd  = [3]float64{0.229, 0.224, 0.225}
)

// NormTable is a lookup table [3,256]: channel, 8-bit value → network input.
type NormTable [3][256]float32

// NewNormTable computes (v/255 - mean)/std for every channel and value, each step
// rounded to float32 as the reference's tensor operations are.
func NewNormTable(mean, std [3]float64) *NormTable {
	t := new(NormTable)
	for c := range t {
		m, s := float32(mean[c]), float32(std[c])
		for v := range t[c] {
			x := float32(v) / 255
			x = float32(x - m)
			t[c][v] = float32(x / s)
		}
	}
	return t
}

// Apply writes one tile [S,S,3] as planes [3,S,S]. len(dst) must be len(tile).
func (t *NormTable) Apply(dst []float32, tile []uint8) {
	n := len(tile) / 3
	r, g, b := dst[:n], dst[n:2*n], dst[2*n:3*n]
	for i := range n {
		p := tile[3*i : 3*i+3 : 3*i+3]
		r[i], g[i], b[i] = t[0][p[0]], t[1][p[1]], t[2][p[2]]
	}
}
