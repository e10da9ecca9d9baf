package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrUnsupported occurs for a valid JPEG of a kind that is not implemented.
var ErrUnsupported = errors.New("unsupported kind of JPEG")

var errNoEnd = errors.New("truncated: no end marker")

// Markers of T.81, table B.1.
const (
	mSOF0 = 0xc0 // baseline
	mSOF1 = 0xc1 // extended sequential
	mSOF2 = 0xc2 // progressive
	mDHT  = 0xc4
	mRST0 = 0xd0
	mRST7 = 0xd7
	mSOI  = 0xd8
	mEOI  = 0xd9
	mSOS  = 0xda
	mDQT  = 0xdb
	mDRI  = 0xdd
	mAPP0 = 0xe0
	mAPPE = 0xee
)

// maxScans bounds the scans of a progressive file; encoders write about ten.
const maxScans = 256

// colour models of a frame.
type model uint8

const (
	grey model = iota
	ycc
	rgb
	cmyk
	ycck
)

// Header is what the frame header says.
type Header struct {
	Width, Height int
	Components    int    // 1, 3 or 4
	Progressive   bool   // coefficients of the whole picture are kept while decoding
	Mode          string // "gray8", "ycbcr 4:2:0", "rgb8", "cmyk", "ycck"
}

// component is one colour plane of the frame.
type component struct {
	id, h, v int // identifier and sampling factors
	quant    int // table selector
	seen     bool
	table    [64]uint16 // the quantisation table as it was at the first scan, natural order

	width, height  int     // samples that count
	blocksX        int     // blocks a row, whole MCUs
	blocksY        int     // block rows, whole MCUs
	scanX, scanY   int     // blocks in a scan of this component alone
	dc, ac         int     // Huffman table selectors of the current scan
	pred           int32   // DC prediction
	coeffs         []int16 // [block rows kept,blocksX,64] natural order
	plane          []uint8 // ring of 2 MCU rows: [2·v·8,stride]
	stride         int
	upsample       method
	rowA           []uint8 // upsampled row; scratch
	columnSums     []int16 // scratch of the triangle filter
	coefficientRow int     // values a block row: blocksX·64
}

// parser walks over the markers of a file.
type parser struct {
	data     []byte
	pos      int
	hdr      Header
	comps    []component
	hMax     int
	vMax     int
	mcusX    int
	mcusY    int
	quant    [4][64]uint16
	hasQuant [4]bool
	dcTables [4]huffman
	acTables [4]huffman
	interval int // MCUs between restart markers; 0 = none
	jfif     bool
	adobe    bool
	adobeTag byte
}

// segment returns the next marker and its body. Fill bytes and stray bytes between
// segments are skipped.
func (p *parser) segment() (marker byte, body []byte, err error) {
	for {
		i := bytes.IndexByte(p.data[p.pos:], 0xff)
		if i < 0 {
			return 0, nil, errNoEnd
		}
		p.pos += i
		for p.pos < len(p.data) && p.data[p.pos] == 0xff {
			p.pos++
		}
		if p.pos == len(p.data) {
			return 0, nil, errNoEnd
		}
		marker = p.data[p.pos]
		p.pos++
		if marker == 0 || marker >= mRST0 && marker <= mSOI || marker == 1 {
			continue // not a segment
		}
		break
	}
	if marker == mEOI {
		return marker, nil, nil
	}
	if p.pos+2 > len(p.data) {
		return 0, nil, errors.New("truncated in a segment length")
	}
	n := int(binary.BigEndian.Uint16(p.data[p.pos:]))
	if n < 2 {
		return 0, nil, fmt.Errorf("segment %#x of length %d", marker, n)
	}
	if p.pos+n > len(p.data) {
		return 0, nil, fmt.Errorf("truncated in segment %#x of %d bytes", marker, n)
	}
	body = p.data[p.pos+2 : p.pos+n]
	p.pos += n
	return marker, body, nil
}

