package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"metacap/capflow"
	"metacap/capflow/job"
	"metacap/capflow/pack"
	"metacap/engine"
	"metacap/internal/atomicfile"
)

// capflowCmd is metacap capflow.
type capflowCmd struct {
	Run     capflowRunCmd     `cmd:"" help:"Route, caption and filter: one record a picture."`
	Route   capflowRouteCmd   `cmd:"" help:"Only choose the domain of each picture."`
	Caption capflowCaptionCmd `cmd:"" help:"Only write captions: agents and summary, no judge."`
	Filter  capflowFilterCmd  `cmd:"" help:"Only judge given captions: looks, claims, grounding, five criteria."`
	Score   capflowScoreCmd   `cmd:"" help:"Only score given captions on the five criteria."`
	Show    capflowShowCmd    `cmd:"" help:"Print the steps of a flow."`
}

// flowFlags choose a flow.
type flowFlags struct {
	Mode   string   `default:"verified" enum:"single,faithful,verified,exhaustive" help:"single = one call; faithful = as published; verified = every sentence weighed; exhaustive = with a second look at regions." group:"flow"`
	Pack   string   `placeholder:"FILE" help:"Prompt pack instead of the built-in one." group:"flow"`
	Off    []string `placeholder:"NAME" help:"Switch off agents, or looks, weigh, routing, grounding, claims, literals, judge, revise, probes, windows, dates, render." group:"flow"`
	Render []string `placeholder:"FORM" help:"Further renderings: alt, words:N, language:NAME." group:"flow"`
}

func (f *flowFlags) load() (*pack.Pack, error) {
	if f.Pack == "" {
		return pack.Default(), nil
	}
	return pack.Load(f.Pack)
}

// flowRunFlags are shared by the commands that ask a model.
type flowRunFlags struct {
	Inputs []string `arg:"" name:"input" help:"Pictures, directories, .jsonl files, or meta files of data sets (.json)."`

	Domain   string   `placeholder:"ID" help:"Domain of every picture; the router is not asked." group:"flow"`
	Video    bool     `help:"The pictures are the frames of one video, in order." group:"picture"`
	MaxTiles int      `default:"0" placeholder:"N" help:"Most tiles a picture is cut into; 0 = the domain's budget." group:"picture"`
	Output   string   `short:"o" placeholder:"FILE" help:"Append records to a file, and go on where an earlier run stopped; else to standard output." group:"output"`
	Export   string   `placeholder:"FILE" help:"After the run, write accepted captions of -o as training conversations (JSON)." group:"output"`
	Retry    []string `enum:"error,rejected" placeholder:"STATUS" help:"With -o: make records with status error or rejected again." group:"output"`
	Mix      bool     `help:"With -o: allow records of different flows in one file." group:"output"`
	Shard    string   `placeholder:"I/N" help:"Only every N-th input, from the I-th (0/4, 1/4, …)." group:"output"`
	Parallel int      `default:"1" placeholder:"N" help:"Pictures worked on together." group:"output"`
	Price    float64  `default:"0" placeholder:"USD" help:"Price of this machine an hour, for records and the summary." group:"output"`

	flowFlags
	endpointFlags
	engineFlags
}

type (
	capflowRunCmd     struct{ flowRunFlags }
	capflowRouteCmd   struct{ flowRunFlags }
	capflowCaptionCmd struct{ flowRunFlags }
	capflowFilterCmd  struct{ flowRunFlags }
	capflowScoreCmd   struct{ flowRunFlags }
)

func (*capflowRunCmd) examples() string {
	return `
  metacap capflow run a.png                          one record, by the embedded model
  metacap capflow run -m DIR -o out.jsonl pictures/  resumes after a crash
  metacap capflow run --mode faithful a.png          the published workflow
  metacap capflow run --domain ui screenshot.png     the router is not asked
  metacap capflow run -o out.jsonl --export train.json meta.json
  metacap capflow run --off claims,judge a.png
`
}

