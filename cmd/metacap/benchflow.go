package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"metacap/capflow"
	"metacap/capflow/pack"
	"metacap/engine"
	"metacap/internal/bench"
)

// benchFlowCmd is metacap bench capflow.
type benchFlowCmd struct {
	Modes    []string `arg:"" optional:"" name:"mode" enum:"single,faithful,verified,exhaustive" help:"single, faithful, verified, exhaustive; default: all."`
	Domain   string   `default:"natural" placeholder:"ID" help:"What the router is made to find."`
	Pictures int      `default:"8" placeholder:"N" help:"Pictures a mode, after one that is not measured."`
	Parallel int      `default:"4" placeholder:"N" help:"Pictures worked on together."`
	Share    float64  `default:"0.5" placeholder:"SHARE" help:"Length of every answer as a share of its limit."`
	Alone    bool     `default:"true" negatable:"" help:"Also as independent calls: each question with a picture of its own, so that nothing is shared."`
	Seconds  float64  `default:"0" placeholder:"N" help:"Begin no mode later than this; 0 = no limit."`
	Output   string   `short:"o" default:"md" enum:"md,jsonl" help:"md, or jsonl (an object a line)."`

	benchModel
}

func (*benchFlowCmd) examples() string {
	return `
  metacap bench capflow                            all modes on the embedded model
  metacap bench capflow --random-weights 8b --device cuda -o jsonl
  metacap bench capflow verified --domain infographic_document --parallel 8

What a caption takes of the machine in each mode of CapFlow. Every question is
computed as a flow asks it, but the answers are prescribed, so that any weights
will do: an answer has a fixed share of its limit in tokens, whatever the model
chose, and is then replaced by plain sentences; the router finds --domain, every
other closed question is answered with yes or with the best mark. All agents of
the domain run. Seconds are the time of the machine for all pictures, divided by
their number; "independent" asks the same questions without sharing anything.
Pictures are JPEGs of 1280x960.
`
}

// flowRow is a line of the result.
type flowRow struct {
	benchBase
	Test     string  `json:"test"`
	Mode     string  `json:"mode"`
	Calls    string  `json:"calls"` // shared or independent
	Domain   string  `json:"domain"`
	Pictures int     `json:"pictures"`
	Parallel int     `json:"parallel"`
	Share    float64 `json:"share_of_limits"`
	Seconds  float64 `json:"seconds_per_caption"`
	Prefill  float64 `json:"prompt_tokens_computed"` // a caption, as all that follow
	Cached   float64 `json:"prompt_tokens_shared"`
	Decode   float64 `json:"tokens_written"`
	Tiles    float64 `json:"tiles_encoded"`
	Asked    float64 `json:"answers"`
	Closed   float64 `json:"closed_questions"`
}

// Run is called by kong.
func (c *benchFlowCmd) Run(ctx context.Context, a *app) error {
	if c.Pictures < 1 || c.Parallel < 1 || c.Share <= 0 || c.Share > 1 {
		return fmt.Errorf("bench capflow: --pictures %d, --parallel %d, --share %g: want at least 1, at least 1, above 0 to 1", c.Pictures, c.Parallel, c.Share)
	}
	start := time.Now()
	eng, err := c.openBench(ctx, c.config(a))
	if err != nil {
		return err
	}
	defer eng.Close()
	if len(c.Modes) == 0 {
		c.Modes = []string{"single", "faithful", "verified", "exhaustive"}
	}
	var rows []flowRow
	seed := 0
	for _, mode := range c.Modes {
		for _, alone := range []bool{false, true} {
			if alone && !c.Alone || c.Seconds > 0 && time.Since(start).Seconds() > c.Seconds {
				continue
			}
			row, err := c.measureMode(ctx, eng, capflow.Mode(mode), alone, &seed)
			if err != nil {
				return fmt.Errorf("bench capflow: %s: %w", mode, err)
			}
			rows = append(rows, row)
			if c.Output == "jsonl" {
				if err := writeJSON(a.stdout, row); err != nil {
					return err
				}
			}
		}
	}
	if c.Output == "md" {
		return writeFlow(a.stdout, rows)
	}
	return nil
}

