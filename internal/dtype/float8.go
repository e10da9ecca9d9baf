package dtype

import "math"

// The 8-bit floats are small enough for tables: widening is a lookup, and
// rounding adds half a unit in the last kept place to the float32 bits, with
// subnormals rounded by float64 arithmetic in units of the smallest one.

var (
	e4m3 = table8(func(b uint8) float32 {
		if b&0x7f == 0x7f {
			return float32(math.NaN())
		}
		return float8(b, 3, 7)
	})
	e5m2 = table8(func(b uint8) float32 {
		switch m := b & 0x7f; {
		case m == 0x7c:
			return float32(math.Inf(1 - 2*int(b>>7)))
		case m > 0x7c:
			return float32(math.NaN())
		}
		return float8(b, 2, 15)
	})
)

func table8(f func(uint8) float32) (t [256]float32) {
	for i := range t {
		t[i] = f(uint8(i))
	}
	return t
}

// float8 reads sign, exponent and mant mantissa bits of b with an exponent bias.
func float8(b uint8, mant, bias int) float32 {
	frac := int(b) & (1<<mant - 1)
	exp := int(b&0x7f) >> mant
	if exp == 0 {
		exp = 1
	} else {
		frac |= 1 << mant
	}
	f := math.Ldexp(float64(frac), exp-bias-mant)
	if b&0x80 != 0 {
		f = -f
	}
	return float32(f)
}

// FromF8E4M3 widens a float8 e4m3fn. Exact.
func FromF8E4M3(b uint8) float32 { return e4m3[b] }

// FromF8E5M2 widens a float8 e5m2. Exact.
func FromF8E5M2(b uint8) float32 { return e5m2[b] }

// ToF8E4M3 rounds f to float8 e4m3fn; magnitudes beyond 448, infinity included, become ±448.
func ToF8E4M3(f float32) uint8 { return round8(f, 3, 7, 0x7e, 0x7e, 0x7f) }

// ToF8E5M2 rounds f to float8 e5m2; magnitudes that round beyond 57344 become infinity.
func ToF8E5M2(f float32) uint8 { return round8(f, 2, 15, 0x7b, 0x7c, 0x7e) }

// round8 rounds to mant mantissa bits with an exponent bias. largest is the code
// of the largest finite value, over the code for what lies beyond it, nan that of NaN.
func round8(f float32, mant, bias int, largest, over, nan uint8) uint8 {
	u := math.Float32bits(f)
	sign := uint8(u>>24) & 0x80
	u &= 0x7fffffff
	if u > 0x7f800000 {
		return sign | nan
	}
	exp := int(u>>23) - 127 + bias
	if exp <= 0 { // subnormal: a multiple of 2^(1-bias-mant); 2^mant of them is the smallest normal value
		units := math.RoundToEven(math.Ldexp(float64(math.Float32frombits(u)), bias+mant-1))
		return sign | uint8(units)
	}
	drop := 23 - mant
	r := u + 1<<(drop-1) - 1 + u>>drop&1
	code := int(r>>drop) - (127-bias)<<mant
	if code > int(largest) {
		return sign | over
	}
	return sign | uint8(code)
}

// DecodeF8E4M3 reads len(dst) float8 e4m3fn values.
func DecodeF8E4M3(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, b := range src {
		dst[i] = e4m3[b]
	}
}

// DecodeF8E5M2 reads len(dst) float8 e5m2 values.
func DecodeF8E5M2(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, b := range src {
		dst[i] = e5m2[b]
	}
}

// EncodeF8E4M3 writes src rounded to float8 e4m3fn, saturating.
func EncodeF8E4M3(dst []byte, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		dst[i] = ToF8E4M3(f)
	}
}

// EncodeF8E5M2 writes src rounded to float8 e5m2.
func EncodeF8E5M2(dst []byte, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		dst[i] = ToF8E5M2(f)
	}
}
