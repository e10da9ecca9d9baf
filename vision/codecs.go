package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"

	"metacap/vision/internal/anim"
	"metacap/vision/internal/apng"
	"metacap/vision/internal/gif"
	"metacap/vision/internal/jpeg"
	"metacap/vision/internal/webp"
)

// codec decodes a still format.
type codec struct {
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	// room reports whether the file is long enough for a picture of pixels; it keeps a
	// short file from claiming much memory.
	room func(data []byte, pixels int64) bool
}

var codecs = map[string]codec{
	// Deflate expands at most 1032 times; the smallest sample is one bit.
	FormatPNG:  {png.DecodeConfig, png.Decode, func(data []byte, n int64) bool { return n/8 <= 1032*int64(len(data)) }},
	FormatBMP:  {bmp.DecodeConfig, bmp.Decode, func(data []byte, n int64) bool { return n/8 <= int64(len(data)) }},
	FormatTIFF: {tiff.DecodeConfig, tiff.Decode, tiffRoom},
}

// tiffRoom allows 1 bit a pixel at the ratio of LZW, the highest of the compressions,
// except for the fax codes, which can spend one bit on a row.
func tiffRoom(data []byte, pixels int64) bool {
	if tiffFax(data) {
		return pixels/8 <= 1<<16*int64(len(data))
	}
	return pixels/8 <= 4096*int64(len(data))
}

// decodeStill checks the header of a still format, then decodes.
func decodeStill(format string, data []byte, opts Options, limits Limits) (*Picture, error) {
	c, ok := codecs[format]
	if !ok {
		return nil, unsupported(format, "this build has no %s decoder", format)
	}
	cfg, err := c.config(bytes.NewReader(data))
	if err != nil {
		return nil, stillError(format, err)
	}
	if err := limits.checkSize(format, int64(cfg.Width), int64(cfg.Height)); err != nil {
		return nil, err
	}
	if c.room != nil && !c.room(data, int64(cfg.Width)*int64(cfg.Height)) {
		return nil, corrupt(format, "%d bytes cannot hold %d×%d pixels", len(data), cfg.Width, cfg.Height)
	}
	img, err := c.decode(bytes.NewReader(data))
	if err != nil {
		return nil, stillError(format, err)
	}
	if img.Bounds().Dx() != cfg.Width || img.Bounds().Dy() != cfg.Height {
		return nil, corrupt(format, "decoder gave %v for a header of %d×%d", img.Bounds(), cfg.Width, cfg.Height)
	}
	p := &Picture{Width: cfg.Width, Height: cfg.Height, Format: format, Frames: 1}
	switch format {
	case FormatPNG:
		p.Frames = apng.Frames(data)
	case FormatTIFF:
		fixFax(data, img)
	}
	p.Pix = make([]uint8, 3*p.Width*p.Height)
	p.paint(img, opts.Exact)
	return p, nil
}

// fixFax inverts a fax-coded picture in which black is zero: the decoder reads all of
// them as if white were zero.
func fixFax(data []byte, img image.Image) {
	const photometric, blackIsZero = 262, 1
	v, _ := tiffTag(data, photometric)
	if g, ok := img.(*image.Gray); ok && tiffFax(data) && v == blackIsZero {
		for i := range g.Pix {
			g.Pix[i] = ^g.Pix[i]
		}
	}
}

// tiffFax reports whether the picture is compressed with one of the fax codes.
func tiffFax(data []byte) bool {
	const compression = 259
	c, ok := tiffTag(data, compression)
	return ok && c >= 2 && c <= 4
}

// stillError sorts an error of the standard decoders into corrupt and unsupported.
func stillError(format string, err error) error {
	var a png.UnsupportedError
	var b tiff.UnsupportedError
	if errors.As(err, &a) || errors.As(err, &b) || errors.Is(err, bmp.ErrUnsupported) {
		return unsupported(format, "%w", err)
	}
	return corrupt(format, "%w", err)
}

// openReel opens a format that may hold several frames.
func openReel(format string, data []byte) (anim.Reader, error) {
	var r anim.Reader
	var err error
	switch format {
	case FormatGIF:
		r, err = gif.Open(data)
	case FormatWebP:
		r, err = webp.Open(data)
	case FormatPNG:
		r, err = apng.Open(data)
	default:
		return nil, unsupported(format, "no animation")
	}
	if err != nil {
		return nil, corrupt(format, "%w", err)
	}
	return r, nil
}

