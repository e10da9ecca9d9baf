// Package format parses the small untrusted files of a checkpoint: safetensors
// headers, the shard index and JSON configurations.
//
// Every parser has a cap on its input, on counts, on nesting and on lengths; a
// number is checked before it is used as a size; every error is an [*Error] that
// names file, field, value and limit. Nothing here panics on any input, and
// memory stays proportional to the input.
package format

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Error is a file that breaks its format or a limit.
type Error struct {
	File   string // name within the checkpoint
	Field  string // JSON path, tensor name or byte offset; may be empty
	Value  string // the offending value; may be empty
	Limit  string // what is allowed; may be empty
	Reason string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("loader: ")
	b.WriteString(e.File)
	if e.Field != "" {
		b.WriteString(": ")
		b.WriteString(e.Field)
	}
	b.WriteString(": ")
	b.WriteString(e.Reason)
	if e.Value != "" {
		b.WriteString(", got ")
		b.WriteString(e.Value)
	}
	if e.Limit != "" {
		b.WriteString(", limit ")
		b.WriteString(e.Limit)
	}
	return b.String()
}

// Quote returns s quoted and shortened for an error text.
func Quote(s string) string {
	const limit = 80
	if len(s) <= limit {
		return fmt.Sprintf("%q", s)
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:cut], len(s))
}
