package jpeg

import (
	"errors"
	"fmt"
)

// Decoder decodes one picture after the other and keeps its buffers. The zero value
// is ready. One goroutine at a time.
type Decoder struct {
	p       parser
	e       entropy
	scanned []*component
	space   []uint8 // planes and rows of the current picture
	coeffs  []int16
	sums    []int16
	// plain switches the C code off; tests compare both.
	plain bool
}

// Decode decodes data to [Height,Width,3], in the memory of reuse if that is large
// enough. Memory is taken only when the file is long enough to hold the blocks that its
// header promises.
func (d *Decoder) Decode(data []byte, reuse []uint8) ([]uint8, error) {
	old := d.e.buf
	d.p = parser{data: data, comps: d.p.comps[:0]}
	d.e = entropy{buf: old}
	p := &d.p
	if err := p.toFrame(); err != nil {
		return nil, err
	}
	if err := d.plausible(); err != nil {
		return nil, err
	}
	s, err := d.nextScan()
	if err != nil {
		return nil, err
	}
	if len(s.comps) == 0 {
		return nil, errors.New("no scan")
	}
	keep := p.hdr.Progressive || len(s.comps) < len(p.comps)
	d.allocate(keep)
	dst := grow(reuse, 3*p.hdr.Width*p.hdr.Height)
	if keep {
		return dst, d.decodeScans(dst, s)
	}
	return dst, d.decodeOnePass(dst, s)
}

// decodeOnePass decodes a picture of one scan, MCU row by MCU row.
func (d *Decoder) decodeOnePass(dst []uint8, s scan) error {
	d.e.begin(&d.p, s.comps)
	out := output{d: d, dst: dst}
	for y := range d.p.mcusY {
		for _, c := range s.comps {
			clear(c.coeffs)
		}
		if err := d.e.sequentialRow(y, false); err != nil {
			return err
		}
		out.mcuRow(y, false)
	}
	if d.p.pos >= len(d.p.data) {
		return errNoEnd // as the reference: such a file was cut
	}
	return nil
}

// plausible rejects a file too short to hold one bit for each block, before memory
// for the blocks is taken.
func (d *Decoder) plausible() error {
	blocks := 0
	for i := range d.p.comps {
		c := &d.p.comps[i]
		blocks += c.scanX * c.scanY
	}
	if rest := len(d.p.data) - d.p.pos; rest < blocks/8 {
		return fmt.Errorf("truncated: %d bytes cannot hold %d blocks", rest, blocks)
	}
	return nil
}

// nextScan reads segments up to a scan header; the zero scan means the end of the picture.
func (d *Decoder) nextScan() (scan, error) {
	p := &d.p
	for {
		marker, body, err := p.segment()
		if err != nil {
			return scan{}, err
		}
		switch {
		case marker == mEOI:
			return scan{}, nil
		case marker == mSOS:
			s, err := p.scanHeader(body, d.scanned)
			d.scanned = s.comps
			return s, err
		case marker >= mSOF0 && marker <= 0xcf && marker != mDHT && marker != 0xc8 && marker != 0xcc:
			return scan{}, errors.New("second frame header")
		default:
			if err := p.misc(marker, body); err != nil {
				return scan{}, err
			}
		}
	}
}

// decodeScans decodes a picture of several scans: all coefficients first, then samples.
func (d *Decoder) decodeScans(dst []uint8, s scan) error {
	p := &d.p
	for n := 0; len(s.comps) > 0; n++ {
		if n == maxScans {
			return fmt.Errorf("more than %d scans", maxScans)
		}
		d.e.begin(p, s.comps)
		scanning := d.e.sequentialScan
		if p.hdr.Progressive {
			scanning = d.e.progressiveScan
		}
		err := scanning(s)
		if err != nil {
			return err
		}
		if s, err = d.nextScan(); err != nil {
			return err
		}
	}
	for i := range p.comps {
		if !p.comps[i].seen {
			return fmt.Errorf("component %d has no scan", p.comps[i].id)
		}
	}
	out := output{d: d, dst: dst}
	for y := range p.mcusY {
		out.mcuRow(y, true)
	}
	return nil
}

