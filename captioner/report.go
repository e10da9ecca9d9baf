package captioner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"metacap/captioner/internal/journal"
	"metacap/captioner/internal/sink"
	"metacap/internal/atomicfile"
)

// Report is the end of a run.
type Report struct {
	Dir        string             `json:"job"`
	Total      int                `json:"listed"`
	Done       int                `json:"done"`    // captioned by this run
	Before     int                `json:"before"`  // finished before
	Skipped    int                `json:"skipped"` // sidecar existed
	Duplicates int                `json:"duplicates"`
	Failed     int                `json:"failed"` // in the whole job
	Flagged    int                `json:"flagged"`
	Retries    int                `json:"retries"`
	Complete   bool               `json:"complete"` // every listed input is finished
	Seconds    float64            `json:"seconds"`
	Rate       float64            `json:"images_per_second"`
	TokensIn   int64              `json:"tokens_in"`
	TokensOut  int64              `json:"tokens_out"`
	Tiles      int64              `json:"tiles"`
	EngineBusy float64            `json:"engine_busy"` // share of the time with work in an engine
	Bottleneck string             `json:"bottleneck"`
	Busy       map[string]float64 `json:"busy_seconds"`      // by stage, summed over workers
	Reasons    map[string]int     `json:"reasons,omitempty"` // of failures, the most general part of each
	Quarantine string             `json:"quarantine,omitempty"`
	Files      []string           `json:"files,omitempty"`
}

// FailedRecord is a line of failed.jsonl.
type FailedRecord struct {
	Key      string            `json:"key"`
	Error    string            `json:"error"`
	Captions map[string]string `json:"captions,omitempty"` // refused by the filters
}

// conclude renders what is made of the journal: files of the whole job, the
// quarantine list and the report.
func (r *runner) conclude(cause error) (*Report, error) {
	c := r.progress.Counts()
	rep := &Report{
		Dir: r.job.Dir, Total: c.Listed, Done: c.Done, Before: c.Before, Skipped: c.Skipped, Duplicates: c.Duplicates,
		Flagged: c.Flagged, Retries: c.Retries, Seconds: c.Elapsed.Seconds(), Rate: c.Rate(), TokensIn: c.TokensIn,
		TokensOut: c.TokensOut, Tiles: c.Tiles, Busy: map[string]float64{}, Reasons: map[string]int{},
		Complete: cause == nil && c.Left() == 0, Failed: c.Failed + c.FailedOld,
	}
	for k, v := range c.Busy {
		rep.Busy[k] = v.Seconds()
	}
	if c.Elapsed > 0 {
		rep.EngineBusy = c.EngineBusy.Seconds() / c.Elapsed.Seconds()
	}
	rep.Bottleneck, _ = c.Bottleneck()
	if errors.Is(cause, ErrNothing) {
		return rep, nil
	}
	if err := r.journal.Sync(); err != nil {
		return rep, err
	}
	err := errors.Join(r.renderFailed(rep), r.renderFiles(rep), r.renderReport(rep))
	r.event(Event{Kind: "checkpoint", Detail: r.job.Dir})
	return rep, err
}

// renderFailed writes failed.jsonl.
func (r *runner) renderFailed(rep *Report) error {
	path := filepath.Join(r.job.Dir, "failed.jsonl")
	n := 0
	err := atomicfile.WriteTo(path, 0o644, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return r.journal.Each(func(e journal.Entry) error {
			if e.Status != journal.Failed {
				return nil
			}
			n++
			var d failedData
			if err := json.Unmarshal(e.Data, &d); err != nil {
				return err
			}
			rep.Reasons[reason(d.Error)]++
			return enc.Encode(FailedRecord{Key: e.Key, Error: d.Error, Captions: d.Captions})
		})
	})
	if n > 0 {
		rep.Quarantine = path
	}
	return err
}

// reason is the end of an error's chain: what failures have in common.
func reason(text string) string {
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// renderFiles writes the formats that hold the whole job.
func (r *runner) renderFiles(rep *Report) error {
	each := func(fn func(*Record) error) error {
		return r.journal.Each(func(e journal.Entry) error {
			if e.Status == journal.Intent {
				return nil
			}
			rec := &Record{Key: e.Key}
			if e.Status == journal.Failed {
				var d failedData
				if err := json.Unmarshal(e.Data, &d); err != nil {
					return err
				}
				rec.Error = d.Error
			} else if err := json.Unmarshal(e.Data, rec); err != nil {
				return fmt.Errorf("captioner: journal entry of %s: %w", e.Key, err)
			}
			return fn(rec)
		})
	}
	stem := filepath.Join(r.job.root(), "captions"+r.job.shardSuffix())
	var errs []error
	for _, f := range r.job.Write {
		if sink.IsSidecar(f) {
			continue
		}
		files, err := sink.RenderAll(f, stem, r.job.root(), r.script.keys, each)
		rep.Files = append(rep.Files, files...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// renderReport writes report.json and report.md.
func (r *runner) renderReport(rep *Report) error {
	data, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		atomicfile.Write(filepath.Join(r.job.Dir, "report.json"), append(data, '\n'), 0o644),
		atomicfile.Write(filepath.Join(r.job.Dir, "report.md"), []byte(rep.Markdown()), 0o644),
	)
}

// Markdown is the report for people.
func (rep *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Captioning job %s\n\n| | |\n|---|---|\n", filepath.Base(rep.Dir))
	for _, row := range []struct {
		name  string
		value any
	}{
		{"inputs", rep.Total},
		{"captioned in this run", rep.Done},
		{"of these, copies of an equal picture", rep.Duplicates},
		{"finished before", rep.Before},
		{"skipped, sidecar existed", rep.Skipped},
		{"failed", rep.Failed},
		{"flagged", rep.Flagged},
		{"further attempts", rep.Retries},
		{"seconds", fmt.Sprintf("%.1f", rep.Seconds)},
		{"inputs a second", fmt.Sprintf("%.2f", rep.Rate)},
		{"tokens read, written", fmt.Sprintf("%d, %d", rep.TokensIn, rep.TokensOut)},
		{"engine busy", fmt.Sprintf("%.0f %%", 100*rep.EngineBusy)},
		{"bottleneck", rep.Bottleneck},
	} {
		fmt.Fprintf(&b, "| %s | %v |\n", row.name, row.value)
	}
	if len(rep.Reasons) > 0 {
		b.WriteString("\n## Failures\n\n")
		for _, k := range slices.Sorted(maps.Keys(rep.Reasons)) {
			fmt.Fprintf(&b, "- %d: %s\n", rep.Reasons[k], k)
		}
		fmt.Fprintf(&b, "\nEach with its reason: %s\n", rep.Quarantine)
	}
	return b.String()
}
