// Package jinja renders the chat templates that checkpoints ship. It stands on
// gonja and gives templates as little as they need: a template comes from
// outside and must not read files, exhaust memory, run for long or take the
// process down.
//
//   - No include, import, extends, macro, call, block or recursive loop: there is
//     no loader behind the template and nothing in it can recurse.
//   - No * and **: repetition is how a short text becomes a large one. What else
//     can grow a value (+, ~, join, replace) is bounded: operators by number,
//     results and variables by size.
//   - A namespace cannot hold a namespace, so that values have no cycles.
//   - Every statement and every output looks at the clock and at the step budget;
//     the output is capped. Panics become errors.
//
// What is left is enough for the templates of this model family (messages,
// parts, namespace, slices, string methods, tojson, raise_exception). A template
// that needs more fails with an error that names what it needs.
package jinja

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// Limits of a template and of one rendering.
const (
	MaxTemplateBytes = 64 << 10
	MaxOutputBytes   = 64 << 20 // all texts of a conversation
	maxNesting       = 64       // brackets in an expression, and open statements
	maxConcats       = 2000     // + and ~ in the whole template
	maxSteps         = 200_000  // statements executed
	maxSeconds       = 2
	slackBytes       = 64 << 10 // size of a variable beyond that of the inputs
)

// ErrLimit is wrapped by errors about a limit of this package.
var ErrLimit = errors.New("limit exceeded")

// Template is a parsed template; it may be rendered by several goroutines.
type Template struct {
	source string
}

// Parse checks a template. The environment is that of Hugging Face chat
// templates: trim_blocks and lstrip_blocks on, one final line end dropped.
func Parse(source string) (*Template, error) {
	t := &Template{source: source}
	if len(source) > MaxTemplateBytes {
		return nil, fmt.Errorf("%w: template of %d bytes, at most %d", ErrLimit, len(source), MaxTemplateBytes)
	}
	if err := guard(func() error { return check(source) }); err != nil {
		return nil, err
	}
	if _, err := t.load(&budget{}); err != nil {
		return nil, err
	}
	return t, nil
}

func settings() *config.Config {
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true
	return c
}

// check looks at the tokens for what must not reach the parser or the evaluator.
func check(source string) error {
	concats, brackets, blocks := 0, 0, 0
	stream := tokens.LexAll(source, settings())
	for ; !stream.End(); stream.Next() {
		t := stream.Current()
		switch t.Type {
		case tokens.Error:
			return fmt.Errorf("line %d: %s", t.Line, t.Val)
		case tokens.Multiply, tokens.Power:
			return fmt.Errorf("line %d: operator %s is not supported", t.Line, t.Val)
		case tokens.Addition, tokens.Tilde:
			concats++
		case tokens.LeftBrace, tokens.LeftBracket, tokens.LeftParenthesis:
			brackets++
		case tokens.RightBrace, tokens.RightBracket, tokens.RightParenthesis:
			brackets--
		case tokens.VariableBegin:
			brackets = 0
		case tokens.BlockBegin:
			brackets = 0
		case tokens.Name:
			switch t.Val {
			case "for", "if", "set":
				blocks++
			case "endfor", "endif", "endset":
				blocks--
			case "recursive":
				return fmt.Errorf("line %d: recursive loops are not supported", t.Line)
			}
		}
		if brackets > maxNesting {
			return fmt.Errorf("%w: line %d: more than %d nested brackets", ErrLimit, t.Line, maxNesting)
		}
		if blocks > maxBlocks {
			return fmt.Errorf("%w: line %d: more than %d open statements", ErrLimit, t.Line, maxBlocks)
		}
	}
	if concats > maxConcats {
		return fmt.Errorf("%w: %d concatenations, at most %d", ErrLimit, concats, maxConcats)
	}
	return nil
}

// maxBlocks also counts inline ifs and expression sets, which have no end tag.
const maxBlocks = 1000

// Render runs the template with the given variables: strings, booleans, nil, and
// lists and string-keyed maps of them.
func (t *Template) Render(vars map[string]any) (string, error) {
	b := &budget{deadline: time.Now().Add(maxSeconds * time.Second), size: slackBytes + 4*weigh(vars, MaxOutputBytes)}
	tmpl, err := t.load(b)
	if err != nil {
		return "", err
	}
	out := &writer{budget: b}
	err = guard(func() error { return tmpl.Execute(out, exec.NewContext(vars)) })
	switch {
	case b.err != nil:
		return "", b.err
	case err != nil:
		return "", shorten(err)
	}
	return out.text.String(), nil
}

func (t *Template) load(b *budget) (tmpl *exec.Template, err error) {
	err = guard(func() (err error) {
		tmpl, err = exec.NewTemplate("/template", settings(), loader{t.source}, b.environment())
		return err
	})
	if err != nil {
		return nil, shorten(err)
	}
	return tmpl, nil
}

// guard turns a panic of the library into an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("template fails: %v", p)
		}
	}()
	return f()
}

// shorten keeps the last cause of the library's chain, which quotes the template at each link.
func shorten(err error) error {
	const most = 300
	text := err.Error()
	if len(text) > most {
		text = "…" + strings.ToValidUTF8(text[len(text)-most:], "")
	}
	return errors.New(strings.ReplaceAll(text, "\n", " "))
}

// budget bounds one rendering.
type budget struct {
	deadline time.Time
	steps    int
	size     int // largest variable
	err      error
	spaces   []uintptr // maps made by namespace()
}

func (b *budget) fail(format string, args ...any) error {
	if b.err == nil {
		b.err = fmt.Errorf("%w: "+format, append([]any{ErrLimit}, args...)...)
	}
	return b.err
}

// step counts a statement or an output.
func (b *budget) step() error {
	if b.err != nil {
		return b.err
	}
	if b.steps++; b.steps > maxSteps {
		return b.fail("more than %d steps", maxSteps)
	}
	if time.Now().After(b.deadline) {
		return b.fail("more than %d seconds", maxSeconds)
	}
	return nil
}

// writer collects the output within the budget.
type writer struct {
	budget *budget
	text   strings.Builder
}

func (w *writer) Write(p []byte) (int, error) { return w.WriteString(string(p)) }

// WriteString appends s or fails.
func (w *writer) WriteString(s string) (int, error) {
	if err := w.budget.step(); err != nil {
		return 0, err
	}
	if w.text.Len()+len(s) > MaxOutputBytes {
		return 0, w.budget.fail("output over %d bytes", MaxOutputBytes)
	}
	return w.text.WriteString(s)
}

// loader knows the one template and nothing else.
type loader struct{ source string }

func (l loader) Read(path string) (io.Reader, error) {
	if path != "/template" {
		return nil, fmt.Errorf("no template %q", path)
	}
	return strings.NewReader(l.source), nil
}

func (l loader) Resolve(path string) (string, error) { return path, nil }

func (l loader) Inherit(string) (loaders.Loader, error) { return l, nil }
