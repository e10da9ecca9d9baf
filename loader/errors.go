package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"metacap/loader/internal/format"
)

var (
	// ErrNoCheckpoint occurs when a directory holds no checkpoint: it does not
	// exist, has no config.json, or no safetensors weights.
	ErrNoCheckpoint = errors.New("no checkpoint")
	// ErrUnsupported occurs for a valid checkpoint that asks for something this
	// engine does not have; every *UnsupportedError matches it.
	ErrUnsupported = errors.New("unsupported")
	// ErrClosed occurs when a checkpoint is used after Close.
	ErrClosed = errors.New("checkpoint is closed")
)

// FormatError is a file of a checkpoint that is broken or beyond a limit. It
// names the file, the field (JSON path, tensor or byte), the value and the limit.
type FormatError = format.Error

// UnsupportedError is a valid checkpoint of a family or with a feature that this
// engine does not implement. It matches ErrUnsupported.
type UnsupportedError struct {
	File    string // usually config.json
	Family  string // architecture or model type
	Feature string // config key or name of the feature; empty: the family as a whole
	Value   string // the value of the key
	Have    string // what is supported instead; may be empty
}

func (e *UnsupportedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "loader: %s: ", e.File)
	if e.Feature == "" {
		fmt.Fprintf(&b, "model family %q is not supported", e.Family)
	} else {
		fmt.Fprintf(&b, "%s %s is not supported", e.Feature, e.Value)
	}
	if e.Have != "" {
		fmt.Fprintf(&b, " (have %s)", e.Have)
	}
	return b.String()
}

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// Mismatch is a tensor with another shape or element type than the model needs.
type Mismatch struct {
	Name   string // canonical name
	Stored string // name in the file
	Want   string
	Got    string
}

// WeightsError lists everything that is wrong with the tensors of a checkpoint, sorted by name.
type WeightsError struct {
	Checkpoint string
	Missing    []string   // canonical names
	Misshapen  []Mismatch // shape differs
	WrongType  []Mismatch // element type differs
	Unexpected []string   // inside the model's layers but not part of the configured model
}

// maxListed bounds the names of one kind in the error text; the fields hold all.
const maxListed = 64

func (e *WeightsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "loader: %s: %d tensors missing, %d misshapen, %d of a wrong type, %d unexpected",
		e.Checkpoint, len(e.Missing), len(e.Misshapen), len(e.WrongType), len(e.Unexpected))
	list := func(title string, lines []string) {
		for i, l := range lines {
			if i == maxListed {
				fmt.Fprintf(&b, "\n  %s: and %d more", title, len(lines)-i)
				return
			}
			fmt.Fprintf(&b, "\n  %s: %s", title, l)
		}
	}
	mismatches := func(ms []Mismatch) []string {
		out := make([]string, len(ms))
		for i, m := range ms {
			out[i] = fmt.Sprintf("%s: want %s, got %s", m.Name, m.Want, m.Got)
			if m.Stored != m.Name {
				out[i] += " (stored as " + m.Stored + ")"
			}
		}
		return out
	}
	list("missing", e.Missing)
	list("shape", mismatches(e.Misshapen))
	list("type", mismatches(e.WrongType))
	list("unexpected", e.Unexpected)
	return b.String()
}

func (e *WeightsError) empty() bool {
	return len(e.Missing)+len(e.Misshapen)+len(e.WrongType)+len(e.Unexpected) == 0
}

func (e *WeightsError) sort() {
	byName := func(a, b Mismatch) int { return strings.Compare(a.Name, b.Name) }
	slices.Sort(e.Missing)
	slices.Sort(e.Unexpected)
	slices.SortFunc(e.Misshapen, byName)
	slices.SortFunc(e.WrongType, byName)
}
