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