func (*capflowRouteCmd) examples() string {
	return `
  metacap capflow route pictures/                    domain, probabilities and probes of each
`
}

func (*capflowCaptionCmd) examples() string {
	return `
  metacap capflow caption -o out.jsonl pictures/     what capflow filter and score take later
`
}

func (*capflowScoreCmd) examples() string {
	return `
  metacap capflow score captions.jsonl               five marks from 1 to 3 a caption
`
}

func (*capflowFilterCmd) examples() string {
	return `
  metacap capflow filter captions.jsonl              {"image": "a.png", "caption": "…"} a line, or records
`
}

// Run is called by kong.
func (c *capflowRunCmd) Run(ctx context.Context, a *app) error { return c.run(ctx, a, "run") }

// Run is called by kong.
func (c *capflowRouteCmd) Run(ctx context.Context, a *app) error { return c.run(ctx, a, "route") }

// Run is called by kong.
func (c *capflowCaptionCmd) Run(ctx context.Context, a *app) error {
	c.Off = append(c.Off, capflow.OffJudge)
	return c.run(ctx, a, "run")
}

// Run is called by kong.
func (c *capflowFilterCmd) Run(ctx context.Context, a *app) error { return c.run(ctx, a, "filter") }

// Run is called by kong.
func (c *capflowScoreCmd) Run(ctx context.Context, a *app) error {
	c.Off = append(c.Off, capflow.OffLooks, capflow.OffWeigh, capflow.OffClaims, capflow.OffGrounding, capflow.OffLiterals)
	return c.run(ctx, a, "filter")
}

// rows reads the inputs.
func (f *flowRunFlags) rows() ([]job.Row, error) {
	var rows []job.Row
	for _, path := range f.Inputs {
		more, err := job.Inputs(path)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	if f.Video {
		one := job.Row{Input: capflow.Input{Video: true}}
		for _, r := range rows {
			one.Images = append(one.Images, r.Images...)
		}
		one.ID = strings.Join(f.Inputs, " ")
		rows = []job.Row{one}
	}
	for i := range rows {
		if f.Domain != "" {
			rows[i].Domain = job.DomainID(f.Domain)
		}
	}
	if f.Shard == "" {
		return rows, nil
	}
	var i, n int
	if _, err := fmt.Sscanf(f.Shard, "%d/%d", &i, &n); err != nil || n < 1 || i < 0 || i >= n {
		return nil, fmt.Errorf("--shard %q, want I/N with I from 0 to N-1", f.Shard)
	}
	var mine []job.Row
	for k := i; k < len(rows); k += n {
		mine = append(mine, rows[k])
	}
	return mine, nil
}

func (f *flowRunFlags) run(ctx context.Context, a *app, what string) error {
	rows, err := f.rows()
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return &exitError{Code: exitNothing, Err: errors.New("no pictures in the inputs")}
	}
	if f.Export != "" && f.Output == "" {
		return errors.New("--export needs -o: it reads the records of that file")
	}
	p, err := f.load()
	if err != nil {
		return err
	}
	if id := job.DomainID(f.Domain); id != "" {
		if _, err := capflow.Plan(p, capflow.Verified, []string{id}, nil); err != nil {
			return fmt.Errorf("--domain: %w", err)
		}
	}
	eng, err := f.open(ctx, a, true)
	if err != nil {
		return err
	}
	defer eng.Close()
	info, err := modelInfo(&f.engineFlags)
	if err != nil {
		return err
	}
	roles, err := f.roles()
	if err != nil {
		return err
	}
	o := capflow.Options{Mode: capflow.Mode(f.Mode), Pack: p, Off: f.Off, MaxTiles: f.MaxTiles, Render: f.Render, Roles: roles}
	o.Meter = meterOf(eng)
	o.Meter.PricePerHour = f.Price
	if a.verbose > 0 && !a.quiet {
		o.Events = traceTo(a)
	}
	var stages *job.Stages
	if f.Output != "" {
		if stages, err = job.OpenStages(job.StagesPath(f.Output)); err != nil {
			return err
		}
		o.Stages = stages
	}
	sum, cpu, err := f.runRows(ctx, a, what, rows, capflow.Local(eng, info), o)
	if stages != nil {
		err = errors.Join(err, stages.Close(err == nil))
	}
	if err != nil {
		return err
	}
	f.report(a, eng.Info().Backend, sum, cpu)
	if f.Export != "" {
		if err := exportTo(f.Export, f.Output, p.Tasks.Caption); err != nil {
			return err
		}
	}
	if sum.Failed > 0 {
		return &exitError{Code: exitSomeFailed, Err: fmt.Errorf("%d of %d failed", sum.Failed, sum.Inputs)}
	}
	return nil
}

