package model

import (
	"fmt"
	"math"
)

// RopeDims describe the rotary position embedding [rope_theta, rope_scaling].
type RopeDims struct {
	Theta float64
	// Kind is "default" (or ""), "linear", "dynamic" or "yarn".
	Kind   string
	Factor float64
	// Original is yarn's [original_max_position_embeddings].
	Original           int
	BetaFast, BetaSlow float64 // yarn; 0 = 32 and 1
	AttentionFactor    float64 // yarn; 0 = 0.1*ln(Factor)+1
}

func (r RopeDims) validate() error {
	var c dimCheck
	c.is(r.Theta > 1 && r.Theta < 1e12, "rope_theta", r.Theta, "above 1")
	switch r.Kind {
	case "", "default":
		return c.err
	case "linear", "dynamic":
	case "yarn":
		c.is(r.Original > 0, "rope_scaling.original_max_position_embeddings", r.Original, "positive")
	default:
		c.is(false, "rope_scaling.rope_type", r.Kind, "default, linear, dynamic or yarn")
	}
	c.is(r.Factor >= 1 && r.Factor < 1e6, "rope_scaling.factor", r.Factor, "1 or more")
	return c.err
}

// Frequencies returns the inverse frequencies of the dim/2 pairs and the factor
// on cosine and sine.
//
//	default  inv_i = θ^(-2i/D)
//	linear   inv_i / factor
//	dynamic  default: the engine refuses sequences beyond max_position_embeddings,
//	         below which dynamic scaling changes nothing (beyond it the angles of
//	         a token would depend on how long its sequence becomes)
//	yarn     interpolation below, extrapolation above a ramp of frequencies
//
// Source: transformers modeling_rope_utils.
func (r RopeDims) Frequencies(dim int) (inv []float32, factor float32) {
	inv = make([]float32, dim/2)
	factor = 1
	for i := range inv {
		inv[i] = float32(1 / math.Pow(r.Theta, float64(2*i)/float64(dim)))
	}
	switch r.Kind {
	case "linear":
		for i := range inv {
			inv[i] /= float32(r.Factor)
		}
	case "yarn":
		factor = r.yarn(inv, dim)
	}
	return inv, factor
}

func (r RopeDims) yarn(inv []float32, dim int) float32 {
	fast, slow := r.BetaFast, r.BetaSlow
	if fast == 0 {
		fast = 32
	}
	if slow == 0 {
		slow = 1
	}
	// corr is the pair whose wavelength makes rot turns in the original context.
	corr := func(rot float64) float64 {
		return float64(dim) * math.Log(float64(r.Original)/(rot*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low := math.Max(math.Floor(corr(fast)), 0)
	high := math.Min(math.Ceil(corr(slow)), float64(dim-1))
	if low == high {
		high += 0.001 // the reference's guard against division by zero
	}
	for i := range inv {
		pf := math.Pow(r.Theta, float64(2*i)/float64(dim))
		ramp := math.Min(math.Max((float64(i)-low)/(high-low), 0), 1)
		inv[i] = float32(1/(r.Factor*pf)*ramp + 1/pf*(1-ramp))
	}
	if r.AttentionFactor != 0 {
		return float32(r.AttentionFactor)
	}
	if r.Factor <= 1 {
		return 1
	}
	return float32(0.1*math.Log(r.Factor) + 1)
}

// String names the scaling for people.
func (r RopeDims) String() string {
	if r.Kind == "" || r.Kind == "default" {
		return fmt.Sprintf("theta %g", r.Theta)
	}
	return fmt.Sprintf("theta %g, %s ×%g", r.Theta, r.Kind, r.Factor)
}
