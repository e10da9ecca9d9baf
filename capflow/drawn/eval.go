package drawn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"metacap/capflow"
	"metacap/capflow/pack"
)

// Variant is a flow under a name.
type Variant struct {
	Name    string
	Options capflow.Options
}

// minus stands between a mode and what is switched off.
const minus = " − "

// Variants returns the flows of modes, and verified without each of off.
func Variants(p *pack.Pack, modes, off []string) []Variant {
	var out []Variant
	for _, m := range modes {
		out = append(out, Variant{m, capflow.Options{Mode: capflow.Mode(m), Pack: p, Off: []string{capflow.OffRender}}})
	}
	for _, o := range off {
		out = append(out, Variant{string(capflow.Verified) + minus + o, capflow.Options{Mode: capflow.Verified, Pack: p, Off: []string{capflow.OffRender, o}}})
	}
	return out
}

// Parts are what an ablation switches off, one at a time: parts of the flow, then agents.
func Parts(p *pack.Pack) []string {
	out := []string{
		capflow.OffLooks, capflow.OffWeigh, capflow.OffRouting, capflow.OffProbes, capflow.OffGrounding,
		capflow.OffClaims, capflow.OffRevise, capflow.OffLiterals, capflow.OffJudge, capflow.OffDates,
	}
	for _, a := range p.Agents {
		out = append(out, a.ID)
	}
	return out
}

// Result is what one variant reached. Rates of sentences, facts, numbers and
// words are over all captions, accepted or not; WrongAccepted is over accepted ones.
type Result struct {
	Name          string  `json:"flow"`
	Pictures      int     `json:"pictures"`
	Wrong         Rate    `json:"wrong_sentences"`
	WrongAccepted Rate    `json:"wrong_sentences_accepted"`
	Recall        Rate    `json:"fact_recall"`
	NumberRecall  Rate    `json:"number_recall"`
	NumberWrong   Rate    `json:"wrong_numbers"`
	TextRecall    Rate    `json:"text_recall"`
	OrderWrong    Rate    `json:"event_order_wrong"`
	Accepted      Rate    `json:"accepted"`
	Leaks         int     `json:"leaks"`
	Failed        int     `json:"failed"`
	Prefill       float64 `json:"prompt_tokens_computed"` // a caption, as the others below
	Cached        float64 `json:"prompt_tokens_shared"`
	Decode        float64 `json:"tokens_written"`
	Seconds       float64 `json:"seconds"`
	Machine       float64 `json:"machine_seconds,omitempty"` // of Unit; 0 = not measured
	Unit          string  `json:"machine,omitempty"`         // cpu or gpu
	// How much more than verified's, in the same pictures; none if verified is not among the flows.
	MoreWrong  *Rate `json:"wrong_sentences_more_than_verified,omitempty"`
	MoreRecall *Rate `json:"fact_recall_more_than_verified,omitempty"`

	Domains map[string]Domain `json:"domains"`

	counts []Counts
}

// Domain is what a variant reached in one domain.
type Domain struct {
	Wrong  Rate `json:"wrong_sentences"`
	Recall Rate `json:"fact_recall"`
}

// Router is the router's quality on stills.
type Router struct {
	Right       Rate                      `json:"right"`
	Calibration float64                   `json:"calibration_error"`
	Confusion   map[string]map[string]int `json:"confusion"` // true -> answered
}

// Filter is the filter's quality on true captions and on ones with a planted error.
type Filter struct {
	Caught      Rate           `json:"planted_rejected"`
	FalseReject Rate           `json:"true_rejected"`
	Missed      map[string]int `json:"missed_by_domain"`
	Reasons     map[string]int `json:"reasons_of_false_rejects"`
}

// Report is a whole evaluation.
type Report struct {
	Model    capflow.ModelInfo `json:"model"`
	Pack     string            `json:"pack"`
	Set      string            `json:"set"`
	Seeds    [2]uint64         `json:"seeds"` // least and largest
	Pictures map[string]int    `json:"pictures_by_domain"`
	Results  []Result          `json:"flows"`
	Router   *Router           `json:"router,omitempty"`
	Filter   *Filter           `json:"filter,omitempty"`
	Date     string            `json:"date"`
}

// Options of an evaluation.
type Options struct {
	Parallel int // 0 = 2
	Filter   bool
	Progress func(string)
	// Meter measures what captions take of the machine; the zero Meter does not.
	Meter capflow.Meter
	// Records is given the records of each flow, in the order of the samples; nil = not wanted.
	Records func(flow string, records []*capflow.Record) error
	// Known gives records of an earlier evaluation; those of the same flow and model
	// are taken instead of being made again. nil = none.
	Known func(flow string) ([]*capflow.Record, error)
}

