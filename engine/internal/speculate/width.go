package speculate

import (
	"math"
	"time"
)

// Clock learns what a step costs: fixed + perToken * tokens, by least squares
// over recent steps without prefill, older ones weighing less.
type Clock struct {
	n, x, y, xx, xy float64 // weighted sums
}

// forget is the weight that a past step keeps with each new one.
const forget = 0.99

// Observe takes the duration of a step of so many tokens.
func (c *Clock) Observe(tokens int, d time.Duration) {
	x, y := float64(tokens), d.Seconds()
	if c.n > 8 && y > 8*c.y/c.n { // an interrupted step says nothing
		return
	}
	c.n = c.n*forget + 1
	c.x = c.x*forget + x
	c.y = c.y*forget + y
	c.xx = c.xx*forget + x*x
	c.xy = c.xy*forget + x*y
}

// guessShare is the assumed price before anything is known: an eighth of a
// step's share for a further token, as on memory-bound devices.
const guessShare = 0.125

// Price is what one more token costs in a step of n sequences, as a share of
// what a sequence's step costs now: 0 = free, 1 = as much as a step of its own.
func (c *Clock) Price(n int) float64 {
	det := c.n*c.xx - c.x*c.x
	if c.n < 8 || det < 1e-3*c.n*c.n { // all steps had the same size
		return guessShare
	}
	slope := (c.n*c.xy - c.x*c.y) / det
	fixed := (c.y - slope*c.x) / c.n
	step := fixed + slope*float64(n)
	if step <= 0 || slope <= 0 {
		return 0.01
	}
	return min(max(slope*float64(n)/step, 0.01), 1)
}

// Width adapts the number of guessed tokens of one answer. The zero value is ready.
type Width struct {
	hit     float64 // estimated probability that a guessed token comes true
	seen    bool
	silence int // tokens since the last guess
}

const (
	maxWidth   = 16
	startHit   = 0.6
	hitGain    = 0.15
	probeAfter = 32 // tokens without a guess after which one is risked
	margin     = 1.15
)

// Next returns how many tokens to guess at a price. A token at depth i comes
// true with probability hit^i; guessing it pays while that exceeds the price.
func (w *Width) Next(price float64) int {
	hit := w.hit
	if !w.seen {
		hit = startHit
	}
	c := price * margin
	if c >= hit {
		if w.silence++; w.silence < probeAfter || c >= 1 {
			return 0
		}
		w.silence = 0
		return 1
	}
	w.silence = 0
	hit = min(hit, 0.98)
	return min(maxWidth, max(1, int(math.Log(c)/math.Log(hit))))
}

// Learn takes how many of the guessed tokens came true.
func (w *Width) Learn(guessed, accepted int) {
	if guessed == 0 {
		return
	}
	if !w.seen {
		w.hit, w.seen = startHit, true
	}
	for range accepted {
		w.hit += hitGain * (1 - w.hit)
	}
	if accepted < guessed {
		w.hit -= hitGain * w.hit
	}
}
