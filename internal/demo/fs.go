package demo

import (
	"io/fs"

	"metacap/internal/memfs"
)

// Included reports whether this binary carries the model.
func Included() bool { return len(files) > 0 }

var directory = memfs.New(files)

// FS is the directory of the embedded checkpoint, a [memfs.FS].
func FS() fs.FS { return directory }
