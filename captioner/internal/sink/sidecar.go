package sink

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"metacap/captioner/internal/xmp"
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

// Embed is the format of a File that is the picture itself.
const Embed = "embed"

// ErrNoXMP occurs when a picture is of a format that cannot hold the captions.
var ErrNoXMP = xmp.ErrUnsupported

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
		return xmp.New(properties(r, keys)), nil
	case Embed:
		return embed(r, keys, old, mode)
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
		Windows  []Window          `json:"windows,omitempty"`
		Prompts  map[string]string `json:"prompts,omitempty"`
		Tags     map[string]string `json:"tags,omitempty"`
		Flags    []string          `json:"flags,omitempty"`
		SHA256   string            `json:"sha256,omitempty"`
		Meta     Meta              `json:"meta"`
	}{"1.0", r.Captions, r.Windows, r.Meta.Prompts, tagMap(r), r.Flags, r.SHA256, r.Meta})
	return b.Bytes(), err
}

func tagMap(r *Record) map[string]string {
	if len(r.Tags) == 0 {
		return nil
	}
	return map[string]string{"tags": strings.Join(r.Tags, ", ")}
}

// properties are what a picture's metadata says of a record: the first caption that
// is no tag list, the alternative text of the IPTC, and the tags.
func properties(r *Record, keys []string) xmp.Properties {
	p := xmp.Properties{Alt: r.Captions["alt"], Subject: r.Tags}
	for _, k := range keys {
		if k != "tags" && p.Description == "" {
			p.Description = r.Captions[k]
		}
	}
	if p.Alt == "" {
		p.Alt = r.Captions["short"]
	}
	return p
}

// embed is a picture file with the record in its own metadata. A description that
// is there already is treated as a text sidecar would be.
func embed(r *Record, keys []string, file []byte, mode Existing) ([]byte, error) {
	p := properties(r, keys)
	packet, err := xmp.Packet(file)
	if err != nil {
		return nil, err
	}
	was := ""
	if packet != nil {
		if was, err = xmp.Description(packet); err != nil {
			return nil, err
		}
	}
	switch {
	case was == "":
	case mode == Skip:
		return file, nil
	case mode == Fail:
		return nil, errors.New("sink: the file has a description already")
	case mode == Append:
		p.Description = was + "\n" + p.Description
	case mode == Prepend:
		p.Description += "\n" + was
	}
	return xmp.Embed(file, p)
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
	if remote, ok := strings.CutPrefix(r.Within, "s3://"); ok {
		return filepath.Join(cmp.Or(p.Out, p.Base), p.remote(remote, r.Member)) + p.ext(format)
	}
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
	return strings.TrimSuffix(name, filepath.Ext(name)) + p.ext(format)
}

func (p Place) ext(format string) string {
	if format == "txt" && p.Ext != "" {
		return p.Ext
	}
	return "." + format
}

// remote is the name, without extension, of what lies beside an object: in a
// directory of the bucket's name, and of the shard's if it is a member of one.
func (p Place) remote(within, member string) string {
	dir := within
	if isTar(within) {
		dir = tarStem(within) + ".captions"
	}
	name := filepath.Join(filepath.FromSlash(dir), filepath.FromSlash(member))
	if !filepath.IsLocal(name) { // a key may hold anything
		name = filepath.Join("objects", hash([]byte(within+"/"+member)))
	}
	return strings.TrimSuffix(name, filepath.Ext(name))
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

// Changes reports whether Write would change anything.
func (f *File) Changes() bool { return f.Before != f.After }

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
	perm := fs.FileMode(0o644)
	if f.Format == Embed {
		st, err := os.Stat(f.Path)
		if err != nil {
			return fmt.Errorf("sink: %w", err)
		}
		perm = st.Mode().Perm()
	}
	if err := atomicfile.Write(f.Path, f.data, perm); err != nil {
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
