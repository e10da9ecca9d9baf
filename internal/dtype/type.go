package dtype

import (
	"errors"
	"fmt"
)

// Type is a number format of a stored tensor.
type Type uint8

// The formats that safetensors files of this model family use. Invalid is the zero value.
const (
	Invalid Type = iota
	F32
	F16
	BF16
	F8E4M3 // "fn": bias 7, no infinity, 0x7f and 0xff are NaN, largest 448
	F8E5M2 // bias 15, infinities
	I8
	U8
	I32
	I64
	Bool
)

// ErrNotNumeric occurs when a tensor that holds no numbers (Bool, Invalid) is to be converted.
var ErrNotNumeric = errors.New("not a numeric type")

var types = [...]struct {
	name string
	size int
}{
	Invalid: {"invalid", 0},
	F32:     {"F32", 4},
	F16:     {"F16", 2},
	BF16:    {"BF16", 2},
	F8E4M3:  {"F8_E4M3", 1},
	F8E5M2:  {"F8_E5M2", 1},
	I8:      {"I8", 1},
	U8:      {"U8", 1},
	I32:     {"I32", 4},
	I64:     {"I64", 8},
	Bool:    {"BOOL", 1},
}

// Parse returns the type with a safetensors name ("BF16", "F8_E4M3", …).
func Parse(name string) (Type, bool) {
	for t := F32; int(t) < len(types); t++ {
		if types[t].name == name {
			return t, true
		}
	}
	return Invalid, false
}

// String is the safetensors name.
func (t Type) String() string {
	if int(t) >= len(types) {
		return fmt.Sprintf("dtype(%d)", uint8(t))
	}
	return types[t].name
}

// Size is the bytes of one element, 0 for Invalid.
func (t Type) Size() int {
	if int(t) >= len(types) {
		return 0
	}
	return types[t].size
}

// Float reports whether t is a floating-point format.
func (t Type) Float() bool { return t >= F32 && t <= F8E5M2 }

// Decode converts len(dst) elements of type t from src, little endian. Integers
// beyond 2^24 are rounded. ErrNotNumeric for Bool and Invalid.
func Decode(dst []float32, src []byte, t Type) error {
	switch t {
	case F32:
		DecodeF32(dst, src)
	case F16:
		DecodeF16(dst, src)
	case BF16:
		DecodeBF16(dst, src)
	case F8E4M3:
		DecodeF8E4M3(dst, src)
	case F8E5M2:
		DecodeF8E5M2(dst, src)
	case I8:
		src = src[:len(dst)]
		for i, b := range src {
			dst[i] = float32(int8(b))
		}
	case U8:
		src = src[:len(dst)]
		for i, b := range src {
			dst[i] = float32(b)
		}
	case I32:
		for i := range dst {
			dst[i] = float32(int32(le32(src[4*i:])))
		}
	case I64:
		for i := range dst {
			dst[i] = float32(int64(le64(src[8*i:])))
		}
	default:
		return fmt.Errorf("dtype: decode %v: %w", t, ErrNotNumeric)
	}
	return nil
}

// Encode converts src to the floating-point type t, little endian. ErrNotNumeric
// for every other type.
func Encode(dst []byte, src []float32, t Type) error {
	switch t {
	case F32:
		EncodeF32(dst, src)
	case F16:
		EncodeF16(dst, src)
	case BF16:
		EncodeBF16(dst, src)
	case F8E4M3:
		EncodeF8E4M3(dst, src)
	case F8E5M2:
		EncodeF8E5M2(dst, src)
	default:
		return fmt.Errorf("dtype: encode to %v: %w", t, ErrNotNumeric)
	}
	return nil
}