// meterOf measures the processor time of this process, or the time of a GPU.
func meterOf(eng *engine.Engine) capflow.Meter {
	if eng.Info().Backend == "cuda" {
		start := time.Now()
		return capflow.Meter{Read: func() time.Duration { return time.Since(start) }, Unit: "gpu", Lanes: 1}
	}
	return capflow.Meter{Read: cpuTime, Unit: "cpu", Lanes: runtime.NumCPU()}
}

// runRows makes the records and says what they took, with the processor time of this process.
func (f *flowRunFlags) runRows(ctx context.Context, a *app, what string, rows []job.Row, m capflow.Model, o capflow.Options) (job.Summary, time.Duration, error) {
	flow, err := capflow.New(m, o)
	if err != nil {
		return job.Summary{}, 0, err
	}
	byKey := map[string]job.Row{}
	var inputs []capflow.Input
	for _, r := range rows {
		inputs = append(inputs, r.Input)
		byKey[r.ID+"\x00"+r.Images[0].Path] = r
	}
	caption := func(ctx context.Context, in capflow.Input) (*capflow.Record, error) {
		switch what {
		case "route":
			return flow.Route(ctx, in)
		case "filter":
			r := byKey[in.ID+"\x00"+in.Images[0].Path]
			return flow.Filter(ctx, in, r.Caption, r.Agents)
		}
		return flow.Caption(ctx, in)
	}
	jo := job.Options{Parallel: f.Parallel, Mix: f.Mix}
	for _, s := range f.Retry {
		jo.Retry = append(jo.Retry, capflow.Status(s))
	}
	before := cpuTime()
	var sum job.Summary
	if f.Output != "" {
		sum, err = job.Run(ctx, flow, caption, inputs, f.Output, jo)
	} else {
		sum, err = job.Stream(ctx, caption, inputs, jo, func(r *capflow.Record) error { return writeJSON(a.stdout, r) })
	}
	return sum, cpuTime() - before, err
}

// report says on stderr what a run did and cost.
func (f *flowRunFlags) report(a *app, backend string, s job.Summary, cpu time.Duration) {
	if a.quiet {
		return
	}
	made := s.Accepted + s.Rejected + s.Failed
	fmt.Fprintf(a.stderr, "metacap: %d inputs: %d accepted, %d rejected, %d failed, %d were there already\n", s.Inputs, s.Accepted, s.Rejected, s.Failed, s.Resumed)
	if made == 0 {
		return
	}
	n := float64(made)
	unit, each := "CPU-seconds", cpu.Seconds()/n
	if backend == "cuda" {
		unit, each = "GPU-seconds", s.Wall.Seconds()/n
	}
	fmt.Fprintf(a.stderr, "metacap: a caption: %.2f %s, %.0f prompt tokens computed, %.0f taken from shared prefixes, %.0f written, %.1f tiles, %.1f calls, %.1f closed questions\n",
		each, unit, float64(s.Prefill)/n, float64(s.Cached)/n, float64(s.Decode)/n, float64(s.Tiles)/n, float64(s.Calls)/n, float64(s.Scores)/n)
	if f.Price > 0 || s.Dollars > 0 {
		fmt.Fprintf(a.stderr, "metacap: 100 captions: %.4f USD at %.2f USD an hour, and %.4f USD of endpoints\n", 100*s.Wall.Hours()*f.Price/n, f.Price, 100*s.Dollars/n)
	}
}

