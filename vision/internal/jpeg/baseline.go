package jpeg

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errData = errors.New("damaged entropy data")

// scan is one SOS segment.
type scan struct {
	comps          []*component
	ss, se, ah, al int // spectral selection, successive approximation
}

// scanHeader reads a SOS segment. Source: T.81 B.2.3, G.1.1.1.
func (p *parser) scanHeader(b []byte, into []*component) (scan, error) {
	var s scan
	if len(b) < 1 {
		return s, errors.New("empty scan header")
	}
	n := int(b[0])
	if n < 1 || n > len(p.comps) || len(b) != 4+2*n {
		return s, fmt.Errorf("scan of %d components in %d bytes", n, len(b))
	}
	s.comps = into[:0]
	blocks := 0
	for i := range n {
		id, tables := int(b[1+2*i]), b[2+2*i]
		c := p.find(id)
		if c == nil {
			return s, fmt.Errorf("scan of unknown component %d", id)
		}
		for _, other := range s.comps {
			if other == c {
				return s, fmt.Errorf("component %d twice in a scan", id)
			}
		}
		c.dc, c.ac = int(tables>>4), int(tables&15)
		if c.dc > 3 || c.ac > 3 {
			return s, fmt.Errorf("scan with Huffman tables %#x", tables)
		}
		if !c.seen {
			if !p.hasQuant[c.quant] {
				return s, fmt.Errorf("quantisation table %d missing", c.quant)
			}
			c.seen, c.table = true, p.quant[c.quant]
		}
		s.comps = append(s.comps, c)
		blocks += c.h * c.v
	}
	if n > 1 && blocks > 10 {
		return s, fmt.Errorf("%d blocks an MCU, want at most 10", blocks)
	}
	t := b[1+2*n:]
	s.ss, s.se, s.ah, s.al = int(t[0]), int(t[1]), int(t[2]>>4), int(t[2]&15)
	if !p.hdr.Progressive {
		s.ss, s.se, s.ah, s.al = 0, 63, 0, 0 // libjpeg warns and reads the scan as sequential
		return s, p.needTables(s, true, true)
	}
	if s.ss > s.se || s.se > 63 || s.ss == 0 && s.se != 0 || s.ss > 0 && n > 1 || s.al > 13 || s.ah != 0 && s.ah != s.al+1 {
		return s, fmt.Errorf("scan of coefficients %d-%d, bits %d-%d, %d components", s.ss, s.se, s.ah, s.al, n)
	}
	return s, p.needTables(s, s.ss == 0 && s.ah == 0, s.ss > 0)
}

func (p *parser) find(id int) *component {
	for i := range p.comps {
		if p.comps[i].id == id {
			return &p.comps[i]
		}
	}
	return nil
}

func (p *parser) needTables(s scan, dc, ac bool) error {
	for _, c := range s.comps {
		if dc && !p.dcTables[c.dc].defined {
			return fmt.Errorf("DC Huffman table %d missing", c.dc)
		}
		if ac && !p.acTables[c.ac].defined {
			return fmt.Errorf("AC Huffman table %d missing", c.ac)
		}
	}
	return nil
}

// entropy is the source of coefficients of a scan: one interval after the other.
type entropy struct {
	bitReader
	p     *parser
	buf   []byte // reused storage of an interval
	left  int    // MCUs left in this interval; <0 = no restart markers
	next  byte   // low bits of the restart marker expected next
	comps []*component
	eob   int // progressive: blocks left in the end-of-band run
}

// begin starts a scan at p.pos.
func (e *entropy) begin(p *parser, comps []*component) {
	e.p, e.comps, e.next = p, comps, 0
	e.interval()
}

// interval loads the bytes up to the next marker.
func (e *entropy) interval() {
	data := e.p.data[e.p.pos:]
	buf, at := unstuff(e.buf[:0], data)
	end := len(buf)
	for range padding {
		buf = append(buf, 0)
	}
	e.buf = buf
	e.p.pos += at
	e.reset(buf, end)
	e.left, e.eob = -1, 0
	if e.p.interval > 0 {
		e.left = e.p.interval
	}
	for _, c := range e.comps {
		c.pred = 0
	}
}

