// Package job runs a captioning flow over many inputs into an append-only file
// of records, one JSON line an input, and resumes it.
//
// Invariants:
//   - a record is in the file when its whole line is; Open cuts off an unfinished last line;
//   - records stand in the order of the inputs, and each key stands once;
//   - one file holds records of one flow digest, unless mixing is asked for;
//   - an input that cannot be captioned is a record with status error; the run goes on.
//
// Beside OUT lies OUT.stages while a run is unfinished: answers of agents of
// captions in work, so that a crash does not ask them again.
package job

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"metacap/capflow"
)

// maxLine bounds a line of a record file, in bytes.
const maxLine = 16 << 20

// Caption makes the record of an input: Flow.Caption, Flow.Route, or a filter.
type Caption func(ctx context.Context, in capflow.Input) (*capflow.Record, error)

// Options of a run. The zero value is sane.
type Options struct {
	Parallel int // inputs worked on together; 0 = 1
	// Retry captions inputs again whose record has one of these statuses; the new record replaces the old.
	Retry []capflow.Status
	// Mix allows records of another flow digest in the file.
	Mix bool
	// SyncEvery is the number of records between syncs of the file; 0 = 16.
	SyncEvery int
	// Done is told of each record that was written.
	Done func(*capflow.Record)
}

// Summary counts what a run did.
type Summary struct {
	Inputs, Resumed              int // of these, found in the file
	Accepted, Rejected, Failed   int // of the records written now
	Prefill, Cached, Decode      int
	Tiles, Calls, Scores, Images int
	Wall                         time.Duration
	Dollars                      float64
}

// Run captions inputs into the file at path. stages may be nil; the flow must
// have been made with it.
func Run(ctx context.Context, flow *capflow.Flow, caption Caption, inputs []capflow.Input, path string, o Options) (Summary, error) {
	sum := Summary{Inputs: len(inputs)}
	start := time.Now()
	out, err := openRecords(path, flow.Digest(), o)
	if err != nil {
		return sum, fmt.Errorf("job: %w", err)
	}
	err = run(ctx, flow, caption, inputs, out, o, &sum)
	sum.Wall = time.Since(start)
	if e := out.close(); err == nil {
		err = e
	}
	if err != nil {
		return sum, fmt.Errorf("job: %w", err)
	}
	return sum, nil
}

// Stream captions inputs and gives their records, in order, to emit: a run without a file.
func Stream(ctx context.Context, caption Caption, inputs []capflow.Input, o Options, emit func(*capflow.Record) error) (Summary, error) {
	sum := Summary{Inputs: len(inputs)}
	start := time.Now()
	err := ordered(ctx, caption, inputs, o, func(r *capflow.Record) error {
		sum.add(r)
		return emit(r)
	})
	sum.Wall = time.Since(start)
	if err != nil {
		return sum, fmt.Errorf("job: %w", err)
	}
	return sum, nil
}

// work is one input on its way.
type work struct {
	in   capflow.Input
	done chan struct{}
	rec  *capflow.Record
	err  error
}

// run captions what the file lacks.
func run(ctx context.Context, flow *capflow.Flow, caption Caption, inputs []capflow.Input, out *records, o Options, sum *Summary) error {
	var todo []capflow.Input
	planned := map[string]bool{}
	for _, in := range inputs {
		key, _, _ := flow.Key(&in) // an unreadable file becomes an error record
		if out.has[key] || planned[key] {
			sum.Resumed++
			continue
		}
		planned[key] = true
		in.Attempt += out.attempts[key]
		todo = append(todo, in)
	}
	return ordered(ctx, caption, todo, o, func(r *capflow.Record) error {
		if err := out.append(r); err != nil {
			return err
		}
		sum.add(r)
		if o.Done != nil {
			o.Done(r)
		}
		return nil
	})
}

