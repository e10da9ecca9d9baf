package bench

import (
	"fmt"
	"regexp"
	"strconv"
)

// Kind is what a test measures.
type Kind string

// The kinds.
const (
	Prefill Kind = "pp"
	Decode  Kind = "tg"
	Vision  Kind = "vit"
	Caption Kind = "cap"
	First   Kind = "ttft"
)

// Test is one measurement.
type Test struct {
	Kind          Kind
	Tokens        int // pp: of the prompt; tg: generated
	Depth         int // tg: tokens before the first generated one; pp: before the measured ones; ttft: tokens that are not the picture's
	Tiles         int // vit, ttft
	Width, Height int // cap: pixels
	Batch         int // sequences together, at least 1
}

const (
	defaultDepth  = 32
	captionTokens = 64
	maxSize       = 1 << 20
)

var syntax = regexp.MustCompile(`^(pp|tg|vit|cap|ttft)(\d+)(?:x(\d+))?(?:@(\d+))?(?:\*(\d+))?$`)

// Parse reads a test as the package comment writes it.
func Parse(text string) (Test, error) {
	m := syntax.FindStringSubmatch(text)
	if m == nil {
		return Test{}, fmt.Errorf("bench: test %q: want one of pp512, tg64, tg64@512, tg64@512*8, vit13, cap1280x960, ttft8@256", text)
	}
	var n [4]int
	for i, digits := range m[2:] {
		if digits == "" {
			continue
		}
		v, err := strconv.Atoi(digits)
		if err != nil || v < 1 || v > maxSize {
			return Test{}, fmt.Errorf("bench: test %q: %s is not within 1 to %d", text, digits, maxSize)
		}
		n[i] = v
	}
	t := Test{Kind: Kind(m[1]), Batch: max(1, n[3])}
	if (n[1] > 0) != (t.Kind == Caption) {
		return Test{}, fmt.Errorf("bench: test %q: WIDTHxHEIGHT belongs to cap, and only to it", text)
	}
	if t.Kind == First && n[2] == 0 {
		return Test{}, fmt.Errorf("bench: test %q: ttft wants the tokens of the text: ttft8@256", text)
	}
	if n[2] > 0 && t.Kind != Decode && t.Kind != First && (t.Kind != Prefill || t.Batch > 1) {
		return Test{}, fmt.Errorf("bench: test %q: @DEPTH belongs to tg, to ttft, and to pp of one sequence", text)
	}
	switch t.Kind {
	case Prefill:
		t.Tokens, t.Depth = n[0], n[2]
	case Decode:
		t.Tokens, t.Depth = n[0], n[2]
		if t.Depth == 0 {
			t.Depth = defaultDepth
		}
	case Vision:
		t.Tiles = n[0]
	case First:
		t.Tiles, t.Depth = n[0], n[2]
	case Caption:
		t.Width, t.Height = n[0], n[1]
	}
	return t, nil
}

// String writes a test as Parse reads it.
func (t Test) String() string {
	s := ""
	switch t.Kind {
	case Prefill:
		s = fmt.Sprintf("pp%d", t.Tokens)
		if t.Depth > 0 {
			s += fmt.Sprintf("@%d", t.Depth)
		}
	case Decode:
		s = fmt.Sprintf("tg%d@%d", t.Tokens, t.Depth)
	case Vision:
		s = fmt.Sprintf("vit%d", t.Tiles)
	case First:
		s = fmt.Sprintf("ttft%d@%d", t.Tiles, t.Depth)
	case Caption:
		s = fmt.Sprintf("cap%dx%d", t.Width, t.Height)
	}
	if t.Batch > 1 {
		s += fmt.Sprintf("*%d", t.Batch)
	}
	return s
}

// Unit is what a test's rate counts.
func (t Test) Unit() string {
	switch t.Kind {
	case Vision:
		return "tiles/s"
	case Caption:
		return "captions/s"
	case First:
		return "ms"
	}
	return "t/s"
}
