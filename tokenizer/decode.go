package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// byteRunes is the alphabet in which vocabulary files spell bytes: printable
// Latin-1 bytes are themselves, the other 68 are U+0100 and on, in order.
// rawBytes is its inverse, -1 for code points outside the alphabet.
var rawBytes = func() (raw [0x144]int16) {
	for i := range raw {
		raw[i] = -1
	}
	next := 0x100
	for b := range 256 {
		if '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b {
			raw[b] = int16(b)
		} else {
			raw[next] = int16(b)
			next++
		}
	}
	return raw
}()

// appendRaw appends the bytes that a token's spelling stands for. A spelling
// with a character outside the alphabet stands for its own UTF-8 bytes: mapped
// is false then.
func appendRaw(dst, spelling []byte) (out []byte, mapped bool) {
	start := len(dst)
	for i := 0; i < len(spelling); {
		r, w := rune(spelling[i]), 1
		if r >= utf8.RuneSelf {
			r, w = utf8.DecodeRune(spelling[i:])
		}
		if int(r) >= len(rawBytes) || rawBytes[r] < 0 {
			return append(dst[:start], spelling...), false
		}
		dst = append(dst, byte(rawBytes[r]))
		i += w
	}
	return dst, true
}

// Decode returns the text of ids: their bytes joined, each maximal invalid part
// of UTF-8 replaced by one U+FFFD. Ids that are unused or out of range stand for
// nothing; skipSpecial leaves special tokens out.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	n := 0
	for _, id := range ids {
		n += len(t.Bytes(id))
	}
	buf := make([]byte, 0, n)
	for _, id := range ids {
		if !skipSpecial || !t.IsSpecial(id) {
			buf = append(buf, t.Bytes(id)...)
		}
	}
	if utf8.Valid(buf) {
		return string(buf)
	}
	var out strings.Builder
	out.Grow(n)
	rest := release(&out, buf)
	if len(rest) > 0 {
		out.WriteRune(utf8.RuneError)
	}
	return out.String()
}

// Stream decodes ids as they are generated. The zero value is not usable: see
// Tokenizer.NewStream. Not safe for concurrent use.
type Stream struct {
	t     *Tokenizer
	keep  bool
	held  [utf8.UTFMax]byte
	count int
}

// NewStream starts a decoder; special tokens are left out unless keepSpecial.
func (t *Tokenizer) NewStream(keepSpecial bool) *Stream {
	return &Stream{t: t, keep: keepSpecial}
}

// Next returns the text that id releases. An incomplete UTF-8 sequence at the
// end, up to three bytes, is held back; a part that no further byte can complete
// gives U+FFFD at once. A skipped special token does not end a held sequence.
func (s *Stream) Next(id int32) string {
	if !s.keep && s.t.IsSpecial(id) {
		return ""
	}
	b := s.t.Bytes(id)
	if len(b) == 0 {
		return ""
	}
	if s.count == 0 && utf8.Valid(b) {
		return string(b)
	}
	buf := append(s.held[:s.count:s.count], b...)
	var out strings.Builder
	rest := release(&out, buf)
	s.count = copy(s.held[:], rest)
	return out.String()
}

// Flush returns the text still held back: U+FFFD or nothing. The stream can be used again.
func (s *Stream) Flush() string {
	if s.count == 0 {
		return ""
	}
	s.count = 0
	return string(utf8.RuneError)
}

// release writes the text of b up to an incomplete sequence at its end, which it returns.
func release(out *strings.Builder, b []byte) (rest []byte) {
	for len(b) > 0 {
		r, w := utf8.DecodeRune(b)
		if r != utf8.RuneError || w != 1 {
			out.Write(b[:w])
			b = b[w:]
			continue
		}
		n, complete := invalidPrefix(b)
		if !complete {
			return b
		}
		out.WriteRune(utf8.RuneError)
		b = b[n:]
	}
	return nil
}

// invalidPrefix returns the length of the maximal invalid part at the start of b
// (Unicode 16.0, section 3.9: the longest start of a well-formed sequence, or one
// byte). complete is false when b ends inside what may still be well formed.
func invalidPrefix(b []byte) (n int, complete bool) {
	want, low, high := 0, byte(0x80), byte(0xbf)
	switch c := b[0]; {
	case 0xc2 <= c && c <= 0xdf:
		want = 1
	case 0xe0 <= c && c <= 0xef:
		want = 2
		if c == 0xe0 {
			low = 0xa0
		} else if c == 0xed {
			high = 0x9f
		}
	case 0xf0 <= c && c <= 0xf4:
		want = 3
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	default:
		return 1, true
	}
	for n = 1; n <= want; n++ {
		if n == len(b) {
			return n, false
		}
		if b[n] < low || b[n] > high {
			return n, true
		}
		low, high = 0x80, 0xbf
	}
	return n, true
}
