package vision

import "cmp"

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
