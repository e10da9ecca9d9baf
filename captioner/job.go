package captioner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"metacap/captioner/internal/journal"
	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/internal/atomicfile"
)

// Select chooses among what the inputs hold; see its fields.
type Select = source.Options

// Remote reads an object store, of inputs that start with "s3://": Select.Remote.
// Package captioner/s3 has one.
type Remote = source.Remote

// Object is one object of a Remote.
type Object = source.Object

// Shard is part Index of Count equal parts of the inputs.
type Shard = source.Shard

// Record is what is known of a finished input: a line of captions.jsonl.
type Record = sink.Record

// Existing says what to do with a sidecar that is there already.
type Existing = sink.Existing

// What may happen to existing sidecars. Append and Prepend add lines to text
// sidecars, once, whatever is interrupted.
const (
	ExistingSkip      = sink.Skip
	ExistingOverwrite = sink.Overwrite
	ExistingAppend    = sink.Append
	ExistingPrepend   = sink.Prepend
	ExistingFail      = sink.Fail
)

// LockedError says that another process works in the job directory.
type LockedError = journal.LockedError

// Job is what Run works through. Inputs, Model and ModelDigest must be set.
type Job struct {
	Inputs []string
	Select Select
	Recipe Recipe
	Model  string // name, for records
	Digest string // of the model's weights and tokenizer

	// Dir is the job directory; empty = .metacap/NAME in Base, NAME from recipe,
	// model and shard.
	Dir string
	// Base is the root of the data; empty = the directory of the first input.
	Base string
	// Out is where files are written that hold the whole job, and the root of a
	// mirror tree of sidecars; empty = Base, and sidecars beside the pictures.
	Out string
	// Ext is the extension of the txt format; empty = .txt.
	Ext      string
	Existing Existing // of sidecars; empty = skip
	// Write lists formats: txt, caption, json, xmp (sidecars); jsonl, csv, parquet,
	// llava, kohya, tar (one file). Empty = txt and jsonl.
	Write []string
	// Embed also writes captions into the pictures themselves: XMP in JPEG, PNG and
	// WebP files, the pixels untouched. Existing then speaks of the description that
	// a file has. What cannot hold XMP gets an xmp sidecar.
	Embed bool

	Fresh       bool // begin the job directory anew
	RetryFailed bool // also try inputs that failed before

	InFlight  int           // inputs worked on together; 0 = chosen for the engines
	Bytes     int64         // bound on the encoded pictures held by workers; 0 = 512 MiB
	ReadLimit int64         // largest input in bytes; 0 = 256 MiB; videos are not read whole
	Watch     time.Duration // look for new inputs every so often, for ever; 0 = once

	// Guess, if set, judges a first answer: whether the model answered without
	// knowing such pictures, or unsure of its words, and the mean log-probability of
	// the tokens if that was looked at. Captions of what it calls a guess are flagged.
	// It is called from many goroutines.
	Guess func(prompt string, r *engine.Result) (guess bool, mean *float64)

	// Stop ends the job when it is closed: what is in flight is finished.
	Stop <-chan struct{}
	// Progress, if set, can be asked for counts while Run works.
	Progress *Progress
	// Event, if set, is called for each item, from many goroutines.
	Event func(Event)
}

// Event is something that happened to an item.
type Event struct {
	Kind   string  `json:"event"` // item, skip, retry, flag, fail, checkpoint
	Key    string  `json:"key,omitempty"`
	Detail string  `json:"detail,omitempty"`
	Record *Record `json:"-"` // of kind item
}

// identity is what must not change while a job directory lives.
type identity struct {
	Version  int      `json:"version"`
	Inputs   []string `json:"inputs"`
	Model    string   `json:"model"`
	Digest   string   `json:"model_digest"`
	Recipe   string   `json:"recipe_hash"`
	Text     Recipe   `json:"recipe"`
	Shard    string   `json:"shard,omitempty"`
	Out      string   `json:"out,omitempty"`
	Existing Existing `json:"existing"`
	Write    []string `json:"write"`
	Embed    bool     `json:"embed,omitempty"`
	Created  string   `json:"created"`
}

var allFormats = []string{"txt", "caption", "json", "xmp", "jsonl", "csv", "parquet", "llava", "kohya", "tar"}

// Formats lists the names that Job.Write understands.
func Formats() []string { return slices.Clone(allFormats) }

