package compare

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDivergence checks the definition on distributions whose divergence is known.
func TestDivergence(t *testing.T) {
	log := func(ps ...float64) (row []float32) {
		for _, p := range ps {
			row = append(row, float32(math.Log(p))+3) // a constant does not matter
		}
		return row
	}
	p, q := log(0.5, 0.25, 0.25), log(0.25, 0.25, 0.5)
	require.InDelta(t, 0.5*math.Log(2)-0.25*math.Log(2), divergence(p, q), 1e-6)
	require.Zero(t, divergence(p, p))
	require.InDelta(t, math.Log(2), divergence([]float32{100, -1000}, []float32{7, 7}), 1e-9)
	require.Equal(t, 1, argmax([]float32{1, 5, 5}))
}

// TestSum checks the error of a stage, and that values that are not finite are refused.
func TestSum(t *testing.T) {
	s := &sum{}
	require.NoError(t, s.add([]float32{3, 4}, []float32{3, 4.5}))
	r := &Report{Images: []Image{{Tokens: 4, Agree: 3, KL: 1, MaxKL: 2, Identical: true}, {Tokens: 1, KL: 6, MaxKL: 6}}}
	r.finish(map[string]*sum{"logits": s})
	require.Equal(t, []Layer{{"logits", 0.1, 0.5}}, r.Layers)
	require.Equal(t, 0.6, r.Agreement)
	require.Equal(t, 0.5, r.Identical)
	require.Equal(t, 2.0, r.KL)
	require.Equal(t, 6.0, r.MaxKL)
	nan := float32(math.NaN())
	require.ErrorContains(t, s.add([]float32{nan}, []float32{1}), "not finite")
	require.ErrorContains(t, s.add([]float32{1}, []float32{nan}), "not finite")
}
