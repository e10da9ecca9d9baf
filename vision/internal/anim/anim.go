// Package anim composes the frames of GIF, WebP and PNG animations.
package anim

import (
	"image"
	"time"
)

// Disposal says what happens to a frame's rectangle before the next frame is drawn.
type Disposal uint8

// The disposals of the three formats.
const (
	Keep     Disposal = iota // leave it
	Clear                    // make it transparent
	Previous                 // bring back what was there before the frame
)

// Info is what the header of a file says.
type Info struct {
	Width, Height int    // of the canvas
	Frames        int    // ≥ 1
	Mode          string // colour mode
}

// Patch is one frame as stored: a rectangle of the canvas.
type Patch struct {
	Rect    image.Rectangle // inside the canvas
	Pix     []uint8         // [h,w,4] RGB and alpha, not premultiplied; valid until the next frame
	Over    bool            // composite on what is there; else replace it
	Dispose Disposal
	Delay   time.Duration
}

// Reader gives the frames of a file in order; io.EOF after the last.
type Reader interface {
	Info() Info
	Next() (Patch, error)
}

// Canvas is the picture that frames are drawn on. It starts transparent.
type Canvas struct {
	Width, Height int
	Pix           []uint8 // [Height,Width,4] not premultiplied
	frames        int
	last          Patch
	saved         []uint8
}

// NewCanvas returns a transparent canvas; red, green and blue are those of fill, which
// shows where a reader drops alpha.
func NewCanvas(width, height int, fill [3]uint8) *Canvas {
	c := &Canvas{Width: width, Height: height, Pix: make([]uint8, 4*width*height)}
	if fill != [3]uint8{} {
		for i := 0; i < len(c.Pix); i += 4 {
			copy(c.Pix[i:i+3], fill[:])
		}
	}
	return c
}

// Draw disposes of the frame before and draws p. The first frame replaces the canvas
// inside its rectangle, colours of transparent pixels included.
func (c *Canvas) Draw(p Patch) {
	switch c.last.Dispose {
	case Clear:
		c.each(c.last.Rect, func(row []uint8, _ int) { clear(row) })
	case Previous:
		n := 0
		c.each(c.last.Rect, func(row []uint8, _ int) { n += copy(row, c.saved[n:]) })
	}
	if p.Dispose == Previous {
		c.saved = c.saved[:0]
		c.each(p.Rect, func(row []uint8, _ int) { c.saved = append(c.saved, row...) })
	}
	width := 4 * p.Rect.Dx()
	over := p.Over && c.frames > 0
	c.each(p.Rect, func(row []uint8, y int) {
		src := p.Pix[y*width:][:width]
		if over {
			blend(row, src)
		} else {
			copy(row, src)
		}
	})
	c.frames++
	c.last = Patch{Rect: p.Rect, Dispose: p.Dispose}
}

// each calls f with every row of r in the canvas and its number in r.
func (c *Canvas) each(r image.Rectangle, f func(row []uint8, y int)) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		f(c.Pix[4*(y*c.Width+r.Min.X):4*(y*c.Width+r.Max.X)], y-r.Min.Y)
	}
}

// blend composites src over dst, neither premultiplied.
//
// Source: the fixed-point arithmetic of libwebp's animation decoder.
func blend(dst, src []uint8) {
	for i := 0; i+4 <= len(src); i += 4 {
		s, d := src[i:i+4:i+4], dst[i:i+4:i+4]
		switch s[3] {
		case 0:
		case 255:
			copy(d, s)
		default:
			a := uint32(s[3])
			below := uint32(d[3]) * (256 - a) >> 8
			sum := a + below
			scale := 1 << 24 / sum
			for k := range 3 {
				d[k] = uint8((uint32(s[k])*a + uint32(d[k])*below) * scale >> 24)
			}
			d[3] = uint8(sum)
		}
	}
}
