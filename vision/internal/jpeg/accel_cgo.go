//go:build cgo && amd64

package jpeg

// #cgo CFLAGS: -O3
// #cgo noescape mc_jpeg_idct
// #cgo nocallback mc_jpeg_idct
// #cgo noescape mc_jpeg_spread_h
// #cgo nocallback mc_jpeg_spread_h
// #cgo noescape mc_jpeg_spread_hv
// #cgo nocallback mc_jpeg_spread_hv
// #cgo noescape mc_jpeg_ycc
// #cgo nocallback mc_jpeg_ycc
// #include "jpeg_amd64.h"
import "C"

// vector reports whether the machine can run the C code.
var vector = C.mc_jpeg_level() > 0

func (d *Decoder) idctRow(dst []uint8, stride int, coeffs []int16, table *[64]uint16, blocks int) {
	if !vector || d.plain {
		idctRow(dst, stride, coeffs, table, blocks)
		return
	}
	_, _ = dst[7*stride+8*blocks-1], coeffs[64*blocks-1] // the C code checks nothing
	C.mc_jpeg_idct((*C.uint8_t)(&dst[0]), C.size_t(stride), (*C.int16_t)(&coeffs[0]), (*C.uint16_t)(&table[0]), C.size_t(blocks))
}

// fastRow writes picture row y in C when the picture is YCbCr with full-size luma and
// chroma that is full size or halved with the triangle filter.
func (d *Decoder) fastRow(dst []uint8, y int) bool {
	p := &d.p
	if !vector || d.plain || p.colour() != ycc || p.comps[0].upsample != copyRows {
		return false
	}
	var rows [3]*C.uint8_t
	for i := range p.comps {
		c := &p.comps[i]
		switch c.upsample {
		case copyRows:
			rows[i] = (*C.uint8_t)(&c.row(y)[0])
			continue
		case triangleH:
			C.mc_jpeg_spread_h((*C.uint8_t)(&c.rowA[0]), (*C.uint8_t)(&c.row(y)[0]), (*C.int16_t)(&c.columnSums[0]), C.size_t(c.width))
		case triangleHV:
			C.mc_jpeg_spread_hv((*C.uint8_t)(&c.rowA[0]), (*C.uint8_t)(&c.row(y / 2)[0]), (*C.uint8_t)(&c.row(neighbour(y))[0]),
				(*C.int16_t)(&c.columnSums[0]), C.size_t(c.width))
		default:
			return false
		}
		rows[i] = (*C.uint8_t)(&c.rowA[0])
	}
	C.mc_jpeg_ycc((*C.uint8_t)(&dst[0]), rows[0], rows[1], rows[2], C.size_t(len(dst)/3))
	return true
}
