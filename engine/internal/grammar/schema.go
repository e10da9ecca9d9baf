package grammar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"unicode"
)

// Limits of a schema.
const (
	maxSchemaBytes = 1 << 20
	maxDepth       = 32 // nesting of schemas, references included
	maxCount       = 4096
	maxDigits      = 15 // before the point: any such number survives a float64
	maxFraction    = 8
)

// schema compiles a JSON schema. path is where the compiler is, for errors.
type schema struct {
	n    *nfa
	defs map[string]json.RawMessage
	path []string
	work int
}

// members are the members of an object in the order of the text.
type member struct {
	key   string
	value json.RawMessage
}

// members splits an object, refusing repeated keys.
func members(raw json.RawMessage) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("want an object, got %.40s", raw)
	}
	var list []member
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{key: t.(string)}
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		if seen[m.key] {
			return nil, fmt.Errorf("member %q twice", m.key)
		}
		seen[m.key] = true
		list = append(list, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("text after the object")
	}
	return list, nil
}

// compileSchema returns the part of the JSON texts that a schema describes.
func compileSchema(n *nfa, text []byte) (part, error) {
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("%w: schema of %d bytes, at most %d", ErrLimit, len(text), maxSchemaBytes)
	}
	list, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("%w: schema: %w", ErrSyntax, err)
	}
	s := &schema{n: n, defs: map[string]json.RawMessage{}}
	for _, m := range list {
		if m.key == "$defs" || m.key == "definitions" {
			defs, err := members(m.value)
			if err != nil {
				return nil, fmt.Errorf("%w: schema: %s: %w", ErrSyntax, m.key, err)
			}
			for _, d := range defs {
				s.defs["#/"+m.key+"/"+d.key] = d.value
			}
		}
	}
	p := s.value(text)
	return p, n.err
}

func (s *schema) fail(kind error, format string, args ...any) part {
	at := "/" + strings.Join(s.path, "/")
	s.n.fail(fmt.Errorf("%w: schema: %.200s: %s", kind, at, fmt.Sprintf(format, args...)))
	return sequence()
}

// within runs f one level down the path.
func (s *schema) within(name string, f func() part) part {
	s.path = append(s.path, name)
	defer func() { s.path = s.path[:len(s.path)-1] }()
	if s.work++; len(s.path) > 2*maxDepth || s.work > maxStates {
		return s.fail(ErrLimit, "nesting over %d levels, or too many references", maxDepth)
	}
	return f()
}

// annotations say nothing about the value.
var annotations = []string{"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated", "readOnly", "writeOnly"}

// keywords that go with a type.
var keywords = map[string][]string{
	"object":  {"properties", "required", "additionalProperties"},
	"array":   {"items", "minItems", "maxItems"},
	"string":  {"minLength", "maxLength", "pattern"},
	"integer": {}, "number": {}, "boolean": {}, "null": {},
}

// value is the part of one schema.
func (s *schema) value(raw json.RawMessage) part {
	if s.n.err != nil {
		return sequence()
	}
	list, err := members(raw)
	if err != nil {
		return s.fail(ErrSyntax, "%v", err)
	}
	fields := map[string]json.RawMessage{}
	for _, m := range list {
		if !slices.Contains(annotations, m.key) {
			fields[m.key] = m.value
		}
	}
	for _, alone := range []string{"const", "enum", "anyOf", "$ref"} {
		v, ok := fields[alone]
		if !ok {
			continue
		}
		delete(fields, alone)
		var types []string
		if raw, ok := fields["type"]; ok && (alone == "const" || alone == "enum") {
			if types, ok = typeNames(raw); !ok {
				return s.fail(ErrSyntax, "type is not a name or a list of names")
			}
			delete(fields, "type")
		}
		if others := slices.Sorted(maps.Keys(fields)); len(others) > 0 {
			return s.fail(ErrUnsupported, "keyword %q beside %q", others[0], alone)
		}
		switch alone {
		case "const":
			return s.enum([]json.RawMessage{v}, types)
		case "enum":
			var values []json.RawMessage
			if err := json.Unmarshal(v, &values); err != nil || len(values) == 0 {
				return s.fail(ErrSyntax, "enum is not a list of values")
			}
			return s.enum(values, types)
		case "anyOf":
			return s.anyOf(v)
		}
		return s.reference(v)
	}
	return s.typed(fields)
}

// enum is one of the given values, in compact form, of those that have one of the
// types if there are any.
func (s *schema) enum(values []json.RawMessage, types []string) part {
	for _, t := range types {
		if _, ok := keywords[t]; !ok {
			return s.fail(ErrSyntax, "type %.40q", t)
		}
	}
	var texts []string
	for _, v := range values {
		var x any
		d := json.NewDecoder(bytes.NewReader(v))
		d.UseNumber()
		if err := d.Decode(&x); err != nil {
			return s.fail(ErrSyntax, "enum: %v", err)
		}
		if types == nil || slices.ContainsFunc(types, func(t string) bool { return hasType(x, t) }) {
			texts = append(texts, compact(x))
		}
	}
	if len(texts) == 0 {
		return s.fail(ErrSyntax, "no value of enum or const has type %s", strings.Join(types, ", "))
	}
	return s.n.oneOf(texts)
}

