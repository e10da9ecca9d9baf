package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// The library's filters and methods that cannot make a large value of a small one.
var (
	safeFilters = []string{
		"abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
		"list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "safe", "select",
		"selectattr", "sort", "string", "title", "trim", "unique", "upper",
	}
	safeStringMethods = []string{
		"capitalize", "count", "endswith", "find", "isalnum", "isalpha", "isascii", "isdigit", "islower", "isspace",
		"isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rpartition", "rsplit",
		"rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
	}
	safeDictMethods = []string{"get", "items", "keys", "values"}
)

// environment is what a template of this budget can name.
func (b *budget) environment() *exec.Environment {
	filters := map[string]exec.FilterFunction{"tojson": toJSON, "join": b.join, "replace": b.replaceFilter}
	for _, name := range safeFilters {
		if f, ok := builtins.Filters.Get(name); ok {
			filters[name] = f
		}
	}
	text := map[string]exec.Method[string]{"replace": b.replaceMethod}
	for _, name := range safeStringMethods {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			text[name] = m
		}
	}
	dict := map[string]exec.Method[map[string]any]{}
	for _, name := range safeDictMethods {
		if m, ok := builtins.Methods.Dict.Get(name); ok {
			dict[name] = m
		}
	}
	statements := map[string]parser.ControlStructureParser{"set": b.parseSet}
	for _, name := range []string{"for", "if", "break", "continue", "raw"} {
		if p, ok := builtins.ControlStructures.Get(name); ok {
			statements[name] = b.counted(p)
		}
	}
	return &exec.Environment{
		Context: exec.NewContext(map[string]any{
			"namespace": b.namespace, "range": b.numbers, "raise_exception": raise,
			"true": true, "false": false, "none": nil, "True": true, "False": false, "None": nil,
		}),
		Filters:           exec.NewFilterSet(filters),
		ControlStructures: exec.NewControlStructureSet(statements),
		Tests:             builtins.Tests,
		Methods: exec.Methods{
			Bool: exec.NewMethodSet(map[string]exec.Method[bool]{}), Int: exec.NewMethodSet(map[string]exec.Method[int]{}),
			Float: exec.NewMethodSet(map[string]exec.Method[float64]{}), Str: exec.NewMethodSet(text),
			Dict: exec.NewMethodSet(dict), List: exec.NewMethodSet(map[string]exec.Method[[]any]{}),
		},
	}
}

// counted makes a statement take a step each time it runs.
func (b *budget) counted(p parser.ControlStructureParser) parser.ControlStructureParser {
	return func(body, args *parser.Parser) (nodes.ControlStructure, error) {
		n, err := p(body, args)
		if err != nil {
			return nil, err
		}
		inner, ok := n.(exec.ControlStructure)
		if !ok {
			return n, nil
		}
		return &counter{inner, b}, nil
	}
}

type counter struct {
	exec.ControlStructure
	budget *budget
}

// Execute runs the statement within the budget.
func (c *counter) Execute(r *exec.Renderer, block *nodes.ControlStructureBlock) error {
	if err := c.budget.step(); err != nil {
		return err
	}
	return c.ControlStructure.Execute(r, block)
}

// set is {% set name = expression %}, {% set space.name = expression %} and the
// form that captures a block.
type set struct {
	at     *tokens.Token
	budget *budget
	name   string // variable, or namespace when field is set
	field  string
	body   *nodes.Wrapper

	value, condition, other nodes.Expression // value if condition else other
}

// Position returns the place of the statement.
func (s *set) Position() *tokens.Token { return s.at }

// String returns a short form for the library's messages.
func (s *set) String() string { return "set " + s.name }

func (b *budget) parseSet(body, args *parser.Parser) (nodes.ControlStructure, error) {
	s := &set{at: args.Current(), budget: b}
	name := args.Match(tokens.Name)
	if name == nil {
		return nil, args.Error("set needs a name", nil)
	}
	s.name = name.Val
	if args.Match(tokens.Dot) != nil {
		field := args.Match(tokens.Name)
		if field == nil {
			return nil, args.Error("set needs a name after the dot", nil)
		}
		s.field = field.Val
	}
	var err error
	if args.Match(tokens.Assign) != nil {
		if s.value, err = args.ParseExpression(); err != nil {
			return nil, err
		}
		if s.condition, s.other, err = args.ParseCondition(); err != nil {
			return nil, err
		}
	} else {
		var end *parser.Parser
		if s.body, end, err = body.WrapUntil("endset"); err != nil {
			return nil, err
		}
		args = end
	}
	if !args.End() {
		return nil, args.Error("unexpected text in set", args.Current())
	}
	return s, nil
}

