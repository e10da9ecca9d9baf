package resample

import "math"

// precision is the number of fractional bits of a weight.
// Source: Pillow Resample.c, PRECISION_BITS = 32 - 8 - 2.
const precision = 22

// axis holds the filter of one pass: result pixel x is the sum over k < count[x]
// of source pixel first[x]+k times weights[x*taps+k].
type axis struct {
	in, out int
	taps    int     // row length of weights; unused weights are 0
	first   []int32 // [out] first source pixel
	count   []int32 // [out] source pixels used
	weights []int32 // [out,taps] 22 fractional bits

	// The same for the C code; see pack.
	packedTaps  int
	packedFirst []int32 // [out]
	packed      []int32 // [out,packedTaps/2,2]
}

// cubic is the Keys kernel with a = -0.5. The conversions keep compilers from
// fusing multiply and add, which would change the last bit on some machines.
func cubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		t := float64((a+2)*x) - (a + 3)
		return float64(float64(t*x)*x) + 1
	case x < 2:
		t := float64((x-5)*x) + 8
		return float64(float64(t*x)-4) * a
	}
	return 0
}

// newAxis computes the weights that scale in pixels to out pixels (both ≥ 1).
// Source: the order of float64 operations follows Pillow's published algorithm,
// because the rounding to 22 bits depends on it.
func newAxis(in, out int) *axis {
	scale := float64(in) / float64(out)
	stretch := math.Max(scale, 1)
	support := 2 * stretch
	inverse := 1 / stretch
	a := &axis{in: in, out: out, first: make([]int32, out), count: make([]int32, out)}
	a.taps = min(int(math.Ceil(support))*2+1, in)
	a.weights = make([]int32, out*a.taps)
	row := make([]float64, a.taps)
	for x := range out {
		centre := float64((float64(x) + 0.5) * scale)
		lo := max(int(centre-support+0.5), 0)
		hi := min(int(centre+support+0.5), in)
		sum := 0.0
		for k := range hi - lo {
			w := cubic(float64((float64(k+lo) - centre + 0.5) * inverse))
			row[k] = w
			sum += w
		}
		a.first[x], a.count[x] = int32(lo), int32(hi-lo)
		for k := range hi - lo {
			w := row[k]
			if sum != 0 {
				w /= sum
			}
			a.weights[x*a.taps+k] = round(float64(w * (1 << precision)))
		}
	}
	return a
}

// round rounds half away from zero.
func round(v float64) int32 {
	if v < 0 {
		return int32(v - 0.5)
	}
	return int32(v + 0.5)
}
