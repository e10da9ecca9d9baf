package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"metacap/internal/atomicfile"
	"metacap/internal/bench"
)

// benchServeSimCmd is metacap bench serve-sim.
type benchServeSimCmd struct {
	Requests    int     `short:"n" default:"100" placeholder:"N" help:"Requests." group:"load"`
	Rate        float64 `default:"0" placeholder:"R" help:"Requests a second on average, at random times (a Poisson process); 0 = closed loop." group:"load"`
	Concurrency int     `default:"4" placeholder:"N" help:"Clients of the closed loop, each with one request at a time." group:"load"`
	Sizes       string  `default:"448x448:2,640x480:4,1024x768:2,1280x960" placeholder:"MIX" help:"Sizes of pictures with their weights, WIDTHxHEIGHT:WEIGHT; none = text alone." group:"load"`
	Pictures    int     `default:"0" placeholder:"N" help:"Different pictures that requests choose from; 0 = each its own." group:"load"`
	Words       string  `default:"8-32" placeholder:"A-B" help:"Words of an instruction." group:"load"`
	Tokens      string  `default:"16-64" placeholder:"A-B" help:"Tokens of an answer." group:"load"`
	Seed        uint64  `default:"1" placeholder:"N" help:"Seed of times, pictures and texts." group:"load"`
	Speculation bool    `default:"true" negatable:"" help:"Guess tokens where that helps." group:"load"`

	SloTtft time.Duration `default:"2s" placeholder:"TIME" help:"Objective for the first token; 0 = none." group:"objective"`
	SloTpot time.Duration `default:"100ms" placeholder:"TIME" help:"Objective for the mean time of a further token; 0 = none." group:"objective"`
	SloE2el time.Duration `name:"slo-e2el" default:"0" placeholder:"TIME" help:"Objective for the whole answer; 0 = none." group:"objective"`

	Record string `placeholder:"FILE" help:"Write every request, its plan and its times, to this JSONL file." group:"output"`
	Replay string `placeholder:"FILE" help:"Take the requests from such a file instead of drawing them." group:"output"`
	Output string `short:"o" default:"md" enum:"md,json" help:"md, or json (one object)." group:"output"`

	benchModel
}

func (*benchServeSimCmd) examples() string {
	return `
  metacap bench serve-sim                          closed loop of 4 clients on the embedded model
  metacap bench serve-sim --rate 2 -n 200          arrivals at random, 2 a second on average
  metacap bench serve-sim --random-weights tiny --sizes 1344x896 --pictures 5
  metacap bench serve-sim -m DIR --rate 1 --slo-ttft 1s --slo-tpot 50ms -o json
  metacap bench serve-sim --record load.jsonl      and the same load again:
  metacap bench serve-sim --replay load.jsonl

The load goes to the engine in this process: no network, no server. A request is a
JPEG and an instruction; reading, tiling and queueing count. Answers run over
end-of-turn tokens, so that the plan says how long they are. One request before
the others is not measured.

TTFT: from the request to its first token. TPOT: the mean time of each further
token of an answer. ITL: the time between tokens; tokens of one step come
together. E2EL: the whole answer. Goodput counts the requests that met all
objectives. Failed requests are counted apart and have no times.
`
}

// serveRecord is the result as JSON.
type serveRecord struct {
	benchBase
	Test        string  `json:"test"`
	Seed        uint64  `json:"seed,omitempty"`
	Replay      string  `json:"replay,omitempty"`
	Rate        float64 `json:"rate,omitempty"`        // asked for; 0 in a closed loop
	Concurrency int     `json:"concurrency,omitempty"` // of a closed loop
	Sizes       string  `json:"sizes,omitempty"`
	Pictures    int     `json:"pictures,omitempty"`
	Speculation bool    `json:"speculation"`
	*bench.Report
}

// Run is called by kong.
func (c *benchServeSimCmd) Run(ctx context.Context, a *app) error {
	plan, err := c.plan()
	if err != nil {
		return err
	}
	clients := c.Concurrency
	if bench.Timed(plan) {
		clients = 0
	}
	eng, err := c.openBench(ctx, c.config(a))
	if err != nil {
		return err
	}
	defer eng.Close()
	if !eng.Info().Vision && slices.ContainsFunc(plan, func(p bench.Arrival) bool { return p.Width > 0 }) {
		return fmt.Errorf("%s has no vision encoder: --sizes none", c.name())
	}
	sim, err := bench.Simulate(ctx, eng, plan, clients, c.Speculation)
	if err != nil {
		return err
	}
	if c.Record != "" {
		if err := writeServed(c.Record, sim.Served); err != nil {
			return fmt.Errorf("--record %s: %w", c.Record, err)
		}
	}
	r := serveRecord{
		benchBase: c.base(eng.Info()), Test: "serve-sim", Concurrency: clients, Speculation: c.Speculation,
		Report: sim.Report(bench.Objective{First: seconds(c.SloTtft), PerToken: seconds(c.SloTpot), Total: seconds(c.SloE2el)}),
	}
	if r.Replay = c.Replay; r.Replay == "" {
		r.Seed, r.Rate, r.Sizes, r.Pictures = c.Seed, c.Rate, c.Sizes, c.Pictures
	}
	if c.Output == "json" {
		err = writeJSON(a.stdout, r)
	} else {
		err = writeServeSim(a.stdout, &r)
	}
	if err == nil && r.Failed > 0 {
		err = &exitError{Code: exitSomeFailed}
	}
	return err
}

