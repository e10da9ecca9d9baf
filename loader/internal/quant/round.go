package quant

import "math"

// Round quantises one row of K weights symmetrically, a scale a group. It writes
// the signed values to q and the scales to scales [K/group] after passing each
// through store, the rounding of the type that scales are stored in.
//
//	8 bits: scale = max|w|/127, q in [-127,127]
//	4 bits: q in [-8,7]; of nine scales between max|w|/7 and max|w|/9 that with the least squared error
//
// Values are rounded to nearest, ties to even. A group of zeros has scale zero.
// It returns the sum of squared errors and the largest error.
func Round(w []float32, q []int8, scales []float32, group, bits int, store func(float32) float32) (sum, worst float64) {
	candidates := []float32{127}
	if bits == 4 {
		candidates = []float32{7, 7.25, 7.5, 7.75, 8, 8.25, 8.5, 8.75, 9}
	}
	for g := range scales {
		in, out := w[g*group:(g+1)*group], q[g*group:(g+1)*group]
		var top float32
		for _, x := range in {
			top = max(top, float32(math.Abs(float64(x))))
		}
		scales[g] = store(top / candidates[0])
		var best float32
		if len(candidates) > 1 {
			best = squaredError(in, scales[g])
		}
		for _, c := range candidates[1:] {
			s := store(top / c)
			if e := squaredError(in, s); e < best {
				best, scales[g] = e, s
			}
		}
		e, m := apply(in, out, scales[g], bits)
		sum += e
		worst = max(worst, m)
	}
	return sum, worst
}

// magic added to and taken from a float32 below 2^22 rounds it to nearest, ties
// to even. The conversions keep the compiler from fusing the steps, which would
// round differently on other machines.
const magic = 3 << 22

// inverse is 0 for scales whose inverse is not finite: such a group becomes zero.
func inverse(scale float32) float32 {
	if scale >= 0x1p-126 {
		return 1 / scale
	}
	return 0
}

// squaredError is the error of a group in 4 bits, in float32: it only ranks scales.
func squaredError(in []float32, scale float32) float32 {
	inv := inverse(scale)
	var sum float32
	for _, x := range in {
		v := float32(x * inv)
		if v > 7 {
			v = 7
		} else if v < -8 {
			v = -8
		}
		v = float32(v+magic) - magic
		d := x - float32(v*scale)
		sum += float32(d * d)
	}
	return sum
}

// apply rounds a group with a scale.
func apply(in []float32, out []int8, scale float32, bits int) (sum, worst float64) {
	lo, hi := float32(-127), float32(127)
	if bits == 4 {
		lo, hi = -8, 7
	}
	inv := inverse(scale)
	out = out[:len(in)]
	for i, x := range in {
		v := float32(x * inv)
		if v > hi {
			v = hi
		} else if v < lo {
			v = lo
		}
		v = float32(v+magic) - magic
		out[i] = int8(v)
		d := math.Abs(float64(x) - float64(v)*float64(scale))
		sum += d * d
		if d > worst {
			worst = d
		}
	}
	return sum, worst
}

// Pack returns signed values as they are stored: 4 bits two a byte, even k low,
// offset binary; 8 bits one a byte, offset binary (compressed-tensors'
// weight_packed) or as they are.
func Pack(q []int8, bits int, offset bool) []byte {
	if bits == 8 {
		out := make([]byte, len(q))
		var flip byte
		if offset {
			flip = 0x80
		}
		for i, v := range q {
			out[i] = byte(v) ^ flip
		}
		return out
	}
	out := make([]byte, len(q)/2)
	for i := range out {
		out[i] = byte(q[2*i]+8) | byte(q[2*i+1]+8)<<4
	}
	return out
}
