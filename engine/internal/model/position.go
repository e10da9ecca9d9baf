package model

import "math"

// resizePositions resizes the patch rows of a position embedding [1+from²,E] to
// [1+to²,E] by bicubic interpolation; the class row stays. It follows PyTorch's
// interpolate(mode='bicubic', align_corners=False) without antialiasing: cubic
// convolution with a = -0.75, source coordinate (i+0.5)·from/to - 0.5, indices
// clamped to the border. Source: InternVisionEmbeddings._get_pos_embed.
func resizePositions(table []float32, width, from, to int) []float32 {
	if from == to {
		return table
	}
	out := make([]float32, (1+to*to)*width)
	copy(out, table[:width])
	taps := make([]cubicTap, to)
	for i := range taps {
		taps[i] = newCubicTap(i, from, to)
	}
	src := table[width:]
	for y := range to {
		for x := range to {
			dst := out[(1+y*to+x)*width:][:width]
			for j, wy := range taps[y].weight {
				row := taps[y].index[j] * from
				for i, wx := range taps[x].weight {
					w := wy * wx
					for c, v := range src[(row+taps[x].index[i])*width:][:width] {
						dst[c] += w * v
					}
				}
			}
		}
	}
	return out
}

// cubicTap are the four source samples of an output sample and their weights.
type cubicTap struct {
	index  [4]int
	weight [4]float32
}

func newCubicTap(i, from, to int) cubicTap {
	const a = -0.75
	near := func(x float64) float64 { return ((a+2)*x-(a+3))*x*x + 1 }
	far := func(x float64) float64 { return ((a*x-5*a)*x+8*a)*x - 4*a }
	centre := (float64(i)+0.5)*float64(from)/float64(to) - 0.5
	base := math.Floor(centre)
	t := centre - base
	var tap cubicTap
	for j, w := range [4]float64{far(t + 1), near(t), near(1 - t), far(2 - t)} {
		tap.weight[j] = float32(w)
		tap.index[j] = min(max(int(base)-1+j, 0), from-1)
	}
	return tap
}
