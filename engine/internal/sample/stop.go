package sample

import "strings"

// Stops holds back text that may be the start of a stop string. The zero value
// has none. Feed it the released text of each token.
type Stops struct {
	stops   []string
	pending []byte
	longest int
	done    bool
}

// NewStops returns the detector of stops; empty strings are ignored.
func NewStops(stops []string) Stops {
	var s Stops
	for _, x := range stops {
		if x != "" {
			s.stops = append(s.stops, x)
			s.longest = max(s.longest, len(x))
		}
	}
	return s
}

// Next takes the next piece of text and returns what may be shown. stopped is
// true once a stop string is complete: its text and all after it is dropped.
func (s *Stops) Next(text string) (release string, stopped bool) {
	if s.done {
		return "", true
	}
	if len(s.stops) == 0 {
		return text, false
	}
	s.pending = append(s.pending, text...)
	cut, found := len(s.pending), false
	buf := string(s.pending)
	for _, x := range s.stops {
		if i := strings.Index(buf, x); i >= 0 && i < cut {
			cut, found = i, true
		}
	}
	if found {
		s.done = true
		s.pending = s.pending[:0]
		return buf[:cut], true
	}
	keep := s.heldBack(buf)
	n := len(buf) - keep
	s.pending = append(s.pending[:0], buf[n:]...)
	return buf[:n], false
}

// heldBack is the length of the longest end of buf that starts a stop string.
func (s *Stops) heldBack(buf string) int {
	for n := min(len(buf), s.longest-1); n > 0; n-- {
		tail := buf[len(buf)-n:]
		for _, x := range s.stops {
			if n < len(x) && x[:n] == tail {
				return n
			}
		}
	}
	return 0
}

// Flush returns the text still held back, at the end of an answer.
func (s *Stops) Flush() string {
	if s.done {
		return ""
	}
	text := string(s.pending)
	s.pending = s.pending[:0]
	return text
}
