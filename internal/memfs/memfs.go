// Package memfs is a read-only file system of one directory whose files lie in
// memory and can be had without a copy. Checkpoints that are embedded or made at
// run time are such directories.
package memfs

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sort"
	"time"
)

// FS is a directory of files in memory. Besides fs.FS it has Bytes, which does
// not copy. Its files implement io.ReaderAt and io.Seeker. It may be used by
// any number of goroutines.
type FS struct{ files []file }

// file is one file, read-only.
type file struct {
	name string
	data []byte
}

// New makes a file system of files by name. The contents are not copied and must
// not change any more.
func New(files map[string][]byte) *FS {
	f := &FS{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f.files = append(f.files, file{name, files[name]})
	}
	return f
}

var (
	_ fs.ReadDirFS = (*FS)(nil)
	_ fs.StatFS    = (*FS)(nil)
)

// Open implements fs.FS.
func (f *FS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		entries, err := f.ReadDir(".")
		return &openDir{entries: entries}, err
	}
	if e, ok := f.find(name); ok {
		return &openFile{Reader: bytes.NewReader(e.data), file: e}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Stat implements fs.StatFS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return info{name: ".", dir: true}, nil
	}
	if e, ok := f.find(name); ok {
		return e.info(), nil
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements fs.ReadDirFS; the only directory is ".".
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, 0, len(f.files))
	for _, e := range f.files {
		entries = append(entries, fs.FileInfoToDirEntry(e.info()))
	}
	return entries, nil
}

// Bytes is the content of a file, not copied. It must not be written to.
func (f *FS) Bytes(name string) ([]byte, bool) {
	e, ok := f.find(name)
	return e.data, ok
}

// find looks name up in files, which are sorted by name.
func (f *FS) find(name string) (file, bool) {
	i := sort.Search(len(f.files), func(i int) bool { return f.files[i].name >= name })
	if i < len(f.files) && f.files[i].name == name {
		return f.files[i], true
	}
	return file{}, false
}

func (e file) info() info { return info{name: e.name, size: int64(len(e.data))} }

// openFile is an open regular file.
type openFile struct {
	*bytes.Reader
	file
}

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

// info describes a file; files in memory have no time.
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
