package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"metacap/capflow"
	"metacap/internal/atomicfile"
)

func replace(path string, data []byte) error { return atomicfile.Write(path, data, 0o644) }

// Stages keeps answers of agents of unfinished captions in a file of JSON
// lines. It implements capflow.Stages.
type Stages struct {
	mu    sync.Mutex
	f     *os.File
	path  string
	index map[[2]string]json.RawMessage
}

var _ capflow.Stages = (*Stages)(nil)

type stageLine struct {
	Key   string          `json:"key"`
	Step  string          `json:"step"`
	Value json.RawMessage `json:"value"`
}

// StagesPath is where the stage journal of an output lies.
func StagesPath(out string) string { return out + ".stages" }

// OpenStages opens or creates a stage journal. An unfinished or damaged last
// line is cut off: its step runs again.
func OpenStages(path string) (*Stages, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("job: stages: %w", err)
	}
	s := &Stages{f: f, path: path, index: map[[2]string]json.RawMessage{}}
	var size int64
	err = eachLine(f, func(n int, line []byte) error {
		var l stageLine
		if json.Unmarshal(line, &l) != nil || l.Key == "" {
			return errDamaged
		}
		s.index[[2]string{l.Key, l.Step}] = l.Value
		size += int64(len(line))
		return nil
	})
	if errors.Is(err, errDamaged) {
		err = nil
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("job: stages: %w", err), f.Close())
	}
	return s, nil
}

var errDamaged = errors.New("damaged line")

// Load returns the answer of a step of a caption.
func (s *Stages) Load(key, step string) (json.RawMessage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.index[[2]string{key, step}]
	return v, ok
}

// Save appends the answer of a step. It is not synced: what a power failure
// takes is computed again.
func (s *Stages) Save(key, step string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("job: stages: %w", err)
	}
	line, err := json.Marshal(stageLine{key, step, data})
	if err != nil {
		return fmt.Errorf("job: stages: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index[[2]string{key, step}] = data
	if _, err := s.f.Write(append(bytes.TrimSpace(line), '\n')); err != nil {
		return fmt.Errorf("job: stages: %w", err)
	}
	return nil
}

// Close closes the journal; finished removes it as well.
func (s *Stages) Close(finished bool) error {
	err := s.f.Close()
	if finished {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}
