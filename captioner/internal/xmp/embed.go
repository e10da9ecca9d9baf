package xmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// Embed returns a copy of an encoded picture whose metadata says p. The file's
// other bytes are kept. ErrUnsupported unless it is a JPEG, PNG or WebP file.
func Embed(file []byte, p Properties) ([]byte, error) {
	c, err := open(file)
	if err != nil {
		return nil, err
	}
	packet := New(p)
	if c.packet != nil {
		if packet, err = Merge(c.packet, p); err != nil {
			return nil, err
		}
	}
	return c.with(packet)
}

// Packet returns the XMP packet of an encoded picture; nil if it has none.
func Packet(file []byte) ([]byte, error) {
	c, err := open(file)
	if err != nil {
		return nil, err
	}
	return c.packet, nil
}

// container is a picture file, taken apart where its packet lies.
type container struct {
	packet []byte                              // nil = none
	with   func(packet []byte) ([]byte, error) // the file with another packet
}

func open(file []byte) (*container, error) {
	switch {
	case bytes.HasPrefix(file, []byte("\xff\xd8\xff")):
		return openJPEG(file)
	case bytes.HasPrefix(file, []byte(pngMagic)):
		return openPNG(file)
	case len(file) >= 12 && string(file[:4]) == "RIFF" && string(file[8:12]) == "WEBP":
		return openWebP(file)
	}
	return nil, ErrUnsupported
}

// jpegName leads the APP1 segment of a packet.
const jpegName = "http://ns.adobe.com/xap/1.0/\x00"

// openJPEG finds the APP1 segment with the packet. A new one goes behind the APP0
// and APP1 segments that open the file: readers expect JFIF and EXIF first.
func openJPEG(file []byte) (*container, error) {
	start, end, at := 0, 0, 2
	var packet []byte
	for pos := 2; ; {
		if pos+4 > len(file) || file[pos] != 0xFF {
			return nil, fmt.Errorf("xmp: jpeg: no segment at byte %d", pos)
		}
		marker := file[pos+1]
		if marker == 0xFF { // a fill byte
			pos++
			continue
		}
		if marker == 0xDA || marker == 0xD9 || marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC {
			break // the frame or the scan: metadata comes before
		}
		size := int(binary.BigEndian.Uint16(file[pos+2:]))
		if size < 2 || pos+2+size > len(file) {
			return nil, fmt.Errorf("xmp: jpeg: segment of %d bytes at byte %d of %d", size, pos, len(file))
		}
		body, next := file[pos+4:pos+2+size], pos+2+size
		if marker == 0xE1 && bytes.HasPrefix(body, []byte(jpegName)) && packet == nil {
			packet, start, end = body[len(jpegName):], pos, next
		}
		if (marker == 0xE0 || marker == 0xE1) && at == pos {
			at = next
		}
		pos = next
	}
	if packet == nil {
		start, end = at, at
	}
	return &container{packet, func(packet []byte) ([]byte, error) {
		size := 2 + len(jpegName) + len(packet)
		if size > 0xFFFF {
			return nil, fmt.Errorf("xmp: jpeg: a packet of %d bytes exceeds the limit of %d", len(packet), 0xFFFF-2-len(jpegName))
		}
		segment := append([]byte{0xFF, 0xE1, byte(size >> 8), byte(size)}, jpegName...)
		return slices.Concat(file[:start], segment, packet, file[end:]), nil
	}}, nil
}

const (
	pngMagic = "\x89PNG\r\n\x1a\n"
	// pngName is the keyword of the packet's iTXt chunk, uncompressed, without
	// language and translated keyword.
	pngName = "XML:com.adobe.xmp\x00\x00\x00\x00\x00"
)

