package speculate_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/engine/internal/speculate"
)

func TestIndex(t *testing.T) {
	var x speculate.Index
	require.Empty(t, x.Propose(nil, 1, 2, 3, 4))
	x.Append(1, 2, 3, 4, 5)
	x.Border()
	x.Append(9, 1, 2, 3)
	require.Equal(t, []int32{4, 5}, x.Propose(nil, 1, 2, 3, 8), "up to the border")
	x.Append(7)
	require.Equal(t, []int32{7, 7}, x.Propose(nil, 1, 2, 3, 2), "the last occurrence, in circles")
	require.Empty(t, x.Propose(nil, 4, 5, 9, 8), "not across a border")
	a, b, c, ok := x.Last()
	require.True(t, ok)
	require.Equal(t, [3]int32{2, 3, 7}, [3]int32{a, b, c})
	x.Reset()
	require.Empty(t, x.Propose(nil, 1, 2, 3, 4))
}

// TestIndexAgainstSearch compares with a plain search: a proposal is always what
// followed some occurrence, and there is one whenever no other gram took its place.
func TestIndexAgainstSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.Int32Range(0, 3), 4, 60).Draw(t, "tokens")
		var x speculate.Index
		x.Append(tokens...)
		g := tokens[len(tokens)-3:]
		got := x.Propose(nil, g[0], g[1], g[2], 3)
		followed := map[int32]bool{}
		for i := 3; i < len(tokens); i++ {
			if slices.Equal(tokens[i-3:i], g) {
				followed[tokens[i]] = true
			}
		}
		require.Equal(t, len(followed) > 0 && len(got) > 0, len(got) > 0)
		if len(got) > 0 {
			require.True(t, followed[got[0]])
		}
	})
}

func TestClock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		fixed, slope float64
		n            int
		want         float64
	}{{10, 0.1, 1, 0.1 / 10.1}, {1, 1, 1, 0.5}, {1, 1, 8, 8. / 9}, {5, 0, 4, 0.01}} {
		var k speculate.Clock
		for range 200 {
			tokens := 1 + rng.IntN(12)
			noise := 1 + 0.02*rng.NormFloat64()
			k.Observe(tokens, time.Duration(noise*(c.fixed+c.slope*float64(tokens))*float64(time.Millisecond)))
		}
		require.InDelta(t, c.want, k.Price(c.n), 0.25*c.want+0.02, "%+v", c)
	}
}

func TestWidth(t *testing.T) {
	var w speculate.Width
	for range 30 {
		w.Learn(4, 4)
	}
	require.Equal(t, 16, w.Next(0.02))
	require.Less(t, w.Next(0.9), 8)
	for range 40 {
		w.Learn(4, 0)
	}
	guessed := 0
	for range 320 {
		guessed += w.Next(0.2)
	}
	require.Equal(t, 10, guessed, "one probe in 32 tokens")
	require.Zero(t, w.Next(1))
}
