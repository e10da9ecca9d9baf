package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"metacap/internal/parity"
)

// parityCmd is metacap parity.
type parityCmd struct {
	Dirs []string `arg:"" name:"dir" help:"Directories with goldens, anywhere below."`

	Backend          string   `default:"auto" placeholder:"NAME" help:"ref, cpu, cpu:SET, cuda, cuda:N or auto."`
	Threads          int      `default:"0" placeholder:"N" help:"CPU threads; 0 = all cores."`
	Only             []string `enum:"tokenizer,chat,images,models" placeholder:"PART" help:"Compare only these parts: tokenizer, chat, images, models."`
	Match            string   `placeholder:"TEXT" help:"Only cases whose name holds TEXT."`
	AllowUnsupported bool     `help:"Do not fail for model families that the engine lacks."`
	JSON             bool     `name:"json" help:"Every comparison as one JSON object a line, and a last one with the counts."`
}

func (*parityCmd) examples() string {
	return `
  metacap parity testdata                          everything below testdata
  metacap parity --backend ref --only models testdata
  metacap parity -v --match internvl35 DIR         a line for every comparison
  metacap parity --json DIR > parity.jsonl

The table has a line for each case and stage: the largest deviation found, the
deviation allowed, and where. Ids, tiles and other exact things allow none. The
format of DIR is described in testdata/README.md; tools/fixtures makes one.
`
}

// parityTotals is the last line of --json.
type parityTotals struct {
	Passed      int     `json:"passed"`
	Failed      int     `json:"failed"`
	Unsupported int     `json:"unsupported"`
	Seconds     float64 `json:"seconds"`
	OK          bool    `json:"ok"`
}

// Run is called by kong.
func (c *parityCmd) Run(ctx context.Context, a *app) error {
	o := parity.Options{Device: c.Backend, Threads: c.Threads, Only: c.Only, Match: c.Match}
	start := time.Now()
	table := &parityTable{w: a.stdout, all: a.verbose > 0}
	report := table.add
	if c.JSON {
		report = func(check parity.Check) { writeJSON(a.stdout, check) }
	}
	var total parity.Summary
	for _, dir := range c.Dirs {
		s, err := parity.Run(ctx, dir, o, report)
		if !c.JSON {
			table.flush()
		}
		if errors.Is(err, parity.ErrNothing) {
			return &exitError{Code: exitNothing, Err: err}
		}
		if err != nil {
			return err
		}
		total.Passed += s.Passed
		total.Failed += s.Failed
		total.Unsupported += s.Unsupported
	}
	ok := total.Failed == 0 && (total.Unsupported == 0 || c.AllowUnsupported)
	if c.JSON {
		writeJSON(a.stdout, parityTotals{total.Passed, total.Failed, total.Unsupported, seconds(time.Since(start)), ok})
	} else {
		fmt.Fprintf(a.stdout, "\n%d comparisons hold, %d fail, %d model families unsupported; %.1f s\n", total.Passed, total.Failed, total.Unsupported, time.Since(start).Seconds())
	}
	if !ok {
		return &exitError{Code: exitSomeFailed}
	}
	return nil
}

// parityTable prints a line for each case and stage, the worst of its
// comparisons; a failure always has a line of its own.
type parityTable struct {
	w      io.Writer
	all    bool                     // a line for every comparison
	group  string                   // part, case and mode of the lines being gathered
	worst  map[string]*parity.Check // by stage
	stages []string                 // in order of appearance
	part   string
}

// key is what lines are gathered by.
func parityKey(c parity.Check) string { return c.Part + " " + c.Case + " " + c.Mode }

func (t *parityTable) add(c parity.Check) {
	if c.Part == parity.PartImages { // many cases of a few stages: gather by stage
		c.Item, c.Case = c.Case, "pictures"
	}
	if parityKey(c) != t.group {
		t.flush()
		t.group = parityKey(c)
	}
	if t.all || c.Verdict != parity.Pass {
		t.line(c)
		return
	}
	if t.worst == nil {
		t.worst = map[string]*parity.Check{}
	}
	w, ok := t.worst[c.Stage]
	if !ok {
		t.worst[c.Stage] = &c
		t.stages = append(t.stages, c.Stage)
		return
	}
	count := w.Count + c.Count
	if ratio(c) > ratio(*w) {
		*w = c
	}
	w.Count = count
}

// ratio is measured over allowed, to find the worst.
func ratio(c parity.Check) float64 {
	if c.Allowed == 0 {
		return c.Measured
	}
	return c.Measured / c.Allowed
}

// flush prints the gathered lines.
func (t *parityTable) flush() {
	for _, s := range t.stages {
		t.line(*t.worst[s])
	}
	t.worst, t.stages, t.group = nil, nil, ""
}

func (t *parityTable) line(c parity.Check) {
	if t.part == "" {
		fmt.Fprintf(t.w, parityRow, "case", "stage", "measured / allowed", "verdict", "compared; where it is worst")
	}
	if t.part != c.Part {
		t.part = c.Part
		fmt.Fprintf(t.w, "\n%s\n", c.Part)
	}
	name := c.Case
	if c.Mode != "" {
		name += " " + c.Mode
	}
	if c.Verdict == parity.Unsupported {
		fmt.Fprintf(t.w, parityRow, name, "", "", c.Verdict, c.Detail)
		return
	}
	detail := fmt.Sprint(c.Count)
	if where := strings.TrimSpace(c.Item + " " + c.Detail); where != "" && (t.all || c.Measured != 0 || c.Verdict != parity.Pass) {
		detail += "; " + where
	}
	fmt.Fprintf(t.w, parityRow, name, c.Stage, number(c.Measured)+" / "+number(c.Allowed), c.Verdict, detail)
}

// parityRow is the layout of a line.
const parityRow = "%-34s %-30s %-18s %-11s %s\n"

// number writes a deviation or a count shortly.
func number(v float64) string {
	if v == float64(int64(v)) {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}
