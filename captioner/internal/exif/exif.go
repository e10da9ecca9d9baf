// Package exif reads what a camera wrote beside a picture: when, where and with
// what it was taken, and what somebody wrote about it.
package exif

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
)

// Tags of the directories. Source: EXIF 2.3, 4.6.
const (
	tagDescription = 0x010e
	tagMake        = 0x010f
	tagModel       = 0x0110
	tagDate        = 0x0132
	tagArtist      = 0x013b
	tagExif        = 0x8769
	tagGPS         = 0x8825
	tagTaken       = 0x9003 // of the Exif directory
	tagLatitudeRef = 1      // of the GPS directory, as the three that follow it
)

const (
	typeASCII    = 2
	typeLong     = 4
	typeRational = 5
)

// maxText bounds a text, in bytes.
const maxText = 512

// Text describes an EXIF block, a TIFF structure, in a line: "taken 2024-05-01 12:33:05; camera Canon EOS R5;
// place 48.85837 N 2.29448 E; by A. Painter; described as: …". What is missing or
// makes no sense is left out; "" if nothing is left.
func Text(block []byte) string {
	d, ok := open(block)
	if !ok {
		return ""
	}
	var parts []string
	add := func(label, text string) {
		if text != "" {
			parts = append(parts, label+" "+text)
		}
	}
	taken := d.sub(tagExif).text(tagTaken)
	if taken == "" {
		taken = d.text(tagDate)
	}
	add("taken", date(taken))
	maker, model := d.text(tagMake), d.text(tagModel)
	if first, _, _ := strings.Cut(maker, " "); first != "" && strings.HasPrefix(strings.ToLower(model), strings.ToLower(first)) {
		maker = ""
	}
	add("camera", strings.TrimSpace(maker+" "+model))
	add("place", d.sub(tagGPS).place())
	add("by", d.text(tagArtist))
	add("described as:", d.text(tagDescription))
	return strings.Join(parts, "; ")
}

// date writes "2024:05:01 12:33:05" with dashes; "" if it is no date.
func date(s string) string {
	day, clock, _ := strings.Cut(s, " ")
	if len(day) != 10 || strings.Trim(day, "0123456789:") != "" || strings.Trim(day, "0:") == "" {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(day, ":", "-") + " " + clock)
}

// directory is one list of tags in a block.
type directory struct {
	block   []byte
	order   binary.ByteOrder
	entries []byte // 12 bytes each
}

// open finds the first directory of a TIFF structure. Source: TIFF 6.0, section 2.
func open(b []byte) (directory, bool) {
	d := directory{block: b, order: binary.LittleEndian}
	if len(b) < 8 {
		return d, false
	}
	switch string(b[:4]) {
	case "II*\x00":
	case "MM\x00*":
		d.order = binary.BigEndian
	default:
		return d, false
	}
	return d.at(d.order.Uint32(b[4:])), true
}

// at is the directory at an offset; empty if it lies outside the block.
func (d directory) at(offset uint32) directory {
	d.entries = nil
	if at := uint64(offset); at+2 <= uint64(len(d.block)) {
		n := 12 * uint64(d.order.Uint16(d.block[at:]))
		d.entries = d.block[at+2 : min(at+2+n, uint64(len(d.block)))]
	}
	return d
}

// value is the bytes of a tag with that type and at least count values; nil if there is none.
func (d directory) value(tag, kind uint16, count uint32) []byte {
	size := map[uint16]uint64{typeASCII: 1, typeLong: 4, typeRational: 8}[kind]
	for e := d.entries; len(e) >= 12; e = e[12:] {
		n := d.order.Uint32(e[4:])
		if d.order.Uint16(e) != tag || d.order.Uint16(e[2:]) != kind || n < count {
			continue
		}
		bytes := size * uint64(n)
		if bytes <= 4 {
			return e[8 : 8+bytes]
		}
		if at := uint64(d.order.Uint32(e[8:])); at+bytes <= uint64(len(d.block)) {
			return d.block[at : at+bytes]
		}
	}
	return nil
}

// sub is the directory that a tag points to.
func (d directory) sub(tag uint16) directory {
	v := d.value(tag, typeLong, 1)
	if v == nil {
		d.entries = nil
		return d
	}
	return d.at(d.order.Uint32(v))
}

// text is a tag's text on one line.
func (d directory) text(tag uint16) string {
	v := d.value(tag, typeASCII, 1)
	s, _, _ := strings.Cut(string(v[:min(len(v), maxText)]), "\x00")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

// place is the position of a GPS directory.
func (d directory) place() string {
	var out []string
	for i, limit := range []float64{90, 180} {
		tag := uint16(tagLatitudeRef + 2*i)
		ref := d.text(tag)
		v := d.value(tag+1, typeRational, 3)
		if len(ref) != 1 || !strings.Contains([]string{"NS", "EW"}[i], ref) || v == nil {
			return ""
		}
		degrees, unit := 0.0, 1.0
		for k := range 3 {
			num, den := d.order.Uint32(v[8*k:]), d.order.Uint32(v[8*k+4:])
			if den == 0 {
				return ""
			}
			degrees += float64(num) / float64(den) / unit
			unit *= 60
		}
		if degrees > limit {
			return ""
		}
		out = append(out, fmt.Sprintf("%.5f %s", degrees, ref))
	}
	return strings.Join(out, " ")
}
