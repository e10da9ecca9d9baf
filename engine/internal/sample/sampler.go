package sample

import (
	"math"
	"math/bits"
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

// ArgMaxWithin is ArgMax with every logit at minus infinity whose bit in allowed,
// of (len(row)+63)/64 words, is not set.
func ArgMaxWithin(row []float32, allowed []uint64) int32 {
	at, high := 0, float32(math.Inf(-1))
	for w, word := range allowed {
		lo := w * 64
		if word == math.MaxUint64 && lo+64 <= len(row) {
			for i, l := range row[lo : lo+64] {
				if l > high {
					at, high = lo+i, l
				}
			}
			continue
		}
		for ; word != 0; word &= word - 1 {
			if i := lo + bits.TrailingZeros64(word); i < len(row) && row[i] > high {
				at, high = i, row[i]
			}
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
// min-p. Where something is cut, candidates are taken in descending order of
// logit, lower id first on ties; sums are float64 in a fixed order. So the pick
// is reproducible.
func (s *Sampler) Pick(row []float32, p Params, position int) int32 {
	best := ArgMax(row)
	high := row[best]
	if p.Temperature == 0 || math.IsInf(float64(high), 0) || math.IsNaN(float64(high)) {
		return best // infinite logits have no distribution
	}
	u := Uniform(p.Seed, position)
	cutsTopP := p.TopP > 0 && p.TopP < 1
	if p.TopK == 0 && !cutsTopP && p.MinP == 0 {
		return plain(row, high, p.Temperature, u)
	}
	total := 0.0
	switch {
	case p.TopK > 0:
		s.collect(row, high-negligible(p.Temperature, len(row)))
		s.keepBest(p.TopK)
	case cutsTopP:
		total = s.collectTopP(row, high, p)
	default:
		s.collect(row, high+float32(p.Temperature*math.Log(p.MinP)*1.0001)-1e-6) // cutMinP decides exactly
	}
	slices.SortFunc(s.cand, descending)
	s.weights = s.weights[:0]
	sum := 0.0
	for _, c := range s.cand {
		w := weight(c.logit, high, p.Temperature)
		s.weights = append(s.weights, w)
		sum += w
	}
	if total == 0 {
		total = sum
	}
	n := cutTopP(s.weights, total, p.TopP)
	n = cutMinP(s.weights[:n], p.MinP)
	return s.draw(n, u)
}

// weight is the probability of a logit relative to the highest.
func weight(l, high float32, temperature float64) float64 {
	return math.Exp((float64(l) - float64(high)) / temperature)
}

// negligible is the distance from the best logit beyond which all n ids together
// weigh less than 2^-53 of it.
func negligible(temperature float64, n int) float32 {
	return float32(temperature * (53*math.Ln2 + math.Log(float64(n))))
}

// plain draws from the whole row, ids in ascending order.
func plain(row []float32, high float32, temperature, u float64) int32 {
	floor := high - negligible(temperature, len(row))
	total := 0.0
	for _, l := range row {
		if l >= floor {
			total += weight(l, high, temperature)
		}
	}
	u *= total
	sum, last := 0.0, int32(0)
	for id, l := range row {
		if l >= floor {
			sum += weight(l, high, temperature)
			last = int32(id)
			if u < sum {
				break
			}
		}
	}
	return last
}

// bins is the number of intervals into which collectTopP sorts logits.
const bins = 512

// collectTopP gathers a superset of the nucleus and returns the weight of the
// whole row. A first pass adds weights up by interval of logit; the nucleus lies
// in the intervals above the one in which the share reaches TopP.
func (s *Sampler) collectTopP(row []float32, high float32, p Params) (total float64) {
	span := negligible(p.Temperature, len(row))
	scale := min(bins/(span*1.0001), math.MaxFloat32) // the span of a tiny temperature may be 0
	var mass [bins]float64
	for _, l := range row {
		if d := high - l; d <= span {
			mass[int(d*scale)] += weight(l, high, p.Temperature)
		}
	}
	for _, m := range mass {
		total += m
	}
	sum, last := 0.0, bins-1
	for i, m := range mass {
		sum += m
		if sum >= p.TopP*total*(1+1e-9) { // generous: cutTopP decides exactly
			last = i
			break
		}
	}
	s.cand = s.cand[:0]
	for id, l := range row {
		if d := high - l; d <= span && int(d*scale) <= last {
			s.cand = append(s.cand, candidate{int32(id), l})
		}
	}
	return total
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

// collect gathers the ids whose logits are at least floor.
func (s *Sampler) collect(row []float32, floor float32) {
	s.cand = s.cand[:0]
	for id, l := range row {
		if l >= floor {
			s.cand = append(s.cand, candidate{int32(id), l})
		}
	}
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
	if k >= len(s.cand) {
		return
	}
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