// measureMode captions pictures in a mode.
func (c *benchFlowCmd) measureMode(ctx context.Context, eng *engine.Engine, mode capflow.Mode, alone bool, seed *int) (flowRow, error) {
	row := flowRow{
		benchBase: c.base(eng.Info()), Test: "capflow", Mode: string(mode), Calls: "shared", Domain: c.Domain,
		Pictures: c.Pictures, Parallel: c.Parallel, Share: c.Share,
	}
	m, err := newPrescribed(eng, c.Domain, c.Share)
	if err != nil {
		return row, err
	}
	if m.alone = alone; alone {
		row.Calls = "independent"
	}
	flow, err := capflow.New(m, capflow.Options{Mode: mode})
	if err != nil {
		return row, err
	}
	m.share = min(c.Share, 0.02)
	if _, err := c.captionAll(ctx, flow, 1, seed); err != nil {
		return row, err
	}
	m.share = c.Share
	m.spent.reset()
	began := time.Now()
	records, err := c.captionAll(ctx, flow, c.Pictures, seed)
	if err != nil {
		return row, err
	}
	n := float64(c.Pictures)
	row.Seconds = time.Since(began).Seconds() / n
	row.Prefill, row.Cached, row.Decode = float64(m.spent.prompt.Load()-m.spent.cached.Load())/n, float64(m.spent.cached.Load())/n, float64(m.spent.output.Load())/n
	row.Tiles, row.Asked, row.Closed = float64(m.spent.tiles.Load())/n, float64(m.spent.answers.Load())/n, float64(m.spent.closed.Load())/n
	if alone {
		row.Cached = 0 // a call's own prefix, counted again
	}
	for _, r := range records {
		if r.Status == capflow.Failed {
			return row, fmt.Errorf("a record failed: %s", *r.Error)
		}
	}
	return row, nil
}

// captionAll runs the flow on pictures that were never seen.
func (c *benchFlowCmd) captionAll(ctx context.Context, flow *capflow.Flow, n int, seed *int) ([]*capflow.Record, error) {
	pictures := make([][]byte, n)
	for i := range pictures {
		var err error
		if pictures[i], err = bench.Photo(1280, 960, *seed); err != nil {
			return nil, err
		}
		*seed++
	}
	records, errs := make([]*capflow.Record, n), make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, c.Parallel)
	for i, data := range pictures {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			records[i], errs[i] = flow.Caption(ctx, capflow.Input{ID: fmt.Sprint(i), Images: []engine.Image{{Data: data}}})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return records, nil
}

// prescribed is the engine as a model whose answers are prescribed; see the examples.
type prescribed struct {
	capflow.Model
	eng    *engine.Engine
	option string // of the domain, as the router reads it
	share  float64
	alone  bool // nothing is shared: a session a question
	tint   atomic.Int64
	spent  spent
}

// spent adds up what questions took.
type spent struct {
	prompt, cached, output, tiles, answers, closed atomic.Int64
}

func (s *spent) reset() {
	for _, v := range []*atomic.Int64{&s.prompt, &s.cached, &s.output, &s.tiles, &s.answers, &s.closed} {
		v.Store(0)
	}
}

func (s *spent) add(u engine.Usage) {
	s.prompt.Add(int64(u.PromptTokens))
	s.cached.Add(int64(u.CachedTokens))
	s.output.Add(int64(u.OutputTokens))
	s.tiles.Add(int64(u.TilesEncoded))
}

func newPrescribed(eng *engine.Engine, domain string, share float64) (*prescribed, error) {
	d, ok := pack.Default().Domain(domain)
	if !ok {
		return nil, fmt.Errorf("there is no domain %q", domain)
	}
	return &prescribed{Model: capflow.Local(eng, capflow.ModelInfo{Name: "prescribed"}), eng: eng, option: d.Option, share: share}, nil
}

// Open opens a conversation. Of independent calls the first asks it.
func (p *prescribed) Open(ctx context.Context, pre capflow.Prefix) (capflow.Conversation, error) {
	c, err := p.Model.Open(ctx, pre)
	if err != nil {
		return nil, err
	}
	p.spent.add(c.Usage())
	return &prescribedTalk{Conversation: c, p: p, prefix: pre}, nil
}

// prescribedTalk is a conversation of prescribed.
type prescribedTalk struct {
	capflow.Conversation
	p      *prescribed
	prefix capflow.Prefix
	asked  atomic.Bool
}

