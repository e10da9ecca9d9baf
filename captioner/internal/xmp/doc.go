// Package xmp writes captions into pictures: it makes an XMP packet, or changes
// the one that a JPEG, PNG or WebP file holds, and puts it into the file's own
// metadata. What else the packet and the file hold is kept byte for byte, so the
// pixels cannot change.
package xmp

import "errors"

// ErrUnsupported occurs for a file format that this package cannot write XMP into.
var ErrUnsupported = errors.New("this format has no place for XMP that metacap writes")

// Properties are what a packet says of a picture. Empty ones are left as they are.
type Properties struct {
	Description string   // dc:description
	Alt         string   // Iptc4xmpCore:AltTextAccessibility
	Subject     []string // dc:subject; added to those that are there
}

// maxPacket bounds a packet that is read, in bytes.
const maxPacket = 8 << 20
