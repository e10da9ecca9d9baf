package demo

import (
	"bytes"
	"io"
	"io/fs"
	"sort"
	"time"
)

// Included reports whether this binary carries the model.
func Included() bool { return len(files) > 0 }

// FS is the directory of the embedded checkpoint. Its files implement
// io.ReaderAt, io.Seeker and Bytes() []byte, which does not copy; the bytes are
// read-only memory, valid for the life of the process.
func FS() fs.FS { return dir{} }

// embedded is one file of the checkpoint.
type embedded struct {
	name string
	data []byte
}

// dir is the only directory, ".". It implements fs.FS, fs.ReadDirFS and fs.StatFS.
type dir struct{}

var (
	_ fs.ReadDirFS = dir{}
	_ fs.StatFS    = dir{}
)

func (dir) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		entries, err := dir{}.ReadDir(".")
		return &openDir{entries: entries}, err
	}
	if e, ok := find(name); ok {
		return &openFile{Reader: bytes.NewReader(e.data), embedded: e}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (dir) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return info{name: ".", dir: true}, nil
	}
	if e, ok := find(name); ok {
		return e.info(), nil
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

func (dir) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, 0, len(files))
	for _, e := range files {
		entries = append(entries, fs.FileInfoToDirEntry(e.info()))
	}
	return entries, nil
}

// find looks name up in files, which are sorted by name.
func find(name string) (embedded, bool) {
	i := sort.Search(len(files), func(i int) bool { return files[i].name >= name })
	if i < len(files) && files[i].name == name {
		return files[i], true
	}
	return embedded{}, false
}

func (e embedded) info() info { return info{name: e.name, size: int64(len(e.data))} }

// openFile is an open regular file.
type openFile struct {
	*bytes.Reader
	embedded
}

// Bytes is the content, not copied. It must not be written to.
func (f *openFile) Bytes() []byte              { return f.data }
func (f *openFile) Stat() (fs.FileInfo, error) { return f.info(), nil }
func (f *openFile) Close() error               { return nil }

// openDir is the open directory.
type openDir struct{ entries []fs.DirEntry }

func (d *openDir) Stat() (fs.FileInfo, error) { return info{name: ".", dir: true}, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: ".", Err: fs.ErrInvalid}
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.entries) {
		n = len(d.entries)
	}
	out := d.entries[:n]
	d.entries = d.entries[n:]
	return out, nil
}

// info describes a file; embedded files have no time.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