// ask runs fn on the conversation, or on one of its own with a picture like it.
func (t *prescribedTalk) ask(ctx context.Context, fn func(capflow.Conversation) error) error {
	if !t.p.alone || t.asked.CompareAndSwap(false, true) {
		return fn(t.Conversation)
	}
	pre := t.prefix
	pre.Images = slices.Clone(pre.Images)
	for i := range pre.Images {
		im := &pre.Images[i]
		picture, err := bench.Tinted(im.Data, int(t.p.tint.Add(1)))
		if err != nil {
			return err
		}
		im.Data, im.Decoded = nil, picture
	}
	c, err := t.p.Model.Open(ctx, pre)
	if err != nil {
		return err
	}
	t.p.spent.add(c.Usage())
	err = fn(c)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// Generate computes an answer of the prescribed length.
func (t *prescribedTalk) Generate(ctx context.Context, instruction string, r engine.Request) (res *engine.Result, err error) {
	r.MaxTokens = max(1, int(float64(r.MaxTokens)*t.p.share))
	r.IgnoreEOS, r.DisableLoopGuard, r.DisableSpeculation, r.Stop, r.Grammar = true, true, true, nil, engine.Grammar{}
	err = t.ask(ctx, func(c capflow.Conversation) error {
		res, err = c.Generate(ctx, instruction, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.p.spent.add(res.Usage)
	t.p.spent.answers.Add(1)
	prescribe(res)
	return res, nil
}

// ScoreLabels computes the scores and answers with the router's domain, else with the first
// of two labels and the last of more: yes, and the best mark.
func (t *prescribedTalk) ScoreLabels(ctx context.Context, queries []engine.LabelQuery) (out [][]float64, err error) {
	t.p.spent.closed.Add(int64(len(queries)))
	groups := [][]engine.LabelQuery{queries}
	if t.p.alone {
		groups = nil
		for i := range queries {
			groups = append(groups, queries[i:i+1])
		}
	}
	for _, g := range groups {
		err := t.ask(ctx, func(c capflow.Conversation) error {
			before := c.Usage()
			_, err := c.ScoreLabels(ctx, g)
			t.p.spent.add(difference(c.Usage(), before))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, q := range queries {
		best := 0
		for i, label := range q.Labels {
			switch {
			case strings.Contains(q.Instruction, label+". "+t.p.option):
				best = i
			case len(q.Labels) > 2 && !strings.Contains(q.Instruction, t.p.option):
				best = i
			}
		}
		row := make([]float64, len(q.Labels))
		for i := range row {
			row[i] = -6
		}
		row[best] = -0.01
		out = append(out, row)
	}
	return out, nil
}

// ScoreText computes the scores; a text is likelier with the picture than without.
func (t *prescribedTalk) ScoreText(ctx context.Context, instruction, text string) (tokens []engine.Token, err error) {
	err = t.ask(ctx, func(c capflow.Conversation) error {
		before := c.Usage()
		tokens, err = c.ScoreText(ctx, instruction, text)
		t.p.spent.add(difference(c.Usage(), before))
		return err
	})
	for i := range tokens {
		tokens[i].LogProb = -2
		if len(t.prefix.Images) > 0 {
			tokens[i].LogProb = -0.1
		}
	}
	return tokens, err
}

// Opening is what the prefix alone has cost.
func (t *prescribedTalk) Opening() engine.Usage {
	if o, ok := t.Conversation.(interface{ Opening() engine.Usage }); ok {
		return o.Opening()
	}
	return engine.Usage{}
}

func difference(a, b engine.Usage) engine.Usage {
	return engine.Usage{PromptTokens: a.PromptTokens - b.PromptTokens, CachedTokens: a.CachedTokens - b.CachedTokens, TilesEncoded: a.TilesEncoded - b.TilesEncoded}
}

// Words of prescribed answers.
var (
	answerColours = strings.Fields("red blue green white black yellow brown grey")
	answerThings  = strings.Fields("cup chair book lamp coat box plate clock plant bag bottle basket")
	answerPlaces  = []string{"on the left table", "near the open window", "under the wide shelf", "beside the tall door", "behind the low wall", "in the far corner"}
)

// prescribe replaces an answer by sentences of about as many tokens, three words for four
// of them: the first sentences of one list, so that longer answers say what shorter ones say, and more.
func prescribe(res *engine.Result) {
	words := max(len(res.Tokens)*3/4, 8)
	res.Tokens, res.Finish = res.Tokens[:0], engine.FinishStop
	var b strings.Builder
	for i := 0; len(res.Tokens) < words; i++ {
		s := fmt.Sprintf("A %s %s stands %s.", answerColours[i%8], answerThings[i/8%12], answerPlaces[i/96%6])
		for _, w := range strings.Fields(s) {
			if b.Len() > 0 {
				w = " " + w
			}
			b.WriteString(w)
			res.Tokens = append(res.Tokens, engine.Token{Text: w, LogProb: -0.1})
		}
	}
	res.Text = b.String()
}

func writeFlow(w io.Writer, rows []flowRow) error {
	if len(rows) == 0 {
		return nil
	}
	r := &rows[0]
	unit := "seconds"
	if r.Backend == "cuda" {
		unit = "GPU-seconds"
	}
	fmt.Fprintf(w, "%s, %s: CapFlow in domain %s, %d pictures, %d together, answers of %.0f %% of their limits.\n\n", r.Model, r.Device, r.Domain, r.Pictures, r.Parallel, 100*r.Share)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintf(t, "| mode\t| calls\t| %s a caption\t| prompt tokens\t| shared\t| written\t| tiles\t| answers\t| closed questions\t|\n", unit)
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, r := range rows {
		fmt.Fprintf(t, "| %s\t| %s\t| %.3f\t| %.0f\t| %.0f\t| %.0f\t| %.1f\t| %.1f\t| %.1f\t|\n", r.Mode, r.Calls, r.Seconds, r.Prefill, r.Cached, r.Decode, r.Tiles, r.Asked, r.Closed)
	}
	return t.Flush()
}
