package sample

// maxPeriod is the longest cycle that the loop guard follows, in tokens.
const maxPeriod = 256

// Loop is the loop guard: it finds that an answer only repeats a cycle of up to
// 256 tokens. For every period p it counts how many tokens in a row equal the
// token p before them; a count of need(p) is a loop. Feed it every token. The
// zero value is ready; it is 4 KiB large and allocates nothing.
type Loop struct {
	ring [maxPeriod]int32
	runs [maxPeriod + 1]int32 // of each period
	n    int
}

// need is how many tokens must repeat before a cycle of p tokens is a loop.
// Short cycles occur in honest text (a row of dots, a table of zeros), so they
// must last longer; a long passage repeated twice word for word does not.
func need(p int) int32 {
	n := 2 * p
	switch {
	case p <= 16:
		n = 8 * p
	case p < 64:
		n = 4 * p
	}
	return int32(max(n, 96))
}

// Next takes a token and reports a loop: the answer's last repeated tokens
// only repeat the period before them.
func (l *Loop) Next(id int32) (period, repeated int, found bool) {
	depth := min(l.n, maxPeriod)
	for p := 1; p <= depth; p++ {
		if l.ring[(l.n-p)%maxPeriod] != id {
			l.runs[p] = 0
			continue
		}
		l.runs[p]++
		if !found && l.runs[p] >= need(p) {
			period, repeated, found = p, int(l.runs[p]), true
		}
	}
	l.ring[l.n%maxPeriod] = id
	l.n++
	return period, repeated, found
}
