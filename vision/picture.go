package vision

import (
	"image"
	"image/color"

	"metacap/vision/internal/resample"
)

// Picture is a decoded picture: 8-bit RGB without alpha, upright unless the exact
// recipe was asked for.
type Picture struct {
	Pix           []uint8 // [Height,Width,3]
	Width, Height int     // pixels, after orientation
	Format        string  // as Sniff names it; "image" from FromImage
	Mode          string  // colour mode of the file: "gray8", "gray16", "palette", "rgb8", "rgba16", "ycbcr 4:2:0", "cmyk", …
	Orientation   int     // EXIF orientation of the file, 1…8; 1 when absent
	Frames        int     // frames in the file; 1 for a still picture
	Notes         []string
}

// note records something done to the picture that its viewer may want to know.
func (p *Picture) note(text string) { p.Notes = append(p.Notes, text) }

// Bounds is the rectangle of the picture, from (0,0).
func (p *Picture) Bounds() image.Rectangle { return image.Rect(0, 0, p.Width, p.Height) }

// ColorModel, At and Bounds make Picture an image.Image.
func (p *Picture) ColorModel() color.Model { return color.RGBAModel }

// At returns the colour at (x,y); zero outside.
func (p *Picture) At(x, y int) color.Color {
	if !(image.Point{x, y}.In(p.Bounds())) {
		return color.RGBA{}
	}
	i := 3 * (y*p.Width + x)
	return color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 255}
}

// FromImage converts a decoded image. Transparency is composited on white unless
// exact is set; then it is dropped. Limits are those of opts; EXIF does not exist here.
func FromImage(img image.Image, opts Options) (*Picture, error) {
	b := img.Bounds()
	if err := opts.Limits.withDefaults().checkSize("image", int64(b.Dx()), int64(b.Dy())); err != nil {
		return nil, opts.named(err)
	}
	if p, ok := img.(*Picture); ok {
		q := *p
		q.Pix = append([]uint8(nil), p.Pix...)
		return &q, nil
	}
	p := &Picture{Width: b.Dx(), Height: b.Dy(), Format: "image", Orientation: 1, Frames: 1}
	p.Pix = make([]uint8, 3*p.Width*p.Height)
	p.paint(img, opts.Exact)
	return p, nil
}

// orient turns the pixels so that orientation o (2…8) becomes upright.
func (p *Picture) orient(o int) {
	w, h := p.Width, p.Height
	if o >= 5 {
		w, h = h, w
	}
	out := make([]uint8, len(p.Pix))
	// The source pixel of result (x,y) is at start + x·dx + y·dy, in pixels.
	sw, sh := p.Width, p.Height
	var start, dx, dy int
	switch o {
	case 2: // mirrored
		start, dx, dy = sw-1, -1, sw
	case 3: // upside down
		start, dx, dy = sw*sh-1, -1, -sw
	case 4: // mirrored and upside down
		start, dx, dy = sw*(sh-1), 1, -sw
	case 5: // transposed
		start, dx, dy = 0, sw, 1
	case 6: // to be turned clockwise
		start, dx, dy = sw*(sh-1), -sw, 1
	case 7: // transposed over the other diagonal
		start, dx, dy = sw*sh-1, -sw, -1
	case 8: // to be turned counter-clockwise
		start, dx, dy = sw-1, sw, -1
	}
	// Squares of 32 pixels keep both sides in the cache when rows become columns.
	const block = 32
	for y0 := 0; y0 < h; y0 += block {
		for x0 := 0; x0 < w; x0 += block {
			for y := y0; y < min(y0+block, h); y++ {
				s, d := start+y*dy+x0*dx, 3*(y*w+x0)
				for x := x0; x < min(x0+block, w); x++ {
					copy(out[d:d+3:d+3], p.Pix[3*s:3*s+3])
					s, d = s+dx, d+3
				}
			}
		}
	}
	p.Pix, p.Width, p.Height = out, w, h
}

// Resize scales a picture to width×height (each ≥ 1) as Pillow's bicubic
// Image.resize does, without keeping the aspect ratio.
func Resize(p *Picture, width, height int) *Picture {
	q := *p
	q.Pix, q.Width, q.Height = make([]uint8, 3*width*height), width, height
	var r resample.Resizer
	r.Resize(q.Pix, resample.Source{Pix: p.Pix, Stride: 3 * p.Width, Width: p.Width, Height: p.Height}, width, height)
	return &q
}