// Run evaluates variants of a model on samples. The router is taken from the
// first variant that asks it; the filter is that of mode verified.
func Run(ctx context.Context, m capflow.Model, set string, samples []*Sample, variants []Variant, o Options) (*Report, error) {
	if len(samples) == 0 || len(variants) == 0 {
		return nil, fmt.Errorf("drawn: run: %d samples and %d flows, want some of both", len(samples), len(variants))
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	p := variants[0].Options.Pack
	rep := &Report{Model: m.Info(), Pack: p.ID(), Set: set, Pictures: map[string]int{}, Date: time.Now().UTC().Format(time.DateOnly)}
	rep.Seeds = [2]uint64{samples[0].Seed, samples[0].Seed}
	for _, s := range samples {
		rep.Pictures[s.Domain]++
		rep.Seeds = [2]uint64{min(rep.Seeds[0], s.Seed), max(rep.Seeds[1], s.Seed)}
	}
	var verified []*capflow.Record
	for _, v := range variants {
		v.Options.Meter = o.Meter
		res, records, err := evaluate(ctx, m, samples, v, o, verified)
		if err == nil && o.Records != nil {
			err = o.Records(v.Name, records)
		}
		if err != nil {
			return nil, fmt.Errorf("drawn: run: %s: %w", v.Name, err)
		}
		if v.Name == string(capflow.Verified) {
			verified = records
		}
		rep.Results = append(rep.Results, *res)
		if rep.Router == nil && v.Options.Mode == capflow.Verified && len(v.Options.Off) == 1 {
			rep.Router = router(samples, records)
		}
		o.Progress(fmt.Sprintf("%-36s wrong %v, recall %v", v.Name, res.Wrong, res.Recall))
	}
	rep.compare()
	if o.Filter {
		f, err := filter(ctx, m, p, samples, o)
		if err != nil {
			return nil, fmt.Errorf("drawn: run: filter: %w", err)
		}
		rep.Filter = f
		o.Progress(fmt.Sprintf("filter: planted errors rejected %v, true captions rejected %v", f.Caught, f.FalseReject))
	}
	return rep, nil
}

// compare fills in the differences from verified.
func (r *Report) compare() {
	i := slices.IndexFunc(r.Results, func(x Result) bool { return x.Name == string(capflow.Verified) })
	for k := range r.Results {
		if x := &r.Results[k]; i >= 0 && k != i {
			w, f := Difference(x.counts, r.Results[i].counts, wrong), Difference(x.counts, r.Results[i].counts, found)
			x.MoreWrong, x.MoreRecall = &w, &f
		}
	}
}

// each calls do for every index, some together, and returns the first error.
func each(n, parallel int, do func(i int) error) error {
	if parallel <= 0 {
		parallel = 2
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = do(i)
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// same reports whether a flow without one agent, or without dates, would make the
// record of mode verified again: the picture had no such step.
func same(v Variant, verified *capflow.Record) bool {
	if v.Options.Mode != capflow.Verified || len(v.Options.Off) != 2 || verified.Status == capflow.Failed {
		return false
	}
	agent := v.Options.Off[1]
	if agent == capflow.OffDates {
		return verified.Source.Modality != "video"
	}
	_, known := v.Options.Pack.Agent(agent)
	return known && !slices.ContainsFunc(verified.Agents, func(a capflow.AgentRecord) bool { return a.ID == agent && a.Skipped == "" })
}

// The ratios of the two rates that matter most.
func wrong(c *Counts) (k, n int) { return c.Wrong, c.Sentences }
func found(c *Counts) (k, n int) { return c.Found, c.Facts }

// known are the records of an earlier evaluation that this flow would make again, by id.
func (o *Options) known(name, digest string) (map[string]*capflow.Record, error) {
	out := map[string]*capflow.Record{}
	if o.Known == nil {
		return out, nil
	}
	list, err := o.Known(name)
	for _, r := range list {
		if r.Status != capflow.Failed && r.Prov != nil && r.Prov.Flow == digest {
			out[r.ID] = r
		}
	}
	return out, err
}

func evaluate(ctx context.Context, m capflow.Model, samples []*Sample, v Variant, o Options, verified []*capflow.Record) (*Result, []*capflow.Record, error) {
	flow, err := capflow.New(m, v.Options)
	if err != nil {
		return nil, nil, err
	}
	start := time.Now()
	records := make([]*capflow.Record, len(samples))
	known, err := o.known(v.Name, flow.Digest())
	if err != nil {
		return nil, nil, err
	}
	err = each(len(samples), o.Parallel, func(i int) (err error) {
		if verified != nil && same(v, verified[i]) {
			records[i] = verified[i]
			return nil
		}
		if records[i] = known[samples[i].Input().ID]; records[i] != nil {
			return nil
		}
		records[i], err = flow.Caption(ctx, samples[i].Input())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	res := &Result{Name: v.Name, Pictures: len(samples)}
	var all, accepted []Counts
	domains := map[string][]Counts{}
	n := float64(len(samples))
	for i, r := range records {
		c := samples[i].Measure(r, v.Options.Pack)
		all = append(all, c)
		domains[samples[i].Domain] = append(domains[samples[i].Domain], c)
		if c.Accepted == 1 {
			accepted = append(accepted, c)
		}
		res.Leaks += c.Leaks
		res.Failed += c.Failed
		res.Prefill += float64(r.Usage.Prefill) / n
		res.Cached += float64(r.Usage.Cached) / n
		res.Decode += float64(r.Usage.Decode) / n
		res.Machine += r.Usage.Seconds / n
	}
	res.Unit, res.counts = v.Options.Meter.Unit, all
	res.Seconds = time.Since(start).Seconds() / n
	res.Wrong = Bootstrap(all, wrong)
	if len(accepted) > 0 {
		res.WrongAccepted = Bootstrap(accepted, wrong)
	}
	res.Recall = Bootstrap(all, found)
	res.NumberRecall = Bootstrap(all, func(c *Counts) (int, int) { return c.NumbersFound, c.Numbers })
	res.NumberWrong = Bootstrap(all, func(c *Counts) (int, int) { return c.SaidWrong, c.Said })
	res.TextRecall = Bootstrap(all, func(c *Counts) (int, int) { return c.WordsFound, c.Words })
	res.OrderWrong = Bootstrap(all, func(c *Counts) (int, int) { return c.OrderWrong, c.Ordered })
	res.Accepted = Wilson(len(accepted), len(samples))
	res.Domains = map[string]Domain{}
	for id, counts := range domains {
		res.Domains[id] = Domain{Bootstrap(counts, wrong), Bootstrap(counts, found)}
	}
	return res, records, nil
}

func router(samples []*Sample, records []*capflow.Record) *Router {
	out := &Router{Confusion: map[string]map[string]int{}}
	var confidence []float64
	var rights []bool
	k := 0
	for i, r := range records {
		if r.Domain == nil || r.Domain.Probs == nil {
			continue
		}
		best, p := "", -1.0
		for id, v := range r.Domain.Probs {
			if v > p {
				best, p = id, v
			}
		}
		row := out.Confusion[samples[i].Domain]
		if row == nil {
			row = map[string]int{}
			out.Confusion[samples[i].Domain] = row
		}
		row[best]++
		right := best == samples[i].Domain
		if right {
			k++
		}
		confidence, rights = append(confidence, p), append(rights, right)
	}
	out.Right = Wilson(k, len(rights))
	out.Calibration = Calibration(confidence, rights)
	return out
}

// filter judges each true caption, and the same with one planted error.
func filter(ctx context.Context, m capflow.Model, p *pack.Pack, samples []*Sample, o Options) (*Filter, error) {
	flow, err := capflow.New(m, capflow.Options{Mode: capflow.Verified, Pack: p})
	if err != nil {
		return nil, err
	}
	type verdict struct{ good, bad *capflow.Record }
	got := make([]verdict, len(samples))
	err = each(len(samples), o.Parallel, func(i int) (err error) {
		s := samples[i]
		if got[i].good, err = flow.Filter(ctx, s.Input(), s.Truth.Caption, nil); err != nil {
			return err
		}
		if planted, ok := s.Plant(); ok {
			got[i].bad, err = flow.Filter(ctx, s.Input(), planted, nil)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &Filter{Missed: map[string]int{}, Reasons: map[string]int{}}
	caught, planted, rejected := 0, 0, 0
	for i, v := range got {
		if v.good.Status != capflow.Accepted {
			rejected++
			for _, kind := range kinds(v.good) {
				out.Reasons[kind]++
			}
		}
		if v.bad == nil {
			continue
		}
		planted++
		if v.bad.Status != capflow.Accepted {
			caught++
		} else {
			out.Missed[samples[i].Domain]++
		}
	}
	out.Caught, out.FalseReject = Wilson(caught, planted), Wilson(rejected, len(samples))
	return out, nil
}

// kinds are the kinds of a record's reasons, each once.
func kinds(r *capflow.Record) []string {
	var out []string
	if r.Error != nil {
		return []string{"error"}
	}
	for _, reason := range r.Checks.Reasons {
		kind, _, _ := strings.Cut(reason, ":")
		if !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	return out
}
