package sample

import (
	"math"
	"slices"
)

// Params say how to pick. The zero value is greedy.
type Params struct {
	Temperature float64 // 0 = greedy
	TopK        int     // 0 = off
	TopP        float64 // 0 or 1 = off
	MinP        float64 // 0 = off
	Penalty     float64 // repetition penalty; 0 or 1 = off
	Seed        uint64
}

// Plain reports whether the pick is the argmax of the unchanged row.
func (p Params) Plain() bool {
	return p.Temperature == 0 && (p.Penalty == 0 || p.Penalty == 1)
}

// ArgMax returns the lowest id of the largest logit. NaN never wins.
func ArgMax(row []float32) int32 {
	at, high := 0, float32(math.Inf(-1))
	for id, l := range row {
		if l > high {
			at, high = id, l
		}
	}
	return int32(at)
}

// Penalise applies the repetition penalty to the ids in seen, each once:
// positive logits are divided by it, negative ones multiplied.
// Source: transformers RepetitionPenaltyLogitsProcessor (CTRL).
func Penalise(row []float32, penalty float64, seen []int32) {
	if penalty == 0 || penalty == 1 {
		return
	}
	for _, id := range seen {
		if l := row[id]; l > 0 {
			row[id] = float32(float64(l) / penalty)
		} else {
			row[id] = float32(float64(l) * penalty)
		}
	}
}

// candidate is an id with its logit, later its weight.
type candidate struct {
	id    int32
	logit float32
}

// Sampler picks ids. It is working memory: one goroutine at a time.
type Sampler struct {
	cand    []candidate
	weights []float64
}

// Pick returns an id of row, whose logits at masked ids are -Inf. position is
// the position of the answer's token, for the random number. It is the argmax
// for Temperature 0. row is not changed.
//
// The order is that of transformers' logits warpers: temperature, top-k, top-p,
// min-p. Candidates are taken in descending order of logit, lower id first on
// ties, and sums are float64 in that order, so the pick is reproducible.
func (s *Sampler) Pick(row []float32, p Params, position int) int32 {
	if p.Temperature == 0 {
		return ArgMax(row)
	}
	s.collect(row, p)
	if len(s.cand) == 0 {
		return ArgMax(row)
	}
	n := len(s.cand)
	if p.TopK > 0 {
		n = min(n, p.TopK)
	}
	// Weights relative to the best candidate.
	high := float64(s.cand[0].logit)
	s.weights = s.weights[:0]
	total := 0.0
	for _, c := range s.cand[:n] {
		w := math.Exp((float64(c.logit) - high) / p.Temperature)
		s.weights = append(s.weights, w)
		total += w
	}
	n = cutTopP(s.weights[:n], total, p.TopP)
	n = cutMinP(s.weights[:n], p.MinP)
	return s.draw(n, Uniform(p.Seed, position))
}

// draw picks candidate i with probability weights[i]/sum.
func (s *Sampler) draw(n int, u float64) int32 {
	total := 0.0
	for _, w := range s.weights[:n] {
		total += w
	}
	u *= total
	sum := 0.0
	for i, w := range s.weights[:n] {
		sum += w
		if u < sum {
			return s.cand[i].id
		}
	}
	return s.cand[n-1].id
}

// cutTopP returns how many weights, in descending order, are kept: the smallest
// number whose share of total reaches p.
func cutTopP(weights []float64, total, p float64) int {
	if p <= 0 || p >= 1 {
		return len(weights)
	}
	sum := 0.0
	for i, w := range weights {
		sum += w
		if sum >= p*total {
			return i + 1
		}
	}
	return len(weights)
}

// cutMinP returns how many weights are at least p of the largest.
func cutMinP(weights []float64, p float64) int {
	if p <= 0 {
		return len(weights)
	}
	for i, w := range weights {
		if w < p*weights[0] && i > 0 {
			return i
		}
	}
	return len(weights)
}

// collect gathers candidates in descending order. A candidate whose weight,
// even together with all others as light as it, cannot matter is left out:
// below exp(-cut) of the best, V of them weigh less than 2^-53 of it.
func (s *Sampler) collect(row []float32, p Params) {
	best := row[ArgMax(row)]
	s.cand = s.cand[:0]
	if math.IsInf(float64(best), -1) {
		return
	}
	cut := float32(p.Temperature * (53*math.Ln2 + math.Log(float64(len(row)))))
	if p.MinP > 0 {
		// Slightly generous: cutMinP decides exactly.
		cut = min(cut, float32(-p.Temperature*math.Log(p.MinP))*1.0001+1e-6)
	}
	for id, l := range row {
		if l >= best-cut {
			s.cand = append(s.cand, candidate{int32(id), l})
		}
	}
	if k := p.TopK; k > 0 && k < len(s.cand)/4 {
		s.keepBest(k)
	}
	slices.SortFunc(s.cand, descending)
}

func descending(a, b candidate) int {
	switch {
	case a.logit > b.logit:
		return -1
	case a.logit < b.logit:
		return 1
	}
	return int(a.id) - int(b.id)
}

// keepBest moves the k best candidates to the front, in any order, and drops
// the rest, by quickselect.
func (s *Sampler) keepBest(k int) {
	c, lo, hi := s.cand, 0, len(s.cand)
	for hi-lo > 1 {
		pivot := c[lo+(hi-lo)/2]
		i, j := lo, hi-1
		for i <= j {
			for descending(c[i], pivot) < 0 {
				i++
			}
			for descending(c[j], pivot) > 0 {
				j--
			}
			if i <= j {
				c[i], c[j] = c[j], c[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j + 1
		case k >= i:
			lo = i
		default:
			lo = hi
		}
	}
	s.cand = c[:k]
}
