// Package prose takes captions apart: sentences, fragile literals, and the
// lists and tables that agents answer with.
package prose

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxSentences bounds the sentences taken from one text; the rest is one more sentence.
const MaxSentences = 512

// abbreviations end in a full stop that ends no sentence.
var abbreviations = []string{"e.g.", "i.e.", "vs.", "mr.", "mrs.", "ms.", "dr.", "fig.", "no.", "approx.", "ca.", "st.", "etc."}

// Sentences splits text at full stops, question and exclamation marks that
// white space follows, outside quotation marks, and at line breaks.
func Sentences(text string) []string {
	var out []string
	start, quoted := 0, false
	cut := func(end int) {
		if s := strings.TrimSpace(text[start:end]); s != "" && len(out) < MaxSentences {
			out = append(out, s)
			start = end
		} else if s == "" {
			start = end
		}
	}
	for i, r := range text {
		switch r {
		case '"', '“', '”':
			quoted = !quoted
		case '\n':
			quoted = false
			cut(i)
		case '.', '!', '?':
			next, _ := utf8.DecodeRuneInString(text[i+1:])
			if quoted || next != utf8.RuneError && !unicode.IsSpace(next) {
				continue
			}
			fields := strings.Fields(text[start : i+1])
			if r == '.' && len(fields) > 0 && slices.Contains(abbreviations, strings.ToLower(fields[len(fields)-1])) && i+1 < len(text) {
				continue
			}
			cut(i + 1)
		}
	}
	if s := strings.TrimSpace(text[start:]); s != "" {
		out = append(out, s)
	}
	return out
}

// Key is a sentence reduced to what counts when two are compared: lower-case
// words and numbers, one space between.
func Key(sentence string) string { return strings.Join(Words(sentence), " ") }

// Words returns the lower-case words and normalised numbers of a text.
func Words(text string) []string {
	fields := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != ',' && r != '%' && r != '-' && r != '_'
	})
	out := fields[:0]
	for _, f := range fields {
		if f = strings.Trim(f, ".,-"); f != "" {
			if unicode.IsDigit(rune(f[0])) {
				f = Number(f)
			}
			out = append(out, f)
		}
	}
	return out
}

// Kinds of literals.
const (
	KindNumber = "number"
	KindQuote  = "quote"
)

// Literal is a piece of a text that a summary must not change.
type Literal struct {
	Text string // as written
	Kind string
	Norm string // what is compared
}

var (
	quoteForm  = regexp.MustCompile(`"([^"\n]{1,200})"|“([^”\n]{1,200})”`)
	numberForm = regexp.MustCompile(`[+-]?[$€£]?\d[\d,]*(?:\.\d+)?`)
)

// Literals returns the numbers and quoted strings of a text in order. Digits
// inside a word (stone35) and inside quotation marks are no numbers of their own.
func Literals(text string) []Literal {
	var out []Literal
	rest := []byte(text)
	for _, m := range quoteForm.FindAllStringSubmatchIndex(text, -1) {
		lo, hi := m[2], m[3]
		if lo < 0 {
			lo, hi = m[4], m[5]
		}
		out = append(out, Literal{Text: text[lo:hi], Kind: KindQuote, Norm: Key(text[lo:hi])})
		for i := m[0]; i < m[1]; i++ {
			rest[i] = ' '
		}
	}
	return append(out, Numbers(string(rest))...)
}

// Numbers returns the numbers of a text, those inside quotation marks included.
func Numbers(text string) []Literal {
	var out []Literal
	for _, m := range numberForm.FindAllStringIndex(text, -1) {
		before, _ := utf8.DecodeLastRuneInString(text[:m[0]])
		after, _ := utf8.DecodeRuneInString(text[m[1]:])
		if unicode.IsLetter(before) || before == '_' || unicode.IsLetter(after) && !units(text[m[1]:]) {
			continue
		}
		s := strings.TrimRight(text[m[0]:m[1]], ",")
		out = append(out, Literal{Text: s, Kind: KindNumber, Norm: Number(s)})
	}
	return out
}

// units reports whether the letters that follow a number are a short unit, as in 10um or 4.6m.
func units(after string) bool {
	n := 0
	for _, r := range after {
		if unicode.IsDigit(r) {
			return false
		}
		if !unicode.IsLetter(r) {
			break
		}
		n++
	}
	return n <= 3
}

// Number normalises a number: no sign +, currency or grouping, no zeros at its end.
func Number(s string) string {
	s = strings.NewReplacer(",", "", "$", "", "€", "", "£", "", "+", "", "%", "").Replace(s)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// SameButNumber reports whether two sentences differ in exactly one word, both
// words are numbers, and neither begins its sentence, where a number is a label
// (2023 is 70): they state one count or value differently. Sentences that
// differ in quoted text speak of different things (two buttons).
func SameButNumber(a, b string) bool {
	wa, wb := Words(a), Words(b)
	if len(wa) != len(wb) || quoteForm.MatchString(a) && !slices.Equal(quoteForm.FindAllString(a, -1), quoteForm.FindAllString(b, -1)) {
		return false
	}
	diff := -1
	for i := range wa {
		if wa[i] != wb[i] {
			if diff >= 0 {
				return false
			}
			diff = i
		}
	}
	return diff > 0 && numeric(wa[diff]) && numeric(wb[diff])
}

func numeric(w string) bool { return w != "" && strings.Trim(w, "0123456789.-") == "" }

// Tags splits an answer at commas, without repeats.
func Tags(text string) []string {
	var out []string
	for _, t := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if t = strings.Trim(strings.TrimSpace(t), "."); t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// MergeLines joins texts read from overlapping parts of a page, top to bottom:
// the longest run of lines that ends one and starts the next counts once.
func MergeLines(parts []string) string {
	var out []string
	for _, part := range parts {
		var lines []string
		for _, l := range strings.Split(part, "\n") {
			if l = strings.TrimSpace(l); l != "" {
				lines = append(lines, l)
			}
		}
		n := min(len(out), len(lines))
		for n > 0 && !slices.EqualFunc(out[len(out)-n:], lines[:n], func(a, b string) bool { return Key(a) == Key(b) }) {
			n--
		}
		out = append(out, lines[n:]...)
	}
	return strings.Join(out, "\n")
}
