package sample

import "math"

// LogProbs describes a row of logits: what is needed for the log-probability of any id.
type LogProbs struct {
	row []float32
	lse float64 // logarithm of the sum of exponentials
}

// NewLogProbs sums a row. The row must not change while the result is used.
func NewLogProbs(row []float32) LogProbs {
	high := float64(row[ArgMax(row)])
	sum := 0.0
	for _, l := range row {
		sum += math.Exp(float64(l) - high)
	}
	return LogProbs{row: row, lse: high + math.Log(sum)}
}

// Of returns the natural logarithm of the probability of id.
func (l LogProbs) Of(id int32) float64 { return float64(l.row[id]) - l.lse }

// Top appends the n most probable ids, best first, lower id first on ties.
func (l LogProbs) Top(dst []int32, n int) []int32 {
	n = min(n, len(l.row))
	from := len(dst)
	for id, v := range l.row {
		if len(dst)-from == n && !(v > l.row[dst[len(dst)-1]]) {
			continue
		}
		if len(dst)-from < n {
			dst = append(dst, 0)
		}
		i := len(dst) - 1
		for i > from && v > l.row[dst[i-1]] {
			dst[i] = dst[i-1]
			i--
		}
		dst[i] = int32(id)
	}
	return dst
}
