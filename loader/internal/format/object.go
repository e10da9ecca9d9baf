package format

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Limits of a JSON configuration.
const (
	MaxConfigBytes = 4 << 20
	maxNodes       = 1 << 17
	maxStringBytes = 1 << 20
	maxKeyBytes    = 1 << 10
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

type value struct {
	kind  kind
	truth bool
	num   float64
	text  string // of a number or string
	items []value
	keys  []string // of an object; items holds the values
}

func (v value) String() string {
	switch v.kind {
	case kindBool:
		return fmt.Sprint(v.truth)
	case kindNumber:
		return v.text
	case kindString:
		return Quote(v.text)
	}
	return v.kind.String()
}

type treeParser struct {
	*scanner
	nodes int
}

func (p *treeParser) value(depth int) (value, error) {
	if depth > maxDepth {
		return value{}, p.fail("nested deeper than %d", maxDepth)
	}
	if p.nodes++; p.nodes > maxNodes {
		return value{}, p.fail("more than %d values", maxNodes)
	}
	switch c := p.peek(); {
	case c == '{':
		v := value{kind: kindObject}
		seen := map[string]bool{}
		err := p.object(maxKeyBytes, func(key string) error {
			if seen[key] {
				return &Error{File: p.file, Field: Quote(key), Reason: "duplicate key"}
			}
			seen[key] = true
			item, err := p.value(depth + 1)
			v.keys, v.items = append(v.keys, key), append(v.items, item)
			return err
		})
		return v, err
	case c == '[':
		v := value{kind: kindArray}
		err := p.list('[', ']', func() error {
			item, err := p.value(depth + 1)
			v.items = append(v.items, item)
			return err
		})
		return v, err
	case c == '"':
		text, err := p.str(maxStringBytes)
		return value{kind: kindString, text: text}, err
	case c == '-' || c >= '0' && c <= '9':
		text, f, err := p.number()
		return value{kind: kindNumber, text: text, num: f}, err
	}
	for word, v := range map[string]value{"true": {kind: kindBool, truth: true}, "false": {kind: kindBool}, "null": {}} {
		if strings.HasPrefix(string(p.b[p.i:min(len(p.b), p.i+5)]), word) {
			p.i += len(word)
			return v, nil
		}
	}
	return value{}, p.fail("a JSON value is expected")
}

// Object is a JSON object whose fields are read with a type, a default and
// limits. A field that is missing or null gives the default. Errors of an object
// and of all objects within it collect; Err returns them together.
type Object struct {
	file, path string
	keys       []string
	items      []value
	errs       *[]error
}

// ParseObject reads a JSON file whose value is an object.
func ParseObject(file string, data []byte) (*Object, error) {
	if len(data) > MaxConfigBytes {
		return nil, &Error{File: file, Field: "file size", Reason: "too large", Value: fmt.Sprint(len(data)), Limit: fmt.Sprint(MaxConfigBytes)}
	}
	p := treeParser{scanner: &scanner{file: file, b: data}}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if v.kind != kindObject {
		return nil, &Error{File: file, Reason: "not a JSON object", Value: v.kind.String()}
	}
	return &Object{file: file, keys: v.keys, items: v.items, errs: new([]error)}, nil
}

// Empty is an object without fields, for a file that is not there.
func Empty(file string) *Object { return &Object{file: file, errs: new([]error)} }

// File is the name given to ParseObject.
func (o *Object) File() string { return o.file }

// Errs are the errors recorded so far.
func (o *Object) Errs() []error { return *o.errs }

// Field is the path of a field of o, for an error.
func (o *Object) Field(key string) string { return o.path + key }

// Fail records an error about a field.
func (o *Object) Fail(key, reason, value, limit string) {
	*o.errs = append(*o.errs, &Error{File: o.file, Field: o.path + key, Reason: reason, Value: value, Limit: limit})
}

// Add records any error.
func (o *Object) Add(err error) { *o.errs = append(*o.errs, err) }

func (o *Object) get(key string) (value, bool) {
	if i := slices.Index(o.keys, key); i >= 0 && o.items[i].kind != kindNull {
		return o.items[i], true
	}
	return value{}, false
}

func (o *Object) typed(key string, want kind) (value, bool) {
	v, ok := o.get(key)
	if ok && v.kind != want {
		o.Fail(key, "wrong type", v.String(), want.String())
		return v, false
	}
	return v, ok
}

// Has reports whether the field is there and not null.
func (o *Object) Has(key string) bool { _, ok := o.get(key); return ok }

// Text is a printable form of the field's value for errors; empty if missing.
func (o *Object) Text(key string) string {
	if v, ok := o.get(key); ok {
		return v.String()
	}
	return ""
}

// Keys are the names of the fields, in file order, those that are null too.
func (o *Object) Keys() []string { return o.keys }

// Int reads an integer in [lo,hi].
func (o *Object) Int(key string, def, lo, hi int) int {
	v, ok := o.typed(key, kindNumber)
	if !ok {
		return def
	}
	n, ok := o.integer(key, v, lo, hi)
	if !ok {
		return def
	}
	return n
}

func (o *Object) integer(key string, v value, lo, hi int) (int, bool) {
	if v.num != math.Trunc(v.num) || !(v.num >= float64(lo)) || !(v.num <= float64(hi)) {
		o.Fail(key, "out of range", v.text, fmt.Sprintf("an integer in [%d,%d]", lo, hi))
		return 0, false
	}
	return int(v.num), true
}

// Float reads a number in [lo,hi].
func (o *Object) Float(key string, def, lo, hi float64) float64 {
	v, ok := o.typed(key, kindNumber)
	if !ok {
		return def
	}
	if !(v.num >= lo) || !(v.num <= hi) {
		o.Fail(key, "out of range", v.text, fmt.Sprintf("a number in [%g,%g]", lo, hi))
		return def
	}
	return v.num
}

// Bool reads a boolean.
func (o *Object) Bool(key string, def bool) bool {
	if v, ok := o.typed(key, kindBool); ok {
		return v.truth
	}
	return def
}

// String reads a string of at most limit bytes.
func (o *Object) String(key, def string, limit int) string {
	v, ok := o.typed(key, kindString)
	if !ok {
		return def
	}
	if len(v.text) > limit {
		o.Fail(key, "too long", fmt.Sprintf("%d bytes", len(v.text)), fmt.Sprintf("%d bytes", limit))
		return def
	}
	return v.text
}

// Object reads an object; !ok if it is missing or of another type.
func (o *Object) Object(key string) (*Object, bool) {
	v, ok := o.typed(key, kindObject)
	return &Object{file: o.file, path: o.path + key + ".", keys: v.keys, items: v.items, errs: o.errs}, ok
}

// Ints reads a list of at most limit integers in [lo,hi]; a single number is a list of one.
func (o *Object) Ints(key string, lo, hi, limit int) []int {
	items := o.list(key, kindNumber, limit)
	out := make([]int, 0, len(items))
	for _, v := range items {
		n, ok := o.integer(key, v, lo, hi)
		if !ok {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// Floats reads a list of at most limit numbers in [lo,hi].
func (o *Object) Floats(key string, lo, hi float64, limit int) []float64 {
	items := o.list(key, kindNumber, limit)
	out := make([]float64, 0, len(items))
	for _, v := range items {
		if !(v.num >= lo) || !(v.num <= hi) {
			o.Fail(key, "out of range", v.text, fmt.Sprintf("numbers in [%g,%g]", lo, hi))
			return nil
		}
		out = append(out, v.num)
	}
	return out
}

// Strings reads a list of at most limit strings; a single string is a list of one.
func (o *Object) Strings(key string, limit int) []string {
	items := o.list(key, kindString, limit)
	out := make([]string, 0, len(items))
	for _, v := range items {
		out = append(out, v.text)
	}
	return out
}

func (o *Object) list(key string, item kind, limit int) []value {
	v, ok := o.get(key)
	if !ok {
		return nil
	}
	if v.kind == item {
		return []value{v}
	}
	if v.kind != kindArray {
		o.Fail(key, "wrong type", v.String(), "a list")
		return nil
	}
	if len(v.items) > limit {
		o.Fail(key, "too many entries", fmt.Sprint(len(v.items)), fmt.Sprint(limit))
		return nil
	}
	for _, it := range v.items {
		if it.kind != item {
			o.Fail(key, "wrong type in the list", it.String(), item.String())
			return nil
		}
	}
	return v.items
}

// IsNumber, IsObject and IsList report the type of a field.
func (o *Object) IsNumber(key string) bool { v, ok := o.get(key); return ok && v.kind == kindNumber }

// IsObject reports whether the field is an object.
func (o *Object) IsObject(key string) bool { v, ok := o.get(key); return ok && v.kind == kindObject }

// IsList reports whether the field is a list.
func (o *Object) IsList(key string) bool { v, ok := o.get(key); return ok && v.kind == kindArray }
