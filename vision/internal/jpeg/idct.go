package jpeg

// The inverse DCT is the accurate integer one that libjpeg calls "islow". An 8-point
// transform splits into an even and an odd half,
//
//	e0,e3 = (x0+x4) ± t3     t2 = √2·(x2·cos(6π/16) - x6·sin(6π/16)) …
//	o0…o3 = M·(x7,x5,x3,x1)
//
// and y[i] = e[i] + o, y[7-i] = e[i] - o. Here the factors are the integers
// 2^13·constant that libjpeg multiplies with, summed up where it factors them, which
// gives the same integers: the arithmetic is exact until the shift. The first pass
// runs over columns and keeps 2 fractional bits, the second over rows and removes
// all and the factor 8:
//
//	pass 1: (sum + 2^10) >> 11       pass 2: (sum + 2^17) >> 18
//
// Sums of eight int16 products stay below 2^31 (the absolute factors of a row of the
// matrix add up to less than 2^16), so int32 never overflows. Dequantised values wrap
// to int16 and results of a pass saturate to int16, as in vector code; for
// coefficients of a real picture neither happens.
const (
	// Even half: √2·cos(6π/16) = 0.541196100 and its combinations, times 2^13.
	even2x2 = 4433 + 6270  // x2 in e0,e3
	even2x6 = 4433         // x6 in e0,e3
	even3x2 = 4433         // x2 in e1,e2
	even3x6 = 4433 - 15137 // x6 in e1,e2
	unit    = 1 << 13

	// Odd half: libjpeg's constants times 2^13.
	f0298 = 2446
	f0390 = 3196
	f0899 = 7373
	f1175 = 9633
	f1501 = 12299
	f1961 = 16069
	f2053 = 16819
	f2562 = 20995
	f3072 = 25172

	// odd[i][j]: the factor of x7, x5, x3, x1 in o0 (the one of y3), …, o3 (of y0).
	odd07, odd05, odd03, odd01 = f0298 - f0899 - f1961 + f1175, f1175, f1175 - f1961, f1175 - f0899
	odd17, odd15, odd13, odd11 = f1175, f2053 - f2562 - f0390 + f1175, f1175 - f2562, f1175 - f0390
	odd27, odd25, odd23, odd21 = f1175 - f1961, f1175 - f2562, f3072 - f2562 - f1961 + f1175, f1175
	odd37, odd35, odd33, odd31 = f1175 - f0899, f1175 - f0390, f1175, f1501 - f0899 - f0390 + f1175
)

// saturate limits to int16.
func saturate(v int32) int32 { return min(max(v, -32768), 32767) }

// transform8 is one 8-point inverse transform at the given shift.
func transform8(x *[8]int32, shift uint) {
	half := int32(1) << (shift - 1)
	a, b := (x[0]+x[4])*unit, (x[0]-x[4])*unit
	t2 := x[2]*even3x2 + x[6]*even3x6
	t3 := x[2]*even2x2 + x[6]*even2x6
	e0, e1, e2, e3 := a+t3+half, b+t2+half, b-t2+half, a-t3+half
	o0 := x[7]*odd07 + x[5]*odd05 + x[3]*odd03 + x[1]*odd01
	o1 := x[7]*odd17 + x[5]*odd15 + x[3]*odd13 + x[1]*odd11
	o2 := x[7]*odd27 + x[5]*odd25 + x[3]*odd23 + x[1]*odd21
	o3 := x[7]*odd37 + x[5]*odd35 + x[3]*odd33 + x[1]*odd31
	x[0], x[7] = saturate((e0+o3)>>shift), saturate((e0-o3)>>shift)
	x[1], x[6] = saturate((e1+o2)>>shift), saturate((e1-o2)>>shift)
	x[2], x[5] = saturate((e2+o1)>>shift), saturate((e2-o1)>>shift)
	x[3], x[4] = saturate((e3+o0)>>shift), saturate((e3-o0)>>shift)
}

// idctRow transforms blocks neighbouring blocks of 64 coefficients to 8 rows of
// samples: block i goes to columns 8i…8i+7 of dst, whose rows are stride apart.
func idctRow(dst []uint8, stride int, coeffs []int16, table *[64]uint16, blocks int) {
	for i := range blocks {
		idct(dst[8*i:], stride, (*[64]int16)(coeffs[64*i:]), table)
	}
}

// idct transforms one block. A block of DC only has one value everywhere.
func idct(dst []uint8, stride int, b *[64]int16, table *[64]uint16) {
	if flat(b) {
		v := int32(int16(uint16(b[0]) * table[0]))
		v = saturate(v * 4)
		s := sample((v*unit + 1<<17) >> 18)
		for y := range 8 {
			row := dst[y*stride:][:8]
			for x := range row {
				row[x] = s
			}
		}
		return
	}
	var work [64]int32
	var v [8]int32
	for x := range 8 {
		for y := range v {
			v[y] = int32(int16(uint16(b[8*y+x]) * table[8*y+x]))
		}
		transform8(&v, 11)
		for y := range v {
			work[8*y+x] = v[y]
		}
	}
	for y := range 8 {
		w := (*[8]int32)(work[8*y:])
		transform8(w, 18)
		row := dst[y*stride:][:8]
		for x, s := range w {
			row[x] = sample(s)
		}
	}
}

// flat reports whether only the DC coefficient is not zero.
func flat(b *[64]int16) bool {
	for _, v := range b[1:] {
		if v != 0 {
			return false
		}
	}
	return true
}

// sample moves a value around zero to 0…255.
func sample(v int32) uint8 { return uint8(min(max(v+128, 0), 255)) }
