// Package pretoken cuts text into the pieces that byte-pair encoding works on,
// exactly as the Qwen2 family's regular expression does:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)
//	|[^\r\n\p{L}\p{N}]?\p{L}+
//	|\p{N}
//	| ?[^\s\p{L}\p{N}]+[\r\n]*
//	|\s*[\r\n]+
//	|\s+(?!\S)
//	|\s+
//
// The alternatives are tried in this order at each position and every position
// matches one of them, so the pieces cover the text. The scanner is written by
// hand: Go's regexp has no look-ahead, and a table look-up a rune is ten times
// faster. Classes are those of Unicode 16.0 (tables.go), as in the reference.
//
// Texts must be valid UTF-8; an invalid byte is taken as one symbol character.
package pretoken

import "unicode/utf8"

// Class is what the expression distinguishes about a character.
type Class uint8

// The classes. Other holds punctuation, symbols, marks, controls and unassigned code points.
const (
	Other  Class = iota
	Letter       // \p{L}
	Number       // \p{N}
	Space        // \s, the property White_Space
)

// ClassOf returns the class of r; Other for values outside Unicode.
func ClassOf(r rune) Class {
	page := uint32(r) >> 8
	if page >= uint32(len(pageIndex)) {
		return Other
	}
	b := pages[int(pageIndex[page])<<6|int(uint32(r)>>2&63)]
	return Class(b >> (uint32(r) & 3 * 2) & 3)
}

// at returns the class and the width in bytes of the character at s[i].
func at(s string, i int) (Class, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return Class(pages[c>>2] >> (c & 3 * 2) & 3), 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	return ClassOf(r), w
}

// Next returns the end of the piece that starts at s[i], 0 <= i < len(s). final
// says that no text appended to s could change the piece: the scanner decided
// without looking past the end of s.
func Next(s string, i int) (end int, final bool) {
	class, w := at(s, i)
	first := s[i]
	if first == '\'' {
		if n := contraction(s[i+1:]); n > 0 {
			return i + 1 + n, true
		}
	}
	switch class {
	case Letter:
		end = letters(s, i+w)
		return end, end < len(s)
	case Number:
		return i + w, true
	}
	// A character other than \r, \n, a letter or a number takes the letters after it.
	if first != '\r' && first != '\n' && i+w < len(s) {
		if c, n := at(s, i+w); c == Letter {
			end = letters(s, i+w+n)
			return end, end < len(s)
		}
	}
	if class == Other {
		end = symbols(s, i+w)
		return end, end < len(s)
	}
	if first == ' ' && i+1 < len(s) {
		if c, n := at(s, i+1); c == Other {
			end = symbols(s, i+1+n)
			return end, end < len(s)
		}
	}
	return space(s, i)
}

// contraction returns the length of the suffix after an apostrophe at the start
// of s, 0 if there is none. Case folding also lets U+017F stand for s.
func contraction(s string) int {
	if len(s) == 0 {
		return 0
	}
	switch s[0] | 0x20 {
	case 's', 't', 'm', 'd':
		return 1
	case 'r', 'v':
		if len(s) > 1 && s[1]|0x20 == 'e' {
			return 2
		}
	case 'l':
		if len(s) > 1 && s[1]|0x20 == 'l' {
			return 2
		}
	}
	if len(s) > 1 && s[0] == 0xc5 && s[1] == 0xbf {
		return 2
	}
	return 0
}

// letters returns the end of the run of letters at s[i].
func letters(s string, i int) int {
	for i < len(s) {
		c, w := at(s, i)
		if c != Letter {
			break
		}
		i += w
	}
	return i
}

// symbols returns the end of the run of class Other at s[i] and of the line ends after it.
func symbols(s string, i int) int {
	for i < len(s) {
		c, w := at(s, i)
		if c != Other {
			break
		}
		i += w
	}
	for i < len(s) && (s[i] == '\r' || s[i] == '\n') {
		i++
	}
	return i
}

// space returns the piece at the start of a run of white space: up to its last
// line end if it has one, else all but its last character if text follows and
// the run is longer than that, else all of it.
func space(s string, i int) (end int, final bool) {
	start, last, line := i, i, -1
	for i < len(s) {
		c, w := at(s, i)
		if c != Space {
			break
		}
		if s[i] == '\r' || s[i] == '\n' {
			line = i + 1
		}
		last = i
		i += w
	}
	final = i < len(s)
	switch {
	case line >= 0:
		return line, final
	case final && last > start:
		return last, true
	}
	return i, final
}
