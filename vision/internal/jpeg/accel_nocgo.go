//go:build !cgo || !amd64

package jpeg

func (d *Decoder) idctRow(dst []uint8, stride int, coeffs []int16, table *[64]uint16, blocks int) {
	idctRow(dst, stride, coeffs, table, blocks)
}

// fastRow writes picture row y when vector code covers this kind of picture.
func (d *Decoder) fastRow([]uint8, int) bool { return false }
