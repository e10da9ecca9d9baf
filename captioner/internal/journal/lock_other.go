//go:build !unix

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Lock is the exclusive right to a job directory, held by the existence of a file.
type Lock struct{ path string }

// LockedError says that another process works in the directory, or died in it.
type LockedError struct {
	Dir   string
	PID   int
	Host  string
	Since time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("journal: %s is in use since %s; if no process runs, delete its file lock", e.Dir, e.Since.Format(time.RFC3339))
}

// Acquire takes the lock of dir or returns *LockedError at once.
func Acquire(dir string) (*Lock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		e := &LockedError{Dir: dir}
		if st, serr := os.Stat(path); serr == nil {
			e.Since = st.ModTime()
		}
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("journal: lock: %w", err)
	}
	return &Lock{path: path}, f.Close()
}

// Release gives the lock back.
func (l *Lock) Release() error { return os.Remove(l.path) }
