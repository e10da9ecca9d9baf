package bench

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Size is a size of picture with its weight in a mix.
type Size struct {
	Width, Height int
	Weight        int
}

var sizeSyntax = regexp.MustCompile(`^(\d{1,5})x(\d{1,5})(?::(\d{1,4}))?$`)

// ParseSizes reads a mix of sizes: "640x480:3,1280x960" has three of the first for one of the second.
func ParseSizes(text string) (list []Size, err error) {
	for field := range strings.SplitSeq(text, ",") {
		m := sizeSyntax.FindStringSubmatch(field)
		if m == nil {
			return nil, fmt.Errorf("bench: size %q: want WIDTHxHEIGHT or WIDTHxHEIGHT:WEIGHT", field)
		}
		var n [3]int
		n[2] = 1
		for i, digits := range m[1:] {
			if digits != "" {
				n[i], _ = strconv.Atoi(digits) // the pattern has digits only, few of them
			}
		}
		if n[0] == 0 || n[1] == 0 || n[2] == 0 || n[0] > maxSide || n[1] > maxSide {
			return nil, fmt.Errorf("bench: size %q: sides are 1 to %d pixels, weights 1 to 9999", field, maxSide)
		}
		list = append(list, Size{n[0], n[1], n[2]})
	}
	return list, nil
}

const (
	maxSide     = 8192
	maxRequests = 1 << 20
)

// Load says what arrives and when. The same Load makes the same requests.
type Load struct {
	Requests    int
	Rate        float64 // mean arrivals a second of a Poisson process; 0 = closed loop
	Concurrency int     // closed loop: so many clients, each asks again when it is answered
	Sizes       []Size  // of pictures; empty = text alone
	Pictures    int     // different pictures that requests choose from; 0 = each its own
	Words       [2]int  // of an instruction, least and most
	Tokens      [2]int  // of an answer, least and most
	Seed        uint64
}

// Arrival is a planned request. A list of them can be stored and run again.
type Arrival struct {
	At      float64 `json:"at_seconds"` // after the start; 0 in a closed loop
	Width   int     `json:"width,omitempty"`
	Height  int     `json:"height,omitempty"`
	Picture int     `json:"picture"` // equal numbers and sizes are the same picture
	Text    string  `json:"text"`
	Tokens  int     `json:"max_tokens"`
}

func (l *Load) validate() error {
	bad := func(name string, value any, want string) error {
		return fmt.Errorf("bench: serve-sim: %s %v: want %s", name, value, want)
	}
	switch {
	case l.Requests < 1 || l.Requests > maxRequests:
		return bad("requests", l.Requests, fmt.Sprintf("1 to %d", maxRequests))
	case !(l.Rate >= 0 && l.Rate <= 1e6):
		return bad("rate", l.Rate, "0 to 1000000 a second")
	case l.Rate == 0 && l.Concurrency < 1:
		return bad("concurrency", l.Concurrency, "at least 1 client, or a rate")
	case l.Pictures < 0 || l.Pictures > maxPictures:
		return bad("pictures", l.Pictures, fmt.Sprintf("0 to %d", maxPictures))
	case l.Words[0] < 1 || l.Words[1] < l.Words[0]:
		return bad("words", l.Words, "at least 1, ascending")
	case l.Tokens[0] < 1 || l.Tokens[1] < l.Tokens[0]:
		return bad("tokens", l.Tokens, "at least 1, ascending")
	}
	return nil
}

// maxPictures is what drawing can tell apart.
const maxPictures = 1 << 14

// Plan draws the requests of a load.
func (l *Load) Plan() ([]Arrival, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(l.Seed, 0x5e7e))
	total := 0
	for _, s := range l.Sizes {
		total += s.Weight
	}
	between := func(b [2]int) int { return b[0] + rng.IntN(b[1]-b[0]+1) }
	list := make([]Arrival, l.Requests)
	at := 0.0
	for i := range list {
		a := &list[i]
		if l.Rate > 0 {
			at += rng.ExpFloat64() / l.Rate
			a.At = at
		}
		if total > 0 {
			a.Picture = i % maxPictures
			if l.Pictures > 0 {
				a.Picture = rng.IntN(l.Pictures)
			}
			// A picture has one size, whoever asks about it.
			s := pickSize(l.Sizes, rand.New(rand.NewPCG(l.Seed, uint64(a.Picture)<<1|1)).IntN(total))
			a.Width, a.Height = s.Width, s.Height
		}
		a.Text = instruction(rng, between(l.Words))
		a.Tokens = between(l.Tokens)
	}
	return list, nil
}

func pickSize(sizes []Size, n int) Size {
	for _, s := range sizes {
		if n < s.Weight {
			return s
		}
		n -= s.Weight
	}
	return sizes[len(sizes)-1]
}

var vocabulary = strings.Fields(`describe the picture in detail and say what stands left right above below of it
	how many people animals cars trees houses are there which colours do they have read all text first last`)

func instruction(rng *rand.Rand, words int) string {
	list := make([]string, words)
	for i := range list {
		list[i] = vocabulary[rng.IntN(len(vocabulary))]
	}
	return strings.Join(list, " ")
}

// CheckPlan checks a plan that was stored.
func CheckPlan(plan []Arrival) error {
	if len(plan) == 0 || len(plan) > maxRequests {
		return fmt.Errorf("bench: plan of %d requests, want 1 to %d", len(plan), maxRequests)
	}
	for i := range plan {
		a := &plan[i]
		switch {
		case !(a.At >= 0 && a.At < 1e6), i > 0 && a.At < plan[i-1].At:
			return fmt.Errorf("bench: plan: request %d: at_seconds %g is not ascending within 0 to 1e6", i, a.At)
		case a.Width < 0 || a.Width > maxSide || a.Height < 0 || a.Height > maxSide || (a.Width == 0) != (a.Height == 0):
			return fmt.Errorf("bench: plan: request %d: picture of %dx%d pixels, sides are 1 to %d", i, a.Width, a.Height, maxSide)
		case a.Picture < 0 || a.Picture >= maxPictures:
			return fmt.Errorf("bench: plan: request %d: picture %d, want 0 to %d", i, a.Picture, maxPictures-1)
		case a.Tokens < 1:
			return fmt.Errorf("bench: plan: request %d: max_tokens %d, want at least 1", i, a.Tokens)
		case a.Text == "":
			return fmt.Errorf("bench: plan: request %d has no text", i)
		}
	}
	return nil
}

// Timed reports whether a plan has times; without them it is for a closed loop.
func Timed(plan []Arrival) bool {
	return slices.ContainsFunc(plan, func(a Arrival) bool { return a.At > 0 })
}
