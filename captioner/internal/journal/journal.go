// Package journal keeps the state of a long job in an append-only file of JSON
// lines, so that a job killed at any moment resumes without losing or repeating
// a finished item.
//
// Invariants:
//   - an entry is in the index only after its line is in the file;
//   - a line counts only if it ends in a newline and parses; Open cuts off an
//     unfinished last line, and reports (never hides) unreadable lines before it;
//   - the last line of an id wins;
//   - one process at a time holds the lock of a journal directory.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Status says what a line reports of its item.
type Status string

// The states of an item. An intent precedes a write that is not idempotent
// (appending to a file); it is settled by the done line that follows.
const (
	Done   Status = "done"
	Failed Status = "fail"
	Intent Status = "intent"
)

// MaxLine bounds one line in bytes. A longer record is refused by Append.
const MaxLine = 16 << 20

// Entry is one line.
type Entry struct {
	Status Status          `json:"status"`
	N      int64           `json:"n"`            // place of the item in the input order
	Key    string          `json:"key"`          // input key, unique within the job
	ID     string          `json:"id,omitempty"` // digest of content, recipe and model; empty when the content could not be read
	Size   int64           `json:"size,omitempty"`
	MTime  int64           `json:"mtime,omitempty"` // nanoseconds since 1970
	Time   time.Time       `json:"time"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// place is where an entry lies in the file.
type place struct {
	off    int64
	n      int64
	status Status
}

// Journal is an open journal. Its methods may be called from any goroutine.
type Journal struct {
	mu        sync.Mutex
	f         *os.File
	path      string
	size      int64
	byKey     map[string]place
	byID      map[string]int64 // offset of the last done line
	unsynced  int
	lastSync  time.Time
	skipped   int
	syncEvery int
	syncAfter time.Duration
	buf       bytes.Buffer
}

// Options tune durability. Zero values: sync every 32 entries or 250 ms, whichever comes first.
type Options struct {
	SyncEvery int
	SyncAfter time.Duration
}

// Open opens or creates dir/journal.jsonl and reads its index.
func Open(dir string, opts Options) (*Journal, error) {
	if opts.SyncEvery <= 0 {
		opts.SyncEvery = 32
	}
	if opts.SyncAfter <= 0 {
		opts.SyncAfter = 250 * time.Millisecond
	}
	path := filepath.Join(dir, "journal.jsonl")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("journal: open: %w", err)
	}
	j := &Journal{
		f: f, path: path, byKey: map[string]place{}, byID: map[string]int64{},
		syncEvery: opts.SyncEvery, syncAfter: opts.SyncAfter, lastSync: time.Now(),
	}
	if err := j.load(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return j, nil
}

// load reads all lines into the index and cuts an unfinished last line.
func (j *Journal) load() error {
	r := bufio.NewReaderSize(j.f, 1<<20)
	var off int64
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("journal: read %s at byte %d: %w", j.path, off, err)
		}
		var e Entry
		if json.Unmarshal(line, &e) != nil || e.Key == "" {
			j.skipped++
		} else {
			j.index(e, off)
		}
		off += int64(len(line))
	}
	j.size = off
	if err := j.f.Truncate(off); err != nil {
		return fmt.Errorf("journal: cut the unfinished last line of %s: %w", j.path, err)
	}
	_, err := j.f.Seek(off, io.SeekStart)
	return err
}

// readLine returns the next line with its newline, or io.EOF if none is complete.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return nil, fmt.Errorf("line longer than %d bytes", MaxLine)
		}
		if err == nil && line == nil {
			return part, nil
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func (j *Journal) index(e Entry, off int64) {
	j.byKey[e.Key] = place{off: off, n: e.N, status: e.Status}
	if e.Status == Done && e.ID != "" {
		j.byID[e.ID] = off
	}
}

// Skipped is the number of unreadable lines that Open found before the last one.
func (j *Journal) Skipped() int { return j.skipped }

// Append writes e. It is durable after the next sync: at once for an intent,
// otherwise within the options' bounds.
func (j *Journal) Append(e Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Key == "" {
		return errors.New("journal: append: empty key")
	}
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	j.buf.Reset()
	if err := json.NewEncoder(&j.buf).Encode(e); err != nil {
		return fmt.Errorf("journal: append %q: %w", e.Key, err)
	}
	if j.buf.Len() > MaxLine {
		return fmt.Errorf("journal: append %q: record of %d bytes exceeds %d", e.Key, j.buf.Len(), MaxLine)
	}
	n, err := j.f.Write(j.buf.Bytes())
	if err != nil {
		// Take back a partial line so that the next append starts clean.
		_ = j.f.Truncate(j.size)
		_, _ = j.f.Seek(j.size, io.SeekStart)
		return fmt.Errorf("journal: append to %s: %w", j.path, err)
	}
	off := j.size
	j.size += int64(n)
	j.index(e, off)
	j.unsynced++
	if e.Status == Intent || j.unsynced >= j.syncEvery || time.Since(j.lastSync) >= j.syncAfter {
		return j.sync()
	}
	return nil
}

// Sync makes all appended entries durable.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sync()
}

func (j *Journal) sync() error {
	j.lastSync = time.Now()
	if j.unsynced == 0 {
		return nil
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("journal: sync %s: %w", j.path, err)
	}
	j.unsynced = 0
	return nil
}

// Key returns the last entry of an input key.
func (j *Journal) Key(key string) (Entry, bool, error) {
	j.mu.Lock()
	p, ok := j.byKey[key]
	j.mu.Unlock()
	if !ok {
		return Entry{}, false, nil
	}
	e, err := j.at(p.off)
	return e, err == nil, err
}

// Status returns the last status of an input key without reading the file.
func (j *Journal) Status(key string) (Status, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p, ok := j.byKey[key]
	return p.status, ok
}

// ID returns the done entry of a digest, whichever key it was written for.
func (j *Journal) ID(id string) (Entry, bool, error) {
	j.mu.Lock()
	off, ok := j.byID[id]
	j.mu.Unlock()
	if !ok {
		return Entry{}, false, nil
	}
	e, err := j.at(off)
	return e, err == nil, err
}

func (j *Journal) at(off int64) (Entry, error) {
	var e Entry
	line, err := readLine(bufio.NewReaderSize(io.NewSectionReader(j.f, off, MaxLine+1), 4096))
	if err == nil {
		err = json.Unmarshal(line, &e)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("journal: read %s at byte %d: %w", j.path, off, err)
	}
	return e, nil
}

// Each calls fn with the last entry of every key in input order (N, then key)
// and stops at the first error. Entries are read one at a time.
func (j *Journal) Each(fn func(Entry) error) error {
	type ref struct {
		key string
		place
	}
	j.mu.Lock()
	refs := make([]ref, 0, len(j.byKey))
	for k, p := range j.byKey {
		refs = append(refs, ref{k, p})
	}
	j.mu.Unlock()
	slices.SortFunc(refs, func(a, b ref) int {
		if a.n != b.n {
			if a.n < b.n {
				return -1
			}
			return 1
		}
		if a.key < b.key {
			return -1
		}
		return 1
	})
	for _, r := range refs {
		e, err := j.at(r.off)
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Counts returns the number of keys by last status.
func (j *Journal) Counts() map[Status]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := map[Status]int{}
	for _, p := range j.byKey {
		c[p.status]++
	}
	return c
}

// Close syncs and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	err := j.sync()
	if cerr := j.f.Close(); err == nil {
		err = cerr
	}
	j.f = nil
	return err
}
