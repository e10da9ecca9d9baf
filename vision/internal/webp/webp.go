// Package webp reads WebP files, still or animated, frame by frame, with the pixels
// of libwebp. Entropy decoding is that of golang.org/x/image/vp8 and vp8l.
//
// Source: WebP container specification (RFC 9649).
package webp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"time"

	"golang.org/x/image/vp8"
	"golang.org/x/image/vp8l"

	"metacap/vision/internal/anim"
)

var errTruncated = errors.New("truncated")

// Reader reads the frames of a file.
type Reader struct {
	info     anim.Info
	animated bool
	chunks   []byte // still: all chunks; animated: the chunks from the next frame on
	pix      []uint8
	count    int
}

// chunk takes the first chunk off b. The padding byte of the last one may be missing.
func chunk(b []byte) (id string, body, rest []byte, err error) {
	if len(b) < 8 {
		return "", nil, nil, io.EOF
	}
	n := uint64(binary.LittleEndian.Uint32(b[4:]))
	if n > uint64(len(b)-8) {
		return "", nil, nil, errTruncated
	}
	end := min(8+n+n&1, uint64(len(b)))
	return string(b[:4]), b[8 : 8+n], b[end:], nil
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// Open reads the headers; no pixel memory is allocated.
func Open(data []byte) (*Reader, error) {
	if len(data) < 20 {
		return nil, errTruncated
	}
	r := &Reader{chunks: data[12:], info: anim.Info{Frames: 1}}
	id, body, rest, err := chunk(r.chunks)
	if err != nil {
		return nil, errTruncated
	}
	if id != "VP8X" {
		r.info.Width, r.info.Height, r.info.Mode, err = size(id, body)
		return r, err
	}
	if len(body) < 10 {
		return nil, errTruncated
	}
	r.info.Width, r.info.Height = uint24(body[4:])+1, uint24(body[7:])+1
	r.animated = body[0]&2 != 0
	if r.animated {
		r.chunks = rest
		return r, r.countFrames()
	}
	f, err := find(rest)
	if err != nil {
		return nil, err
	}
	if f.width != r.info.Width || f.height != r.info.Height {
		return nil, fmt.Errorf("picture of %d×%d on a canvas of %d×%d", f.width, f.height, r.info.Width, r.info.Height)
	}
	r.info.Mode = f.mode
	return r, nil
}

// countFrames counts the animation frames that are complete and takes the mode of the first.
func (r *Reader) countFrames() error {
	r.info.Frames = 0
	for rest := r.chunks; ; {
		id, body, next, err := chunk(rest)
		if err != nil {
			break // reading will report a truncated frame
		}
		rest = next
		if id != "ANMF" {
			continue
		}
		if r.info.Frames == 0 {
			if len(body) < 16 {
				return errTruncated
			}
			f, err := find(body[16:])
			if err != nil {
				return err
			}
			r.info.Mode = f.mode
		}
		r.info.Frames++
	}
	if r.info.Frames == 0 {
		return errors.New("animation without a frame")
	}
	return nil
}

// size reads the size from the bitstream of a VP8 or VP8L chunk.
// Source: RFC 6386 section 9.1; WebP lossless bitstream specification, section 3.
func size(id string, b []byte) (w, h int, mode string, err error) {
	switch id {
	case "VP8 ":
		if len(b) < 10 || b[3] != 0x9d || b[4] != 0x01 || b[5] != 0x2a {
			return 0, 0, "", errors.New("no VP8 key frame")
		}
		return int(binary.LittleEndian.Uint16(b[6:])) & 0x3fff, int(binary.LittleEndian.Uint16(b[8:])) & 0x3fff, "ycbcr 4:2:0", nil
	case "VP8L":
		if len(b) < 5 || b[0] != 0x2f {
			return 0, 0, "", errors.New("no VP8L header")
		}
		v := binary.LittleEndian.Uint32(b[1:])
		return int(v&0x3fff) + 1, int(v>>14&0x3fff) + 1, "rgba8 lossless", nil
	}
	return 0, 0, "", fmt.Errorf("chunk %q where a picture is expected", id)
}

// frame is the picture chunks of a frame.
type frame struct {
	id            string // "VP8 " or "VP8L"
	data          []byte
	alpha         []byte // ALPH chunk, or nil
	width, height int
	mode          string
}

// find looks for the picture chunk and an ALPH chunk before it.
func find(b []byte) (f frame, err error) {
	for {
		id, body, rest, err := chunk(b)
		if err == io.EOF {
			return f, errors.New("no picture chunk")
		}
		if err != nil {
			return f, err
		}
		b = rest
		switch id {
		case "ALPH":
			f.alpha = body
		case "VP8 ", "VP8L":
			f.id, f.data = id, body
			f.width, f.height, f.mode, err = size(id, body)
			if f.alpha != nil && id == "VP8 " {
				f.mode = "ycbcra 4:2:0"
			}
			if err == nil && (f.width == 0 || f.height == 0) {
				err = fmt.Errorf("picture of %d×%d", f.width, f.height)
			}
			return f, err
		}
	}
}

// Info describes the file.
func (r *Reader) Info() anim.Info { return r.info }

// Next decodes the next frame.
func (r *Reader) Next() (anim.Patch, error) {
	if !r.animated {
		if r.count > 0 {
			return anim.Patch{}, io.EOF
		}
		r.count++
		f, err := find(r.chunks)
		if err != nil {
			return anim.Patch{}, err
		}
		p := anim.Patch{Rect: image.Rect(0, 0, f.width, f.height)}
		p.Pix, err = r.decode(f)
		return p, err
	}
	for {
		id, body, rest, err := chunk(r.chunks)
		if err != nil {
			return anim.Patch{}, err
		}
		r.chunks = rest
		if id != "ANMF" {
			continue
		}
		p, err := r.animationFrame(body)
		if err != nil {
			err = fmt.Errorf("frame %d: %w", r.count, err)
		}
		r.count++
		return p, err
	}
}

// animationFrame decodes the body of an ANMF chunk.
func (r *Reader) animationFrame(b []byte) (p anim.Patch, err error) {
	if len(b) < 16 {
		return p, errTruncated
	}
	x, y, w, h := 2*uint24(b), 2*uint24(b[3:]), uint24(b[6:])+1, uint24(b[9:])+1
	p.Rect = image.Rect(x, y, x+w, y+h)
	if !p.Rect.In(image.Rect(0, 0, r.info.Width, r.info.Height)) {
		return p, fmt.Errorf("rectangle %v outside the canvas of %d×%d", p.Rect, r.info.Width, r.info.Height)
	}
	p.Delay = time.Duration(uint24(b[12:])) * time.Millisecond
	p.Over = b[15]&2 == 0
	if b[15]&1 != 0 {
		p.Dispose = anim.Clear
	}
	f, err := find(b[16:])
	if err != nil {
		return p, err
	}
	if f.width != w || f.height != h {
		return p, fmt.Errorf("picture of %d×%d in a rectangle of %d×%d", f.width, f.height, w, h)
	}
	p.Pix, err = r.decode(f)
	return p, err
}

// decode returns [h,w,4]; the memory is reused by the next frame.
func (r *Reader) decode(f frame) ([]uint8, error) {
	if f.id == "VP8L" {
		m, err := vp8l.Decode(bytes.NewReader(f.data))
		if err != nil {
			return nil, err
		}
		n, ok := m.(*image.NRGBA)
		if !ok || n.Stride != 4*f.width || n.Rect.Dx() != f.width || n.Rect.Dy() != f.height {
			return nil, fmt.Errorf("decoder gave %T of %v", m, m.Bounds())
		}
		return n.Pix, nil
	}
	alpha, err := readAlpha(f)
	if err != nil {
		return nil, fmt.Errorf("alpha: %w", err)
	}
	d := vp8.NewDecoder()
	d.Init(bytes.NewReader(f.data), len(f.data))
	if _, err := d.DecodeFrameHeader(); err != nil {
		return nil, err
	}
	m, err := d.DecodeFrame()
	if err != nil {
		return nil, err
	}
	if n := 4 * f.width * f.height; cap(r.pix) < n {
		r.pix = make([]uint8, n)
	} else {
		r.pix = r.pix[:n]
	}
	toRGBA(r.pix, m, alpha)
	return r.pix, nil
}

// readAlpha decodes an ALPH chunk to [h,w]; nil when there is none.
// Source: RFC 9649 section 2.7.1.2.
func readAlpha(f frame) ([]uint8, error) {
	if f.alpha == nil {
		return nil, nil
	}
	if len(f.alpha) < 1 {
		return nil, errTruncated
	}
	head, data := f.alpha[0], f.alpha[1:]
	out := make([]uint8, f.width*f.height)
	switch head & 3 {
	case 0:
		if copy(out, data) < len(out) {
			return nil, errTruncated
		}
	case 1: // a lossless picture without header, alpha in its green samples
		w, h := f.width-1, f.height-1
		header := []byte{0x2f, uint8(w), uint8(w>>8) | uint8(h<<6), uint8(h >> 2), uint8(h >> 10)}
		m, err := vp8l.Decode(io.MultiReader(bytes.NewReader(header), bytes.NewReader(data)))
		if err != nil {
			return nil, err
		}
		n, ok := m.(*image.NRGBA)
		if !ok || len(n.Pix) != 4*len(out) {
			return nil, fmt.Errorf("decoder gave %T of %v", m, m.Bounds())
		}
		for i := range out {
			out[i] = n.Pix[4*i+1]
		}
	default:
		return nil, fmt.Errorf("compression %d", head&3)
	}
	unfilter(out, f.width, head>>2&3)
	return out, nil
}

// unfilter undoes the prediction of alpha values from their neighbours.
func unfilter(a []uint8, width int, filter uint8) {
	if filter == 0 {
		return
	}
	for x := 1; x < width; x++ { // all filters predict the first row from the left
		a[x] += a[x-1]
	}
	for y := width; y < len(a); y += width {
		row, up := a[y:y+width], a[y-width:y]
		if filter == 2 {
			for x := range row {
				row[x] += up[x]
			}
			continue
		}
		row[0] += up[0]
		for x := 1; x < width; x++ {
			predicted := int(row[x-1])
			if filter == 3 {
				predicted = min(max(predicted+int(up[x])-int(up[x-1]), 0), 255)
			}
			row[x] += uint8(predicted)
		}
	}
}
