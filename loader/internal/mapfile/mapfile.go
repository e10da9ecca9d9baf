// Package mapfile gives read-only access to a whole file as one byte slice:
// mapped into memory where the system can, read otherwise.
package mapfile

import (
	"fmt"
	"io"
	"math"
	"os"
)

// File is an open read-only file. The bytes stay valid until Close. If another
// process shortens a mapped file, reading the lost part is a fatal signal of the
// process, as for every mapped file.
type File struct {
	Data   []byte
	Mapped bool // Data is a mapping of the file; Drop has an effect
	file   *os.File
	memory []byte // content given by the caller; no file
}

// Open maps a regular file. The descriptor stays open until Close for ReadAt.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err == nil && st.Size() > math.MaxInt {
		err = fmt.Errorf("%s: %d bytes exceed the address space", path, st.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	m := &File{file: f}
	if st.Size() == 0 {
		return m, nil
	}
	if m.Data, m.Mapped, err = mapOrRead(f, int(st.Size())); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Memory wraps bytes that are already in memory, without a copy.
func Memory(data []byte) *File { return &File{Data: data, memory: data} }

// ReadAt reads without touching the mapping, so that the pages do not count as
// memory of the process.
func (m *File) ReadAt(p []byte, off int64) (int, error) {
	if m.file != nil {
		return m.file.ReadAt(p, off)
	}
	if off < 0 || off >= int64(len(m.memory)) {
		return 0, io.EOF
	}
	n := copy(p, m.memory[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Drop tells the system that Data[from:to] is not needed for now: whole pages
// inside leave the memory of the process and are read again when touched.
func (m *File) Drop(from, to int64) {
	page := int64(os.Getpagesize())
	from, to = (from+page-1)/page*page, to/page*page
	if m.Mapped && from < to && to <= int64(len(m.Data)) {
		drop(m.Data[from:to])
	}
}

// Close unmaps and closes. Idempotent.
func (m *File) Close() error {
	var err error
	if m.Mapped {
		err = unmap(m.Data)
	}
	m.Data, m.memory, m.Mapped = nil, nil, false
	if m.file != nil {
		if e := m.file.Close(); err == nil {
			err = e
		}
		m.file = nil
	}
	return err
}
