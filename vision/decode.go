package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image/gif"
	"image/png"
	"io"

	"image"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	"metacap/vision/internal/jpeg"
)

// Options say how to decode. The zero value is the default recipe with default limits.
type Options struct {
	// Exact selects the reference recipe, Pillow's convert("RGB"): EXIF orientation
	// is ignored and transparency is dropped, not composited.
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
}

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
	if int64(len(data)) > limits.Bytes {
		return nil, &ImageError{Kind: ErrLimit, Quantity: "bytes", Value: float64(len(data)), Limit: float64(limits.Bytes)}
	}
	format, ok := Sniff(data)
	if !ok {
		return nil, &ImageError{Kind: ErrNotImage, Err: errors.New(describe(data))}
	}
	defer func() { // third-party decoders meet hostile bytes here
		if r := recover(); r != nil {
			p, err = nil, corrupt(format, "the decoder failed: %v", r)
		}
	}()
	if codec, ok := codecs[format]; ok {
		p, err = decodeWith(codec, format, data, opts, limits)
	} else if format == FormatJPEG {
		p, err = d.decodeJPEG(data, limits)
	} else {
		err = unsupported(format, "this build has no %s decoder", format)
	}
	if err != nil {
		return nil, err
	}
	if text, ok := extensionNote(opts.Name, format); ok {
		p.note(text)
	}
	if p.Orientation > 1 {
		if opts.Exact {
			p.note(fmt.Sprintf("EXIF orientation %d ignored", p.Orientation))
		} else {
			p.orient(p.Orientation)
			p.note(fmt.Sprintf("EXIF orientation %d applied", p.Orientation))
		}
	}
	return p, nil
}

// codec is a decoder of one format.
type codec struct {
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

var codecs = map[string]codec{
	FormatPNG:  {png.DecodeConfig, png.Decode},
	FormatGIF:  {gif.DecodeConfig, gif.Decode},
	FormatWebP: {webp.DecodeConfig, webp.Decode},
	FormatBMP:  {bmp.DecodeConfig, bmp.Decode},
	FormatTIFF: {tiff.DecodeConfig, tiff.Decode},
}

// decodeWith checks the limits against the header, then decodes.
func decodeWith(c codec, format string, data []byte, opts Options, limits Limits) (*Picture, error) {
	cfg, err := c.config(bytes.NewReader(data))
	if err != nil {
		return nil, corrupt(format, "%w", err)
	}
	if err := limits.checkSize(format, int64(cfg.Width), int64(cfg.Height)); err != nil {
		return nil, err
	}
	img, err := c.decode(bytes.NewReader(data))
	if err != nil {
		return nil, corrupt(format, "%w", err)
	}
	p := &Picture{Width: cfg.Width, Height: cfg.Height, Format: format, Orientation: orientation(format, data), Frames: 1}
	p.Pix = make([]uint8, 3*p.Width*p.Height)
	p.paint(img, opts.Exact)
	return p, nil
}

func (d *Decoder) decodeJPEG(data []byte, limits Limits) (*Picture, error) {
	h, err := jpeg.ReadHeader(data)
	if err != nil {
		return nil, jpegError(err)
	}
	if err := limits.checkSize(FormatJPEG, int64(h.Width), int64(h.Height)); err != nil {
		return nil, err
	}
	p := &Picture{Width: h.Width, Height: h.Height, Format: FormatJPEG, Mode: h.Mode, Orientation: orientation(FormatJPEG, data), Frames: 1}
	p.Pix = make([]uint8, 3*p.Width*p.Height)
	if err := d.jpeg.Decode(p.Pix, data); err != nil {
		return nil, jpegError(err)
	}
	return p, nil
}

func jpegError(err error) error {
	if errors.Is(err, jpeg.ErrUnsupported) {
		return unsupported(FormatJPEG, "%w", err)
	}
	return corrupt(FormatJPEG, "%w", err)
}