// prepare fills defaults and reports what makes no sense.
func (j *Job) prepare() error {
	if len(j.Inputs) == 0 {
		return errors.New("captioner: job: no inputs")
	}
	if len(j.Write) == 0 {
		j.Write = []string{"txt", "jsonl"}
	}
	for _, f := range j.Write {
		if !slices.Contains(allFormats, f) {
			return fmt.Errorf("captioner: job: no output format %q; there are %s", f, strings.Join(allFormats, ", "))
		}
	}
	switch j.Existing {
	case "":
		j.Existing = sink.Skip
	case sink.Skip, sink.Overwrite, sink.Append, sink.Prepend, sink.Fail:
	default:
		return fmt.Errorf("captioner: job: existing %q, want skip, overwrite, append, prepend or fail", j.Existing)
	}
	if s := j.Select.Shard; s.Count > 1 && (s.Index < 0 || s.Index >= s.Count) {
		return fmt.Errorf("captioner: job: shard %d of %d: indices are 0 to %d", s.Index, s.Count, s.Count-1)
	}
	for _, in := range j.Inputs {
		if source.IsRemote(in) && j.Out == "" {
			return fmt.Errorf("captioner: job: %s is in an object store, which is only read: say with --out where captions go", in)
		}
	}
	if err := source.CheckPatterns(slices.Concat(j.Select.Include, j.Select.Exclude)); err != nil {
		return err
	}
	if err := j.Recipe.Validate(); err != nil {
		return err
	}
	if j.Base == "" {
		j.Base = baseOf(j.Inputs[0])
	}
	if j.Dir == "" {
		j.Dir = filepath.Join(j.root(), ".metacap", j.name())
	}
	if j.Bytes <= 0 {
		j.Bytes = 512 << 20
	}
	if j.ReadLimit <= 0 {
		j.ReadLimit = 256 << 20
	}
	return nil
}

// root is where files of the whole job are written.
func (j *Job) root() string {
	if j.Out != "" {
		return j.Out
	}
	return j.Base
}

// baseOf is the directory of an input.
func baseOf(in string) string {
	if in == "-" {
		return "."
	}
	for strings.ContainsAny(in, "*?[") {
		in = filepath.Dir(in)
	}
	if st, err := os.Stat(in); err == nil && st.IsDir() {
		return filepath.Clean(in)
	}
	return filepath.Dir(in)
}

// name tells jobs apart: by recipe, model and shard.
func (j *Job) name() string {
	name := j.Recipe.Hash()[:8]
	if d := j.Digest; d != "" {
		name += "-" + d[:min(8, len(d))]
	}
	return name + j.shardSuffix()
}

func (j *Job) shardSuffix() string {
	if s := j.Select.Shard; s.Count > 1 {
		return fmt.Sprintf("-%d-of-%d", s.Index, s.Count)
	}
	return ""
}

func (j *Job) identity() identity {
	id := identity{
		Version: 1, Inputs: j.Inputs, Model: j.Model, Digest: j.Digest, Recipe: j.Recipe.Hash(), Text: j.Recipe.normal(),
		Out: j.Out, Existing: j.Existing, Write: j.Write, Embed: j.Embed, Created: time.Now().UTC().Format(time.RFC3339),
	}
	if s := j.Select.Shard; s.Count > 1 {
		id.Shard = fmt.Sprintf("%d/%d", s.Index, s.Count)
	}
	return id
}

// ChangedError says that a job directory belongs to another job.
type ChangedError struct {
	Dir    string
	Fields []string // "recipe: was …, is …"
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("captioner: %s holds another job: %s; use another --job directory, or --fresh to begin anew", e.Dir, strings.Join(e.Fields, "; "))
}

// open locks the job directory and opens its journal.
func (j *Job) open() (*journal.Lock, *journal.Journal, error) {
	if err := os.MkdirAll(j.Dir, 0o777); err != nil {
		return nil, nil, fmt.Errorf("captioner: job directory: %w (choose a writable one with --job or --out)", err)
	}
	lock, err := journal.Acquire(j.Dir)
	if err != nil {
		return nil, nil, err
	}
	log, err := j.openLocked()
	if err != nil {
		return nil, nil, errors.Join(err, lock.Release())
	}
	return lock, log, nil
}

func (j *Job) openLocked() (*journal.Journal, error) {
	if j.Fresh {
		for _, name := range []string{"job.json", "journal.jsonl", "failed.jsonl", "report.json", "report.md"} {
			if err := os.Remove(filepath.Join(j.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("captioner: begin anew: %w", err)
			}
		}
	}
	if err := j.checkIdentity(); err != nil {
		return nil, err
	}
	return journal.Open(j.Dir, journal.Options{})
}

// checkIdentity compares job.json with the job, or writes it.
func (j *Job) checkIdentity() error {
	path := filepath.Join(j.Dir, "job.json")
	now := j.identity()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			return fmt.Errorf("captioner: job.json: %w", err)
		}
		return atomicfile.Write(path, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("captioner: job.json: %w", err)
	}
	var was identity
	if err := json.Unmarshal(data, &was); err != nil {
		return fmt.Errorf("captioner: %s: %w", path, err)
	}
	var changed []string
	for _, f := range []struct {
		name    string
		was, is any
	}{
		{"version", was.Version, now.Version},
		{"inputs", was.Inputs, now.Inputs},
		{"model", was.Digest, now.Digest},
		{"recipe", was.Recipe, now.Recipe},
		{"shard", was.Shard, now.Shard},
		{"out", was.Out, now.Out},
		{"existing", was.Existing, now.Existing},
		{"write", was.Write, now.Write},
		{"embed", was.Embed, now.Embed},
	} {
		a, _ := json.Marshal(f.was) // plain data
		b, _ := json.Marshal(f.is)
		if !bytes.Equal(a, b) {
			changed = append(changed, fmt.Sprintf("%s was %s, is %s", f.name, a, b))
		}
	}
	if changed != nil {
		return &ChangedError{Dir: j.Dir, Fields: changed}
	}
	return nil
}