// mcu is called before each MCU: it takes a restart marker when one is due.
func (e *entropy) mcu() error {
	if e.left < 0 {
		return nil
	}
	if e.left > 0 {
		e.left--
		return nil
	}
	if e.overrun() {
		return errTruncated(e.p)
	}
	d := e.p.data[e.p.pos:]
	if len(d) < 2 || d[1] != mRST0+e.next {
		return fmt.Errorf("restart marker %d missing", e.next)
	}
	e.p.pos += 2
	e.next = (e.next + 1) & 7
	e.interval()
	e.left--
	return nil
}

// errTruncated says whether the file or just an interval ended too early.
func errTruncated(p *parser) error {
	if p.pos >= len(p.data) {
		return errors.New("truncated in the entropy data")
	}
	return fmt.Errorf("%w: an interval ends too early", errData)
}

// block decodes one sequential block into natural order; b must be zero.
// Source: T.81 F.2.2.
func (r *bitReader) block(dc, ac *huffman, pred *int32, b *[64]int16) error {
	size, ok := r.symbol(dc)
	if !ok || size > 15 {
		return errData
	}
	*pred += extend(r.bits(uint(size)), uint32(size))
	b[0] = int16(*pred)

	buf, pos, acc, n := r.buf, r.pos, r.acc, r.n
	for k := 1; k < 64; k++ {
		if n < 32 { // a code and its value are at most 16 + 15 bits
			if pos > len(buf)-8 {
				pos = len(buf) - 8
			}
			acc |= binary.BigEndian.Uint64(buf[pos:]) >> n
			pos += int((63 - n) >> 3)
			n |= 56
		}
		e := ac.coeffs[acc>>(64-lookBits)]
		length := uint(e & 0xff)
		size := uint(e >> 12 & 15)
		value := int16(e >> 16)
		if e == 0 {
			s, l := ac.long(acc)
			if l == 0 {
				return errData
			}
			length, size, value = l, uint(s&15), 0
			e = uint32(s>>4) << 8
		}
		acc <<= length & 63
		n -= length
		run := int(e >> 8 & 15)
		if size != 0 {
			v := uint32(acc >> (64 - size))
			acc <<= size
			n -= size
			value = int16(extend(v, uint32(size)))
		} else if value == 0 {
			if run != 15 {
				break // end of block
			}
			k += 15
			continue
		}
		k += run
		if k > 63 {
			return errData
		}
		b[zigzag[k]] = value
	}
	r.pos, r.acc, r.n = pos, acc, n
	return nil
}

// sequentialRow decodes MCU row y of an interleaved scan; the coefficients of each
// component's v block rows start at c.coeffs[base], base given by keep.
func (e *entropy) sequentialRow(y int, keep bool) error {
	p := e.p
	for x := range p.mcusX {
		if err := e.mcu(); err != nil {
			return err
		}
		for _, c := range e.comps {
			dc, ac := &p.dcTables[c.dc], &p.acTables[c.ac]
			for v := range c.v {
				row := v
				if keep {
					row += y * c.v
				}
				at := row*c.coefficientRow + 64*c.h*x
				for range c.h {
					if err := e.block(dc, ac, &c.pred, (*[64]int16)(c.coeffs[at:at+64])); err != nil {
						return err
					}
					at += 64
				}
			}
		}
	}
	if e.overrun() {
		return errTruncated(p)
	}
	return nil
}

// sequentialScan decodes a whole sequential scan into kept coefficients.
func (e *entropy) sequentialScan(s scan) error {
	if len(s.comps) > 1 {
		for y := range e.p.mcusY {
			if err := e.sequentialRow(y, true); err != nil {
				return err
			}
		}
		return nil
	}
	c := s.comps[0]
	dc, ac := &e.p.dcTables[c.dc], &e.p.acTables[c.ac]
	return e.single(c, func(b *[64]int16) error {
		*b = [64]int16{}
		return e.block(dc, ac, &c.pred, b)
	})
}

// single walks over the blocks of a scan of one component.
func (e *entropy) single(c *component, f func(b *[64]int16) error) error {
	for y := range c.scanY {
		for x := range c.scanX {
			if err := e.mcu(); err != nil {
				return err
			}
			at := y*c.coefficientRow + 64*x
			if err := f((*[64]int16)(c.coeffs[at : at+64])); err != nil {
				return err
			}
		}
		if e.overrun() {
			return errTruncated(e.p)
		}
	}
	return nil
}
