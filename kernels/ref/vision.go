package ref

import "metacap/kernels"

func (b *backend) Patchify(a kernels.PatchifyArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("Patchify", a.Out, a.Tiles, a.LUT); err != nil {
		return err
	}
	p, side := a.PatchSize, a.Tiles.Shape[1]
	g := side / p
	lut := loadAll[float64](a.LUT)
	b.parallel(a.Tiles.Rows(), func(i int) {
		tile := row(a.Tiles, i)
		for y := 0; y < g; y++ {
			for x := 0; x < g; x++ {
				out := make([]float64, a.Out.RowLen())
				for c := 0; c < 3; c++ {
					for ky := 0; ky < p; ky++ {
						for kx := 0; kx < p; kx++ {
							v := tile[((y*p+ky)*side+x*p+kx)*3+c]
							out[(c*p+ky)*p+kx] = lut[c*256+int(v)]
						}
					}
				}
				store(a.Out, (i*g+y)*g+x, out)
			}
		}
	})
	return nil
}

func (b *backend) VisionEmbed(a kernels.VisionEmbedArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("VisionEmbed", a.Out, a.X, a.Class, a.Pos); err != nil {
		return err
	}
	rows, e := a.Out.Shape[1], a.Out.Shape[2]
	class := loadVector[float64](a.Class)
	b.parallel(a.Out.Rows(), func(i int) {
		out := make([]float64, 0, rows*e)
		for r := 0; r < rows; r++ {
			x := class
			if r > 0 {
				x = load[float64](a.X, i*(rows-1)+r-1)
			}
			for c, pos := range load[float64](a.Pos, r) {
				out = append(out, x[c]+pos)
			}
		}
		store(a.Out, i, out)
	})
	return nil
}

func (b *backend) PixelShuffle(a kernels.PixelShuffleArgs) error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := b.own("PixelShuffle", a.Out, a.X); err != nil {
		return err
	}
	r, e := a.Factor, a.X.Shape[2]
	g := 1
	for g*g < a.X.Shape[1]-1 {
		g++
	}
	q := g / r
	b.parallel(a.X.Rows(), func(i int) {
		x := load[float64](a.X, i)
		out := make([]float64, a.Out.RowLen())
		for y := 0; y < q; y++ {
			for col := 0; col < q; col++ {
				token := y*q + col
				if a.Version == 1 {
					token = col*q + y
				}
				for dy := 0; dy < r; dy++ {
					for dx := 0; dx < r; dx++ {
						from := (1 + (r*y+dy)*g + r*col + dx) * e
						to := (token*r*r + r*dy + dx) * e
						copy(out[to:to+e], x[from:from+e])
					}
				}
			}
		}
		store(a.Out, i, out)
	})
	return nil
}