// Execute assigns.
func (s *set) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	if err := s.budget.step(); err != nil {
		return err
	}
	var value any
	if s.body != nil {
		out := &writer{budget: s.budget}
		sub := r.Inherit()
		sub.Output = out
		if err := sub.ExecuteWrapper(s.body); err != nil {
			return err
		}
		value = out.text.String()
	} else {
		from := s.value
		if s.condition != nil {
			c := r.Eval(s.condition)
			if c.IsError() {
				return c
			}
			if !c.IsTrue() {
				from = s.other
			}
		}
		if from == nil {
			return fmt.Errorf("set %s: the condition is false and there is no else", s.name)
		}
		v := r.Eval(from)
		if v.IsError() {
			return v
		}
		value = v.Interface()
	}
	if weigh(value, s.budget.size+1) > s.budget.size {
		return s.budget.fail("variable %.40q over %d bytes", s.name, s.budget.size)
	}
	if s.field == "" {
		r.Environment.Context.Set(s.name, value)
		return nil
	}
	held, _ := r.Environment.Context.Get(s.name)
	space, ok := plain(held).(map[string]any)
	if !ok || !s.budget.isSpace(space) {
		return fmt.Errorf("set %s.%s: %s is not a namespace", s.name, s.field, s.name)
	}
	if s.budget.holdsSpace(reflect.ValueOf(value), 0) {
		return fmt.Errorf("set %s.%s: a namespace cannot hold a namespace", s.name, s.field)
	}
	space[s.field] = value
	return nil
}

// plain unwraps the library's values.
func plain(v any) any {
	for {
		w, ok := v.(*exec.Value)
		if !ok || w == nil {
			return v
		}
		if v = w.Interface(); v == any(w) {
			return v
		}
	}
}

func (b *budget) namespace(_ *exec.Evaluator, params *exec.VarArgs) (map[string]any, error) {
	space := map[string]any{}
	for name, v := range params.KwArgs {
		value := v.Interface()
		if weigh(value, b.size+1) > b.size || b.holdsSpace(reflect.ValueOf(value), 0) {
			return nil, errors.New("namespace: a value is too large or a namespace")
		}
		space[name] = value
	}
	b.spaces = append(b.spaces, reflect.ValueOf(space).Pointer())
	return space, nil
}

func (b *budget) isSpace(m map[string]any) bool {
	p := reflect.ValueOf(m).Pointer()
	for _, s := range b.spaces {
		if s == p {
			return true
		}
	}
	return false
}

// holdsSpace looks for a namespace inside a value; deep values count as holding one.
func (b *budget) holdsSpace(v reflect.Value, depth int) bool {
	if depth > maxNesting {
		return true
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return false
		}
		if w, ok := v.Interface().(*exec.Value); ok {
			return b.holdsSpace(reflect.ValueOf(w.Interface()), depth+1)
		}
		return b.holdsSpace(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanInterface() && b.holdsSpace(f, depth+1) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if b.holdsSpace(v.Index(i), depth+1) {
				return true
			}
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok && b.isSpace(m) {
			return true
		}
		for it := v.MapRange(); it.Next(); {
			if b.holdsSpace(it.Value(), depth+1) {
				return true
			}
		}
	}
	return false
}

// weigh estimates the bytes of a value printed, stopping at most.
func weigh(value any, most int) int {
	total := 0
	var walk func(v reflect.Value, depth int)
	walk = func(v reflect.Value, depth int) {
		total += 8
		if total >= most {
			return
		}
		if depth > maxNesting {
			total = most
			return
		}
		switch v.Kind() {
		case reflect.String:
			total += v.Len()
		case reflect.Interface, reflect.Pointer:
			if v.IsNil() {
				return
			}
			if w, ok := v.Interface().(*exec.Value); ok {
				walk(reflect.ValueOf(w.Interface()), depth+1)
				return
			}
			walk(v.Elem(), depth+1)
		case reflect.Struct:
			for i := 0; i < v.NumField() && total < most; i++ {
				if f := v.Field(i); f.CanInterface() {
					walk(f, depth+1)
				}
			}
		case reflect.Slice, reflect.Array:
			for i := 0; i < v.Len() && total < most; i++ {
				walk(v.Index(i), depth+1)
			}
		case reflect.Map:
			for it := v.MapRange(); total < most && it.Next(); {
				total += it.Key().Len()
				walk(it.Value(), depth+1)
			}
		}
	}
	walk(reflect.ValueOf(value), 0)
	return min(total, most)
}

