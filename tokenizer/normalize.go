package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalize returns text in Unicode Normalization Form C, if the tokenizer asks
// for it. x/text breaks runs of more than 30 combining marks by inserting U+034F
// (its stream-safe form); the reference does not, so texts with such runs go
// through compose.
func (t *Tokenizer) normalize(text string) string {
	if !t.nfc {
		return text
	}
	ascii := 0
	for ascii < len(text) && text[ascii] < utf8.RuneSelf {
		ascii++
	}
	if ascii == len(text) || norm.NFC.IsNormalString(text) && !longMarks(text) {
		return text
	}
	if longMarks(text) {
		return compose(text)
	}
	return norm.NFC.String(text)
}

// maxMarks is where x/text starts to break runs of marks; one character can
// decompose into three, so that we look for a third of its limit.
const maxMarks = 30 / 3

// longMarks says whether text has a run of characters that do not start a
// composition which x/text might break.
func longMarks(text string) bool {
	run := 0
	for i := 0; i < len(text); {
		if text[i] < utf8.RuneSelf {
			run = 0
			i++
			continue
		}
		p := norm.NFC.PropertiesString(text[i:])
		if p.Size() == 0 {
			run = 0
			i++
			continue
		}
		i += p.Size()
		if p.CCC() == 0 && p.BoundaryBefore() {
			run = 0
			continue
		}
		if run++; run > maxMarks {
			return true
		}
	}
	return false
}

// compose is Normalization Form C by the definition of UAX 15: decompose each
// character, sort runs of marks by combining class (stable), then compose each
// character with the last starter unless one of the same or a higher class lies
// between. The data is that of x/text, asked for one character or pair at a time.
func compose(text string) string {
	var out strings.Builder
	out.Grow(len(text))
	var run marked
	flush := func() {
		run.settle()
		for _, c := range run {
			out.WriteRune(c.r)
		}
		run = run[:0]
	}
	for i := 0; i < len(text); {
		p := norm.NFD.PropertiesString(text[i:])
		size := p.Size()
		if size == 0 || size == 1 && text[i] >= utf8.RuneSelf {
			flush()
			out.WriteByte(text[i])
			i++
			continue
		}
		parts := p.Decomposition()
		if parts == nil {
			parts = []byte(text[i : i+size])
		}
		i += size
		for len(parts) > 0 {
			q := norm.NFD.Properties(parts)
			r, w := utf8.DecodeRune(parts)
			parts = parts[w:]
			if q.CCC() == 0 {
				if run.settle(); len(run) == 1 && run[0].ccc == 0 {
					if joined, ok := composePair(run[0].r, r); ok {
						run[0].r = joined
						continue
					}
				}
				flush()
			}
			run = append(run, mark{r, q.CCC()})
		}
	}
	flush()
	return out.String()
}

// mark is a character and its canonical combining class.
type mark struct {
	r   rune
	ccc uint8
}

// marked is a starter (class 0), if there is one, and the marks after it.
type marked []mark

// settle sorts the marks and composes what composes with the starter.
func (m *marked) settle() {
	run := *m
	if len(run) == 0 || run[0].ccc != 0 {
		sort.SliceStable(run, func(i, j int) bool { return run[i].ccc < run[j].ccc })
		return
	}
	marks := run[1:]
	sort.SliceStable(marks, func(i, j int) bool { return marks[i].ccc < marks[j].ccc })
	kept := run[:1]
	for _, c := range marks {
		blocked := len(kept) > 1 && kept[len(kept)-1].ccc >= c.ccc
		if !blocked {
			if r, ok := composePair(kept[0].r, c.r); ok {
				kept[0].r = r
				continue
			}
		}
		kept = append(kept, c)
	}
	*m = kept
}

// composePair returns the primary composite of two characters.
func composePair(a, b rune) (rune, bool) {
	var buf [2 * utf8.UTFMax]byte
	pair := utf8.AppendRune(utf8.AppendRune(buf[:0], a), b)
	joined := norm.NFC.Bytes(pair)
	r, w := utf8.DecodeRune(joined)
	return r, w == len(joined)
}
