package vision

import (
	"bytes"
	"encoding/binary"
)

// orientation finds the EXIF orientation of an encoded picture, 1…8; 1 when there
// is none or it makes no sense.
func orientation(format string, data []byte) int {
	switch format {
	case FormatJPEG:
		return tiffOrientation(jpegEXIF(data))
	case FormatPNG:
		return tiffOrientation(pngEXIF(data))
	case FormatWebP:
		return tiffOrientation(webpEXIF(data))
	case FormatTIFF:
		return tiffOrientation(data)
	}
	return 1
}

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