// toFrame reads up to and including the frame header.
func (p *parser) toFrame() error {
	if len(p.data) < 4 || p.data[0] != 0xff || p.data[1] != mSOI {
		return errors.New("no start marker")
	}
	p.pos = 2
	for {
		marker, body, err := p.segment()
		if err != nil {
			return err
		}
		switch {
		case marker == mEOI || marker == mSOS:
			return fmt.Errorf("marker %#x before a frame header", marker)
		case marker >= mSOF0 && marker <= mSOF2:
			return p.frame(marker, body)
		case marker >= 0xc3 && marker <= 0xcf && marker != mDHT && marker != 0xc8 && marker != 0xcc:
			return fmt.Errorf("%w: frame type %#x (lossless, hierarchical or arithmetic)", ErrUnsupported, marker)
		default:
			if err := p.misc(marker, body); err != nil {
				return err
			}
		}
	}
}

// misc handles the segments that may stand anywhere: tables and application data.
func (p *parser) misc(marker byte, b []byte) error {
	switch marker {
	case mDQT:
		return p.quantTables(b)
	case mDHT:
		return p.huffmanTables(b)
	case mDRI:
		if len(b) != 2 {
			return fmt.Errorf("restart interval segment of %d bytes, want 2", len(b))
		}
		p.interval = int(binary.BigEndian.Uint16(b))
	case mAPP0:
		p.jfif = p.jfif || bytes.HasPrefix(b, []byte("JFIF\x00"))
	case mAPPE:
		if len(b) >= 12 && bytes.HasPrefix(b, []byte("Adobe")) {
			p.adobe, p.adobeTag = true, b[11]
		}
	}
	return nil
}

func (p *parser) quantTables(b []byte) error {
	for len(b) > 0 {
		wide, id := int(b[0]>>4), int(b[0]&15)
		if wide > 1 || id > 3 {
			return fmt.Errorf("quantisation table %#x", b[0])
		}
		n := 64 << wide
		if len(b) < 1+n {
			return fmt.Errorf("quantisation table of %d bytes, want %d", len(b)-1, n)
		}
		for k := range 64 {
			if wide == 1 {
				p.quant[id][zigzag[k]] = binary.BigEndian.Uint16(b[1+2*k:])
			} else {
				p.quant[id][zigzag[k]] = uint16(b[1+k])
			}
		}
		p.hasQuant[id] = true
		b = b[1+n:]
	}
	return nil
}

func (p *parser) huffmanTables(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 {
			return fmt.Errorf("Huffman table of %d bytes, want at least 17", len(b))
		}
		class, id := b[0]>>4, b[0]&15
		if class > 1 || id > 3 {
			return fmt.Errorf("Huffman table %#x", b[0])
		}
		total := 0
		for _, c := range b[1:17] {
			total += int(c)
		}
		if total > 256 || len(b) < 17+total {
			return fmt.Errorf("Huffman table of %d codes in %d bytes", total, len(b)-17)
		}
		t := &p.dcTables[id]
		if class == 1 {
			t = &p.acTables[id]
		}
		if err := t.build([16]byte(b[1:17]), b[17:17+total]); err != nil {
			return err
		}
		b = b[17+total:]
	}
	return nil
}

