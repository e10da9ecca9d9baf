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
	for g := range scales {
		in, out := w[g*group:(g+1)*group], q[g*group:(g+1)*group]
		var top float32
		for _, x := range in {
			top = max(top, float32(math.Abs(float64(x))))
		}
		candidates := []float32{127}
		if bits == 4 {
			candidates = []float32{7, 7.25, 7.5, 7.75, 8, 8.25, 8.5, 8.75, 9}
		}
		best := math.Inf(1)
		for _, c := range candidates {
			s := store(top / c)
			if e, _ := apply(in, nil, s, bits); e < best {
				best, scales[g] = e, s
			}
		}
		e, m := apply(in, out, scales[g], bits)
		sum += e
		worst = max(worst, m)
	}
	return sum, worst
}

// apply rounds a group with a scale; out may be nil to learn the error only.
func apply(in []float32, out []int8, scale float32, bits int) (sum, worst float64) {
	lo, hi := -127.0, 127.0
	if bits == 4 {
		lo, hi = -8, 7
	}
	var inverse float64
	if scale > 0 {
		inverse = 1 / float64(scale)
	}
	for i, x := range in {
		v := min(max(math.RoundToEven(float64(x)*inverse), lo), hi)
		if out != nil {
			out[i] = int8(v)
		}
		d := math.Abs(float64(x) - v*float64(scale))
		sum += d * d
		worst = max(worst, d)
	}
	return sum, worst
}

// Pack returns signed values [N,K] as compressed-tensors' weight_packed: offset
// binary, 4 or 8 bits, natural order along K.
func Pack(q []int8, bits int) []byte {
	if bits == 8 {
		out := make([]byte, len(q))
		for i, v := range q {
			out[i] = byte(v) ^ 0x80
		}
		return out
	}
	out := make([]byte, len(q)/2)
	for i := range out {
		out[i] = byte(q[2*i]+8) | byte(q[2*i+1]+8)<<4
	}
	return out
}
