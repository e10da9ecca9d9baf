// Package grammartest makes random JSON schemas of the subset that package grammar
// has, and validates values by a second, plain reading of the standard. It is for tests.
package grammartest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"unicode/utf8"
)

// Schema returns a random schema of the subset, at most depth levels deep.
func Schema(rng *rand.Rand, depth int) map[string]any {
	kinds := []string{"string", "bounded", "pattern", "integer", "number", "boolean", "null", "enum", "const", "types", "object", "array", "anyOf"}
	if depth == 0 {
		kinds = kinds[:10]
	}
	switch kind := kinds[rng.IntN(len(kinds))]; kind {
	case "bounded":
		least := rng.IntN(4)
		return map[string]any{"type": "string", "minLength": least, "maxLength": least + rng.IntN(20), "title": "x"}
	case "pattern":
		list := []string{`^[a-z]{2,5}$`, `\d+-\d+`, `^(red|green|blue) "x"\\?$`, `^\p{Lu}é?`, `[\x00-\x1f]{2}`, `^.{3}$`, `(?i)^straße$`}
		return map[string]any{"type": "string", "pattern": list[rng.IntN(len(list))]}
	case "enum":
		return map[string]any{"enum": []any{"a", "a\"b\\", "ü<&>", 3, -1.5, nil, true, []any{1, "x"}, map[string]any{"k": 1}}[rng.IntN(4):]}
	case "const":
		return map[string]any{"const": fmt.Sprint("label ", rng.IntN(100))}
	case "types":
		return map[string]any{"type": []string{"integer", "null", "boolean"}}
	case "object":
		props := map[string]any{}
		var required []string
		for i := range rng.IntN(5) {
			name := fmt.Sprintf("p%d\"é", i)
			props[name] = Schema(rng, depth-1)
			if rng.IntN(2) == 0 {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
	case "array":
		least := rng.IntN(3)
		m := map[string]any{"type": "array", "items": Schema(rng, depth-1), "minItems": least}
		if rng.IntN(2) == 0 {
			m["maxItems"] = least + rng.IntN(4)
		}
		return m
	case "anyOf":
		return map[string]any{"anyOf": []any{Schema(rng, depth-1), Schema(rng, depth-1)}}
	default:
		return map[string]any{"type": kind}
	}
}

// Valid checks a decoded value against a decoded schema of the subset.
func Valid(schema map[string]any, x any) bool {
	if c, ok := schema["const"]; ok {
		return same(c, x)
	}
	if e, ok := schema["enum"].([]any); ok {
		return slices.ContainsFunc(e, func(v any) bool { return same(v, x) })
	}
	if a, ok := schema["anyOf"].([]any); ok {
		return slices.ContainsFunc(a, func(v any) bool { return Valid(v.(map[string]any), x) })
	}
	types, ok := schema["type"].([]any)
	if !ok {
		types = []any{schema["type"]}
	}
	for _, t := range types {
		switch v := x.(type) {
		case nil:
			if t == "null" {
				return true
			}
		case bool:
			if t == "boolean" {
				return true
			}
		case float64:
			if t == "number" || t == "integer" && v == float64(int64(v)) {
				return true
			}
		case string:
			n := float64(utf8.RuneCountInString(v))
			least, _ := schema["minLength"].(float64)
			most, bounded := schema["maxLength"].(float64)
			pattern, _ := schema["pattern"].(string)
			if t == "string" && n >= least && (!bounded || n <= most) && regexp.MustCompile(pattern).MatchString(v) {
				return true
			}
		case []any:
			n := float64(len(v))
			least, _ := schema["minItems"].(float64)
			most, bounded := schema["maxItems"].(float64)
			if t != "array" || n < least || bounded && n > most {
				continue
			}
			if !slices.ContainsFunc(v, func(e any) bool { return !Valid(schema["items"].(map[string]any), e) }) {
				return true
			}
		case map[string]any:
			if t == "object" && validObject(schema, v) {
				return true
			}
		}
	}
	return false
}

func validObject(schema, v map[string]any) bool {
	props := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return false
		}
	}
	for name, e := range v {
		p, ok := props[name]
		if !ok || !Valid(p.(map[string]any), e) {
			return false
		}
	}
	return true
}

func same(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}
