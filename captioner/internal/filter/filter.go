// Package filter judges captions: loops, refusals, preambles, cut ends, lengths,
// and the same sentence for many pictures.
package filter

import (
	"encoding/json"
	"hash/maphash"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// Names of the filters.
const (
	Empty     = "empty"     // no text
	Loop      = "loop"      // the engine's guard stopped a repetition, or the text repeats itself
	Refusal   = "refusal"   // the model says that it cannot
	Preamble  = "preamble"  // "Here is a detailed description:"
	Cut       = "cut"       // ended by the token limit
	Short     = "short"     // fewer words than wanted
	Long      = "long"      // more words than wanted
	Duplicate = "duplicate" // the same text for several different pictures
	Pattern   = "pattern"   // an unwanted expression of the recipe occurs
	JSON      = "json"      // a caption that must be JSON is not
	Guess     = "guess"     // the model does not know such pictures, or was unsure; Check never says so
)

// Names lists all filters.
func Names() []string {
	return []string{Empty, Loop, Refusal, Preamble, Cut, Short, Long, Duplicate, Pattern, JSON, Guess}
}

var refusal = regexp.MustCompile(`(?i)^\W*(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|i (can(no|['’])t|am (unable|not able)|['’]?m (unable|not able))\b.{0,40}\b(help|assist|describe|provide|identify|view|see|process|comply|fulfil|generate|create|analy[sz]e)|as an? (ai|artificial|language|large language)\b)`)

var preamble = regexp.MustCompile(`(?i)^\W*(((sure|certainly|of course|absolutely|okay|ok|great)\b[!,. ]+)+(here|this|the|below|i)?|(here (is|are)|here['’]s|below is|the following is)\b[^.:\n]{0,60}\b(description|caption|summary|tags?|overview|response|answer|list|text)\b[^.:\n]{0,40}:|(caption|description|answer)\s*:)`)

// opener is a preamble that can be removed whole: up to its colon.
var opener = regexp.MustCompile(`(?i)^\W*((sure|certainly|of course|absolutely|okay|ok|great)\b[!,.]+\s*)*((here (is|are)|here['’]s|below is|the following is)\b[^.:\n]{0,100}:|(caption|description|answer)\s*:)?\s*`)

// StripPreamble removes opening words that do not describe the picture, and
// quotes or a code fence around all of the text.
func StripPreamble(text string) string {
	s := strings.TrimSpace(text)
	if m := opener.FindString(s); strings.TrimSpace(m) != "" && preamble.MatchString(s) {
		if rest := strings.TrimSpace(s[len(m):]); rest != "" {
			s = rest
			r := []rune(s)
			r[0] = unicode.ToUpper(r[0])
			s = string(r)
		}
	}
	if strings.HasPrefix(s, "```") && strings.HasSuffix(s, "```") && len(s) > 6 {
		s = strings.TrimSuffix(s, "```")
		if i := strings.IndexByte(s, '\n'); i > 0 {
			s = s[i+1:]
		} else {
			s = s[3:]
		}
		s = strings.TrimSpace(s)
	}
	if n := len(s); n > 2 && s[0] == '"' && s[n-1] == '"' && !strings.Contains(s[1:n-1], `"`) {
		s = s[1 : n-1]
	}
	return s
}

// Words counts the words of a text; a CJK character counts as one.
func Words(text string) int {
	n, in := 0, false
	for _, r := range text {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana):
			n, in = n+1, false
		case unicode.IsSpace(r):
			in = false
		case !in && (unicode.IsLetter(r) || unicode.IsNumber(r)):
			n, in = n+1, true
		}
	}
	return n
}

// Rules say what to look for. The zero value looks for nothing measured.
type Rules struct {
	MinWords, MaxWords int // 0 = no bound
	Patterns           []*regexp.Regexp
	WantJSON           bool
}

// Check returns the names of the filters that the text fails. looped and cut are
// the engine's verdicts.
func Check(text string, looped, cut bool, r Rules) []string {
	var out []string
	add := func(name string, bad bool) {
		if bad {
			out = append(out, name)
		}
	}
	words := Words(text)
	add(Empty, words == 0)
	add(Loop, looped || repeats(text))
	add(Refusal, refusal.MatchString(text))
	add(Preamble, preamble.MatchString(text))
	add(Cut, cut)
	add(Short, words > 0 && words < r.MinWords)
	add(Long, r.MaxWords > 0 && words > r.MaxWords)
	matched := false
	for _, p := range r.Patterns {
		matched = matched || p.MatchString(text)
	}
	add(Pattern, matched)
	add(JSON, r.WantJSON && !json.Valid([]byte(text)))
	return out
}

// repeats reports a sentence, or list entry, that makes up most of the text by
// occurring at least four times.
func repeats(text string) bool {
	parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(".!?\n,;。，", r) })
	if len(parts) < 8 {
		return false
	}
	seen := map[string]int{}
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			seen[p]++
			if seen[p] >= 4 && seen[p]*2 > len(parts) {
				return true
			}
		}
	}
	return false
}

// TrimCut removes the unfinished sentence at the end, if at least half of the
// text remains.
func TrimCut(text string) string {
	i := strings.LastIndexAny(text, ".!?。！？")
	if i < 0 || i+1 < len(text)/2 {
		return text
	}
	_, size := i, 1
	for j := i + 1; j < len(text) && text[j]&0xC0 == 0x80; j++ {
		size++ // the rest of a multi-byte mark
	}
	return text[:i+size]
}

// Seen counts equal captions of different pictures. It keeps 16 bytes a caption.
type Seen struct {
	mu    sync.Mutex
	seed  maphash.Seed
	count map[uint64]int32
}

// NewSeen returns an empty count.
func NewSeen() *Seen { return &Seen{seed: maphash.MakeSeed(), count: map[uint64]int32{}} }

// Add counts a caption of a key and returns how often it occurred, this time included.
func (s *Seen) Add(key, text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := maphash.String(s.seed, key+"\x00"+strings.ToLower(strings.TrimSpace(text)))
	s.count[h]++
	return int(s.count[h])
}

// Count is how often a caption was added.
func (s *Seen) Count(key, text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.count[maphash.String(s.seed, key+"\x00"+strings.ToLower(strings.TrimSpace(text)))])
}
