package sink

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"metacap/internal/atomicfile"
)

// Existing says what to do with a sidecar that is there already.
type Existing string

// What may happen to an existing sidecar. Append and Prepend change text
// sidecars; .json and .xmp are replaced under them.
const (
	Skip      Existing = "skip"
	Overwrite Existing = "overwrite"
	Append    Existing = "append"
	Prepend   Existing = "prepend"
	Fail      Existing = "fail"
)

// Formats of sidecars, by name; the name is also the extension.
var sidecarFormats = []string{"txt", "caption", "json", "xmp"}

// IsSidecar reports whether a format is written beside each picture.
func IsSidecar(format string) bool { return slices.Contains(sidecarFormats, format) }

// File is a sidecar that is to be written.
type File struct {
	Path   string `json:"path"`
	Format string `json:"format"`
	Before string `json:"before,omitempty"` // hash of the content found; empty: no file
	After  string `json:"after,omitempty"`  // hash of the content to be
	data   []byte
}

// Render returns the content of a sidecar of r. old is the present content, nil
// if there is none.
func Render(r *Record, format string, keys []string, old []byte, mode Existing) ([]byte, error) {
	switch format {
	case "txt", "caption":
		text := Text(r.Captions, keys)
		was := strings.TrimRight(string(old), "\n")
		switch {
		case was == "":
		case mode == Append:
			text = was + "\n" + text
		case mode == Prepend:
			text += "\n" + was
		}
		return []byte(text + "\n"), nil
	case "json":
		return jsonSidecar(r)
	case "xmp":
		return xmpSidecar(r, keys), nil
	}
	return nil, fmt.Errorf("sink: no sidecar format %q", format)
}

// jsonSidecar is the record under the names that caption editors know.
func jsonSidecar(r *Record) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version  string            `json:"version"`
		Captions map[string]string `json:"captions"`
		Prompts  map[string]string `json:"prompts,omitempty"`
		Tags     map[string]string `json:"tags,omitempty"`
		Flags    []string          `json:"flags,omitempty"`
		SHA256   string            `json:"sha256,omitempty"`
		Meta     Meta              `json:"meta"`
	}{"1.0", r.Captions, r.Meta.Prompts, tagMap(r), r.Flags, r.SHA256, r.Meta})
	return b.Bytes(), err
}

func tagMap(r *Record) map[string]string {
	if len(r.Tags) == 0 {
		return nil
	}
	return map[string]string{"tags": strings.Join(r.Tags, ", ")}
}

// xmpSidecar is an XMP packet with dc:description, the alternative text of the
// IPTC and the tags as dc:subject.
func xmpSidecar(r *Record, keys []string) []byte {
	esc := func(s string) string {
		var b bytes.Buffer
		_ = xml.EscapeText(&b, []byte(strings.Map(xmlRune, s))) // a bytes.Buffer does not fail
		return b.String()
	}
	description, alt := "", r.Captions["alt"]
	for _, k := range keys {
		if k != "tags" && description == "" {
			description = r.Captions[k]
		}
	}
	if alt == "" {
		alt = r.Captions["short"]
	}
	var b strings.Builder
	b.WriteString("<?xpacket begin=\"\uFEFF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n" +
		"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n" +
		"  <rdf:Description rdf:about=\"\"\n    xmlns:dc=\"http://purl.org/dc/elements/1.1/\"\n    xmlns:Iptc4xmpCore=\"http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/\">\n")
	lang := func(tag, text string) {
		if text != "" {
			fmt.Fprintf(&b, "   <%s><rdf:Alt><rdf:li xml:lang=\"x-default\">%s</rdf:li></rdf:Alt></%s>\n", tag, esc(text), tag)
		}
	}
	lang("dc:description", description)
	lang("Iptc4xmpCore:AltTextAccessibility", alt)
	if len(r.Tags) > 0 {
		b.WriteString("   <dc:subject><rdf:Bag>")
		for _, t := range r.Tags {
			fmt.Fprintf(&b, "<rdf:li>%s</rdf:li>", esc(t))
		}
		b.WriteString("</rdf:Bag></dc:subject>\n")
	}
	b.WriteString("  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"w\"?>\n")
	return []byte(b.String())
}

// xmlRune drops characters that XML 1.0 cannot hold.
func xmlRune(r rune) rune {
	if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
		return -1
	}
	return r
}

// Place is where the sidecars of an input lie.
type Place struct {
	Base string // root of the inputs, for the mirror layout
	Out  string // root of a mirror tree; empty = beside the pictures
	Ext  string // extension of the txt format; empty = .txt
}

// Path returns the path of a sidecar. Members of a shard, and rows of a table
// that carry their pictures, have theirs in a directory beside the container.
func (p Place) Path(r *Record, format string) string {
	name := r.Path
	if name == "" {
		member := filepath.FromSlash(r.Member)
		if !filepath.IsLocal(member) {
			member = filepath.Base(member)
		}
		name = filepath.Join(strings.TrimSuffix(r.Within, filepath.Ext(r.Within))+".captions", member)
	} else if r.Kind == "frames" {
		name = filepath.Clean(name) + ".frames"
	}
	if p.Out != "" {
		name = filepath.Join(p.Out, within(p.Base, name))
	}
	ext := "." + format
	if format == "txt" && p.Ext != "" {
		ext = p.Ext
	}
	return strings.TrimSuffix(name, filepath.Ext(name)) + ext
}

// within is name relative to base, never outside it.
func within(base, name string) string {
	abs, err := filepath.Abs(name)
	root, err2 := filepath.Abs(base)
	if err == nil && err2 == nil {
		if rel, err := filepath.Rel(root, abs); err == nil && filepath.IsLocal(rel) {
			return rel
		}
		return strings.TrimLeft(strings.TrimPrefix(abs, filepath.VolumeName(abs)), string(filepath.Separator))
	}
	return filepath.Base(name)
}

// ReadOld returns the present content of a file, ok false if there is none.
func ReadOld(path string) ([]byte, bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}

// Plan renders a sidecar against what is there. Write then makes it so.
func Plan(r *Record, path, format string, keys []string, mode Existing) (File, error) {
	old, ok, err := ReadOld(path)
	if err != nil {
		return File{}, fmt.Errorf("sink: %w", err)
	}
	f := File{Path: path, Format: format}
	if ok {
		f.Before = hash(old)
	}
	if f.data, err = Render(r, format, keys, old, mode); err != nil {
		return File{}, err
	}
	f.After = hash(f.data)
	return f, nil
}

// Write replaces the file, making its directory.
func (f *File) Write() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o777); err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	if err := atomicfile.Write(f.Path, f.data, 0o644); err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	return nil
}

// Settle finishes a write that a crash may have interrupted: nothing is done if
// the file is as planned, it is written if it is as it was before, and it is an
// error if it is neither.
func (f *File) Settle(r *Record, keys []string, mode Existing) error {
	old, ok, err := ReadOld(f.Path)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	now := ""
	if ok {
		now = hash(old)
	}
	switch now {
	case f.After:
		return nil
	case f.Before:
		if f.data, err = Render(r, f.Format, keys, old, mode); err != nil {
			return err
		}
		return f.Write()
	}
	return fmt.Errorf("sink: %s was changed by something else while the job was interrupted", f.Path)
}
