package prose

import "slices"

// maxAligned bounds the sentences that Align compares on either side: the rest stays alone.
const maxAligned = 192

// sameSlot is the likeness from which two sentences may say the same thing differently.
const sameSlot = 0.6

// Align pairs the sentences of two descriptions of one picture that stand for
// each other: equal ones, and ones that differ in a value. Pairs keep the order
// of both sides, and their likenesses are together as large as can be
// (Needleman and Wunsch with no price for a gap). A sentence without a partner is in no pair.
func Align(a, b []string) [][2]int {
	a, b = a[:min(len(a), maxAligned)], b[:min(len(b), maxAligned)]
	ga, gb := make([][]uint64, len(a)), make([][]uint64, len(b))
	for i, s := range a {
		ga[i] = bigrams(s)
	}
	for j, s := range b {
		gb[j] = bigrams(s)
	}
	best := make([][]float64, len(a)+1) // of the first i and the first j sentences
	for i := range best {
		best[i] = make([]float64, len(b)+1)
	}
	like := func(i, j int) float64 { return likeness(ga[i-1], gb[j-1]) }
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			best[i][j] = max(best[i-1][j], best[i][j-1])
			if l := like(i, j); l >= sameSlot {
				best[i][j] = max(best[i][j], best[i-1][j-1]+l)
			}
		}
	}
	var out [][2]int
	for i, j := len(a), len(b); i > 0 && j > 0; {
		switch {
		case best[i][j] == best[i-1][j]:
			i--
		case best[i][j] == best[i][j-1]:
			j--
		default:
			i, j = i-1, j-1
			out = append(out, [2]int{i, j})
		}
	}
	slices.Reverse(out)
	return out
}

// bigrams are the pairs of neighbouring characters of a sentence's key, sorted.
func bigrams(sentence string) []uint64 {
	r := []rune(" " + Key(sentence) + " ")
	out := make([]uint64, 0, len(r))
	for i := 1; i < len(r); i++ {
		out = append(out, uint64(r[i-1])<<32|uint64(r[i]))
	}
	slices.Sort(out)
	return out
}

// likeness is Dice's coefficient of two sorted bags: 1 = equal, 0 = nothing in common.
func likeness(a, b []uint64) float64 {
	common := 0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			common, i, j = common+1, i+1, j+1
		case a[i] < b[j]:
			i++
		default:
			j++
		}
	}
	return 2 * float64(common) / float64(max(1, len(a)+len(b)))
}
