package sample

import "math/bits"

// Uniform returns a number in [0,1) for a position of an answer: a value of the
// SplitMix64 sequence that starts at the mixed seed. It depends on nothing else.
// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
func Uniform(seed uint64, position int) float64 {
	x := mix(mix(seed) + uint64(position+1)*0x9e3779b97f4a7c15)
	return float64(x>>11) / (1 << 53)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Seed derives a seed from two numbers, for requests that give none. It is never 0.
func Seed(a, b uint64) uint64 {
	s := mix(a ^ bits.RotateLeft64(mix(b), 32))
	if s == 0 {
		return 1
	}
	return s
}
