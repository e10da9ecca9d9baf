package format

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON values.
const maxDepth = 32

// scanner reads JSON (RFC 8259, no extensions) from memory.
type scanner struct {
	file string
	b    []byte
	i    int
}

func (s *scanner) fail(format string, args ...any) error {
	return &Error{File: s.file, Field: fmt.Sprintf("JSON at byte %d", s.i), Reason: fmt.Sprintf(format, args...)}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) expect(c byte) error {
	got := s.peek()
	if s.i >= len(s.b) {
		return s.fail("ends where %q is expected", c)
	}
	if got != c {
		return s.fail("%q is expected, got %q", c, got)
	}
	s.i++
	return nil
}

// list reads open item (',' item)* close, or open close.
func (s *scanner) list(open, close byte, item func() error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	if s.peek() == close {
		s.i++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if s.peek() == ',' {
			s.i++
			continue
		}
		return s.expect(close)
	}
}

// object reads an object; member is called after each key and colon. Keys longer
// than maxKey bytes are refused; equal keys are the business of member.
func (s *scanner) object(maxKey int, member func(key string) error) error {
	return s.list('{', '}', func() error {
		key, err := s.str(maxKey)
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return member(key)
	})
}

// str reads a string of at most limit bytes after unescaping.
func (s *scanner) str(limit int) (string, error) {
	if err := s.expect('"'); err != nil {
		return "", err
	}
	start, plain := s.i, true
	for s.i < len(s.b) && s.b[s.i] != '"' {
		switch c := s.b[s.i]; {
		case c < 0x20:
			return "", s.fail("control character %#02x in a string", c)
		case c == '\\':
			plain = false
			s.i++
		}
		s.i++
		if s.i-start > 6*limit+2 {
			return "", s.fail("string is longer than %d bytes", limit)
		}
	}
	if s.i >= len(s.b) {
		return "", s.fail("ends inside a string")
	}
	raw := s.b[start:s.i]
	s.i++
	if !utf8.Valid(raw) {
		return "", s.fail("string is not UTF-8")
	}
	out := string(raw)
	if !plain {
		var ok bool
		if out, ok = unescape(raw); !ok {
			return "", s.fail("bad escape in the string before")
		}
	}
	if len(out) > limit {
		return "", s.fail("string of %d bytes is longer than %d", len(out), limit)
	}
	return out, nil
}

func unescape(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		if i >= len(raw) {
			return "", false
		}
		switch c := raw[i]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(raw[i+1:])
			if !ok {
				return "", false
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), len(raw) >= i+7 && raw[i+1] == '\\' && raw[i+2] == 'u'
				if ok {
					low, ok = hex4(raw[i+3:])
				}
				if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
					return "", false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", false
		}
	}
	return string(out), true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	return rune(n), err == nil
}

// uint reads a non-negative integer below 2^63 without sign, fraction or exponent.
func (s *scanner) uint() (int64, error) {
	s.peek()
	start := s.i
	var n uint64
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		d := uint64(s.b[s.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, s.fail("integer exceeds %d", int64(math.MaxInt64))
		}
		n = n*10 + d
		s.i++
	}
	switch {
	case s.i == start:
		return 0, s.fail("a non-negative integer is expected")
	case s.b[start] == '0' && s.i-start > 1:
		return 0, s.fail("integer with a leading zero")
	case s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E'):
		return 0, s.fail("an integer is expected, got a fraction or exponent")
	}
	return int64(n), nil
}

// number reads a number and returns its text and value. Overflow is an error.
func (s *scanner) number() (string, float64, error) {
	start := s.i
	digits := func() bool {
		from := s.i
		for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
			s.i++
		}
		return s.i > from
	}
	at := func(set string) bool {
		for _, c := range []byte(set) {
			if s.i < len(s.b) && s.b[s.i] == c {
				s.i++
				return true
			}
		}
		return false
	}
	at("-")
	zero := s.i < len(s.b) && s.b[s.i] == '0'
	intStart := s.i
	ok := digits() && !(zero && s.i-intStart > 1)
	if ok && at(".") {
		ok = digits()
	}
	if ok && at("eE") {
		at("+-")
		ok = digits()
	}
	if !ok || s.i-start > 64 {
		return "", 0, s.fail("not a number")
	}
	text := string(s.b[start:s.i])
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", 0, s.fail("number %s out of range", text)
	}
	return text, f, nil
}

// end checks that only white space follows.
func (s *scanner) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.fail("data after the JSON value")
	}
	return nil
}
