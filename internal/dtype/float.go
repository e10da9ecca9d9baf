package dtype

import (
	"encoding/binary"
	"math"

	"github.com/x448/float16"
)

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// ToBF16 rounds f to the upper half of its float32 bits. A NaN becomes a quiet NaN of the same sign.
func ToBF16(f float32) uint16 {
	u := math.Float32bits(f)
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// FromBF16 widens bf16 bits. Exact.
func FromBF16(u uint16) float32 { return math.Float32frombits(uint32(u) << 16) }

// RoundBF16 is the bf16 value nearest to f.
func RoundBF16(f float32) float32 { return FromBF16(ToBF16(f)) }

// ToF16 rounds f to IEEE binary16 bits.
func ToF16(f float32) uint16 { return float16.Fromfloat32(f).Bits() }

// FromF16 widens IEEE binary16 bits. Exact.
func FromF16(u uint16) float32 { return float16.Frombits(u).Float32() }

// DecodeF32 reads len(dst) little-endian float32 values.
func DecodeF32(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(le32(src[4*i:]))
	}
}

// EncodeF32 writes src as little-endian float32 values.
func EncodeF32(dst []byte, src []float32) {
	dst = dst[:4*len(src)]
	for i, f := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(f))
	}
}

// DecodeBF16 reads len(dst) bf16 values.
func DecodeBF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	n := len(dst) &^ 3
	for i := 0; i < n; i += 4 { // one load serves four values
		w := le64(src[2*i : 2*i+8])
		d := dst[i : i+4 : i+4]
		d[0] = math.Float32frombits(uint32(w) << 16)
		d[1] = math.Float32frombits(uint32(w) & 0xffff0000)
		d[2] = math.Float32frombits(uint32(w>>32) << 16)
		d[3] = math.Float32frombits(uint32(w>>32) & 0xffff0000)
	}
	for i := n; i < len(dst); i++ {
		dst[i] = FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// EncodeBF16 writes src rounded to bf16.
func EncodeBF16(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for i, f := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], ToBF16(f))
	}
}

// DecodeF16 reads len(dst) IEEE binary16 values.
//
// The exponent and mantissa bits, moved to their place in a float32, read as the
// value times 2^-112, subnormals included; one exact multiplication corrects it.
// Only infinity and NaN (exponent 31) need a second step.
func DecodeF16(dst []float32, src []byte) {
	const scale = 1 << 56 * (1 << 56) // 2^112
	src = src[:2*len(dst)]
	for i := range dst {
		h := uint32(binary.LittleEndian.Uint16(src[2*i:]))
		m := h & 0x7fff
		u := math.Float32bits(math.Float32frombits(m<<13) * scale)
		if m >= 0x7c00 {
			u = 0x7f800000 | m<<13
			if m > 0x7c00 {
				u |= 0x00400000
			}
		}
		dst[i] = math.Float32frombits(u | h&0x8000<<16)
	}
}

// EncodeF16 writes src rounded to IEEE binary16.
func EncodeF16(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for i, f := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], ToF16(f))
	}
}
