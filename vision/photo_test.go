package vision_test

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// photo draws a picture with the statistics of a photograph (smooth shading, edges,
// grain) and encodes it as 4:2:0 JPEG of quality 85.
func photo(t testing.TB, w, h int) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	type wave struct{ fx, fy, phase, r, g, b float64 }
	waves := make([]wave, 12)
	for i := range waves {
		f := math.Exp2(float64(i) / 1.5)
		a := 60 / (1 + f/4)
		waves[i] = wave{f * rng.NormFloat64(), f * rng.NormFloat64(), 6 * rng.Float64(), a * rng.NormFloat64(), a * rng.NormFloat64(), a * rng.NormFloat64()}
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			u, v := float64(x)/float64(w), float64(y)/float64(h)
			r, g, b := 128.0, 128.0, 128.0
			for _, s := range waves {
				c := math.Cos(2*math.Pi*(s.fx*u+s.fy*v) + s.phase)
				r, g, b = r+c*s.r, g+c*s.g, b+c*s.b
			}
			if (x/97+y/71)%3 == 0 { // edges
				r, b = b, r
			}
			grain := 4 * rng.NormFloat64()
			img.SetRGBA(x, y, color.RGBA{byteOf(r + grain), byteOf(g + grain), byteOf(b + grain), 255})
		}
	}
	var buf bytes.Buffer
	require.NoError(t, jpeg.Encode(&buf, img, &jpeg.Options{Quality: 85}))
	return buf.Bytes()
}

func byteOf(v float64) uint8 { return uint8(min(max(v, 0), 255)) }
