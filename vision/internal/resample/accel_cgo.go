//go:build cgo && amd64

package resample

// #cgo CFLAGS: -O3
// #cgo noescape mc_resample_h
// #cgo nocallback mc_resample_h
// #cgo noescape mc_resample_v
// #cgo nocallback mc_resample_v
// #include "resample_amd64.h"
import "C"

// level is what the machine can do; 0 = the Go code runs.
var level = C.mc_resample_level()

// accelerated does the job in C and reports whether it could: the machine has AVX2 and
// each filter has as many source pixels as taps.
func accelerated(j *job) bool {
	if level == 0 || j.hor != nil && !j.hor.pack() || j.ver != nil && !j.ver.pack() {
		return false
	}
	j.runC()
	return true
}

// runC is run with the passes in C. The horizontal pass takes two rows a call, so the
// ring has room for one row more than the vertical filter needs.
func (j *job) runC() {
	if j.ver == nil {
		for y := 0; y < j.outH; y += 2 {
			n := j.twoRows(y)
			for i := range n {
				j.scatter(y+i, j.slot(y+i))
			}
		}
		return
	}
	v := j.ver
	rows, stride, ring := &j.ring[0], j.ringStride, j.ringRows
	if j.hor == nil {
		rows, stride, ring = &j.src.Pix[0], j.src.Stride, j.src.Height
	}
	tileRow := 3 * j.tileW
	next := 0
	for y := range j.outH {
		lo := int(v.packedFirst[y])
		if j.hor != nil {
			for next = max(next, lo); next < lo+v.packedTaps; {
				next += j.twoRows(next)
			}
		}
		tile := y / j.tileH * (j.outW / j.tileW)
		dst := &j.dst[(tile*j.tileH+y%j.tileH)*tileRow]
		C.mc_resample_v(level, (*C.uint8_t)(dst), C.size_t(tileRow), C.size_t(tileRow*j.tileH),
			(*C.uint8_t)(rows), C.size_t(stride), C.size_t(ring), C.size_t(lo%ring),
			(*C.int32_t)(&v.packed[y*v.packedTaps]), C.size_t(v.packedTaps), C.size_t(3*j.outW))
	}
}

// slot is the ring row of source row y.
func (j *job) slot(y int) []uint8 {
	return j.ring[y%j.ringRows*j.ringStride:][:3*j.outW]
}

// twoRows runs source rows y and y+1, if there is one, through the horizontal pass and
// returns how many it did. The last row of the source goes through a copy, because the
// C code reads a few bytes past the end of a row.
func (j *job) twoRows(y int) int {
	n := min(2, j.src.Height-y)
	if j.hor == nil {
		for i := range n {
			copy(j.slot(y+i), j.src.Pix[(y+i)*j.src.Stride:])
		}
		return n
	}
	var src, dst [2]*C.uint8_t
	for i := range 2 {
		k := y + min(i, n-1)
		s := j.src.Pix[k*j.src.Stride:][:3*j.src.Width]
		if k == j.src.Height-1 {
			j.last = append(append(j.last[:0], s...), make([]uint8, slack)...)
			s = j.last
		}
		src[i], dst[i] = (*C.uint8_t)(&s[0]), (*C.uint8_t)(&j.slot(k)[0])
	}
	h := j.hor
	C.mc_resample_h(level, dst[0], dst[1], src[0], src[1], (*C.int32_t)(&h.packedFirst[0]),
		(*C.int32_t)(&h.packed[0]), C.size_t(h.packedTaps), C.size_t(j.outW))
	return n
}