// ordered starts captions in order, at most o.Parallel at a time, and gives
// their records to emit in that order. All its goroutines have ended when it returns.
func ordered(ctx context.Context, caption Caption, inputs []capflow.Input, o Options, emit func(*capflow.Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	todo := make([]*work, len(inputs))
	for i, in := range inputs {
		todo[i] = &work{in: in, done: make(chan struct{})}
	}
	slots := make(chan struct{}, max(1, o.Parallel))
	wg.Go(func() {
		for _, w := range todo {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				w.rec, w.err = caption(ctx, w.in)
				close(w.done)
				<-slots
			})
		}
	})
	for _, w := range todo {
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if w.err != nil {
			return w.err
		}
		if err := emit(w.rec); err != nil {
			return err
		}
	}
	return nil
}

func (s *Summary) add(r *capflow.Record) {
	switch r.Status {
	case capflow.Accepted:
		s.Accepted++
	case capflow.Rejected:
		s.Rejected++
	default:
		s.Failed++
	}
	u := &r.Usage
	s.Prefill += u.Prefill
	s.Cached += u.Cached
	s.Decode += u.Decode
	s.Tiles += u.Tiles
	s.Calls += u.Calls
	s.Scores += u.Scores
	s.Dollars += u.Dollars
}

// records is the open output.
type records struct {
	f        *os.File
	has      map[string]bool // keys in the file
	attempts map[string]int  // of keys that are to be tried again
	pending  int
	every    int
}

func openRecords(path, digest string, o Options) (*records, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	r := &records{f: f, has: map[string]bool{}, attempts: map[string]int{}, every: o.SyncEvery}
	if r.every <= 0 {
		r.every = 16
	}
	if err := r.load(path, digest, o); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// load reads the keys of the file, cuts off an unfinished last line, and takes
// out records that are to be made again.
func (r *records) load(path, digest string, o Options) error {
	var keep bytes.Buffer
	var size int64
	removed := false
	err := eachLine(r.f, func(n int, line []byte) error {
		var rec struct {
			Key    string
			Status capflow.Status
			Prov   struct {
				Flow    string `json:"flow_sha256"`
				Attempt int
			}
		}
		if err := json.Unmarshal(line, &rec); err != nil || rec.Key == "" {
			return fmt.Errorf("%s: line %d is no record; give another output file", path, n)
		}
		if rec.Prov.Flow != digest && !o.Mix {
			return fmt.Errorf("%s: line %d was made by another flow (digest %.12s, now %.12s); give another file, or allow mixing", path, n, rec.Prov.Flow, digest)
		}
		size += int64(len(line))
		if slices.Contains(o.Retry, rec.Status) {
			r.attempts[rec.Key] = rec.Prov.Attempt
			removed = true
			return nil
		}
		if r.has[rec.Key] {
			return fmt.Errorf("%s: line %d repeats key %.12s", path, n, rec.Key)
		}
		r.has[rec.Key] = true
		keep.Write(line)
		return nil
	})
	if err != nil {
		return err
	}
	if removed {
		if err := replace(path, keep.Bytes()); err != nil {
			return err
		}
		_ = r.f.Close()
		if r.f, err = os.OpenFile(path, os.O_RDWR, 0o644); err != nil {
			return err
		}
		size = int64(keep.Len())
	}
	if err := r.f.Truncate(size); err != nil {
		return err
	}
	_, err = r.f.Seek(size, io.SeekStart)
	return err
}

// eachLine calls fn with every whole line, its newline included. A last line
// without one is left out.
func eachLine(f io.Reader, fn func(n int, line []byte) error) error {
	rd := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		var line []byte
		for {
			part, err := rd.ReadSlice('\n')
			line = append(line, part...)
			if len(line) > maxLine {
				return fmt.Errorf("line %d exceeds %d bytes", n, maxLine)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
		if err := fn(n, line); err != nil {
			return err
		}
	}
}

func (r *records) append(rec *capflow.Record) error {
	if r.has[rec.Key] {
		return nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(rec); err != nil {
		return err
	}
	if buf.Len() > maxLine {
		return fmt.Errorf("record of %q has %d bytes, limit %d", rec.ID, buf.Len(), maxLine)
	}
	if _, err := r.f.Write(buf.Bytes()); err != nil {
		return err
	}
	r.has[rec.Key] = true
	if r.pending++; r.pending >= r.every {
		r.pending = 0
		return r.f.Sync()
	}
	return nil
}

func (r *records) close() error { return errors.Join(r.f.Sync(), r.f.Close()) }
