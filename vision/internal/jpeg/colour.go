package jpeg

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
