package webp

import "image"

// Lossy WebP holds limited-range BT.601 with chroma halved both ways. libwebp grows
// chroma with a 9:3:3:1 filter in two roundings,
//
//	avg  = n[x-1] + n[x] + f[x-1] + f[x] + 8
//	out[2x-1] = ((avg + 2·(n[x] + f[x-1]))>>3 + n[x-1]) >> 1
//	out[2x]   = ((avg + 2·(n[x-1] + f[x]))>>3 + n[x]) >> 1
//
// where n is the chroma row nearer to the picture row and f the other one, and
// converts in fixed point: every product is shifted right by 8, the sum by 6. x/image's
// own conversion reads the samples as full range, 6 levels off on average.

// toRGBA converts decoded planes to straight RGBA; alpha [h,w] may be nil.
func toRGBA(dst []uint8, m *image.YCbCr, alpha []uint8) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	cw, ch := (w+1)/2, (h+1)/2
	us, vs := make([]uint8, 2*cw), make([]uint8, 2*cw)
	for y := range h {
		near := y / 2
		far := near - 1
		if y&1 == 1 {
			far = near + 1
		}
		far = min(max(far, 0), ch-1)
		spread(us, m.Cb[near*m.CStride:][:cw], m.Cb[far*m.CStride:][:cw])
		spread(vs, m.Cr[near*m.CStride:][:cw], m.Cr[far*m.CStride:][:cw])
		ys, d := m.Y[y*m.YStride:][:w], dst[4*w*y:][:4*w]
		for x, l := range ys {
			y0, u, v := int32(l)*19077>>8, int32(us[x]), int32(vs[x])
			p := d[4*x : 4*x+4 : 4*x+4]
			p[0] = clip(y0 + v*26149>>8 - 14234)
			p[1] = clip(y0 - u*6419>>8 - v*13320>>8 + 8708)
			p[2] = clip(y0 + u*33050>>8 - 17685)
			p[3] = 255
			if alpha != nil {
				p[3] = alpha[y*w+x]
			}
		}
	}
}

// spread doubles a chroma row; len(dst) = 2·len(near).
func spread(dst, near, far []uint8) {
	n := len(near)
	dst[0] = uint8((3*int(near[0]) + int(far[0]) + 2) >> 2)
	for x := 1; x < n; x++ {
		n0, n1, f0, f1 := int(near[x-1]), int(near[x]), int(far[x-1]), int(far[x])
		sum := n0 + n1 + f0 + f1 + 8
		dst[2*x-1] = uint8(((sum+2*(n1+f0))>>3 + n0) >> 1)
		dst[2*x] = uint8(((sum+2*(n0+f1))>>3 + n1) >> 1)
	}
	dst[2*n-1] = uint8((3*int(near[n-1]) + int(far[n-1]) + 2) >> 2)
}

// clip drops 6 fractional bits.
func clip(v int32) uint8 { return uint8(min(max(v>>6, 0), 255)) }
