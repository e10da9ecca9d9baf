package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"metacap/capflow"
	"metacap/capflow/drawn"
	"metacap/capflow/job"
	"metacap/capflow/pack"
	"metacap/internal/atomicfile"
)

// evalCmd is metacap eval.
type evalCmd struct {
	Drawn evalDrawnCmd `cmd:"" help:"Flows on drawn pictures with known facts; no judge."`
}

// evalDrawnCmd is metacap eval drawn.
type evalDrawnCmd struct {
	Dir string `arg:"" default:"testdata/drawn" help:"Directory with samples.json and its pictures."`

	Flow     []string `default:"single,faithful,verified" enum:"single,faithful,verified,exhaustive" help:"Modes to compare."`
	Ablate   bool     `help:"Also verified without each part and each agent, one at a time."`
	Off      []string `placeholder:"NAME" help:"Also verified without each of these."`
	Filter   bool     `default:"true" negatable:"" help:"Also the filter, on true captions and ones with a planted error."`
	Pack     string   `placeholder:"FILE" help:"Prompt pack instead of the built-in one."`
	Limit    int      `default:"0" placeholder:"N" help:"Only the first N pictures of each domain; 0 = all."`
	Parallel int      `default:"2" placeholder:"N" help:"Pictures worked on together."`
	Records  string   `placeholder:"DIR" help:"Write the records of each flow as DIR/FLOW.jsonl, and take those that are there from the same flow."`
	Write    string   `placeholder:"PATH" help:"Write PATH.md and PATH.json as well."`

	engineFlags
}

func (*evalDrawnCmd) examples() string {
	return `
  metacap eval drawn                             the samples of the repository
  metacap eval drawn DIR --flow verified         a set of the generator in tools/drawn
  metacap eval drawn DIR --ablate --write docs/results/capflow-drawn
`
}

// Run is called by kong.
func (c *evalDrawnCmd) Run(ctx context.Context, a *app) error {
	samples, err := drawn.Load(c.Dir)
	if err != nil {
		return err
	}
	if c.Limit > 0 {
		seen := map[string]int{}
		var some []*drawn.Sample
		for _, s := range samples {
			if seen[s.Domain]++; seen[s.Domain] <= c.Limit {
				some = append(some, s)
			}
		}
		samples = some
	}
	p := pack.Default()
	if c.Pack != "" {
		if p, err = pack.Load(c.Pack); err != nil {
			return err
		}
	}
	eng, err := c.open(ctx, a, true)
	if err != nil {
		return err
	}
	defer eng.Close()
	info, err := modelInfo(&c.engineFlags)
	if err != nil {
		return err
	}
	off := c.Off
	if c.Ablate {
		off = append(off, drawn.Parts(p)...)
	}
	o := drawn.Options{Parallel: c.Parallel, Filter: c.Filter, Meter: meterOf(eng)}
	if !a.quiet {
		o.Progress = func(s string) { fmt.Fprintln(a.stderr, "metacap: "+s) }
	}
	if c.Records != "" {
		o.Records, o.Known = c.writeRecords, c.readRecords
	}
	rep, err := drawn.Run(ctx, capflow.Local(eng, info), filepath.Base(c.Dir), samples, drawn.Variants(p, c.Flow, off), o)
	if err != nil {
		return err
	}
	text := rep.Markdown(c.command())
	if c.Write != "" {
		data, err := json.MarshalIndent(rep, "", " ")
		if err != nil {
			return err
		}
		if err := atomicfile.Write(c.Write+".json", append(data, '\n'), 0o644); err != nil {
			return err
		}
		if err := atomicfile.Write(c.Write+".md", []byte(text), 0o644); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(a.stdout, text)
	return err
}

// writeRecords writes the records of a flow, a line each.
func (c *evalDrawnCmd) writeRecords(flow string, records []*capflow.Record) error {
	if err := os.MkdirAll(c.Records, 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, r := range records {
		if err := writeJSON(&b, r); err != nil {
			return err
		}
	}
	return atomicfile.Write(c.recordFile(flow), b.Bytes(), 0o644)
}

func (c *evalDrawnCmd) recordFile(flow string) string {
	return filepath.Join(c.Records, strings.ReplaceAll(flow, " − ", "-no-")+".jsonl")
}

// readRecords reads what writeRecords wrote in an earlier evaluation.
func (c *evalDrawnCmd) readRecords(flow string) ([]*capflow.Record, error) {
	f, err := os.Open(c.recordFile(flow))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []*capflow.Record
	err = job.Each(f, func(r *capflow.Record) error {
		out = append(out, r)
		return nil
	})
	return out, err
}

// command is what reproduces the report, without places of this machine.
func (c *evalDrawnCmd) command() string {
	words := []string{"metacap eval drawn", filepath.Base(c.Dir), "--flow " + strings.Join(c.Flow, ",")}
	if c.Ablate {
		words = append(words, "--ablate")
	}
	if len(c.Off) > 0 {
		words = append(words, "--off "+strings.Join(c.Off, ","))
	}
	if !c.Filter {
		words = append(words, "--no-filter")
	}
	if c.Limit > 0 {
		words = append(words, fmt.Sprintf("--limit %d", c.Limit))
	}
	if !c.embedded() {
		words = append(words, "-m "+c.name())
	}
	return strings.Join(words, " ")
}
