package vision

import (
	"errors"
	"fmt"

	"metacap/vision/internal/jpeg"
)

// Options say how to decode. The zero value is the default recipe with default limits.
type Options struct {
	// Exact selects the reference recipe, Pillow's convert("RGB"): EXIF orientation
	// is ignored (but applied in TIFF files, as Pillow does) and transparency is dropped,
	// not composited.
	Exact bool
	// Limits bound hostile files; zero fields are defaults.
	Limits Limits
	// Name is the file name, for error texts and the note on a wrong extension. Optional.
	Name string
}

// named puts the name of the options into an ImageError.
func (o Options) named(err error) error {
	var e *ImageError
	if errors.As(err, &e) && e.Name == "" {
		e.Name = o.Name
	}
	return err
}

// corrupt returns an ImageError of kind ErrCorrupt.
func corrupt(format, text string, args ...any) error {
	return &ImageError{Format: format, Kind: ErrCorrupt, Err: fmt.Errorf(text, args...)}
}

// unsupported returns an ImageError of kind ErrUnsupported.
func unsupported(format, text string, args ...any) error {
	return &ImageError{Format: format, Kind: ErrUnsupported, Err: fmt.Errorf(text, args...)}
}

// Decode decodes the first frame of an encoded picture. The format is found from
// the bytes. All errors are *ImageError; hostile input never panics.
func Decode(data []byte, opts Options) (*Picture, error) {
	return new(Decoder).Decode(data, opts)
}

// Decoder decodes pictures one after the other and reuses its working memory. The
// zero value is ready. One goroutine at a time.
type Decoder struct {
	jpeg jpeg.Decoder
	// reuse lets the next picture overwrite the pixels of the last one, kept in pix.
	reuse bool
	pix   []uint8
}

// maxKept bounds the pixel memory that a Decoder keeps for the next picture, in bytes.
const maxKept = 64 << 20

// Decode is like the function Decode. The picture belongs to the caller.
func (d *Decoder) Decode(data []byte, opts Options) (*Picture, error) {
	p, err := d.decode(data, opts)
	if err != nil {
		return nil, opts.named(err)
	}
	return p, nil
}

func (d *Decoder) decode(data []byte, opts Options) (p *Picture, err error) {
	limits := opts.Limits.withDefaults()
	format, err := check(data, limits)
	if err != nil {
		return nil, err
	}
	defer rescue(format, &err)
	switch format {
	case FormatJPEG:
		p, err = d.decodeJPEG(data, limits)
	case FormatGIF, FormatWebP:
		p, err = firstFrame(format, data, opts, limits)
	default:
		p, err = decodeStill(format, data, opts, limits)
	}
	if err != nil {
		return nil, err
	}
	p.Orientation = orientation(format, data)
	p.finish(opts)
	return p, nil
}

// check finds the format and compares the length with its limit.
func check(data []byte, limits Limits) (format string, err error) {
	if int64(len(data)) > limits.Bytes {
		return "", &ImageError{Kind: ErrLimit, Quantity: "bytes", Value: float64(len(data)), Limit: float64(limits.Bytes)}
	}
	format, ok := Sniff(data)
	if !ok {
		return "", &ImageError{Kind: ErrNotImage, Err: errors.New(describe(data))}
	}
	return format, nil
}

// rescue turns a panic of a decoder, some of which are third-party code, into an error.
func rescue(format string, err *error) {
	if r := recover(); r != nil {
		*err = corrupt(format, "the decoder failed: %v", r)
	}
}

// finish turns the picture upright, unless exact, and adds the notes.
func (p *Picture) finish(opts Options) {
	if text, ok := extensionNote(opts.Name, p.Format); ok {
		p.note(text)
	}
	if p.Orientation > 1 && opts.Exact && p.Format != FormatTIFF { // Pillow turns TIFF files when it loads them
		p.note(fmt.Sprintf("EXIF orientation %d ignored", p.Orientation))
	} else if p.Orientation > 1 {
		p.orient(p.Orientation)
		p.note(fmt.Sprintf("EXIF orientation %d applied", p.Orientation))
	}
	if p.Frames > 1 {
		p.note(fmt.Sprintf("first of %d frames", p.Frames))
	}
}

func (d *Decoder) decodeJPEG(data []byte, limits Limits) (*Picture, error) {
	h, err := jpeg.ReadHeader(data)
	if err != nil {
		return nil, jpegError(err)
	}
	if err := limits.checkSize(FormatJPEG, int64(h.Width), int64(h.Height)); err != nil {
		return nil, err
	}
	p := &Picture{Width: h.Width, Height: h.Height, Format: FormatJPEG, Mode: h.Mode, Frames: 1}
	if p.Pix, err = d.jpeg.Decode(data, d.pix); err != nil {
		return nil, jpegError(err)
	}
	if d.reuse && len(p.Pix) <= maxKept {
		d.pix = p.Pix
	}
	return p, nil
}

func jpegError(err error) error {
	if errors.Is(err, jpeg.ErrUnsupported) {
		return unsupported(FormatJPEG, "%w", err)
	}
	return corrupt(FormatJPEG, "%w", err)
}
