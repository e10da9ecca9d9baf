package vision

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"

	"github.com/disintegration/imaging"
)

// Thumbnail returns the picture as JPEG, scaled down so that neither side exceeds
// maxSide pixels (≥ 1), the aspect ratio kept. It is for people to look at: the model's
// input never goes through it.
func Thumbnail(p *Picture, maxSide int) ([]byte, error) {
	if maxSide < 1 || p.Width < 1 || p.Height < 1 {
		return nil, fmt.Errorf("vision: thumbnail: %w: %d×%d pixels to at most %d", ErrRecipe, p.Width, p.Height, maxSide)
	}
	// What is far too large is reduced by whole factors first, to keep memory small.
	src, factor := p, max(p.Width, p.Height)/(4*maxSide)
	if factor > 1 {
		src = reduce(p, factor)
	}
	img := image.NewNRGBA(image.Rect(0, 0, src.Width, src.Height))
	for i, j := 0, 0; i+3 <= len(src.Pix); i, j = i+3, j+4 {
		copy(img.Pix[j:j+3], src.Pix[i:i+3])
		img.Pix[j+3] = 255
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, imaging.Fit(img, maxSide, maxSide, imaging.Lanczos), &jpeg.Options{Quality: 85}); err != nil {
		return nil, fmt.Errorf("vision: thumbnail: %w", err)
	}
	return buf.Bytes(), nil
}

// reduce averages squares of factor×factor pixels; the last ones may be smaller.
func reduce(p *Picture, factor int) *Picture {
	q := &Picture{Width: (p.Width + factor - 1) / factor, Height: (p.Height + factor - 1) / factor}
	q.Pix = make([]uint8, 3*q.Width*q.Height)
	for y := range q.Height {
		for x := range q.Width {
			var sum [3]int
			n := 0
			for sy := y * factor; sy < min((y+1)*factor, p.Height); sy++ {
				for sx := x * factor; sx < min((x+1)*factor, p.Width); sx++ {
					s := p.Pix[3*(sy*p.Width+sx):][:3]
					sum[0], sum[1], sum[2], n = sum[0]+int(s[0]), sum[1]+int(s[1]), sum[2]+int(s[2]), n+1
				}
			}
			d := q.Pix[3*(y*q.Width+x):][:3]
			d[0], d[1], d[2] = uint8(sum[0]/n), uint8(sum[1]/n), uint8(sum[2]/n)
		}
	}
	return q
}
