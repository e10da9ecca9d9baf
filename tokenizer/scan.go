package tokenizer

import (
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON from memory without building values: the vocabulary of a
// large model is 150,000 members and as many merges, and the general decoder
// takes seconds where this one takes milliseconds. It checks what it reads;
// depth is capped. The first error sticks and ends every later call.
type scanner struct {
	file string
	data []byte
	pos  int
	err  error
	buf  []byte // last string, unescaped
}

const maxDepth = 64 // nesting of JSON values in tokenizer files

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		args = append([]any{s.pos}, args...)
		s.err = malformed(s.file, "", "offset %d: "+format, args...)
	}
}

func (s *scanner) skipSpace() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte after white space, 0 at the end or after an error.
func (s *scanner) peek() byte {
	if s.err != nil {
		return 0
	}
	s.skipSpace()
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

// expect consumes the byte c.
func (s *scanner) expect(c byte) bool {
	if got := s.peek(); got != c || s.err != nil {
		if s.pos >= len(s.data) {
			s.fail("end of file, want %q", c)
		} else {
			s.fail("got %q, want %q", got, c)
		}
		return false
	}
	s.pos++
	return true
}

// next steps to the following element of an array or object whose opening byte
// was consumed; it consumes the separator, or the closing byte and gives false.
func (s *scanner) next(first *bool, closing byte) bool {
	c := s.peek()
	if s.err != nil {
		return false
	}
	if c == closing {
		s.pos++
		return false
	}
	if *first {
		*first = false
		return true
	}
	return s.expect(',')
}

// str reads a string and returns it unescaped; the bytes are valid until the next call.
// Invalid UTF-8 and lone surrogates become U+FFFD, as in encoding/json.
func (s *scanner) str() []byte {
	if !s.expect('"') {
		return nil
	}
	start := s.pos
	ascii := byte(0)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c == '"' {
			b := s.data[start:s.pos]
			s.pos++
			if ascii >= utf8.RuneSelf && !utf8.Valid(b) {
				b = []byte(string([]rune(string(b))))
			}
			return b
		}
		if c == '\\' {
			return s.escaped(start)
		}
		if c < ' ' {
			s.fail("control character %#02x in a string", c)
			return nil
		}
		ascii |= c
		s.pos++
	}
	s.fail("unterminated string")
	return nil
}

// escaped finishes str from the first backslash on.
func (s *scanner) escaped(start int) []byte {
	s.buf = append(s.buf[:0], s.data[start:s.pos]...)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case c == '"':
			s.pos++
			if !utf8.Valid(s.buf) {
				return []byte(string([]rune(string(s.buf))))
			}
			return s.buf
		case c == '\\':
			s.pos++
			if !s.escape() {
				return nil
			}
		case c < ' ':
			s.fail("control character %#02x in a string", c)
			return nil
		default:
			s.buf = append(s.buf, c)
			s.pos++
		}
	}
	s.fail("unterminated string")
	return nil
}

// escape reads what follows a backslash into buf.
func (s *scanner) escape() bool {
	if s.pos == len(s.data) {
		s.fail("unterminated string")
		return false
	}
	c := s.data[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/':
		s.buf = append(s.buf, c)
	case 'b':
		s.buf = append(s.buf, '\b')
	case 'f':
		s.buf = append(s.buf, '\f')
	case 'n':
		s.buf = append(s.buf, '\n')
	case 'r':
		s.buf = append(s.buf, '\r')
	case 't':
		s.buf = append(s.buf, '\t')
	case 'u':
		r, ok := s.hex4()
		if !ok {
			return false
		}
		if utf16.IsSurrogate(r) {
			second := rune(utf8.RuneError)
			if s.pos+1 < len(s.data) && s.data[s.pos] == '\\' && s.data[s.pos+1] == 'u' {
				save := s.pos
				s.pos += 2
				low, ok := s.hex4()
				if !ok {
					return false
				}
				if second = utf16.DecodeRune(r, low); second == utf8.RuneError {
					s.pos = save
				}
			}
			r = second
		}
		s.buf = utf8.AppendRune(s.buf, r)
	default:
		s.pos--
		s.fail("unknown escape \\%c", c)
		return false
	}
	return true
}

func (s *scanner) hex4() (rune, bool) {
	if s.pos+4 > len(s.data) {
		s.fail("unterminated \\u escape")
		return 0, false
	}
	var r rune
	for _, c := range s.data[s.pos : s.pos+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			s.fail("bad \\u escape")
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	s.pos += 4
	return r, true
}

// id reads a non-negative integer below 2^31.
func (s *scanner) id() int32 {
	c := s.peek()
	if c < '0' || c > '9' {
		s.fail("got %q, want a token id", c)
		return 0
	}
	n := int64(0)
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		n = n*10 + int64(s.data[s.pos]-'0')
		if n > math.MaxInt32 {
			s.fail("token id exceeds %d", math.MaxInt32)
			return 0
		}
		s.pos++
	}
	if s.data[start] == '0' && s.pos-start > 1 {
		s.fail("number with a leading zero")
		return 0
	}
	if s.pos < len(s.data) {
		switch s.data[s.pos] {
		case '.', 'e', 'E':
			s.fail("token id is not an integer")
			return 0
		}
	}
	return int32(n)
}

// skip passes over a value and returns its bytes. The value is checked for
// balance and strings only; encoding/json checks the rest where it is used.
func (s *scanner) skip() []byte {
	s.peek()
	start := s.pos
	depth := 0
	for s.err == nil {
		c := s.peek()
		switch {
		case s.err != nil:
			return nil
		case c == 0 && s.pos >= len(s.data):
			s.fail("end of file inside a value")
			return nil
		case c == '"':
			s.str()
		case c == '{' || c == '[':
			s.pos++
			if depth++; depth > maxDepth {
				s.fail("nesting exceeds %d levels", maxDepth)
				return nil
			}
			continue
		case c == '}' || c == ']':
			if depth == 0 {
				s.fail("got %q, want a value", c)
				return nil
			}
			s.pos++
			depth--
		case depth > 0 && (c == ',' || c == ':'):
			s.pos++
			continue
		default:
			s.atom()
		}
		if depth == 0 {
			break
		}
	}
	if s.err != nil {
		return nil
	}
	return s.data[start:s.pos]
}

// atom passes over a number or a word.
func (s *scanner) atom() {
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '+', c == '.':
			s.pos++
			continue
		}
		break
	}
	if s.pos == start {
		s.fail("got %q, want a value", s.data[s.pos])
	}
}

// end checks that nothing but white space is left.
func (s *scanner) end() {
	if s.peek(); s.err == nil && s.pos < len(s.data) {
		s.fail("data after the end of the value")
	}
}
