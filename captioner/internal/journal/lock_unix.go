//go:build unix

package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is the exclusive right to a job directory. The kernel releases it when
// the process ends, however it ends.
type Lock struct{ f *os.File }

// LockedError says that another process works in the directory.
type LockedError struct {
	Dir   string
	PID   int
	Host  string
	Since time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("journal: %s is in use by process %d on %s since %s; wait for it, or give each process its own --shard",
		e.Dir, e.PID, e.Host, e.Since.Format(time.RFC3339))
}

type owner struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// Acquire takes the lock of dir or returns *LockedError at once.
func Acquire(dir string) (*Lock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("journal: lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("journal: lock %s: %w", path, err)
		}
		var o owner
		_ = json.NewDecoder(f).Decode(&o) // an empty file: the owner is about to write it
		return nil, &LockedError{Dir: dir, PID: o.PID, Host: o.Host, Since: o.Since}
	}
	host, _ := os.Hostname()
	data, _ := json.Marshal(owner{PID: os.Getpid(), Host: host, Since: time.Now().UTC()})
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt(append(data, '\n'), 0)
		if err == nil {
			return &Lock{f: f}, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("journal: lock %s: cannot write the owner", path)
}

// Release gives the lock back. The file stays, so that no second process can
// lock a deleted one.
func (l *Lock) Release() error { return l.f.Close() }
