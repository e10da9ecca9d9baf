package vision

import (
	"errors"
	"fmt"
	"strconv"
)

var (
	// ErrNotImage occurs when the bytes are of no known image format.
	ErrNotImage = errors.New("not an image")
	// ErrUnsupported occurs for a valid image that this build cannot decode.
	ErrUnsupported = errors.New("unsupported image")
	// ErrCorrupt occurs when an image is truncated or breaks the rules of its format.
	ErrCorrupt = errors.New("corrupt image")
	// ErrLimit occurs when an image exceeds a limit of [Limits]; it is found
	// from the header, before any pixel memory is allocated.
	ErrLimit = errors.New("image exceeds a limit")
	// ErrRecipe occurs for a tiling recipe or a crop that makes no sense.
	ErrRecipe = errors.New("invalid tiling recipe")
)

// ImageError is a picture that cannot be used. errors.Is finds its Kind, one of
// the sentinels of this package, and errors.As the cause where there is one.
type ImageError struct {
	Name     string  // of the file, as given in Options; may be empty
	Format   string  // "jpeg", "png", … or empty when unknown
	Kind     error   // ErrNotImage, ErrUnsupported, ErrCorrupt or ErrLimit
	Quantity string  // for ErrLimit: "bytes", "pixels", "width", "height", "aspect ratio", "frames", "frame bytes"
	Value    float64 // for ErrLimit: what the file asks for
	Limit    float64 // for ErrLimit: what is allowed
	Err      error   // the cause, or nil
}

func (e *ImageError) Error() string {
	s := "vision: decode"
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.Format != "" {
		s += ": " + e.Format
	}
	if errors.Is(e.Kind, ErrLimit) {
		return fmt.Sprintf("%s: %s %s exceeds the limit of %s", s, e.Quantity, number(e.Value), number(e.Limit))
	}
	s += ": " + e.Kind.Error()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the kind and the cause.
func (e *ImageError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
