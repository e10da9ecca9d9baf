package sample_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/engine/internal/sample"
)

func randomRow(rng *rand.Rand, n int) []float32 {
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(rng.IntN(40)) / 8 // ties occur
	}
	return row
}

// distribution computes the probabilities of the reference's warpers in the
// plainest way: sort, cut, normalise.
func distribution(row []float32, p sample.Params) []float64 {
	order := make([]int, len(row))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return row[order[a]] > row[order[b]] })
	if p.TopK > 0 {
		order = order[:min(p.TopK, len(order))]
	}
	weight := func(i int) float64 { return math.Exp(float64(row[i]) / p.Temperature) }
	total := 0.0
	for _, i := range order {
		total += weight(i)
	}
	if p.TopP > 0 && p.TopP < 1 {
		sum := 0.0
		for n, i := range order {
			sum += weight(i) / total
			if sum >= p.TopP {
				order = order[:n+1]
				break
			}
		}
	}
	if p.MinP > 0 {
		order = slices.DeleteFunc(order, func(i int) bool { return weight(i) < p.MinP*weight(order[0]) })
	}
	out := make([]float64, len(row))
	total = 0
	for _, i := range order {
		total += weight(i)
	}
	for _, i := range order {
		out[i] = weight(i) / total
	}
	return out
}

// TestPick compares the frequencies of many picks with the distribution: the
// chi-square statistic of k cells exceeds k+5·sqrt(2k)+10 once in millions.
func TestPick(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range []sample.Params{
		{Temperature: 1},
		{Temperature: 0.6, TopP: 0.9},
		{Temperature: 1.5, TopK: 7},
		{Temperature: 1, MinP: 0.2},
		{Temperature: 0.8, TopK: 50, TopP: 0.95, MinP: 0.01},
	} {
		for _, vocab := range []int{3, 40, 300} {
			row := randomRow(rng, vocab)
			want := distribution(row, p)
			var s sample.Sampler
			const draws = 20000
			counts := make([]int, vocab)
			for i := range draws {
				p.Seed = uint64(i) * 77
				counts[s.Pick(row, p, i%5)]++
			}
			chi, cells := 0.0, 0
			for id, n := range counts {
				e := want[id] * draws
				if want[id] == 0 {
					require.Zero(t, n, "%+v: id %d has no probability", p, id)
					continue
				}
				cells++
				chi += (float64(n) - e) * (float64(n) - e) / e
			}
			limit := float64(cells) + 5*math.Sqrt(2*float64(cells)) + 10
			if !(chi <= limit) {
				t.Errorf("%+v, vocabulary %d: chi-square %.1f of %d cells exceeds %.1f", p, vocab, chi, cells, limit)
			}
		}
	}
}

func TestPickIsReproducible(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	row := randomRow(rng, 1000)
	var a, b sample.Sampler
	p := sample.Params{Temperature: 1, TopP: 0.95, Seed: 9}
	for pos := range 50 {
		want := a.Pick(row, p, pos)
		b.Pick(randomRow(rng, 500), p, pos) // other work in between
		require.Equal(t, want, b.Pick(row, p, pos))
	}
	require.Zero(t, testing.AllocsPerRun(50, func() { a.Pick(row, p, 1) }))
}

func TestGreedy(t *testing.T) {
	nan := float32(math.NaN())
	require.EqualValues(t, 1, sample.ArgMax([]float32{1, 3, 3, 2}), "lowest id on ties")
	require.EqualValues(t, 2, sample.ArgMax([]float32{nan, 1, 5, nan}))
	require.EqualValues(t, 0, sample.ArgMax([]float32{nan, nan}))
	require.True(t, sample.Params{Penalty: 1}.Plain())
	require.False(t, sample.Params{Penalty: 1.1}.Plain())
	row := []float32{2, -2, 1}
	sample.Penalise(row, 2, []int32{0, 1})
	require.Equal(t, []float32{1, -4, 1}, row)
}