// hasType reports whether a decoded value is of a type.
func hasType(x any, name string) bool {
	switch v := x.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	case json.Number:
		f, ok := new(big.Float).SetString(v.String())
		return name == "number" || name == "integer" && ok && f.IsInt()
	}
	return false
}

// typeNames reads the value of the keyword type.
func typeNames(raw json.RawMessage) (names []string, ok bool) {
	var name string
	if json.Unmarshal(raw, &name) == nil && raw[0] == '"' {
		return []string{name}, true
	}
	return names, json.Unmarshal(raw, &names) == nil && len(names) > 0
}

// compact writes a value without white space and without HTML escapes.
func compact(x any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return "null" // x came out of a JSON text: it goes back in
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (s *schema) anyOf(raw json.RawMessage) part {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		return s.fail(ErrSyntax, "anyOf is not a list of schemas")
	}
	parts := make([]part, len(list))
	for i, v := range list {
		parts[i] = s.within(fmt.Sprintf("anyOf/%d", i), func() part { return s.value(v) })
	}
	return s.n.alternatives(parts...)
}

// reference follows "#/$defs/name". A schema that contains itself runs into the
// depth limit: a finite automaton cannot nest without bound.
func (s *schema) reference(raw json.RawMessage) part {
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return s.fail(ErrSyntax, "$ref is not a string")
	}
	def, ok := s.defs[name]
	if !ok {
		return s.fail(ErrUnsupported, "$ref %.80q: only #/$defs/NAME of the same schema", name)
	}
	if slices.Contains(s.path, name) {
		return s.fail(ErrUnsupported, "$ref %.80q: a schema that contains itself", name)
	}
	return s.within(name, func() part { return s.value(def) })
}

// typed is a schema with the keyword type, one or a list.
func (s *schema) typed(fields map[string]json.RawMessage) part {
	raw, ok := fields["type"]
	if !ok {
		return s.fail(ErrUnsupported, "no type, const, enum, anyOf or $ref: any value at all")
	}
	types, ok := typeNames(raw)
	if !ok {
		return s.fail(ErrSyntax, "type is not a name or a list of names")
	}
	known := []string{"type"}
	for _, t := range types {
		k, ok := keywords[t]
		if !ok {
			return s.fail(ErrSyntax, "type %.40q", t)
		}
		known = append(known, k...)
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return s.fail(ErrUnsupported, "keyword %.40q with type %s", name, strings.Join(types, ", "))
		}
	}
	parts := make([]part, len(types))
	for i, t := range types {
		parts[i] = s.single(t, fields)
	}
	return s.n.alternatives(parts...)
}

func (s *schema) single(name string, fields map[string]json.RawMessage) part {
	n := s.n
	digit := n.runes([]rune{'0', '9'})
	whole := sequence(n.repeat(n.literal("-"), 0, 1), n.alternatives(
		n.literal("0"), sequence(n.runes([]rune{'1', '9'}), n.repeat(digit, 0, maxDigits-1))))
	switch name {
	case "null":
		return n.literal("null")
	case "boolean":
		return n.oneOf([]string{"true", "false"})
	case "integer":
		return whole
	case "number":
		return sequence(whole, n.repeat(sequence(n.literal("."), n.repeat(digit, 1, maxFraction)), 0, 1))
	case "string":
		return s.text(fields)
	case "array":
		return s.array(fields)
	}
	return s.object(fields)
}

// count reads a bound; absent gives otherwise.
func (s *schema) count(fields map[string]json.RawMessage, name string, otherwise int) int {
	raw, ok := fields[name]
	if !ok {
		return otherwise
	}
	var v int
	if err := json.Unmarshal(raw, &v); err != nil || v < 0 {
		s.fail(ErrSyntax, "%s %.40s is not a count", name, raw)
		return 0
	}
	if v > maxCount {
		s.fail(ErrLimit, "%s %d over %d", name, v, maxCount)
		return 0
	}
	return v
}

