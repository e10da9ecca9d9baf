// Package gif reads GIF files frame by frame, so that an animation of any length
// needs the memory of one frame, and keeps the colour of transparent pixels, which
// package image/gif discards.
//
// Source: GIF89a specification; leniency as Pillow: data after the last pixel of a
// frame is ignored, and a first frame that exceeds the screen enlarges it.
package gif

import (
	"compress/lzw"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"time"

	"metacap/vision/internal/anim"
)

var errTruncated = errors.New("truncated")

// Reader reads the frames of a file.
type Reader struct {
	data   []byte
	pos    int
	info   anim.Info
	global []byte // colour table, 3 bytes a colour
	count  int    // frames returned

	pix     []uint8
	indices []uint8
	lzw     *lzw.Reader
}

// control is a graphic control extension.
type control struct {
	dispose     anim.Disposal
	delay       time.Duration
	transparent int // palette index; <0 = none
}

// frame is an image descriptor with what precedes it.
type frame struct {
	control
	rect       image.Rectangle
	palette    []byte
	interlaced bool
	data       int // position of the LZW data
}

// Open reads the headers of all frames; no pixel memory is allocated.
func Open(data []byte) (*Reader, error) {
	r := &Reader{data: data}
	if len(data) < 13 {
		return nil, errTruncated
	}
	r.info = anim.Info{
		Width: int(binary.LittleEndian.Uint16(data[6:])), Height: int(binary.LittleEndian.Uint16(data[8:])),
		Mode: "palette",
	}
	r.pos = 13
	if data[10]&0x80 != 0 {
		n := 3 << (data[10]&7 + 1)
		if len(data) < 13+n {
			return nil, errTruncated
		}
		r.global = data[13 : 13+n]
		r.pos += n
	}
	start := r.pos
	for {
		f, err := r.header()
		if err == nil {
			_, err = r.skipBlocks(f.data + 1)
		}
		if err != nil {
			if r.info.Frames > 0 { // the frames before are good; reading on will report it
				break
			}
			if err == io.EOF {
				err = errors.New("no frame")
			}
			return nil, err
		}
		if r.info.Frames == 0 {
			r.info.Width, r.info.Height = max(r.info.Width, f.rect.Max.X), max(r.info.Height, f.rect.Max.Y)
		}
		r.info.Frames++
	}
	r.pos = start
	return r, nil
}

// Info describes the file.
func (r *Reader) Info() anim.Info { return r.info }

// header reads up to and including the next image descriptor; io.EOF at the trailer
// or the end of the file.
func (r *Reader) header() (frame, error) {
	f := frame{control: control{transparent: -1}}
	for r.pos < len(r.data) {
		kind := r.data[r.pos]
		r.pos++
		switch kind {
		case 0x3b: // trailer
			r.pos = len(r.data)
		case 0x21: // extension
			if r.pos+2 > len(r.data) {
				return f, errTruncated
			}
			label := r.data[r.pos]
			body, err := r.skipBlocks(r.pos + 1)
			if err != nil {
				return f, err
			}
			if label == 0xf9 && len(body) >= 5 && body[0] >= 4 {
				f.control = parseControl(body[1:])
			}
		case 0x2c: // image descriptor
			return f, r.descriptor(&f)
		default: // stray bytes between blocks
		}
	}
	return f, io.EOF
}

// skipBlocks moves past the sub-blocks at position at and returns them with their length bytes.
func (r *Reader) skipBlocks(at int) ([]byte, error) {
	for p := at; p < len(r.data); p += 1 + int(r.data[p]) {
		if r.data[p] == 0 {
			r.pos = p + 1
			return r.data[at:p], nil
		}
	}
	r.pos = len(r.data)
	return nil, errTruncated
}

func parseControl(b []byte) control {
	c := control{transparent: -1, delay: time.Duration(binary.LittleEndian.Uint16(b[1:])) * 10 * time.Millisecond}
	switch b[0] >> 2 & 7 {
	case 2:
		c.dispose = anim.Clear
	case 3:
		c.dispose = anim.Previous
	}
	if b[0]&1 != 0 {
		c.transparent = int(b[3])
	}
	return c
}

func (r *Reader) descriptor(f *frame) error {
	d := r.data[r.pos:]
	if len(d) < 10 {
		return errTruncated
	}
	x, y := int(binary.LittleEndian.Uint16(d)), int(binary.LittleEndian.Uint16(d[2:]))
	w, h := int(binary.LittleEndian.Uint16(d[4:])), int(binary.LittleEndian.Uint16(d[6:]))
	f.rect = image.Rect(x, y, x+w, y+h)
	f.interlaced = d[8]&0x40 != 0
	f.palette, f.data = r.global, r.pos+9
	if d[8]&0x80 != 0 {
		n := 3 << (d[8]&7 + 1)
		if len(d) < 9+n+1 {
			return errTruncated
		}
		f.palette, f.data = d[9:9+n], r.pos+9+n
	}
	if w == 0 || h == 0 {
		return fmt.Errorf("frame of %d×%d pixels", w, h)
	}
	return nil
}

