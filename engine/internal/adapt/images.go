package adapt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"metacap/engine/internal/parts"
	"metacap/engine/internal/sched"
	"metacap/loader"
	"metacap/vision"
)

// Images makes tiles by a checkpoint's recipe.
type Images struct {
	recipe  vision.Recipe
	exact   bool
	workers sync.Pool // of *worker
}

// worker is the reusable memory of one picture at a time.
type worker struct {
	dec  vision.Decoder
	tile vision.Tiler
}

// NewImages takes the recipe from the checkpoint's config. exact reads pictures
// as the reference does, see vision.Options.
func NewImages(ck *loader.Checkpoint, exact bool) *Images {
	c := &ck.Config
	r := vision.Recipe{Size: c.ImageSize, MinTiles: c.MinTiles, MaxTiles: c.MaxTiles, NoThumbnail: !c.UseThumbnail}
	if !c.DynamicImageSize {
		r.MinTiles, r.MaxTiles = 1, 1
	}
	return &Images{recipe: r, exact: exact, workers: sync.Pool{New: func() any { return new(worker) }}}
}

// recipeFor is the recipe with a request's limit on tiles. A limit below the
// model's least number of tiles lowers that too.
func (im *Images) recipeFor(maxTiles int) vision.Recipe {
	r := im.recipe
	if maxTiles > 0 {
		r.MaxTiles = maxTiles
		r.MinTiles = min(r.MinTiles, maxTiles)
	}
	return r
}

// Plan returns the tiles of a picture of width×height pixels.
func (im *Images) Plan(width, height, maxTiles int) (int, error) {
	_, _, tiles, err := im.recipeFor(maxTiles).Plan(width, height)
	return tiles, err
}

// Prepare reads, decodes and tiles a picture. Errors match vision's sentinels.
func (im *Images) Prepare(ctx context.Context, src parts.ImageSource) (*parts.Prepared, error) {
	w := im.workers.Get().(*worker)
	defer im.workers.Put(w)
	pic, err := im.read(w, src)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := im.recipeFor(src.MaxTiles)
	r.ThumbnailOnly, r.Crop = src.ThumbnailOnly, src.Crop
	t, err := w.tile.Tile(pic, r)
	if err != nil {
		return nil, err
	}
	p := &parts.Prepared{Key: t.Hash, Format: pic.Format, Width: pic.Width, Height: pic.Height, Cols: t.Cols, Rows: t.Rows, Notes: pic.Notes}
	for i := range t.Count() {
		px := t.Tile(i)
		p.Tiles = append(p.Tiles, sched.Tile{Key: sha256.Sum256(px), Pixels: px})
	}
	return p, nil
}

func (im *Images) read(w *worker, src parts.ImageSource) (*vision.Picture, error) {
	o := vision.Options{Exact: im.exact, Name: src.Path}
	switch {
	case src.Decoded != nil:
		return vision.FromImage(src.Decoded, o)
	case src.Path != "":
		data, err := readCapped(src.Path, vision.DefaultBytes)
		if err != nil {
			return nil, err
		}
		return w.dec.Decode(data, o)
	}
	return w.dec.Decode(src.Data, o)
}

// readCapped reads a regular file of at most limit bytes.
func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Size() > limit {
		return nil, &vision.ImageError{Name: path, Kind: vision.ErrLimit, Quantity: "bytes", Value: float64(st.Size()), Limit: float64(limit)}
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, errors.Join(err, errors.New("the file changed while it was read"))
	}
	return data, nil
}
