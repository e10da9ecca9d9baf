package resample

import "slices"

// pack brings the weights into the form of the C code, once: every result pixel gets
// the same even number of taps, those that stick out at the end moved back into the
// source with zero weights in front, and a weight w becomes hi = (w-lo)/2^8 and
// lo in -128…127, two neighbouring taps in one word. It reports false when the source
// has fewer pixels than taps.
func (a *axis) pack() bool {
	if a.packed != nil {
		return true
	}
	taps := int(slices.Max(a.count))
	taps += taps & 1
	if a.in < taps {
		return false
	}
	a.packedTaps = taps
	a.packedFirst = make([]int32, a.out)
	a.packed = make([]int32, a.out*taps)
	row := make([]int32, taps)
	for x := range a.out {
		first := min(a.first[x], int32(a.in-taps))
		a.packedFirst[x] = first
		clear(row)
		copy(row[a.first[x]-first:], a.weights[x*a.taps:][:a.count[x]])
		for t := 0; t < taps; t += 2 {
			h0, l0 := split(row[t])
			h1, l1 := split(row[t+1])
			a.packed[x*taps+t] = h1<<16 | h0&0xffff
			a.packed[x*taps+t+1] = l1<<16 | l0&0xffff
		}
	}
	return true
}

func split(w int32) (hi, lo int32) {
	lo = int32(int8(w))
	return (w - lo) >> 8, lo
}
