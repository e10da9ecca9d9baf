// Package sink writes captions: sidecar files beside the pictures as they are
// made, and whole-job files (JSONL, CSV, Parquet, LLaVA, kohya, tar) from the
// journal at the end. Every file is replaced atomically.
package sink

import (
	"path"
	"strings"
	"time"
)

// Record is all that is known of a captioned input. It is what the journal keeps
// of a finished item and a line of captions.jsonl.
type Record struct {
	Key         string            `json:"key"`               // the input's name within the job
	Path        string            `json:"path,omitempty"`    // file on disk; absent for a member of a container
	Within      string            `json:"within,omitempty"`  // tar shard or table
	Member      string            `json:"member,omitempty"`  // name or row inside Within
	Kind        string            `json:"kind"`              // image, video or frames
	SHA256      string            `json:"sha256,omitempty"`  // of the input's bytes
	Captions    map[string]string `json:"captions"`          // by key
	Windows     []Window          `json:"windows,omitempty"` // of a long video
	Tags        []string          `json:"tags,omitempty"`    // of the caption "tags"
	Flags       []string          `json:"flags,omitempty"`   // what the filters say of what was kept, "key:filter"
	Guess       bool              `json:"guess,omitempty"`   // a caption is one: the model does not know such pictures, or was unsure
	Skipped     string            `json:"skipped,omitempty"` // why no caption was made: "existing"
	DuplicateOf string            `json:"duplicate_of,omitempty"`
	AliasOf     string            `json:"alias_of,omitempty"` // with embedding: the input that is the same file by a symbolic link
	Meta        Meta              `json:"meta"`
	Error       string            `json:"error,omitempty"`
}

// Window is a stretch of a video with captions of its own.
type Window struct {
	Start    float64           `json:"start"` // seconds
	End      float64           `json:"end"`
	Captions map[string]string `json:"captions"`
	Flags    []string          `json:"flags,omitempty"` // as of the record; a refused caption is left out
	Frames   []float64         `json:"frames"`          // seconds
}

// Meta is the provenance of a record.
type Meta struct {
	Model    string            `json:"model,omitempty"`
	Digest   string            `json:"model_digest,omitempty"`
	Recipe   string            `json:"recipe,omitempty"` // hash
	Prompts  map[string]string `json:"prompts,omitempty"`
	Seeds    map[string]uint64 `json:"seeds,omitempty"`
	Finish   map[string]string `json:"finish,omitempty"` // stop, length
	Words    map[string]int    `json:"words,omitempty"`
	Attempts map[string]int    `json:"attempts,omitempty"` // where more than one was needed
	// MeanLogProb is of the tokens of answers that were judged by it, see Record.Guess.
	MeanLogProb map[string]float64 `json:"mean_logprob,omitempty"`
	Format      string             `json:"format,omitempty"`
	Width       int                `json:"width,omitempty"`
	Height      int                `json:"height,omitempty"`
	Tiles       int                `json:"tiles,omitempty"`
	TokensIn    int                `json:"tokens_in,omitempty"`
	TokensOut   int                `json:"tokens_out,omitempty"`
	Seconds     map[string]float64 `json:"seconds,omitempty"` // by stage
	Frames      []float64          `json:"frames,omitempty"`  // seconds of a video's frames
	Notes       []string           `json:"notes,omitempty"`
	Created     time.Time          `json:"created,omitzero"`
}

// Stem is the record's name without extension, for files that hold many records.
func (r *Record) Stem() string {
	name := r.Key
	return strings.TrimSuffix(name, path.Ext(name))
}

// OneLine joins the lines of a text by spaces.
func OneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Text is the text form of captions: one line each, in the order of keys.
func Text(captions map[string]string, keys []string) string {
	var lines []string
	for _, k := range keys {
		if c, ok := captions[k]; ok {
			lines = append(lines, OneLine(c))
		}
	}
	return strings.Join(lines, "\n")
}
