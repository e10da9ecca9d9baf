package vision

import "math"

// Grid chooses how many tiles a picture of width×height is cut into: the cols×rows
// with min ≤ cols·rows ≤ max whose aspect ratio is closest to the picture's, in
// float64. When two are exactly as close, the one with more tiles wins if the
// picture has more than half of its pixels, width·height > size²·cols·rows/2. Width,
// height, min, max and size must be ≥ 1 and min ≤ max.
//
// Source: InternVL dynamic_preprocess and find_closest_aspect_ratio.
func Grid(width, height, min, max, size int) (cols, rows int) {
	aspect := float64(width) / float64(height)
	area := float64(width) * float64(height)
	best := math.Inf(1)
	cols, rows = 1, 1
	for n := min; n <= max; n++ { // by area, as the reference sorts them
		for c := 1; c <= n; c++ {
			if n%c != 0 {
				continue
			}
			r := n / c
			distance := math.Abs(aspect - float64(c)/float64(r))
			closer := distance < best
			tie := distance == best && area > 0.5*float64(size)*float64(size)*float64(n)
			if closer || tie {
				best, cols, rows = distance, c, r
			}
		}
	}
	return cols, rows
}
