package jpeg

// method says how a component grows to the size of the picture.
type method uint8

const (
	copyRows   method = iota // full size already
	triangleH                // 2:1 across, triangle filter
	triangleHV               // 2:1 both ways, triangle filter
	triangleV                // 2:1 down, triangle filter
	repeat                   // any other whole ratio, and pictures too narrow for the filter
)

// chooseMethod follows libjpeg: the triangle ("fancy") filter for 2:1, repetition
// otherwise. Across, it needs more than two samples.
func chooseMethod(c *component, hMax, vMax int) method {
	h, v := hMax/c.h, vMax/c.v
	switch {
	case h == 1 && v == 1:
		return copyRows
	case h == 2 && v == 1 && c.width > 2:
		return triangleH
	case h == 2 && v == 2 && c.width > 2:
		return triangleHV
	case h == 1 && v == 2:
		return triangleV
	}
	return repeat
}

// row gives sample row y of the component: from the ring, the nearest real row where y is outside.
func (c *component) row(y int) []uint8 {
	y = min(max(y, 0), c.height-1)
	return c.plane[y%(16*c.v)*c.stride:][:c.stride]
}

// neighbour is the component row that picture row y takes a quarter from when
// there are two picture rows a component row.
func neighbour(y int) int {
	if y&1 == 0 {
		return y/2 - 1
	}
	return y/2 + 1
}

// upsampled returns row y of the picture for this component, width samples at least.
func (c *component) upsampled(y, hMax, vMax, width int) []uint8 {
	switch c.upsample {
	case copyRows:
		return c.row(y)
	case triangleH:
		spreadH(c.rowA, c.row(y), c.width)
	case triangleHV:
		spreadHV(c.rowA, c.row(y/2), c.row(neighbour(y)), c.columnSums, c.width)
	case triangleV:
		spreadV(c.rowA, c.row(y/2), c.row(neighbour(y)), 1+y&1, c.width)
	case repeat:
		h := hMax / c.h
		src := c.row(y / (vMax / c.v))
		for x := range width {
			c.rowA[x] = src[x/h]
		}
	}
	return c.rowA
}

// spreadH writes 2n samples: 3/4 of the nearer sample, 1/4 of the other; the rounding
// alternates. At the ends the sample itself is the neighbour.
func spreadH(dst, src []uint8, n int) {
	src, dst = src[:n], dst[:2*n]
	last := int(src[0])
	for i, s := range src {
		next := int(s)
		if i+1 < n {
			next = int(src[i+1])
		}
		dst[2*i] = uint8((3*int(s) + last + 1) >> 2)
		dst[2*i+1] = uint8((3*int(s) + next + 2) >> 2)
		last = int(s)
	}
}

// spreadHV is spreadH after 3/4 near + 1/4 far down the columns, with one rounding.
// sums is scratch for n+2 values.
func spreadHV(dst, near, far []uint8, sums []int16, n int) {
	near, far, dst, sums = near[:n], far[:n], dst[:2*n], sums[:n+2]
	for i := range near {
		sums[i+1] = 3*int16(near[i]) + int16(far[i])
	}
	sums[0], sums[n+1] = sums[1], sums[n]
	for i := range near {
		s := 3 * int(sums[i+1])
		dst[2*i] = uint8((s + int(sums[i]) + 8) >> 4)
		dst[2*i+1] = uint8((s + int(sums[i+2]) + 7) >> 4)
	}
}

// spreadV mixes two rows; bias is 1 for the upper of two picture rows, 2 for the lower.
func spreadV(dst, near, far []uint8, bias, n int) {
	near, far, dst = near[:n], far[:n], dst[:n]
	for i := range near {
		dst[i] = uint8((3*int(near[i]) + int(far[i]) + bias) >> 2)
	}
}

// The conversion is BT.601 full range (JFIF) with factors of 16 fractional bits:
//
//	R = Y + 1.40200·Cr     G = Y - 0.34414·Cb - 0.71414·Cr     B = Y + 1.77200·Cb
//
// where Cb and Cr are relative to 128. Each chroma term of R and B is rounded, those
// of G together; then the sum is limited to a byte. Source: T.871; rounding as libjpeg.
const (
	crR = 91881  // 1.40200·2^16
	cbB = 116130 // 1.77200·2^16
	crG = 46802  // 0.71414·2^16
	cbG = 22554  // 0.34414·2^16
)

// convertYCC writes n pixels of RGB.
func convertYCC(dst, ys, cbs, crs []uint8, n int) {
	ys, cbs, crs, dst = ys[:n], cbs[:n], crs[:n], dst[:3*n]
	for i := range ys {
		y, cb, cr := int32(ys[i]), int32(cbs[i])-128, int32(crs[i])-128
		d := dst[3*i : 3*i+3 : 3*i+3]
		d[0] = clip(y + (crR*cr+1<<15)>>16)
		d[1] = clip(y + (-cbG*cb-crG*cr+1<<15)>>16)
		d[2] = clip(y + (cbB*cb+1<<15)>>16)
	}
}

func clip(v int32) uint8 { return uint8(min(max(v, 0), 255)) }

// interleave writes n pixels of which the planes are R, G and B.
func interleave(dst, r, g, b []uint8, n int) {
	r, g, b, dst = r[:n], g[:n], b[:n], dst[:3*n]
	for i := range r {
		d := dst[3*i : 3*i+3 : 3*i+3]
		d[0], d[1], d[2] = r[i], g[i], b[i]
	}
}

// convertCMYK writes n pixels of RGB in place of C, M, Y in dst: the values are taken
// as inverted, which all known writers do (Adobe's convention), and ink is removed from
// the white that black leaves: R = K'·C' with 255 as one.
// Source: Pillow's CMYK;I reading and its CMYK to RGB conversion.
func convertCMYK(dst, k []uint8, n int) {
	k, dst = k[:n], dst[:3*n]
	for i := range k {
		white := int32(k[i])
		for j, v := range dst[3*i : 3*i+3] {
			t := (255-int32(v))*white + 128
			dst[3*i+j] = clip(white - (t>>8+t)>>8)
		}
	}
}
