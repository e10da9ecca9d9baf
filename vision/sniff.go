package vision

import (
	"bytes"
	"path/filepath"
	"strings"
)

// The formats that Sniff names.
const (
	FormatJPEG = "jpeg"
	FormatPNG  = "png"
	FormatGIF  = "gif"
	FormatWebP = "webp"
	FormatBMP  = "bmp"
	FormatTIFF = "tiff"
	FormatAVIF = "avif"
	FormatHEIC = "heic"
	FormatJXL  = "jxl"
)

// Sniff names the format of an encoded picture by its first bytes, never by a
// file name; ok is false when none fits.
func Sniff(data []byte) (format string, ok bool) {
	has := func(prefix string) bool { return strings.HasPrefix(string(data[:min(len(data), 16)]), prefix) }
	switch {
	case has("\xff\xd8\xff"):
		return FormatJPEG, true
	case has("\x89PNG\r\n\x1a\n"):
		return FormatPNG, true
	case has("GIF87a"), has("GIF89a"):
		return FormatGIF, true
	case has("RIFF") && len(data) >= 12 && string(data[8:12]) == "WEBP":
		return FormatWebP, true
	case has("II*\x00"), has("MM\x00*"), has("II+\x00"), has("MM\x00+"):
		return FormatTIFF, true
	case has("\xff\x0a"), has("\x00\x00\x00\x0cJXL \r\n\x87\n"):
		return FormatJXL, true
	case len(data) >= 12 && string(data[4:8]) == "ftyp":
		return sniffISO(data)
	case has("BM") && len(data) >= 18 && bytes.Contains([]byte("\x0c\x28\x34\x38\x40\x6c\x7c"), data[14:15]) && data[15] == 0:
		return FormatBMP, true
	}
	return "", false
}

// sniffISO tells AVIF from HEIC by the brands of an ISO media file.
func sniffISO(data []byte) (string, bool) {
	size := int(data[0])<<24 | int(data[1])<<16 | int(data[2])<<8 | int(data[3])
	brands := data[8:min(len(data), max(size, 12), 512)]
	for ; len(brands) >= 4; brands = brands[4:] {
		switch string(brands[:4]) {
		case "avif", "avis":
			return FormatAVIF, true
		case "heic", "heix", "hevc", "heim", "heis", "hevm", "hevs":
			return FormatHEIC, true
		}
	}
	return "", false
}

// describe says what bytes that are no picture look like, for the error text.
func describe(data []byte) string {
	head := bytes.TrimLeft(data[:min(len(data), 256)], "\xef\xbb\xbf \t\r\n")
	lower := bytes.ToLower(head)
	switch {
	case len(data) == 0:
		return "the file is empty"
	case bytes.HasPrefix(lower, []byte("<svg")), bytes.Contains(lower, []byte("<svg")):
		return "it is an SVG drawing; render it to PNG first"
	case bytes.HasPrefix(lower, []byte("<!doctype html")), bytes.HasPrefix(lower, []byte("<html")):
		return "it is an HTML page"
	case bytes.HasPrefix(head, []byte("%PDF")):
		return "it is a PDF document"
	case bytes.HasPrefix(data, []byte("\x1f\x8b")), bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return "it is an archive"
	case len(data) >= 12 && string(data[4:8]) == "ftyp":
		return "it is a video or an unknown ISO media file"
	}
	return "the first bytes fit no known format"
}

// extensions lists the file extensions of each format.
var extensions = map[string]string{
	".jpg": FormatJPEG, ".jpeg": FormatJPEG, ".jpe": FormatJPEG, ".jfif": FormatJPEG,
	".png": FormatPNG, ".apng": FormatPNG, ".gif": FormatGIF, ".webp": FormatWebP,
	".bmp": FormatBMP, ".dib": FormatBMP, ".tif": FormatTIFF, ".tiff": FormatTIFF,
	".avif": FormatAVIF, ".heic": FormatHEIC, ".heif": FormatHEIC, ".jxl": FormatJXL,
}

// extensionNote returns a note when the extension of name claims another format.
func extensionNote(name, format string) (string, bool) {
	claimed, ok := extensions[strings.ToLower(filepath.Ext(name))]
	if !ok || claimed == format {
		return "", false
	}
	return "named " + strings.ToLower(filepath.Ext(name)) + " but holds " + format, true
}
