package resample

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// noise returns a picture inside a larger one, so that rows have a stride and
// neighbours that must not matter.
func noise(rng *rand.Rand, w, h int) Source {
	stride := 3*w + rng.IntN(20)
	pix := make([]uint8, (h-1)*stride+3*w) // ends with the last pixel: reading on would show under a checker
	for i := range pix {
		pix[i] = uint8(rng.Uint32())
		if rng.IntN(3) == 0 { // extremes bring out clipping
			pix[i] = uint8(255 * rng.IntN(2))
		}
	}
	return Source{Pix: pix, Stride: stride, Width: w, Height: h}
}

// TestVectorEqualsPlain compares both implementations where the vector one exists.
func TestVectorEqualsPlain(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, 1))
	check := func(w, h, cols, rows, size int) {
		t.Helper()
		src := noise(rng, w, h)
		g := Grid{cols, rows, size}
		plain, fast := make([]uint8, g.Bytes()+8), make([]uint8, g.Bytes()+8)
		for i := range 8 { // canaries
			plain[g.Bytes()+i], fast[g.Bytes()+i] = 0xa5, 0xa5
		}
		(&Resizer{plain: true}).Tiles(plain[:g.Bytes()], src, g)
		new(Resizer).Tiles(fast[:g.Bytes()], src, g)
		if !bytes.Equal(plain, fast) {
			t.Errorf("seed %d: %d×%d to %d×%d tiles of %d differs", seed, w, h, cols, rows, size)
		}
	}
	for _, c := range [][5]int{
		{1, 1, 1, 1, 8},
		{3, 4, 2, 1, 8},
		{4, 4, 1, 1, 5},
		{4, 5, 3, 3, 11},
		{5, 5, 1, 1, 5},
		{7, 64, 1, 2, 64},
		{64, 7, 2, 1, 64},
		{320, 240, 4, 3, 56},
		{33, 64, 2, 2, 32},
		{128, 64, 2, 1, 64},
		{100, 64, 2, 1, 64},
		{128, 33, 2, 1, 64},
		{1000, 3, 1, 1, 20},
	} {
		check(c[0], c[1], c[2], c[3], c[4])
	}
	for range 150 {
		check(1+rng.IntN(300), 1+rng.IntN(200), 1+rng.IntN(4), 1+rng.IntN(4), 1+rng.IntN(70))
	}
}

// TestWeights checks that the weights of every result pixel add up to one, within
// half a unit a tap, and stay in the source.
func TestWeights(t *testing.T) {
	for _, c := range [][2]int{{1, 448}, {2, 3}, {100, 99}, {1280, 1792}, {1280, 448}, {3000, 448}, {448, 448}, {65535, 56}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			a := newAxis(c[0], c[1])
			for x := range a.out {
				sum := int32(0)
				for _, w := range a.weights[x*a.taps:][:a.taps] {
					sum += w
				}
				if d := sum - 1<<precision; !(d <= a.count[x] && -d <= a.count[x]) {
					t.Fatalf("pixel %d: weights add up to 2^22%+d", x, d)
				}
				require.GreaterOrEqual(t, a.first[x], int32(0))
				require.LessOrEqual(t, a.first[x]+a.count[x], int32(a.in))
			}
		})
	}
}

// TestReuse checks that a Resizer used for other sizes before gives the same pixels.
func TestReuse(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var used Resizer
	for range 40 {
		src := noise(rng, 1+rng.IntN(90), 1+rng.IntN(90))
		w, h := 1+rng.IntN(90), 1+rng.IntN(90)
		got, want := make([]uint8, 3*w*h), make([]uint8, 3*w*h)
		used.Resize(got, src, w, h)
		new(Resizer).Resize(want, src, w, h)
		require.Equal(t, want, got)
	}
}