// firstFrame decodes the first frame of a GIF or WebP file.
func firstFrame(format string, data []byte, opts Options, limits Limits) (*Picture, error) {
	r, canvas, err := startReel(format, data, opts, limits)
	if err != nil {
		return nil, err
	}
	patch, err := r.Next()
	if err != nil {
		return nil, corrupt(format, "%w", err)
	}
	canvas.Draw(patch)
	return snapshot(canvas, format, r.Info(), opts), nil
}

// startReel opens an animated format, checks its size and prepares the canvas.
func startReel(format string, data []byte, opts Options, limits Limits) (anim.Reader, *anim.Canvas, error) {
	r, err := openReel(format, data)
	if err != nil {
		return nil, nil, err
	}
	info := r.Info()
	if err := limits.checkSize(format, int64(info.Width), int64(info.Height)); err != nil {
		return nil, nil, err
	}
	var fill [3]uint8
	if g, ok := r.(*gif.Reader); ok {
		// A code of 12 bits stands for at most 4096 pixels.
		if int64(info.Width)*int64(info.Height) > 4096*int64(len(data)) {
			return nil, nil, corrupt(format, "%d bytes cannot hold %d×%d pixels", len(data), info.Width, info.Height)
		}
		if opts.Exact {
			fill = g.Fill()
		}
	}
	return r, anim.NewCanvas(info.Width, info.Height, fill), nil
}

// snapshot makes a picture of what the canvas shows.
func snapshot(c *anim.Canvas, format string, info anim.Info, opts Options) *Picture {
	p := &Picture{Width: c.Width, Height: c.Height, Format: format, Frames: info.Frames, Orientation: 1}
	p.Pix = make([]uint8, 3*p.Width*p.Height)
	p.paint(&image.NRGBA{Pix: c.Pix, Stride: 4 * c.Width, Rect: image.Rect(0, 0, c.Width, c.Height)}, opts.Exact)
	p.Mode = info.Mode
	return p
}

// Info is what Probe finds in a header.
type Info struct {
	Format        string
	Width, Height int    // pixels as stored, before orientation
	Mode          string // colour mode where the header says it
	Orientation   int    // EXIF, 1…8
	Frames        int
}

// Upright is the size after the EXIF orientation.
func (i Info) Upright() (width, height int) {
	if i.Orientation >= 5 {
		return i.Height, i.Width
	}
	return i.Width, i.Height
}

// Probe reads the header of a picture and checks it against the limits, without
// decoding pixels. A file that Probe accepts may still be damaged.
func Probe(data []byte, opts Options) (info Info, err error) {
	info, err = probe(data, opts.Limits.withDefaults())
	return info, opts.named(err)
}

func probe(data []byte, limits Limits) (info Info, err error) {
	format, err := check(data, limits)
	if err != nil {
		return info, err
	}
	defer rescue(format, &err)
	info = Info{Format: format, Orientation: orientation(format, data), Frames: 1}
	switch format {
	case FormatJPEG:
		h, err := jpeg.ReadHeader(data)
		if err != nil {
			return info, jpegError(err)
		}
		info.Width, info.Height, info.Mode = h.Width, h.Height, h.Mode
	case FormatGIF, FormatWebP:
		r, err := openReel(format, data)
		if err != nil {
			return info, err
		}
		a := r.Info()
		info.Width, info.Height, info.Mode, info.Frames = a.Width, a.Height, a.Mode, a.Frames
	default:
		c, ok := codecs[format]
		if !ok {
			return info, unsupported(format, "this build has no %s decoder", format)
		}
		cfg, err := c.config(bytes.NewReader(data))
		if err != nil {
			return info, stillError(format, err)
		}
		info.Width, info.Height = cfg.Width, cfg.Height
		if format == FormatPNG {
			info.Mode, info.Frames = pngMode(data), apng.Frames(data)
		}
	}
	return info, limits.checkSize(format, int64(info.Width), int64(info.Height))
}

// pngMode names depth and colour type. Source: PNG 11.2.1.
func pngMode(data []byte) string {
	if len(data) < 26 {
		return ""
	}
	names := map[byte]string{0: "gray", 2: "rgb", 3: "palette", 4: "graya", 6: "rgba"}
	return fmt.Sprintf("%s%d", names[data[25]], data[24])
}
