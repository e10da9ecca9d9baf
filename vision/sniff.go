package vision

import (
	"bytes"
	"encoding/binary"
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

// EXIF returns the EXIF block of an encoded picture, a TIFF structure that starts
// with its byte order; nil if there is none. It is not checked, and shares data.
func EXIF(data []byte) []byte {
	format, _ := Sniff(data)
	return exifOf(format, data)
}

func exifOf(format string, data []byte) []byte {
	switch format {
	case FormatJPEG:
		return jpegEXIF(data)
	case FormatPNG:
		return pngEXIF(data)
	case FormatWebP:
		return webpEXIF(data)
	case FormatTIFF:
		return data
	}
	return nil
}

// orientation finds the EXIF orientation of an encoded picture, 1…8; 1 when there
// is none or it makes no sense.
func orientation(format string, data []byte) int { return tiffOrientation(exifOf(format, data)) }

// tiffOrientation reads tag 0x0112 of the first directory of a TIFF structure, which
// is what an EXIF block is.
func tiffOrientation(b []byte) int {
	if v, ok := tiffTag(b, 0x0112); ok && v >= 1 && v <= 8 {
		return v
	}
	return 1
}

// tiffTag reads a short or long value of the first directory of a TIFF structure.
// Source: TIFF 6.0, section 2.
func tiffTag(b []byte, tag uint16) (int, bool) {
	const short, long = 3, 4
	if len(b) < 8 {
		return 0, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch string(b[:4]) {
	case "II*\x00":
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 0, false
	}
	at := uint64(order.Uint32(b[4:]))
	if at+2 > uint64(len(b)) {
		return 0, false
	}
	entries := int(order.Uint16(b[at:]))
	for b = b[at+2:]; entries > 0 && len(b) >= 12; entries, b = entries-1, b[12:] {
		if order.Uint16(b) != tag || order.Uint32(b[4:]) != 1 {
			continue
		}
		switch order.Uint16(b[2:]) {
		case short:
			return int(order.Uint16(b[8:])), true
		case long:
			return int(order.Uint32(b[8:])), true
		}
	}
	return 0, false
}

// jpegEXIF returns the TIFF structure of the first APP1 Exif segment before the
// first scan. Source: JPEG B.1.1; EXIF 2.3, 4.5.4.
func jpegEXIF(b []byte) []byte {
	b = b[min(2, len(b)):]
	for len(b) >= 4 && b[0] == 0xff {
		marker := b[1]
		if marker == 0xff { // fill byte
			b = b[1:]
			continue
		}
		if marker == 0x01 || marker >= 0xd0 && marker <= 0xd8 { // markers without a length
			b = b[2:]
			continue
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if marker == 0xda || marker == 0xd9 || n < 2 || 2+n > len(b) {
			return nil
		}
		segment := b[4 : 2+n]
		if marker == 0xe1 && bytes.HasPrefix(segment, []byte("Exif\x00\x00")) {
			return segment[6:]
		}
		b = b[2+n:]
	}
	return nil
}

// pngEXIF returns the body of the eXIf chunk. Source: PNG 3rd edition, 11.3.4.5.
func pngEXIF(b []byte) []byte {
	b = b[min(8, len(b)):]
	for len(b) >= 12 {
		n := uint64(binary.BigEndian.Uint32(b))
		if n+12 > uint64(len(b)) {
			return nil
		}
		if string(b[4:8]) == "eXIf" {
			return b[8 : 8+n]
		}
		b = b[12+n:]
	}
	return nil
}

// webpEXIF returns the body of the EXIF chunk, without the "Exif" prefix that some
// writers add. Source: WebP container specification.
func webpEXIF(b []byte) []byte {
	b = b[min(12, len(b)):]
	for len(b) >= 8 {
		n := uint64(binary.LittleEndian.Uint32(b[4:]))
		if n+8 > uint64(len(b)) {
			return nil
		}
		if string(b[:4]) == "EXIF" {
			return bytes.TrimPrefix(b[8:8+n], []byte("Exif\x00\x00"))
		}
		b = b[min(8+n+n&1, uint64(len(b))):]
	}
	return nil
}