// plan draws the requests, or reads them.
func (c *benchServeSimCmd) plan() ([]bench.Arrival, error) {
	if c.Replay != "" {
		return readPlan(c.Replay)
	}
	load := bench.Load{Requests: c.Requests, Rate: c.Rate, Concurrency: c.Concurrency, Pictures: c.Pictures, Seed: c.Seed}
	var err error
	if load.Words, err = between(c.Words); err != nil {
		return nil, fmt.Errorf("--words: %w", err)
	}
	if load.Tokens, err = between(c.Tokens); err != nil {
		return nil, fmt.Errorf("--tokens: %w", err)
	}
	if c.Sizes != "none" {
		if load.Sizes, err = bench.ParseSizes(c.Sizes); err != nil {
			return nil, fmt.Errorf("--sizes: %w", err)
		}
	}
	return load.Plan()
}

// maxBetween bounds the ends of a range of words or tokens.
const maxBetween = 1 << 20

// between reads "8-32", or "16" for both ends.
func between(text string) (b [2]int, err error) {
	low, high, ok := strings.Cut(text, "-")
	if !ok {
		high = low
	}
	for i, s := range []string{low, high} {
		if b[i], err = strconv.Atoi(s); err != nil || b[i] < 1 || b[i] > maxBetween {
			return b, fmt.Errorf("%q: want a number from 1 to %d, or two as 8-32", text, maxBetween)
		}
	}
	if b[1] < b[0] {
		return b, fmt.Errorf("%q: the second number is the smaller one", text)
	}
	return b, nil
}

func readPlan(name string) ([]bench.Arrival, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--replay: %w", err)
	}
	defer f.Close()
	var plan []bench.Arrival
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var a bench.Arrival
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return nil, fmt.Errorf("--replay %s: request %d: %w", name, len(plan), err)
		}
		plan = append(plan, a)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--replay %s: %w", name, err)
	}
	if err := bench.CheckPlan(plan); err != nil {
		return nil, fmt.Errorf("--replay %s: %w", name, err)
	}
	return plan, nil
}

func writeServed(name string, served []bench.Served) error {
	var b bytes.Buffer
	for i := range served {
		if err := writeJSON(&b, &served[i]); err != nil {
			return err
		}
	}
	return atomicfile.Write(name, b.Bytes(), 0o644)
}

func writeServeSim(w io.Writer, r *serveRecord) error {
	load := fmt.Sprintf("a closed loop of %d clients", r.Concurrency)
	if r.Concurrency == 0 {
		load = "arrivals at random"
		if r.Rate > 0 {
			load += fmt.Sprintf(", %g a second on average", r.Rate)
		}
	}
	fmt.Fprintf(w, "%s, %s: %s.\n\n", r.Model, r.Device, load)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "| %s\t| "+format+"\t|\n", append([]any{name}, args...)...)
	}
	row("", "")
	row("---", "---")
	row("completed, failed", "%d, %d", r.Completed, r.Failed)
	row("duration", "%.2f s", r.Seconds)
	row("most open at once", "%d", r.Peak)
	row("prompt tokens, of these cached", "%d, %d", r.Prompt, r.Cached)
	row("answer tokens", "%d", r.Output)
	row("tiles encoded", "%d", r.TilesEncoded)
	row("requests", "%s /s", rate(r.Requests))
	row("answer tokens", "%s /s", rate(r.OutputRate))
	row("all tokens", "%s /s", rate(r.TotalRate))
	row("goodput ("+objective(r.Objective)+")", "%s /s, %d requests", rate(r.Goodput), r.Good)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| ms\t| mean\t| p50\t| p90\t| p99\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|")
	for _, l := range []struct {
		name string
		s    bench.Summary
	}{{"TTFT", r.First}, {"TPOT", r.PerToken}, {"ITL", r.Gap}, {"E2EL", r.Latency}} {
		fmt.Fprintf(t, "| %s\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t|\n", l.name, l.s.Mean, l.s.P50, l.s.P90, l.s.P99)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, text := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(w, "\nfailed %d times: %s\n", r.Errors[text], text)
	}
	return nil
}

func objective(o bench.Objective) string {
	var list []string
	for _, l := range []struct {
		name  string
		limit float64
	}{{"TTFT", o.First}, {"TPOT", o.PerToken}, {"E2EL", o.Total}} {
		if l.limit > 0 {
			list = append(list, fmt.Sprintf("%s ≤ %g ms", l.name, 1e3*l.limit))
		}
	}
	if len(list) == 0 {
		return "no objective"
	}
	return strings.Join(list, ", ")
}
