package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"metacap/captioner"
	"metacap/engine"
)

// jobView shows a job's progress: a live block, plain lines, JSON events or nothing.
type jobView struct {
	a        *app
	mode     string
	records  bool // captions to standard output as they are made
	progress *captioner.Progress
	done     chan struct{}
	ended    sync.WaitGroup

	mu    sync.Mutex // of what is printed
	drawn int        // lines of the block on the screen
}

const (
	blockEvery = 500 * time.Millisecond
	lineEvery  = 10 * time.Second
)

func newJobView(a *app, c *captionCmd, p *captioner.Progress) *jobView {
	v := &jobView{a: a, mode: c.Progress, records: c.JSON, progress: p, done: make(chan struct{})}
	switch {
	case a.quiet:
		v.mode = "none"
	case v.mode == "auto" && terminal(a.stderr):
		v.mode = "block"
	case v.mode == "auto":
		v.mode = "plain"
	}
	return v
}

// start begins to print; stop ends it.
func (v *jobView) start() {
	every := lineEvery
	switch v.mode {
	case "none":
		return
	case "block":
		every = blockEvery
	case "json":
		writeJSON(v.a.stderr, map[string]any{"event": "start", "time": time.Now().UTC()})
	}
	v.ended.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-v.done:
				return
			case <-t.C:
				v.tick()
			}
		}
	})
}

func (v *jobView) stop() {
	close(v.done)
	v.ended.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
}

// tick prints the present state.
func (v *jobView) tick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.progress.Counts()
	switch v.mode {
	case "plain":
		fmt.Fprintln(v.a.stderr, "metacap: "+progressLine(c))
	case "json":
		writeJSON(v.a.stderr, struct {
			Event  string `json:"event"`
			Counts any    `json:"counts"`
		}{"progress", jsonCounts(c)})
	case "block":
		v.erase()
		st := v.a.style(v.a.stderr)
		fmt.Fprintf(v.a.stderr, "%s\n%s\n", st.bold(progressLine(c)), st.dim("  "+stagesLine(c)+"  "+clip(printable(c.Last), 60)))
		v.drawn = 2
	}
}

// erase takes the block off the screen.
func (v *jobView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.a.stderr, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return "…" + string(r[len(r)-n+1:])
}

// progressLine is the state in a line.
func progressLine(c captioner.Counts) string {
	finished := c.Listed - c.Left()
	var b strings.Builder
	total := fmt.Sprint(c.Listed)
	if !c.ListingEnd {
		total += "+"
	}
	fmt.Fprintf(&b, "caption %d/%s", finished, total)
	if c.Listed > 0 && c.ListingEnd {
		fmt.Fprintf(&b, " (%.1f %%)", 100*float64(finished)/float64(c.Listed))
	}
	fmt.Fprintf(&b, " · %.2f img/s · %.0f tok/s", c.Rate(), float64(c.TokensOut)/max(c.Elapsed.Seconds(), 1e-9))
	if r := c.Rate(); r > 0 && c.ListingEnd && c.Left() > 0 {
		fmt.Fprintf(&b, " · ETA %s", time.Duration(float64(c.Left())/r*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintf(&b, " · ok %d skip %d fail %d flag %d", c.Done+c.Before, c.Skipped, c.Failed+c.FailedOld, c.Flagged)
	return b.String()
}

// stagesLine says where workers are spending their time.
func stagesLine(c captioner.Counts) string {
	total := c.Elapsed.Seconds()
	if total <= 0 {
		return ""
	}
	return fmt.Sprintf("in flight %d · prepare %.1f× · engine busy %.0f %%", c.InFlight, c.Busy[captioner.StagePrepare].Seconds()/total, 100*c.EngineBusy.Seconds()/total)
}

func jsonCounts(c captioner.Counts) map[string]any {
	return map[string]any{
		"listed": c.Listed, "listing_end": c.ListingEnd, "done": c.Done, "before": c.Before, "skipped": c.Skipped, "duplicates": c.Duplicates,
		"failed": c.Failed, "failed_before": c.FailedOld, "flagged": c.Flagged, "retries": c.Retries, "in_flight": c.InFlight,
		"tokens_in": c.TokensIn, "tokens_out": c.TokensOut, "seconds": c.Elapsed.Seconds(), "engine_busy_seconds": c.EngineBusy.Seconds(),
	}
}

// event is called by the job's workers.
func (v *jobView) event(e captioner.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mode == "json" {
		writeJSON(v.a.stderr, e)
	}
	if e.Record != nil && v.records {
		writeJSON(v.a.stdout, e.Record)
	}
	if v.mode == "json" || v.a.quiet {
		return
	}
	if e.Kind == "fail" || v.a.verbose > 0 && e.Kind != "checkpoint" {
		v.erase()
		fmt.Fprintf(v.a.stderr, "metacap: %s: %s\n", e.Key, strings.TrimSpace(e.Kind+" "+e.Detail))
	}
}

// summary prints the end of a job.
func (v *jobView) summary(rep *captioner.Report) {
	if v.mode == "json" {
		writeJSON(v.a.stderr, struct {
			Event  string            `json:"event"`
			Report *captioner.Report `json:"report"`
		}{"done", rep})
		return
	}
	if v.a.quiet {
		return
	}
	w := v.a.stderr
	fmt.Fprintf(w, "metacap: %d captioned (%.2f img/s), %d before, %d skipped, %d failed, %d flagged in %s\n",
		rep.Done, rep.Rate, rep.Before, rep.Skipped, rep.Failed, rep.Flagged, time.Duration(rep.Seconds*float64(time.Second)).Round(10*time.Millisecond))
	if rep.Bottleneck != "" {
		fmt.Fprintf(w, "metacap: slowest stage: %s (engine busy %.0f %% of the time)\n", rep.Bottleneck, 100*rep.EngineBusy)
	}
	for _, f := range rep.Files {
		fmt.Fprintf(w, "metacap: wrote %s\n", f)
	}
	if rep.Quarantine != "" {
		fmt.Fprintf(w, "metacap: failures with reasons: %s; try them again with --retry-failed\n", rep.Quarantine)
	}
	fmt.Fprintf(w, "metacap: report: %s\n", rep.Dir+string(os.PathSeparator)+"report.md")
}

// dryRun counts the inputs and estimates the work from a few of them.
func (c *captionCmd) dryRun(ctx context.Context, a *app, eng captioner.Engine, j captioner.Job) error {
	e, ok := eng.(*engine.Engine)
	if !ok {
		return fmt.Errorf("--dry-run: this engine cannot estimate")
	}
	est, err := captioner.Survey(ctx, e, j)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(a.stdout, est)
	}
	_, err = fmt.Fprint(a.stdout, est)
	return err
}
