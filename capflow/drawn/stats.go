package drawn

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Rate is a share with its 95 % interval.
type Rate struct {
	Value float64 `json:"value"`
	Lo    float64 `json:"lo"`
	Hi    float64 `json:"hi"`
	N     int     `json:"n"` // of what the share is taken
}

// Points renders a difference of shares in percentage points.
func (r Rate) Points() string {
	if r.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%+.1f (%+.1f to %+.1f)", 100*r.Value, 100*r.Lo, 100*r.Hi)
}

func (r Rate) String() string {
	if r.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %% (%.1f–%.1f)", 100*r.Value, 100*r.Lo, 100*r.Hi)
}

// Wilson returns k of n with Wilson's interval.
func Wilson(k, n int) Rate {
	if n == 0 {
		return Rate{}
	}
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	mid := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return Rate{Value: p, Lo: max(0, mid-half), Hi: min(1, mid+half), N: n}
}

// resamples of the bootstrap.
const resamples = 2000

// Bootstrap returns the ratio of sums over pictures, with the percentile
// interval of resampled pictures: sentences of one picture are not independent.
func Bootstrap(all []Counts, ratio func(*Counts) (k, n int)) Rate {
	k, n := 0, 0
	ks, ns := make([]int, len(all)), make([]int, len(all))
	for i := range all {
		ks[i], ns[i] = ratio(&all[i])
		k, n = k+ks[i], n+ns[i]
	}
	if n == 0 {
		return Rate{}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var values []float64
	for range resamples {
		a, b := 0, 0
		for range all {
			i := rng.IntN(len(all))
			a, b = a+ks[i], b+ns[i]
		}
		if b > 0 {
			values = append(values, float64(a)/float64(b))
		}
	}
	slices.Sort(values)
	at := func(q float64) float64 { return values[int(q*float64(len(values)-1)+0.5)] }
	return Rate{Value: float64(k) / float64(n), Lo: at(0.025), Hi: at(0.975), N: n}
}

// Difference returns how much the ratio of sums of a is above that of b, in the
// same pictures, with the percentile interval of resampled pictures. What is
// alike in both does not widen the interval.
func Difference(a, b []Counts, ratio func(*Counts) (k, n int)) Rate {
	rng := rand.New(rand.NewPCG(1, 2))
	share := func(of []Counts, at []int) (float64, bool) {
		k, n := 0, 0
		for _, i := range at {
			x, y := ratio(&of[i])
			k, n = k+x, n+y
		}
		return float64(k) / math.Max(1, float64(n)), n > 0
	}
	at := make([]int, len(a))
	for i := range at {
		at[i] = i
	}
	difference := func() (float64, bool) {
		x, okA := share(a, at)
		y, okB := share(b, at)
		return x - y, okA && okB
	}
	d, ok := difference()
	if !ok {
		return Rate{}
	}
	var values []float64
	for range resamples {
		for i := range at {
			at[i] = rng.IntN(len(a))
		}
		if v, ok := difference(); ok {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	quantile := func(q float64) float64 { return values[int(q*float64(len(values)-1)+0.5)] }
	return Rate{Value: d, Lo: quantile(0.025), Hi: quantile(0.975), N: len(a)}
}

// Calibration is the expected calibration error over ten equal bins: the mean
// distance of confidence and share of right answers, weighted by the bin's size.
func Calibration(confidence []float64, right []bool) float64 {
	var n, c, r [10]float64
	for i, p := range confidence {
		b := min(9, int(p*10))
		n[b]++
		c[b] += p
		if right[i] {
			r[b]++
		}
	}
	e := 0.0
	for b := range n {
		e += math.Abs(c[b] - r[b])
	}
	return e / math.Max(1, float64(len(confidence)))
}