// openPNG finds the iTXt chunk with the packet. A new one goes behind IHDR, where
// every reader accepts it.
func openPNG(file []byte) (*container, error) {
	start, end := 0, 0
	var packet []byte
	for pos := len(pngMagic); ; {
		if pos+12 > len(file) {
			return nil, fmt.Errorf("xmp: png: no chunk at byte %d of %d", pos, len(file))
		}
		size, name := int64(binary.BigEndian.Uint32(file[pos:])), string(file[pos+4:pos+8])
		next := int64(pos) + 12 + size
		if next > int64(len(file)) {
			return nil, fmt.Errorf("xmp: png: chunk of %d bytes at byte %d of %d", size, pos, len(file))
		}
		body := file[pos+8 : next-4]
		if name == "IHDR" && start == 0 {
			start, end = int(next), int(next)
		}
		if name == "iTXt" && bytes.HasPrefix(body, []byte("XML:com.adobe.xmp\x00")) && packet == nil {
			if !bytes.HasPrefix(body, []byte(pngName)) || size > maxPacket {
				return nil, errors.New("xmp: png: the file has a compressed packet, which metacap does not change")
			}
			packet, start, end = body[len(pngName):], pos, int(next)
		}
		if name == "IEND" {
			break
		}
		pos = int(next)
	}
	if start == 0 {
		return nil, errors.New("xmp: png: no IHDR chunk")
	}
	return &container{packet, func(packet []byte) ([]byte, error) {
		chunk := binary.BigEndian.AppendUint32(nil, uint32(len(pngName)+len(packet)))
		chunk = append(append(append(chunk, "iTXt"...), pngName...), packet...)
		chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
		return slices.Concat(file[:start], chunk, file[end:]), nil
	}}, nil
}

// Flags of a VP8X chunk.
const (
	webpXMP   = 0x04
	webpAlpha = 0x10
)

// riffChunk is a chunk of a WebP file, padding included.
type riffChunk struct {
	name string
	body []byte // without padding
	raw  []byte
}

// openWebP takes the file into chunks. The packet is the last of them, announced
// by a flag in VP8X, which is made for files that have none.
func openWebP(file []byte) (*container, error) {
	total := int64(binary.LittleEndian.Uint32(file[4:])) + 8
	if total > int64(len(file)) || total < 12 {
		return nil, fmt.Errorf("xmp: webp: %d bytes announced, %d there", total, len(file))
	}
	var chunks []riffChunk
	var packet []byte
	for rest := file[12:total]; len(rest) > 0; {
		if len(rest) < 8 {
			return nil, errors.New("xmp: webp: half a chunk at the end")
		}
		size := int64(binary.LittleEndian.Uint32(rest[4:]))
		whole := min(8+size+size&1, int64(len(rest))) // some writers leave out the last padding
		if 8+size > int64(len(rest)) {
			return nil, fmt.Errorf("xmp: webp: chunk of %d bytes, %d left", size, len(rest)-8)
		}
		c := riffChunk{string(rest[:4]), rest[8 : 8+size], rest[:whole]}
		if c.name == "XMP " && packet == nil {
			packet = c.body
		}
		chunks, rest = append(chunks, c), rest[whole:]
	}
	head, err := webpHead(chunks)
	if err != nil {
		return nil, err
	}
	return &container{packet, func(packet []byte) ([]byte, error) {
		out := append([]byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00"), head...)
		out[20] |= webpXMP
		for _, c := range chunks {
			if c.name == "VP8X" || c.name == "XMP " {
				continue
			}
			if out = append(out, c.raw...); len(c.raw)%2 == 1 {
				out = append(out, 0)
			}
		}
		out = append(binary.LittleEndian.AppendUint32(append(out, "XMP "...), uint32(len(packet))), packet...)
		if len(packet)%2 == 1 {
			out = append(out, 0)
		}
		binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
		return append(out, file[total:]...), nil
	}}, nil
}

// webpHead is the body of the VP8X chunk that a file has, or should have: flags,
// then width and height less one in 24 bits each.
func webpHead(chunks []riffChunk) ([]byte, error) {
	if len(chunks) == 0 {
		return nil, errors.New("xmp: webp: no chunks")
	}
	b := chunks[0].body
	head := make([]byte, 10)
	put := func(width, height uint32) {
		width, height = width-1, height-1
		copy(head[4:], []byte{byte(width), byte(width >> 8), byte(width >> 16), byte(height), byte(height >> 8), byte(height >> 16)})
	}
	switch name := chunks[0].name; {
	case name == "VP8X" && len(b) >= 10:
		return slices.Clone(b[:10]), nil
	case name == "VP8 " && len(b) >= 10 && bytes.Equal(b[3:6], []byte{0x9d, 0x01, 0x2a}):
		put(uint32(binary.LittleEndian.Uint16(b[6:])&0x3FFF), uint32(binary.LittleEndian.Uint16(b[8:])&0x3FFF))
	case name == "VP8L" && len(b) >= 5 && b[0] == 0x2f:
		bits := binary.LittleEndian.Uint32(b[1:])
		put(bits&0x3FFF+1, bits>>14&0x3FFF+1)
		if bits>>28&1 == 1 {
			head[0] = webpAlpha
		}
	default:
		return nil, fmt.Errorf("xmp: webp: opens with a %q chunk of %d bytes", name, len(b))
	}
	return head, nil
}