// Fill is the colour under the first frame: that of its transparent index, or of index 0.
func (r *Reader) Fill() (c [3]uint8) {
	probe := *r
	f, err := probe.header()
	if err != nil {
		return c
	}
	i := 3 * max(f.transparent, 0)
	if i+3 <= len(f.palette) {
		copy(c[:], f.palette[i:])
	}
	return c
}

// Next decodes the next frame. A frame beyond the canvas is cut to it.
func (r *Reader) Next() (anim.Patch, error) {
	for {
		f, err := r.header()
		if err != nil {
			return anim.Patch{}, err
		}
		visible := f.rect.Intersect(image.Rect(0, 0, r.info.Width, r.info.Height))
		if visible.Empty() && r.count > 0 {
			if _, err := r.skipBlocks(f.data + 1); err != nil {
				return anim.Patch{}, err
			}
			continue
		}
		// The canvas has been checked against the limits; a frame may not get round them.
		if area := f.rect.Dx() * f.rect.Dy(); area > 4*r.info.Width*r.info.Height+1<<16 {
			return anim.Patch{}, fmt.Errorf("frame %d: rectangle %v on a canvas of %d×%d", r.count, f.rect, r.info.Width, r.info.Height)
		}
		if f.palette == nil {
			return anim.Patch{}, errors.New("no colour table")
		}
		if err := r.pixels(&f, visible); err != nil {
			return anim.Patch{}, fmt.Errorf("frame %d: %w", r.count, err)
		}
		r.count++
		return anim.Patch{Rect: visible, Pix: r.pix, Over: true, Dispose: f.dispose, Delay: f.delay}, nil
	}
}

// pixels decodes the rows of a frame and looks their colours up.
func (r *Reader) pixels(f *frame, visible image.Rectangle) error {
	size := f.data
	if size >= len(r.data) {
		return errTruncated
	}
	bits := int(r.data[size])
	if bits < 2 || bits > 8 {
		return fmt.Errorf("code size %d, want 2 to 8", bits)
	}
	blocks := &blockReader{data: r.data, pos: size + 1}
	if r.lzw == nil {
		r.lzw = lzw.NewReader(blocks, lzw.LSB, bits).(*lzw.Reader)
	} else {
		r.lzw.Reset(blocks, lzw.LSB, bits)
	}
	var table [256][4]uint8
	for i := range table {
		table[i][3] = 255
		if 3*i+3 <= len(f.palette) {
			copy(table[i][:3], f.palette[3*i:])
		}
	}
	if f.transparent >= 0 {
		table[f.transparent][3] = 0
	}
	w, h := visible.Dx(), visible.Dy()
	if n := 4 * w * h; cap(r.pix) < n {
		r.pix = make([]uint8, n)
	} else {
		r.pix = r.pix[:n]
	}
	r.indices = append(r.indices[:0], make([]uint8, f.rect.Dx())...)
	rows := rowOrder{height: f.rect.Dy(), interlaced: f.interlaced, step: 8}
	for range f.rect.Dy() {
		if _, err := io.ReadFull(r.lzw, r.indices); err != nil {
			return fmt.Errorf("pixel data: %w", err)
		}
		y := rows.next()
		if y >= h {
			continue
		}
		for x, v := range r.indices[:w] {
			copy(r.pix[4*(y*w+x):][:4], table[v][:])
		}
	}
	_, err := r.skipBlocks(size + 1)
	return err
}

// rowOrder counts the rows of a frame in file order. Source: GIF89a appendix E.
type rowOrder struct {
	height     int
	interlaced bool
	y, step    int
	start      int
}

func (o *rowOrder) next() int {
	y := o.y
	if !o.interlaced {
		o.y++
		return y
	}
	o.y += o.step
	for o.y >= o.height && o.step > 1 {
		// Passes start at rows 0, 4, 2, 1 and take every 8th, 8th, 4th, 2nd row.
		switch {
		case o.start == 0:
			o.start = 4
		default:
			o.start, o.step = o.start/2, o.step/2
		}
		o.y = o.start
		if o.start == 0 {
			break
		}
	}
	return y
}

// blockReader joins sub-blocks; it implements io.ByteReader for the LZW decoder.
type blockReader struct {
	data []byte
	pos  int // next byte
	left int // bytes left in the sub-block
}

func (b *blockReader) ReadByte() (byte, error) {
	if b.left == 0 {
		if b.pos >= len(b.data) || b.data[b.pos] == 0 {
			return 0, io.EOF
		}
		b.left = int(b.data[b.pos])
		b.pos++
	}
	if b.pos >= len(b.data) {
		return 0, io.ErrUnexpectedEOF
	}
	v := b.data[b.pos]
	b.pos++
	b.left--
	return v, nil
}

func (b *blockReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	v, err := b.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = v
	return 1, nil
}
