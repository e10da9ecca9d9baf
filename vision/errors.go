package vision

import (
	"cmp"
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

// Limits bound what a file may make the decoder do. They are checked against the
// header, before pixel memory is allocated. A zero field means its default.
type Limits struct {
	// Bytes of the encoded file. Default 256 MiB.
	Bytes int64
	// Pixels of one frame, width × height. Default 178,956,970: the size at
	// which Pillow raises DecompressionBombError, so that what the reference
	// opens is opened here too.
	Pixels int64
	// Side is the largest width or height. Default 65,535.
	Side int
	// Aspect is the largest ratio of the longer side to the shorter. Default
	// 10,000: beyond it a file is a scan line, not a picture.
	Aspect float64
	// Frames of an animation that DecodeFrames returns. Default 256. A longer
	// animation is sampled by the caller's choice of frames or refused.
	Frames int
	// FrameBytes is the RGB memory of all frames that DecodeFrames returns.
	// Default 1 GiB.
	FrameBytes int64
}

// The defaults of Limits.
const (
	DefaultBytes      = 256 << 20
	DefaultPixels     = 178_956_970
	DefaultSide       = 65_535
	DefaultAspect     = 10_000
	DefaultFrames     = 256
	DefaultFrameBytes = 1 << 30
)

// withDefaults fills in the zero fields.
func (l Limits) withDefaults() Limits {
	l.Bytes = cmp.Or(l.Bytes, DefaultBytes)
	l.Pixels = cmp.Or(l.Pixels, DefaultPixels)
	l.Side = cmp.Or(l.Side, DefaultSide)
	l.Aspect = cmp.Or(l.Aspect, DefaultAspect)
	l.Frames = cmp.Or(l.Frames, DefaultFrames)
	l.FrameBytes = cmp.Or(l.FrameBytes, DefaultFrameBytes)
	return l
}

// checkSize compares the size that a header states with the limits; l has its defaults.
func (l Limits) checkSize(format string, width, height int64) error {
	over := func(quantity string, value, limit float64) error {
		return &ImageError{Format: format, Kind: ErrLimit, Quantity: quantity, Value: value, Limit: limit}
	}
	if width < 1 || height < 1 {
		return corrupt(format, "size %d×%d", width, height)
	}
	long, short := float64(max(width, height)), float64(min(width, height))
	switch {
	case width > int64(l.Side):
		return over("width", float64(width), float64(l.Side))
	case height > int64(l.Side):
		return over("height", float64(height), float64(l.Side))
	case width*height > l.Pixels:
		return over("pixels", float64(width*height), float64(l.Pixels))
	case long/short > l.Aspect:
		return over("aspect ratio", long/short, l.Aspect)
	}
	return nil
}