// character is one character inside a JSON string: itself, or a short or \u
// escape. Lone surrogates are not written.
func (n *nfa) character() part {
	hex := n.runes([]rune{'0', '9', 'A', 'F', 'a', 'f'})
	return n.alternatives(
		n.runes([]rune{0x20, '"' - 1, '"' + 1, '\\' - 1, '\\' + 1, unicode.MaxRune}),
		sequence(n.literal(`\`), n.runes([]rune{'"', '"', '/', '/', '\\', '\\', 'b', 'b', 'f', 'f', 'n', 'n', 'r', 'r', 't', 't'})),
		sequence(n.literal(`\u`), n.alternatives(
			sequence(n.runes([]rune{'0', '9', 'A', 'C', 'E', 'F', 'a', 'c', 'e', 'f'}), hex),
			sequence(n.runes([]rune{'D', 'D', 'd', 'd'}), n.runes([]rune{'0', '7'})),
		), hex, hex),
	)
}

// quoted is a character of the ranges inside a JSON string, in one spelling.
func (n *nfa) quoted(ranges []rune) part {
	var plain []rune
	var parts []part
	for i := 0; i+1 < len(ranges); i += 2 {
		lo, hi := max(ranges[i], 0), ranges[i+1]
		for r := lo; r <= min(hi, 0x1f); r++ {
			parts = append(parts, n.literal(strings.Trim(compact(string(r)), `"`)))
		}
		lo = max(lo, 0x20)
		for _, r := range []rune{'"', '\\'} {
			if lo <= r && r <= hi {
				parts = append(parts, n.literal(`\`+string(r)))
				if lo < r {
					plain = append(plain, lo, r-1)
				}
				lo = r + 1
			}
		}
		if lo <= hi {
			plain = append(plain, lo, hi)
		}
	}
	return n.alternatives(append(parts, n.runes(plain))...)
}

func (s *schema) text(fields map[string]json.RawMessage) part {
	n := s.n
	quote := n.literal(`"`)
	least, most := s.count(fields, "minLength", 0), s.count(fields, "maxLength", -1)
	raw, ok := fields["pattern"]
	if !ok {
		if most >= 0 && least > most {
			return s.fail(ErrSyntax, "minLength %d over maxLength %d", least, most)
		}
		return sequence(quote, n.repeat(n.character(), least, most), quote)
	}
	if least > 0 || most >= 0 {
		return s.fail(ErrUnsupported, "pattern together with minLength or maxLength: bound the pattern")
	}
	var pattern string
	if err := json.Unmarshal(raw, &pattern); err != nil {
		return s.fail(ErrSyntax, "pattern is not a string")
	}
	re, err := parseExpression(pattern)
	if err != nil {
		return s.fail(ErrSyntax, "pattern: %v", err)
	}
	return sequence(quote, expression{n, n.quoted}.search(re), quote)
}

// comma separates members and elements, with or without a space.
func (n *nfa) comma() part { return sequence(n.literal(","), n.repeat(n.literal(" "), 0, 1)) }

func (s *schema) array(fields map[string]json.RawMessage) part {
	raw, ok := fields["items"]
	if !ok {
		return s.fail(ErrUnsupported, "array without items")
	}
	least, most := s.count(fields, "minItems", 0), s.count(fields, "maxItems", -1)
	if most >= 0 && least > most {
		return s.fail(ErrSyntax, "minItems %d over maxItems %d", least, most)
	}
	n := s.n
	open, end := n.literal("["), n.literal("]")
	if most == 0 {
		return sequence(open, end)
	}
	item := s.within("items", func() part { return s.value(raw) })
	rest := most - 1
	if most < 0 {
		rest = -1
	}
	filled := sequence(item, n.repeat(sequence(n.comma(), item), max(least-1, 0), rest))
	if least == 0 {
		filled = n.repeat(filled, 0, 1)
	}
	return sequence(open, filled, end)
}

// object writes its properties in the order of the schema; those not required
// may be left out.
func (s *schema) object(fields map[string]json.RawMessage) part {
	raw, ok := fields["properties"]
	if !ok {
		return s.fail(ErrUnsupported, "object without properties")
	}
	list, err := members(raw)
	if err != nil {
		return s.fail(ErrSyntax, "properties: %v", err)
	}
	var required []string
	if r, ok := fields["required"]; ok {
		if err := json.Unmarshal(r, &required); err != nil {
			return s.fail(ErrSyntax, "required is not a list of names")
		}
	}
	for _, name := range required {
		if !slices.ContainsFunc(list, func(m member) bool { return m.key == name }) {
			return s.fail(ErrUnsupported, "required property %.40q has no schema", name)
		}
	}
	n := s.n
	props := make([]part, len(list))
	for i, m := range list {
		value := s.within(m.key, func() part { return s.value(m.value) })
		props[i] = sequence(n.literal(compact(m.key)+":"), n.repeat(n.literal(" "), 0, 1), value)
	}
	return func(next int32) int32 {
		// Two lanes, back to front: first has written no property yet, more has.
		first := n.literal("}")(next)
		more := first
		for i := len(list) - 1; i >= 0 && n.err == nil; i-- {
			start := props[i](more)
			again := n.comma()(start)
			if slices.Contains(required, list[i].key) {
				first, more = start, again
			} else {
				first, more = n.choice(start, first), n.choice(again, more)
			}
		}
		return n.literal("{")(first)
	}
}
