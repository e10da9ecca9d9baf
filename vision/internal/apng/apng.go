// Package apng reads the frames of animated PNG files. Each frame is rewritten as a
// still PNG and decoded by image/png.
//
// Source: PNG 3rd edition, 11.3.6 (acTL, fcTL, fdAT).
package apng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/draw"
	"image/png"
	"io"
	"time"

	"metacap/vision/internal/anim"
)

// Reader reads the frames of a file.
type Reader struct {
	data   []byte
	pos    int
	info   anim.Info
	head   []byte // body of IHDR
	shared []byte // chunks that every frame needs: palette, transparency
	next   []byte // body of the frame control chunk read ahead
	hidden bool   // the still picture is no frame
	count  int
}

// Frames counts the frames of a PNG file: those of its animation, plus the still
// picture if that is not one of them; 1 for a still file.
func Frames(data []byte) int {
	n, fcTL := 0, false
	for pos := 8; ; {
		id, body, next, ok := chunk(data, pos)
		if !ok {
			return 1
		}
		pos = next
		switch id {
		case "acTL":
			if len(body) >= 8 {
				n = int(binary.BigEndian.Uint32(body))
			}
		case "fcTL":
			fcTL = true
		case "IDAT":
			if n < 1 {
				return 1
			}
			if !fcTL {
				n++
			}
			return n
		}
	}
}

func chunk(data []byte, pos int) (id string, body []byte, next int, ok bool) {
	if len(data)-pos < 12 {
		return "", nil, 0, false
	}
	n := uint64(binary.BigEndian.Uint32(data[pos:]))
	if n > uint64(len(data)-pos-12) {
		return "", nil, 0, false
	}
	return string(data[pos+4 : pos+8]), data[pos+8 : pos+8+int(n)], pos + 12 + int(n), true
}

// Open reads the chunks before the first frame.
func Open(data []byte) (*Reader, error) {
	r := &Reader{data: data, pos: 8}
	id, body, next, ok := chunk(data, 8)
	if !ok || id != "IHDR" || len(body) != 13 {
		return nil, errors.New("no IHDR chunk")
	}
	r.pos, r.head = next, body
	r.info = anim.Info{
		Width: int(binary.BigEndian.Uint32(body)), Height: int(binary.BigEndian.Uint32(body[4:])),
		Frames: Frames(data), Mode: "rgba8",
	}
	for {
		id, body, next, ok := chunk(data, r.pos)
		if !ok {
			return nil, errors.New("truncated")
		}
		switch id {
		case "PLTE", "tRNS":
			r.shared = append(r.shared, data[r.pos:next]...)
		case "fcTL":
			r.next = body
		case "IDAT":
			r.hidden = r.next == nil
			return r, nil
		}
		r.pos = next
	}
}

// Info describes the file.
func (r *Reader) Info() anim.Info { return r.info }

// Next decodes the next frame. A still picture that is not part of the animation
// comes first, as Pillow has it.
func (r *Reader) Next() (anim.Patch, error) {
	if r.count == r.info.Frames {
		return anim.Patch{}, io.EOF
	}
	p, err := r.frame()
	if err != nil {
		return p, fmt.Errorf("frame %d: %w", r.count, err)
	}
	r.count++
	return p, nil
}

func (r *Reader) frame() (p anim.Patch, err error) {
	p.Rect = image.Rect(0, 0, r.info.Width, r.info.Height)
	if r.hidden && r.count == 0 {
		p.Dispose = anim.Clear
	} else if err := r.control(&p); err != nil {
		return p, err
	}
	data, err := r.stream()
	if err != nil {
		return p, err
	}
	img, err := png.Decode(bytes.NewReader(r.still(p.Rect, data)))
	if err != nil {
		return p, err
	}
	if img.Bounds().Size() != p.Rect.Size() {
		return p, fmt.Errorf("decoder gave %v", img.Bounds())
	}
	n, ok := img.(*image.NRGBA)
	if !ok || n.Stride != 4*p.Rect.Dx() {
		n = image.NewNRGBA(img.Bounds())
		draw.Draw(n, n.Rect, img, img.Bounds().Min, draw.Src)
	}
	p.Pix = n.Pix
	return p, nil
}

// control reads the frame control chunk: rectangle, delay, disposal and blending.
func (r *Reader) control(p *anim.Patch) error {
	for r.next == nil {
		id, body, next, ok := chunk(r.data, r.pos)
		if !ok {
			return errors.New("truncated")
		}
		r.pos = next
		if id == "fcTL" {
			r.next = body
		}
	}
	b := r.next
	r.next = nil
	if len(b) != 26 {
		return fmt.Errorf("frame control of %d bytes", len(b))
	}
	var v [4]uint32 // width, height, x, y
	for i := range v {
		v[i] = binary.BigEndian.Uint32(b[4+4*i:])
		if v[i] > 1<<30 {
			return fmt.Errorf("frame control with value %d", v[i])
		}
	}
	rect := image.Rect(int(v[2]), int(v[3]), int(v[2]+v[0]), int(v[3]+v[1]))
	if rect.Empty() || !rect.In(p.Rect) {
		return fmt.Errorf("rectangle %v outside the canvas %v", rect, p.Rect)
	}
	p.Rect = rect
	num, den := time.Duration(binary.BigEndian.Uint16(b[20:])), time.Duration(binary.BigEndian.Uint16(b[22:]))
	if den == 0 {
		den = 100
	}
	p.Delay = num * time.Second / den
	p.Over = b[25] == 1
	p.Dispose = [3]anim.Disposal{anim.Keep, anim.Clear, anim.Previous}[min(b[24], 2)]
	return nil
}

// stream collects the compressed data of the frame: IDAT or fdAT chunks up to the next control chunk.
func (r *Reader) stream() ([]byte, error) {
	var out []byte
	for {
		id, body, next, ok := chunk(r.data, r.pos)
		if !ok {
			if out == nil {
				return nil, errors.New("truncated")
			}
			return out, nil
		}
		switch id {
		case "IDAT":
			out = append(out, body...)
		case "fdAT":
			if len(body) < 4 {
				return nil, errors.New("fdAT chunk without a number")
			}
			out = append(out, body[4:]...)
		case "fcTL", "IEND":
			if out != nil {
				return out, nil
			}
			if id == "IEND" {
				return nil, errors.New("frame without data")
			}
		}
		r.pos = next
	}
}

// still builds a PNG file of one frame.
func (r *Reader) still(rect image.Rectangle, data []byte) []byte {
	head := append([]byte(nil), r.head...)
	binary.BigEndian.PutUint32(head, uint32(rect.Dx()))
	binary.BigEndian.PutUint32(head[4:], uint32(rect.Dy()))
	out := []byte("\x89PNG\r\n\x1a\n")
	out = appendChunk(out, "IHDR", head)
	out = append(out, r.shared...)
	out = appendChunk(out, "IDAT", data)
	return appendChunk(out, "IEND", nil)
}

func appendChunk(out []byte, id string, body []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	start := len(out)
	out = append(append(out, id...), body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[start:]))
}