// TestPickAtTheLimits: temperatures and logits at the ends of their ranges pick
// an id that has probability, and break nothing.
func TestPickAtTheLimits(t *testing.T) {
	inf := float32(math.Inf(1))
	rows := map[string][]float32{
		"ties": {1, 3, 3, -2}, "huge": {-3e38, 3e38, 3e38, 0}, "infinite": {0, inf, inf, 1}, "nothing": {-inf, -inf}, "one": {-inf, 2, -inf},
		"no numbers": {float32(math.NaN()), float32(math.NaN())},
	}
	var s sample.Sampler
	for name, row := range rows {
		for _, temperature := range []float64{math.SmallestNonzeroFloat64, 1e-300, 1e-47, 1e-44, 1e-38, 1e-6, 1, 100} {
			for _, p := range []sample.Params{{}, {TopP: 0.9}, {TopP: 1e-300}, {TopK: 1}, {TopK: 1 << 40}, {MinP: 1e-300}, {MinP: 1}, {TopK: 3, TopP: 0.5, MinP: 0.1}} {
				p.Temperature, p.Seed = temperature, 7
				id := s.Pick(row, p, 3)
				if high := row[sample.ArgMax(row)]; temperature < 1e-5 && high == high {
					require.Equal(t, high, row[id], "%s %+v", name, p)
				}
			}
		}
	}
}

func TestLogProbs(t *testing.T) {
	row := []float32{1, 3, 3, 0, 100}
	l := sample.NewLogProbs(row)
	sum := 0.0
	for id := range row {
		sum += math.Exp(l.Of(int32(id)))
	}
	require.InDelta(t, 1, sum, 1e-12)
	require.Equal(t, []int32{4, 1, 2}, l.Top(nil, 3))
	require.Equal(t, []int32{9, 4, 1, 2, 0, 3}, l.Top([]int32{9}, 9))
}

// TestStops cuts a text into random pieces: what is released must not depend on
// the cuts, end before the first stop string, and never show a part of one.
func TestStops(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("abü")), 0, 30, -1).Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("abü")), 1, 4, -1), 0, 3).Draw(t, "stops")
		end := len(text)
		for _, x := range stops {
			// The stop string that is complete first wins; of those the earliest start.
			if i := strings.Index(text, x); i >= 0 && i < end {
				end = i
			}
		}
		s := sample.NewStops(stops)
		var out strings.Builder
		stopped := false
		for rest := text; rest != "" && !stopped; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			var rel string
			rel, stopped = s.Next(rest[:n])
			out.WriteString(rel)
			rest = rest[n:]
		}
		out.WriteString(s.Flush())
		got := out.String()
		require.True(t, strings.HasPrefix(text, got))
		for _, x := range stops {
			require.NotContains(t, got, x)
		}
		if end == len(text) {
			require.Equal(t, text, got)
		}
		require.Equal(t, end < len(text), stopped)
	})
}

func TestLoop(t *testing.T) {
	feed := func(ids ...int32) (at, period, repeated int) {
		var l sample.Loop
		for i, id := range ids {
			if p, r, found := l.Next(id); found {
				return i, p, r
			}
		}
		return -1, 0, 0
	}
	text := make([]int32, 400)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range text {
		text[i] = int32(rng.IntN(1000))
	}
	at, _, _ := feed(text...)
	require.Equal(t, -1, at, "text without repetition")
	for _, period := range []int{1, 5, 40, 150, 256} {
		ids := append(slices.Clone(text[:100]), slices.Repeat(text[100:100+min(period, 300)], 200)...)
		at, p, repeated := feed(ids...)
		require.Equal(t, period, p)
		require.Equal(t, 100+period+repeated-1, at)
	}
	at, _, _ = feed(append(slices.Repeat([]int32{1, 2}, 40), text...)...)
	require.Equal(t, -1, at, "a short row of dots")
}

func BenchmarkPick(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	row := make([]float32, 151936)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * 3)
	}
	for name, p := range map[string]sample.Params{
		"greedy": {}, "top-p": {Temperature: 0.7, TopP: 0.95}, "top-k": {Temperature: 0.7, TopK: 50, TopP: 0.9}, "plain": {Temperature: 1},
	} {
		b.Run(name, func(b *testing.B) {
			var s sample.Sampler
			for b.Loop() {
				s.Pick(row, p, 1)
			}
		})
	}
}

// TestArgMaxWithin: the same choice as ArgMax of a row whose forbidden logits are minus infinity.
func TestArgMaxWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row := rapid.SliceOfN(rapid.SampledFrom([]float32{-3, -1, 0, 1, 2, float32(math.NaN()), float32(math.Inf(-1))}), 1, 200).Draw(t, "row")
		allowed := rapid.SliceOfN(rapid.OneOf(rapid.Just(uint64(math.MaxUint64)), rapid.Just(uint64(0)), rapid.Uint64()), (len(row)+63)/64, (len(row)+63)/64).Draw(t, "allowed")
		masked := slices.Clone(row)
		for i := range masked {
			if allowed[i/64]>>(i%64)&1 == 0 {
				masked[i] = float32(math.Inf(-1))
			}
		}
		require.Equal(t, sample.ArgMax(masked), sample.ArgMaxWithin(row, allowed))
	})
}