// traceTo prints steps as they end.
func traceTo(a *app) func(capflow.Event) {
	var mu sync.Mutex
	return func(e capflow.Event) {
		if !e.Done {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if e.Err != nil {
			e.Note = e.Err.Error()
		}
		fmt.Fprintf(a.stderr, "%s  %-22s %s\n", e.ID, e.Step, e.Note)
	}
}

func exportTo(path, records, question string) error {
	var b strings.Builder
	if _, err := job.Export(&b, records, question); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(b.String()), 0o644)
}

// capflowShowCmd prints a flow's graph.
type capflowShowCmd struct {
	Domain []string `placeholder:"ID" help:"Only these domains; several are joined, as the router does."`
	JSON   bool     `name:"json" help:"As JSON."`

	flowFlags
}

func (*capflowShowCmd) examples() string {
	return `
  metacap capflow show                    every domain in mode verified
  metacap capflow show --domain ui --mode faithful
  metacap capflow show --domain ui,code --json
`
}

// Run is called by kong.
func (c *capflowShowCmd) Run(a *app) error {
	p, err := c.load()
	if err != nil {
		return err
	}
	sets := [][]string{c.Domain}
	if len(c.Domain) == 0 {
		sets = nil
		for _, d := range p.Domains {
			sets = append(sets, []string{d.ID})
		}
	}
	if c.Mode == string(capflow.Single) {
		sets = sets[:1]
	}
	for _, domains := range sets {
		g, err := capflow.Plan(p, capflow.Mode(c.Mode), domains, c.Off)
		if err != nil {
			return err
		}
		if c.JSON {
			if err := writeJSON(a.stdout, g); err != nil {
				return err
			}
			continue
		}
		if _, err := io.WriteString(a.stdout, g.String()); err != nil {
			return err
		}
	}
	return nil
}

// captionByFlow is metacap caption --flow capflow: records or captions of the default flow.
func (c *captionCmd) captionByFlow(ctx context.Context, a *app) error {
	f := flowRunFlags{Inputs: c.Images, Video: c.Video, MaxTiles: c.MaxTiles, Parallel: max(1, c.Parallel), engineFlags: c.engineFlags}
	f.Mode = string(capflow.Verified)
	if c.JSON {
		return f.run(ctx, a, "run")
	}
	out := &captionLines{to: a.stdout, name: len(c.Images) > 1 && !c.Video}
	b := &app{stdin: a.stdin, stdout: out, stderr: a.stderr, env: a.env, kong: a.kong, quiet: a.quiet, verbose: a.verbose}
	return f.run(ctx, b, "run")
}

// captionLines turns lines of records into captions.
type captionLines struct {
	to   io.Writer
	name bool
}

// Write takes one whole record, as writeJSON writes it.
func (w *captionLines) Write(line []byte) (int, error) {
	var r capflow.Record
	if err := json.Unmarshal(line, &r); err != nil {
		return 0, err
	}
	text := ""
	switch {
	case r.Error != nil:
		text = "error: " + *r.Error
	case r.Captions != nil:
		text = r.Captions.Long
	}
	if w.name {
		text = r.Source.URI + ": " + text
	}
	if r.Status == capflow.Rejected && r.Checks != nil {
		text += "\n  rejected: " + strings.Join(r.Checks.Reasons, "; ")
	}
	_, err := fmt.Fprintln(w.to, text)
	return len(line), err
}

// endpointRoles is what --endpoint may name.
func endpointRoles() []string {
	var out []string
	for _, r := range capflow.Roles() {
		out = append(out, string(r))
	}
	return append(out, "all")
}

func checkRole(name string) error {
	if slices.Contains(endpointRoles(), name) {
		return nil
	}
	return fmt.Errorf("--endpoint: role %q, want one of %s", name, strings.Join(endpointRoles(), ", "))
}
