package grammar

import (
	"fmt"
	"regexp/syntax"
	"unicode"
)

const maxRegexpBytes = 64 << 10

// expression turns a regular expression into a part. chars says how one
// character of the given ranges is written: as UTF-8, or as in a JSON string.
type expression struct {
	n     *nfa
	chars func(ranges []rune) part
}

// parse reads RE2 syntax with Perl classes, as package regexp does.
func parseExpression(text string) (*syntax.Regexp, error) {
	if len(text) > maxRegexpBytes {
		return nil, fmt.Errorf("%w: expression of %d bytes, at most %d", ErrLimit, len(text), maxRegexpBytes)
	}
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return re, nil
}

// whole is the part of an expression that must match a whole text: ^ and $ may
// stand at its ends and add nothing.
func (x expression) whole(re *syntax.Regexp) part { return x.compile(re, true, true) }

// search is the part of the texts that contain a match, as JSON Schema patterns
// mean it: ^ and $ tie the match to the ends. Where only some ways through an
// expression start with ^, and these are not alternatives of the whole, ^ is
// refused: what may stand before the match is then not one thing.
func (x expression) search(re *syntax.Regexp) part {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	if re.Op == syntax.OpAlternate {
		parts := make([]part, len(re.Sub))
		for i, s := range re.Sub {
			parts[i] = x.search(s)
		}
		return x.n.alternatives(parts...)
	}
	any := x.n.repeat(x.chars([]rune{0, unicode.MaxRune}), 0, -1)
	start, end := edge(re, syntax.OpBeginText, true), edge(re, syntax.OpEndText, false)
	var parts []part
	if !start {
		parts = append(parts, any)
	}
	parts = append(parts, x.compile(re, start, end))
	if !end {
		parts = append(parts, any)
	}
	return sequence(parts...)
}

// edge says whether every match starts (or ends) with the assertion op.
func edge(re *syntax.Regexp, op syntax.Op, first bool) bool {
	switch re.Op {
	case op:
		return true
	case syntax.OpCapture:
		return edge(re.Sub[0], op, first)
	case syntax.OpConcat:
		if len(re.Sub) == 0 {
			return false
		}
		if first {
			return edge(re.Sub[0], op, first)
		}
		return edge(re.Sub[len(re.Sub)-1], op, first)
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !edge(s, op, first) {
				return false
			}
		}
		return true
	}
	return false
}

// compile translates an expression; start and end say whether ^ and $ hold there.
func (x expression) compile(re *syntax.Regexp, start, end bool) part {
	switch re.Op {
	case syntax.OpNoMatch:
		return x.n.alternatives()
	case syntax.OpEmptyMatch:
		return sequence()
	case syntax.OpLiteral:
		parts := make([]part, len(re.Rune))
		for i, r := range re.Rune {
			parts[i] = x.chars(folded(r, re.Flags&syntax.FoldCase != 0))
		}
		return sequence(parts...)
	case syntax.OpCharClass:
		return x.chars(re.Rune)
	case syntax.OpAnyChar:
		return x.chars([]rune{0, unicode.MaxRune})
	case syntax.OpAnyCharNotNL:
		return x.chars([]rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune})
	case syntax.OpCapture:
		return x.compile(re.Sub[0], start, end)
	case syntax.OpStar:
		return x.n.repeat(x.compile(re.Sub[0], false, false), 0, -1)
	case syntax.OpPlus:
		return x.n.repeat(x.compile(re.Sub[0], false, false), 1, -1)
	case syntax.OpQuest:
		return x.n.repeat(x.compile(re.Sub[0], false, false), 0, 1)
	case syntax.OpRepeat:
		return x.n.repeat(x.compile(re.Sub[0], false, false), re.Min, re.Max)
	case syntax.OpAlternate:
		parts := make([]part, len(re.Sub))
		for i, s := range re.Sub {
			parts[i] = x.compile(s, start, end)
		}
		return x.n.alternatives(parts...)
	case syntax.OpConcat:
		parts := make([]part, len(re.Sub))
		for i, s := range re.Sub {
			parts[i] = x.compile(s, start && empty(re.Sub[:i]), end && empty(re.Sub[i+1:]))
		}
		return sequence(parts...)
	case syntax.OpBeginText:
		if start {
			return sequence()
		}
	case syntax.OpEndText:
		if end {
			return sequence()
		}
	}
	x.n.fail(fmt.Errorf("%w: %s inside an expression, or in some of its alternatives only", ErrUnsupported, re))
	return sequence()
}

// empty says whether the expressions are assertions only.
func empty(list []*syntax.Regexp) bool {
	for _, re := range list {
		if re.Op != syntax.OpBeginText && re.Op != syntax.OpEndText && re.Op != syntax.OpEmptyMatch {
			return false
		}
	}
	return true
}

// folded is a character, or all that equal it without regard to case.
func folded(r rune, fold bool) []rune {
	ranges := []rune{r, r}
	if fold {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			ranges = append(ranges, f, f)
		}
	}
	return ranges
}
