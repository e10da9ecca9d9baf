package speculate

// gram is the number of tokens that must match.
const gram = 3

// border separates texts in an Index; no gram spans it.
const border = -1

// Index finds earlier occurrences of the last tokens of a text. Look-ups are
// one probe of a direct-mapped table, whose newer entries overwrite older ones
// with the same hash. The zero value is empty. One goroutine at a time.
type Index struct {
	tokens []int32
	heads  []int32 // position after a gram, +1; 0 = none
	mask   uint32
}

// Len is the number of tokens, borders included.
func (x *Index) Len() int { return len(x.tokens) }

// Reset forgets everything and keeps the memory.
func (x *Index) Reset() {
	x.tokens = x.tokens[:0]
	clear(x.heads)
}

// Border ends a text: what comes next has nothing to do with it.
func (x *Index) Border() { x.tokens = append(x.tokens, border) }

// Append adds tokens.
func (x *Index) Append(ids ...int32) {
	for _, id := range ids {
		x.note(len(x.tokens))
		x.tokens = append(x.tokens, id)
		if 2*len(x.tokens) > len(x.heads) {
			x.grow()
		}
	}
}

func hash(a, b, c int32) uint32 {
	h := uint32(a)*0x9e3779b1 ^ uint32(b)*0x85ebca77 ^ uint32(c)*0xc2b2ae3d
	return h ^ h>>15
}

// note records that the gram before pos is followed by pos.
func (x *Index) note(pos int) {
	if pos < gram || len(x.heads) == 0 {
		return
	}
	t := x.tokens[pos-gram : pos]
	if t[0] == border || t[1] == border || t[2] == border {
		return
	}
	x.heads[hash(t[0], t[1], t[2])&x.mask] = int32(pos) + 1
}

func (x *Index) grow() {
	n := 64
	for n < 4*len(x.tokens) {
		n *= 2
	}
	x.heads, x.mask = make([]int32, n), uint32(n-1)
	for pos := gram; pos < len(x.tokens); pos++ {
		x.note(pos)
	}
}

// Propose appends up to n tokens that followed the last occurrence of the gram
// (a,b,c). A match that reaches the end of the text goes on in circles.
func (x *Index) Propose(dst []int32, a, b, c int32, n int) []int32 {
	if len(x.heads) == 0 || n <= 0 {
		return dst
	}
	pos := int(x.heads[hash(a, b, c)&x.mask]) - 1
	if pos < gram || x.tokens[pos-3] != a || x.tokens[pos-2] != b || x.tokens[pos-1] != c {
		return dst
	}
	for i, from := pos, pos; n > 0; n-- {
		if i == len(x.tokens) {
			i = from
		}
		if i == len(x.tokens) || x.tokens[i] == border {
			break
		}
		dst = append(dst, x.tokens[i])
		i++
	}
	return dst
}

// Last returns the last gram of the text; ok is false if it is shorter or broken by a border.
func (x *Index) Last() (a, b, c int32, ok bool) {
	n := len(x.tokens)
	if n < gram {
		return 0, 0, 0, false
	}
	a, b, c = x.tokens[n-3], x.tokens[n-2], x.tokens[n-1]
	return a, b, c, a != border && b != border && c != border
}
