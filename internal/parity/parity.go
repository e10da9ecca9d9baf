package parity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNothing occurs when there are no goldens under a directory.
var ErrNothing = errors.New("no goldens found")

// The parts that Options.Only may name.
const (
	PartTokenizer = "tokenizer"
	PartChat      = "chat"
	PartImages    = "images"
	PartModels    = "models"
)

// Parts are all parts in the order in which they run.
var Parts = []string{PartTokenizer, PartChat, PartImages, PartModels}

// Options say what to compare. The zero value compares everything on the best device.
type Options struct {
	Device  string   // as engine.Config.Device
	Threads int      // CPU threads; 0 = all
	Only    []string // parts; nil = all
	// Match restricts cases to those whose name contains it; empty = all.
	Match string
}

// Verdict is the outcome of a check.
type Verdict string

// The verdicts.
const (
	Pass        Verdict = "ok"
	Fail        Verdict = "FAIL"
	Unsupported Verdict = "unsupported" // a model family that the engine lacks
)

// Check is one comparison.
type Check struct {
	Part     string  `json:"part"`
	Case     string  `json:"case"`             // "internvl35-56-remote-bf16"
	Mode     string  `json:"mode,omitempty"`   // "f32" or "bf16": the type computed in
	Item     string  `json:"item,omitempty"`   // the prompt or file within the case
	Stage    string  `json:"stage"`            // "ids", "tiles", "ViT", "projector", "hidden", "logits", …
	Count    int     `json:"count"`            // values or rows compared
	Measured float64 `json:"measured"`         // largest deviation, or number of differences
	Allowed  float64 `json:"allowed"`          // its bound
	Verdict  Verdict `json:"verdict"`          //
	Detail   string  `json:"detail,omitempty"` // where, or why
}

// Summary counts verdicts.
type Summary struct {
	Passed, Failed, Unsupported int
}

// runner carries the options and hands out checks.
type runner struct {
	Options
	report  func(Check)
	summary Summary
}

// check reports a comparison; it passes if measured <= allowed (so NaN fails).
func (r *runner) check(c Check) {
	if c.Verdict == "" {
		c.Verdict = Fail
		if c.Measured <= c.Allowed {
			c.Verdict = Pass
		}
	}
	switch c.Verdict {
	case Pass:
		r.summary.Passed++
	case Unsupported:
		r.summary.Unsupported++
	default:
		r.summary.Failed++
	}
	r.report(c)
}

// fail reports a check that could not be made.
func (r *runner) fail(c Check, err error) {
	c.Verdict, c.Detail = Fail, err.Error()
	r.check(c)
}

// Run compares all goldens under dir and calls report for each check, in order.
// An error means that dir cannot be read or holds no goldens (ErrNothing), or
// that ctx ended; failed comparisons are no error.
func Run(ctx context.Context, dir string, o Options, report func(Check)) (Summary, error) {
	r := &runner{Options: o, report: report}
	for _, only := range o.Only {
		if !slices.Contains(Parts, only) {
			return r.summary, fmt.Errorf("parity: unknown part %q; the parts are %s", only, strings.Join(Parts, ", "))
		}
	}
	found, err := find(dir)
	if err != nil {
		return r.summary, fmt.Errorf("parity: %w", err)
	}
	run := map[string]func(context.Context, string) error{
		PartTokenizer: r.tokenizer, PartChat: r.chat, PartImages: r.images, PartModels: r.models,
	}
	for _, part := range Parts {
		if len(o.Only) > 0 && !slices.Contains(o.Only, part) {
			continue
		}
		for _, folder := range found[part] {
			if err := run[part](ctx, folder); err != nil {
				return r.summary, fmt.Errorf("parity: %w", err)
			}
		}
	}
	if r.summary == (Summary{}) {
		return r.summary, fmt.Errorf("parity: %s: %w", dir, ErrNothing)
	}
	return r.summary, nil
}

// find lists the folders of each part under dir, sorted.
func find(dir string) (map[string][]string, error) {
	found := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		names := map[string]bool{}
		for _, e := range entries {
			if !e.IsDir() {
				names[strings.TrimSuffix(e.Name(), ".gz")] = true
			}
		}
		for _, part := range Parts {
			if holds(part, names) {
				found[part] = append(found[part], path)
			}
		}
		if names["config.json"] { // a checkpoint
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// holds reports whether a folder with these files (without .gz) has goldens of a part.
func holds(part string, names map[string]bool) bool {
	switch part {
	case PartTokenizer:
		return names[encodeFile] || names[streamFile]
	case PartChat:
		return names[chatFile]
	case PartImages:
		return names[imagesFile] || names[gridFile] || names[resizeFile] || names[brokenFile]
	}
	if names["config.json"] {
		return false
	}
	for name := range names {
		if base, ok := strings.CutSuffix(name, ".json"); ok && names[base+".safetensors"] && base != "resize" {
			return true
		}
	}
	return false
}

// wants reports whether a case is to be run.
func (r *runner) wants(name string) bool { return strings.Contains(name, r.Match) }