// allocate lays the components' buffers out: rings of sample rows, scratch rows, and
// coefficients of one MCU row, or of the whole picture when keep is set.
func (d *Decoder) allocate(keep bool) {
	p := &d.p
	bytes, coeffs, sums := 0, 0, 0
	for i := range p.comps {
		c := &p.comps[i]
		c.upsample = chooseMethod(c, p.hMax, p.vMax)
		rows := c.v
		if keep {
			rows = c.blocksY
		}
		bytes += 16*c.v*c.stride + p.rowBytes()
		coeffs += rows * c.coefficientRow
		sums += c.width + 2 + slack
	}
	d.space, d.coeffs, d.sums = grow(d.space, bytes+slack), grow(d.coeffs, coeffs), grow(d.sums, sums)
	if keep {
		clear(d.coeffs)
	}
	space, left, sum := d.space, d.coeffs, d.sums
	for i := range p.comps {
		c := &p.comps[i]
		rows := c.v
		if keep {
			rows = c.blocksY
		}
		c.plane, space = space[:16*c.v*c.stride], space[16*c.v*c.stride:]
		c.rowA, space = space[:p.rowBytes()], space[p.rowBytes():]
		c.coeffs, left = left[:rows*c.coefficientRow], left[rows*c.coefficientRow:]
		c.columnSums, sum = sum[:c.width+2+slack], sum[c.width+2+slack:]
	}
}

// slack is room after a row that vector code may overwrite.
const slack = 64

// rowBytes is the length of a scratch row: a picture row in whole MCUs.
func (p *parser) rowBytes() int { return 8*p.hMax*p.mcusX + slack }

// grow returns a slice of n values, old where it is long enough. The content is undefined.
func grow[T any](old []T, n int) []T {
	if cap(old) < n {
		return make([]T, n)
	}
	return old[:n]
}

// output turns coefficients into picture rows.
type output struct {
	d    *Decoder
	dst  []uint8
	done int // picture rows written
}

// mcuRow transforms MCU row y and writes the picture rows that have all they need:
// where chroma is interpolated down the columns, the last rows of an MCU row wait for
// the next one.
func (o *output) mcuRow(y int, keep bool) {
	p := &o.d.p
	wait := 0
	for i := range p.comps {
		c := &p.comps[i]
		if c.upsample == triangleHV || c.upsample == triangleV {
			wait = max(wait, p.vMax/c.v-1)
		}
		for v := range c.v {
			row := v
			if keep {
				row += y * c.v
			}
			at := (y*c.v + v) % (2 * c.v) * 8 * c.stride
			o.d.idctRow(c.plane[at:at+8*c.stride], c.stride, c.coeffs[row*c.coefficientRow:][:c.coefficientRow], &c.table, c.blocksX)
		}
	}
	end := (y + 1) * 8 * p.vMax
	if y+1 < p.mcusY {
		end -= wait
	}
	for end = min(end, p.hdr.Height); o.done < end; o.done++ {
		o.pixelRow(o.done)
	}
}

// pixelRow writes picture row y.
func (o *output) pixelRow(y int) {
	p, n := &o.d.p, o.d.p.hdr.Width
	dst := o.dst[3*n*y:][:3*n]
	if o.d.fastRow(dst, y) {
		return
	}
	var rows [4][]uint8
	for i := range p.comps {
		rows[i] = p.comps[i].upsampled(y, p.hMax, p.vMax, n)
	}
	switch p.colour() {
	case grey:
		interleave(dst, rows[0], rows[0], rows[0], n)
	case rgb:
		interleave(dst, rows[0], rows[1], rows[2], n)
	case ycc:
		convertYCC(dst, rows[0], rows[1], rows[2], n)
	case cmyk:
		interleave(dst, rows[0], rows[1], rows[2], n)
		convertCMYK(dst, rows[3], n)
	case ycck:
		convertYCC(dst, rows[0], rows[1], rows[2], n)
		for i := range dst { // libjpeg: YCCK holds inverted RGB
			dst[i] = 255 - dst[i]
		}
		convertCMYK(dst, rows[3], n)
	}
}
