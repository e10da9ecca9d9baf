package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// lookBits is the number of bits that one table access resolves. Longer codes are
// rare and searched by length.
const lookBits = 10

// huffman is one code table.
type huffman struct {
	defined bool
	// symbols by prefix: symbol<<8 | code length; 0 where the code is longer than lookBits.
	symbols [1 << lookBits]uint16
	// coeffs resolves code and value together:
	//
	//	bits 0-7    bits to consume
	//	bits 8-11   run of zero coefficients before this one
	//	bits 12-15  bits of the value still to be read; 0 = value complete
	//	bits 16-31  the value; 0 with no bits left = the symbol is EOB or ZRL
	//
	// 0 where the code is longer than lookBits.
	coeffs [1 << lookBits]uint32
	// Codes of length l are limit[l-1]<<1 ... limit[l]-1, as in T.81 F.2.2.3, left
	// justified in 16 bits; symbol index = code>>(16-l) + offset[l].
	limit  [17]uint32
	offset [17]int32
	values [256]uint8
}

// build fills the tables from the number of codes of each length and their symbols.
// Source: T.81 annex C.
func (t *huffman) build(counts [16]byte, values []byte) error {
	*t = huffman{defined: true}
	copy(t.values[:], values)
	code, index := uint32(0), 0
	for l := 1; l <= 16; l++ {
		t.offset[l] = int32(index) - int32(code)
		for range counts[l-1] {
			if l <= lookBits {
				first := code << (lookBits - l)
				for i := range uint32(1) << (lookBits - l) {
					t.symbols[(first+i)&(1<<lookBits-1)] = uint16(values[index])<<8 | uint16(l)
				}
			}
			code++
			index++
		}
		if code > 1<<l {
			return errors.New("Huffman table has too many codes")
		}
		t.limit[l] = code << (16 - l)
		code <<= 1
	}
	for prefix := range t.coeffs {
		t.coeffs[prefix] = coefficient(t.symbols[prefix], uint32(prefix))
	}
	return nil
}

// coefficient computes an entry of huffman.coeffs from the symbol found at a prefix.
func coefficient(symbol uint16, prefix uint32) uint32 {
	length := uint32(symbol & 0xff)
	if length == 0 {
		return 0
	}
	run, size := uint32(symbol>>12), uint32(symbol>>8&15)
	entry := run << 8
	if size == 0 || length+size > lookBits {
		return entry | length | size<<12
	}
	bits := prefix >> (lookBits - length - size) & (1<<size - 1)
	return entry | length + size | uint32(extend(bits, size))<<16
}

// extend turns size bits into a signed value. Source: T.81 F.2.2.1, EXTEND.
func extend(bits, size uint32) int32 {
	v := int32(bits)
	if size > 0 && bits>>(size-1) == 0 {
		v -= 1<<size - 1
	}
	return v
}

// bitReader reads the entropy-coded bits of one interval, most significant first. The
// bytes have been copied out of the file without stuffing, and zeros follow them, so
// that reading needs no test for markers; what was read beyond the end is found by
// overrun. Invariant: the top n bits of acc are the next bits; those below are either
// zero or the bits that follow.
type bitReader struct {
	buf []byte // real bytes, then padding zeros
	end int    // number of real bytes
	pos int    // next byte to load
	acc uint64
	n   uint
}

const padding = 64

// reset starts reading a new interval of end bytes in buf.
func (r *bitReader) reset(buf []byte, end int) { *r = bitReader{buf: buf, end: end} }

// overrun reports whether more bits were used than there are.
func (r *bitReader) overrun() bool { return r.pos*8-int(r.n) > r.end*8 }

// fill makes at least 56 bits available.
func (r *bitReader) fill() {
	if r.pos > len(r.buf)-8 {
		r.pos = len(r.buf) - 8 // far in the padding: keep reading zeros, overrun stays true
	}
	r.acc |= binary.BigEndian.Uint64(r.buf[r.pos:]) >> r.n
	r.pos += int((63 - r.n) >> 3)
	r.n |= 56
}

// bits reads count ≤ 16 bits.
func (r *bitReader) bits(count uint) uint32 {
	if count == 0 {
		return 0
	}
	if r.n < 16 {
		r.fill()
	}
	v := uint32(r.acc >> (64 - count))
	r.acc <<= count
	r.n -= count
	return v
}

// symbol decodes one Huffman code; ok is false when no code fits.
func (r *bitReader) symbol(t *huffman) (s uint8, ok bool) {
	if r.n < 16 {
		r.fill()
	}
	if e := t.symbols[r.acc>>(64-lookBits)]; e != 0 {
		r.acc <<= e & 0xff
		r.n -= uint(e & 0xff)
		return uint8(e >> 8), true
	}
	s, length := t.long(r.acc)
	r.acc <<= length
	r.n -= length
	return s, length != 0
}

// long finds the code at the top of acc by its length; length 0 = none.
func (t *huffman) long(acc uint64) (s uint8, length uint) {
	top := uint32(acc >> 48)
	for l := uint(1); l <= 16; l++ {
		if top < t.limit[l] {
			return t.values[uint8(int32(top>>(16-l))+t.offset[l])], l
		}
	}
	return 0, 0
}

// unstuff copies entropy-coded bytes from data to dst up to the next marker, leaving
// the stuffed zeros out, and returns the extended dst and the position of the marker,
// or len(data) when there is none.
func unstuff(dst, data []byte) ([]byte, int) {
	pos := 0
	for {
		i := bytes.IndexByte(data[pos:], 0xff)
		if i < 0 {
			return append(dst, data[pos:]...), len(data)
		}
		if pos+i+1 >= len(data) {
			return append(dst, data[pos:pos+i]...), len(data)
		}
		switch next := data[pos+i+1]; next {
		case 0: // stuffed: the byte counts
			dst = append(dst, data[pos:pos+i+1]...)
			pos += i + 2
		case 0xff: // fill byte
			dst = append(dst, data[pos:pos+i]...)
			pos += i + 1
		default:
			return append(dst, data[pos:pos+i]...), pos + i
		}
	}
}
