package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"metacap/engine/internal/parts"
	"metacap/engine/internal/sched"
	"metacap/vision"
)

// tileBytes is what a tile's "pixels" are: a hash, then the picture's bytes.
const tileBytes = 32

// images makes tiles of anything.
type images struct{ tiles int }

func (im *images) Plan(width, height, maxTiles int) (int, error) {
	n := im.tiles
	if maxTiles > 0 {
		n = min(n, maxTiles)
	}
	return n, nil
}

func (im *images) Prepare(ctx context.Context, src parts.ImageSource) (*parts.Prepared, error) {
	data := src.Data
	var width, height int
	switch {
	case src.Path != "":
		var err error
		if data, err = os.ReadFile(src.Path); err != nil {
			return nil, err
		}
	case src.Decoded != nil:
		b := src.Decoded.Bounds()
		data = fmt.Appendf(nil, "%dx%d", b.Dx(), b.Dy())
		width, height = b.Dx(), b.Dy()
	}
	if src.Decoded == nil {
		width, height = len(data), 1
	}
	if strings.HasPrefix(string(data), "broken") {
		return nil, &vision.ImageError{Name: src.Path, Kind: vision.ErrCorrupt}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c := src.Crop; !c.Empty() {
		data = fmt.Appendf(bytes.Clone(data), " crop %dx%d+%d+%d", c.Dx(), c.Dy(), c.Min.X, c.Min.Y)
	}
	n, _ := im.Plan(0, 0, src.MaxTiles)
	if src.ThumbnailOnly {
		n = 1
	}
	p := &parts.Prepared{Format: "fake", Width: width, Height: height, Cols: n, Rows: 1}
	all := sha256.New()
	for i := range n {
		h := sha256.New()
		h.Write(data)
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(i)))
		key := sched.TileKey(h.Sum(nil))
		all.Write(key[:])
		p.Tiles = append(p.Tiles, sched.Tile{Key: key, Pixels: append(key[:], data...)})
	}
	p.Key = [32]byte(all.Sum(nil))
	return p, nil
}