// numbers is range with a cap, as a list.
func (b *budget) numbers(_ *exec.Evaluator, params *exec.VarArgs) ([]int, error) {
	const most = 1000
	limits := []int{0, 0, 1}
	for i, a := range params.Args {
		if i > 2 || !a.IsInteger() {
			return nil, errors.New("range takes one to three integers")
		}
		limits[i] = a.Integer()
	}
	if len(params.Args) == 1 {
		limits[0], limits[1] = 0, limits[0]
	}
	if len(params.Args) == 0 || limits[2] == 0 {
		return nil, errors.New("range takes one to three integers, the last not 0")
	}
	var list []int
	for i := limits[0]; limits[2] > 0 && i < limits[1] || limits[2] < 0 && i > limits[1]; i += limits[2] {
		if len(list) == most {
			return nil, b.fail("range over %d numbers", most)
		}
		list = append(list, i)
	}
	return list, nil
}

func raise(_ *exec.Evaluator, params *exec.VarArgs) (string, error) {
	text := "raise_exception"
	if len(params.Args) > 0 {
		text = params.Args[0].String()
	}
	return "", errors.New("the template refuses the conversation: " + text)
}

// replaced is s with old replaced by new, if the result is within the budget.
func (b *budget) replaced(s, old, new string, count int) (string, error) {
	n := strings.Count(s, old)
	if count >= 0 {
		n = min(n, count)
	}
	if len(s)+n*len(new) > b.size {
		return "", b.fail("replace gives over %d bytes", b.size)
	}
	return strings.Replace(s, old, new, count), nil
}

func (b *budget) replaceMethod(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
	if len(args.Args) != 2 || !args.Args[0].IsString() || !args.Args[1].IsString() {
		return nil, errors.New("replace takes two strings")
	}
	return b.replaced(self, args.Args[0].String(), args.Args[1].String(), -1)
}

func (b *budget) replaceFilter(_ *exec.Evaluator, in *exec.Value, args *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	out, err := b.replaceMethod(in.String(), nil, args)
	if err != nil {
		return exec.AsValue(err)
	}
	return exec.AsValue(out)
}

func (b *budget) join(_ *exec.Evaluator, in *exec.Value, args *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	separator := ""
	if len(args.Args) > 1 || len(args.KwArgs) > 0 {
		return exec.AsValue(errors.New("join takes a separator"))
	}
	if len(args.Args) == 1 {
		separator = args.Args[0].String()
	}
	var out strings.Builder
	in.Iterate(func(i, _ int, item, _ *exec.Value) bool {
		if i > 0 {
			out.WriteString(separator)
		}
		out.WriteString(item.String())
		return out.Len() <= b.size
	}, func() {})
	if out.Len() > b.size {
		return exec.AsValue(b.fail("join gives over %d bytes", b.size))
	}
	return exec.AsValue(out.String())
}

// toJSON is the tojson of chat templates: json.dumps with ensure_ascii off and no
// HTML escapes, a space after separators.
func toJSON(_ *exec.Evaluator, in *exec.Value, args *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	if len(args.Args) > 0 {
		return exec.AsValue(errors.New("tojson takes no positional arguments"))
	}
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(in.ToGoSimpleType(false)); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsSafeValue(spaced(strings.TrimSuffix(raw.String(), "\n")))
}

// spaced adds a space after each comma and colon outside strings.
func spaced(compact string) string {
	var out strings.Builder
	quoted := false
	for i := 0; i < len(compact); i++ {
		c := compact[i]
		out.WriteByte(c)
		switch {
		case quoted && c == '\\':
			i++
			out.WriteByte(compact[i])
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ':'):
			out.WriteByte(' ')
		}
	}
	return out.String()
}
