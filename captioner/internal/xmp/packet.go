package xmp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	rdfSpace  = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
	dcSpace   = "http://purl.org/dc/elements/1.1/"
	iptcSpace = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
)

// New is a packet that says p and nothing else.
func New(p Properties) []byte {
	return []byte("<?xpacket begin=\"\uFEFF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n" +
		"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n <rdf:RDF xmlns:rdf=\"" + rdfSpace + "\">\n" +
		description(p) +
		" </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"w\"?>\n")
}

// description is the rdf:Description of the properties.
func description(p Properties) string {
	var b strings.Builder
	b.WriteString("  <rdf:Description rdf:about=\"\"\n    xmlns:rdf=\"" + rdfSpace + "\"\n    xmlns:dc=\"" + dcSpace + "\"\n    xmlns:Iptc4xmpCore=\"" + iptcSpace + "\">\n")
	lang := func(tag, text string) {
		if text != "" {
			fmt.Fprintf(&b, "   <%s><rdf:Alt><rdf:li xml:lang=\"x-default\">%s</rdf:li></rdf:Alt></%s>\n", tag, escape(text), tag)
		}
	}
	lang("dc:description", p.Description)
	lang("Iptc4xmpCore:AltTextAccessibility", p.Alt)
	if len(p.Subject) > 0 {
		b.WriteString("   <dc:subject><rdf:Bag>")
		for _, t := range p.Subject {
			fmt.Fprintf(&b, "<rdf:li>%s</rdf:li>", escape(t))
		}
		b.WriteString("</rdf:Bag></dc:subject>\n")
	}
	b.WriteString("  </rdf:Description>\n")
	return b.String()
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(strings.Map(xmlRune, s))) // a strings.Builder does not fail
	return b.String()
}

// xmlRune drops characters that XML 1.0 cannot hold.
func xmlRune(r rune) rune {
	if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
		return -1
	}
	return r
}

// part is a property found in a packet.
type part struct {
	start, end int64 // of the element, in bytes
	items      []string
}

// found is what a packet says of our properties, and where.
type found struct {
	parts map[string]*part // by the fields of Properties
	end   int64            // where </rdf:RDF> starts
}

var ours = map[xml.Name]string{
	{Space: dcSpace, Local: "description"}:            "Description",
	{Space: iptcSpace, Local: "AltTextAccessibility"}: "Alt",
	{Space: dcSpace, Local: "subject"}:                "Subject",
}

// read finds our properties in a packet. Only elements are looked for, directly in
// an rdf:Description: the standard allows arrays no other form.
func read(packet []byte) (*found, error) {
	d := xml.NewDecoder(bytes.NewReader(packet))
	d.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("xmp: the packet is in %s, not UTF-8", charset)
	}
	f := &found{parts: map[string]*part{}, end: -1}
	var path []xml.Name
	var now *part // the property that the decoder is in
	depth := 0    // of now
	for {
		start := d.InputOffset()
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("xmp: %w", err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			path = append(path, e.Name)
			if name := ours[e.Name]; name != "" && now == nil && len(path) > 2 && path[len(path)-2] == (xml.Name{Space: rdfSpace, Local: "Description"}) {
				now, depth = &part{start: start}, len(path)
				f.parts[name] = now
			} else if now != nil && e.Name == (xml.Name{Space: rdfSpace, Local: "li"}) {
				now.items = append(now.items, "")
			}
		case xml.CharData:
			if now != nil && len(now.items) > 0 && len(path) > depth+1 {
				now.items[len(now.items)-1] += string(e)
			}
		case xml.EndElement:
			if now != nil && len(path) == depth {
				now.end, now = d.InputOffset(), nil
			}
			if e.Name == (xml.Name{Space: rdfSpace, Local: "RDF"}) {
				f.end = start
			}
			path = path[:len(path)-1]
		}
	}
	if f.end < 0 {
		return nil, errors.New("xmp: the packet has no rdf:RDF")
	}
	return f, nil
}

// Description returns the dc:description of a packet; "" if it has none.
func Description(packet []byte) (string, error) {
	f, err := read(packet)
	if err != nil {
		return "", err
	}
	if p := f.parts["Description"]; p != nil && len(p.items) > 0 {
		return p.items[0], nil
	}
	return "", nil
}

// Merge puts properties into a packet in place of the ones of the same names.
// Everything else is kept as it is.
func Merge(packet []byte, p Properties) ([]byte, error) {
	f, err := read(packet)
	if err != nil {
		return nil, err
	}
	if old := f.parts["Subject"]; old != nil && len(p.Subject) > 0 {
		all := slices.Clone(old.items)
		for _, t := range p.Subject {
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
		p.Subject = all
	}
	var cuts []*part
	for name, given := range map[string]bool{"Description": p.Description != "", "Alt": p.Alt != "", "Subject": len(p.Subject) > 0} {
		if old := f.parts[name]; old != nil && given {
			cuts = append(cuts, old)
		}
	}
	slices.SortFunc(cuts, func(a, b *part) int { return int(a.start - b.start) })
	var out []byte
	at := int64(0)
	for _, c := range cuts {
		out = append(out, packet[at:c.start]...)
		at = c.end
	}
	out = append(out, packet[at:f.end]...)
	out = append(out, description(p)...)
	return append(out, packet[f.end:]...), nil
}