// frame reads the frame header. Source: T.81 B.2.2, A.1.1.
func (p *parser) frame(marker byte, b []byte) error {
	if len(b) < 6 {
		return fmt.Errorf("frame header of %d bytes", len(b))
	}
	n := int(b[5])
	if b[0] != 8 {
		return fmt.Errorf("%w: %d-bit samples", ErrUnsupported, b[0])
	}
	if n != 1 && n != 3 && n != 4 {
		return fmt.Errorf("%w: %d components", ErrUnsupported, n)
	}
	if len(b) != 6+3*n {
		return fmt.Errorf("frame header of %d bytes for %d components", len(b), n)
	}
	p.hdr = Header{
		Height: int(binary.BigEndian.Uint16(b[1:])), Width: int(binary.BigEndian.Uint16(b[3:])),
		Components: n, Progressive: marker == mSOF2,
	}
	if p.hdr.Height == 0 {
		return fmt.Errorf("%w: height given after the picture", ErrUnsupported)
	}
	if p.hdr.Width == 0 {
		return errors.New("width 0")
	}
	p.comps = make([]component, n)
	p.hMax, p.vMax = 1, 1
	for i := range p.comps {
		c := &p.comps[i]
		f := b[6+3*i:]
		c.id, c.h, c.v, c.quant = int(f[0]), int(f[1]>>4), int(f[1]&15), int(f[2])
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.quant > 3 {
			return fmt.Errorf("component %d with sampling %d×%d and table %d", c.id, c.h, c.v, c.quant)
		}
		for j := range i {
			if p.comps[j].id == c.id {
				return fmt.Errorf("component %d twice", c.id)
			}
		}
		if n == 1 {
			c.h, c.v = 1, 1 // a single component is stored block by block (T.81 A.2.2)
		}
		p.hMax, p.vMax = max(p.hMax, c.h), max(p.vMax, c.v)
	}
	return p.layout()
}

// layout derives the sizes of the component planes. Source: T.81 A.1.1, A.2.4.
func (p *parser) layout() error {
	up := func(a, b int) int { return (a + b - 1) / b }
	p.mcusX, p.mcusY = up(p.hdr.Width, 8*p.hMax), up(p.hdr.Height, 8*p.vMax)
	blocks := 0
	for i := range p.comps {
		c := &p.comps[i]
		if p.hMax%c.h != 0 || p.vMax%c.v != 0 {
			return fmt.Errorf("%w: sampling %d×%d of %d×%d", ErrUnsupported, c.h, c.v, p.hMax, p.vMax)
		}
		c.width, c.height = up(p.hdr.Width*c.h, p.hMax), up(p.hdr.Height*c.v, p.vMax)
		c.blocksX, c.blocksY = p.mcusX*c.h, p.mcusY*c.v
		c.scanX, c.scanY = up(c.width, 8), up(c.height, 8)
		c.stride, c.coefficientRow = 8*c.blocksX, 64*c.blocksX
		blocks += c.h * c.v
	}
	if len(p.comps) > 1 && blocks > 10 {
		return fmt.Errorf("%d blocks an MCU, want at most 10", blocks)
	}
	return nil
}

// colour decides what the components mean, as libjpeg does.
func (p *parser) colour() model {
	switch len(p.comps) {
	case 1:
		return grey
	case 4:
		if p.adobe && p.adobeTag == 2 {
			return ycck
		}
		return cmyk
	}
	switch {
	case p.jfif:
		return ycc
	case p.adobe && p.adobeTag == 0:
		return rgb
	case p.adobe:
		return ycc
	case p.comps[0].id == 'R' && p.comps[1].id == 'G' && p.comps[2].id == 'B':
		return rgb
	}
	return ycc
}

// mode names colour model and sampling.
func (p *parser) mode() string {
	switch p.colour() {
	case grey:
		return "gray8"
	case rgb:
		return "rgb8"
	case cmyk:
		return "cmyk"
	case ycck:
		return "ycck"
	}
	a, b, c := &p.comps[0], &p.comps[1], &p.comps[2]
	if b.h != c.h || b.v != c.v || a.h != p.hMax || a.v != p.vMax {
		return "ycbcr"
	}
	names := map[[2]int]string{
		{1, 1}: " 4:4:4", {2, 1}: " 4:2:2", {2, 2}: " 4:2:0", {1, 2}: " 4:4:0", {4, 1}: " 4:1:1", {4, 2}: " 4:1:0",
	}
	return "ycbcr" + names[[2]int{a.h / b.h, a.v / b.v}]
}

// ReadHeader reads the markers up to the frame header. It allocates no pixel memory.
func ReadHeader(data []byte) (Header, error) {
	p := parser{data: data}
	if err := p.toFrame(); err != nil {
		return Header{}, err
	}
	h := p.hdr
	h.Mode = p.mode()
	return h, nil
}

// zigzag maps the order of coefficients in the file to natural order. Source: T.81 figure A.6.
var zigzag = [64]uint8{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}
