package vision

import (
	"image"
	"image/color"
)

// over composites a straight-alpha value on white.
//
// Source: the rounding of Pillow's alpha_composite on an opaque background:
// t = 128·(v·a + 255·(255-a)) + 2^14, then (t + t/256)/2^15.
func over(v, a uint8) uint8 {
	t := 128*(uint32(v)*uint32(a)+255*(255-uint32(a))) + 1<<14
	return uint8((t>>8 + t) >> 8 >> 7)
}

// paint writes img over the whole of p.Pix, sets p.Mode and notes what happened to
// transparency. 16-bit samples keep their high byte.
func (p *Picture) paint(img image.Image, exact bool) {
	transparent := false
	switch m := img.(type) {
	case *image.Gray:
		p.Mode = "gray8"
		p.rows(func(d []uint8, y int) {
			for x, v := range m.Pix[y*m.Stride:][:p.Width] {
				d[3*x], d[3*x+1], d[3*x+2] = v, v, v
			}
		})
	case *image.Gray16:
		p.Mode = "gray16"
		p.note("16-bit grey reduced to its high byte")
		p.rows(func(d []uint8, y int) {
			for x := range p.Width {
				v := m.Pix[y*m.Stride+2*x]
				d[3*x], d[3*x+1], d[3*x+2] = v, v, v
			}
		})
	case *image.RGBA:
		transparent = !m.Opaque()
		p.Mode = "rgb8"
		p.rows(func(d []uint8, y int) { premultiplied(d, m.Pix[y*m.Stride:][:4*p.Width], 4, 1, exact) })
	case *image.RGBA64:
		transparent = !m.Opaque()
		p.Mode = "rgb16"
		p.rows(func(d []uint8, y int) { premultiplied(d, m.Pix[y*m.Stride:][:8*p.Width], 8, 2, exact) })
	case *image.NRGBA:
		transparent = !m.Opaque()
		p.Mode = "rgba8"
		p.rows(func(d []uint8, y int) { straight(d, m.Pix[y*m.Stride:][:4*p.Width], 4, 1, exact) })
	case *image.NRGBA64:
		transparent = !m.Opaque()
		p.Mode = "rgba16"
		p.rows(func(d []uint8, y int) { straight(d, m.Pix[y*m.Stride:][:8*p.Width], 8, 2, exact) })
	case *image.Paletted:
		p.Mode = "palette"
		transparent = p.paintPalette(m, exact)
	default:
		p.Mode = "other"
		transparent = p.paintOther(img, exact)
	}
	if transparent {
		p.noteAlpha(exact)
	}
}

// noteAlpha records what became of transparency.
func (p *Picture) noteAlpha(exact bool) {
	if exact {
		p.note("transparency dropped")
	} else {
		p.note("transparency composited on white")
	}
}

// rows calls f with each row of p.Pix.
func (p *Picture) rows(f func(d []uint8, y int)) {
	for y := range p.Height {
		f(p.Pix[3*y*p.Width:][:3*p.Width], y)
	}
}

// straight converts a row of non-premultiplied RGBA; pixels are size bytes apart, samples step.
func straight(d, s []uint8, size, step int, exact bool) {
	for ; len(s) >= size; s, d = s[size:], d[3:] {
		r, g, b, a := s[0], s[step], s[2*step], s[3*step]
		if a != 255 && !exact {
			r, g, b = over(r, a), over(g, a), over(b, a)
		}
		d[0], d[1], d[2] = r, g, b
	}
}

// premultiplied converts a row of premultiplied RGBA, undoing the multiplication first.
func premultiplied(d, s []uint8, size, step int, exact bool) {
	for ; len(s) >= size; s, d = s[size:], d[3:] {
		r, g, b, a := s[0], s[step], s[2*step], s[3*step]
		if a != 255 {
			n := color.NRGBAModel.Convert(color.RGBA{r, g, b, a}).(color.NRGBA)
			r, g, b = n.R, n.G, n.B
			if !exact {
				r, g, b = over(r, a), over(g, a), over(b, a)
			}
		}
		d[0], d[1], d[2] = r, g, b
	}
}

// paintPalette looks colours up; an index beyond the palette is black, as in Pillow.
func (p *Picture) paintPalette(m *image.Paletted, exact bool) (transparent bool) {
	var table [256][3]uint8
	var clear [256]bool
	for i, c := range m.Palette[:min(len(m.Palette), 256)] {
		n := color.NRGBAModel.Convert(c).(color.NRGBA)
		table[i] = [3]uint8{n.R, n.G, n.B}
		clear[i] = n.A != 255
		if clear[i] && !exact {
			table[i] = [3]uint8{over(n.R, n.A), over(n.G, n.A), over(n.B, n.A)}
		}
	}
	p.rows(func(d []uint8, y int) {
		for x, v := range m.Pix[y*m.Stride:][:p.Width] {
			copy(d[3*x:3*x+3:3*x+3], table[v][:])
			transparent = transparent || clear[v]
		}
	})
	return transparent
}

// paintOther converts any image.Image through its colours.
func (p *Picture) paintOther(img image.Image, exact bool) (transparent bool) {
	b := img.Bounds()
	p.rows(func(d []uint8, y int) {
		for x := range p.Width {
			n := color.NRGBAModel.Convert(img.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA)
			if n.A != 255 {
				transparent = true
				if !exact {
					n.R, n.G, n.B = over(n.R, n.A), over(n.G, n.A), over(n.B, n.A)
				}
			}
			d[3*x], d[3*x+1], d[3*x+2] = n.R, n.G, n.B
		}
	})
	return transparent
}
