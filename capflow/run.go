package capflow

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"metacap/capflow/pack"
	"metacap/engine"
)

// run is the state of one caption. Steps that run together touch it under mu;
// steps that follow each other do not need it.
type run struct {
	flow    *Flow
	pack    *pack.Pack
	in      Input
	rec     *Record
	key     string
	started time.Time
	domains []string // whose agents run; none = fallback
	tiles   int      // budget of a picture

	draft    string
	finish   engine.FinishReason // of the draft
	looks    []look              // independent readings of the whole picture
	others   []string            // summaries that are readings, not the base
	claims   []*claim            // sentences of the base, then those that only other readings have
	slots    int                 // sentences of the base
	gathered bool                // the readings have voted
	evidence []AgentRecord       // answers that count
	drop     []string            // sentences that verification dropped
	given    bool                // the caption is judged, not edited
	dated    *regexp.Regexp      // mentions of a frame; nil = none in this language
	events   map[string]int      // frames of events, as openings of the video tell
	openings map[int]string      // plain captions of the first frames

	mu    sync.Mutex
	open  map[prefixKey]*prefix
	steps []StepRecord
}

// prefixKey names a conversation of the run.
type prefixKey struct {
	model Model
	name  string
}

// prefix is a conversation that several steps share, and its account.
type prefix struct {
	once  sync.Once
	conv  Conversation
	err   error
	uses  int
	cost  engine.Usage // of generations
	calls int
}

// external records a model that answers outside this process.
func (r *run) external(m Model) {
	list := &r.rec.Prov.External
	if n := m.Info().Name; m.Info().Backend == "endpoint" && !slices.Contains(*list, n) {
		*list = append(*list, n)
	}
}

func (f *Flow) newRun(_ context.Context, in Input) (*run, error) {
	now := f.opt.Clock()
	r := &run{
		flow: f, pack: f.pack, in: in, started: now, open: map[prefixKey]*prefix{},
		dated: datesIn(f.pack), events: map[string]int{}, openings: map[int]string{},
	}
	f.shares.enter(&f.opt.Meter, r)
	key, content, err := f.Key(&in)
	r.key = key
	modality := "image"
	if in.Video {
		modality = "video"
	}
	r.rec = &Record{
		Schema: RecordSchema, ID: in.ID, Key: key, Mode: f.mode,
		Source: Source{URI: in.uri(), SHA256: content, Modality: modality},
		Prov: &Provenance{
			ModelInfo: f.model.Info(), Prompts: f.pack.ID(), Flow: f.digest, Sampling: f.opt.Sampling,
			Started: now.UTC().Format(time.RFC3339Nano), Attempt: in.Attempt + 1, External: []string{},
		},
	}
	r.external(f.model)
	for role, m := range f.opt.Roles {
		if m == nil || m == f.model {
			continue
		}
		if r.rec.Prov.Roles == nil {
			r.rec.Prov.Roles = map[Role]ModelInfo{}
		}
		r.rec.Prov.Roles[role] = m.Info()
		r.external(m)
	}
	slices.Sort(r.rec.Prov.External)
	if in.Video {
		for _, im := range in.Images {
			r.rec.Source.Frames = append(r.rec.Source.Frames, im.Path)
		}
	}
	switch {
	case err != nil:
		return r, fmt.Errorf("capflow: read: %w", err)
	case len(in.Images) == 0:
		return r, errors.New("capflow: read: no picture")
	case len(in.Images) > 1 && !in.Video:
		return r, fmt.Errorf("capflow: read: %d pictures that are no video", len(in.Images))
	}
	if in.Domain != "" {
		if _, ok := f.pack.Domain(in.Domain); !ok {
			return r, fmt.Errorf("capflow: route: given domain %q is not in pack %s@%s", in.Domain, f.pack.Name, f.pack.Version)
		}
	}
	return r, nil
}

// all runs the whole flow: the route, then the graph that follows from it.
func (r *run) all(ctx context.Context) error {
	if r.flow.mode != Single {
		if err := r.step(ctx, &Step{ID: "route", Kind: kindRoute}); err != nil {
			return err
		}
	}
	g := plan(r.pack, r.flow.mode, r.domains, r.flow.opt.Off, r.probed())
	for _, s := range g.Steps {
		if s.agent != nil {
			r.rec.Agents = append(r.rec.Agents, AgentRecord{ID: s.agent.ID, Type: s.agent.Type, Limit: s.agent.MaxTokens})
		}
		if s.Kind == kindWindows {
			r.rec.Agents = append(r.rec.Agents, AgentRecord{ID: "windows", Type: "perception", Skipped: "few enough frames to be seen together"})
		}
		if s.Kind == kindRegions {
			r.rec.Agents = append(r.rec.Agents, AgentRecord{ID: "regions", Type: "perception", Skipped: "not read"}, AgentRecord{ID: "ocr_bands", Type: "tool", Skipped: "not read"})
		}
	}
	if err := r.execute(ctx, g.Steps); err != nil {
		return err
	}
	r.rec.Steps = r.steps
	return nil
}

// execute runs each step when those that it needs are done; steps that are
// ready run together. The first error cancels the others.
func (r *run) execute(ctx context.Context, steps []Step) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := map[string]chan struct{}{"route": make(chan struct{})}
	close(done["route"])
	for _, s := range steps {
		if s.Kind != kindRoute {
			done[s.ID] = make(chan struct{})
		}
	}
	var wg sync.WaitGroup
	for i := range steps {
		s := &steps[i]
		if s.Kind == kindRoute {
			continue
		}
		wg.Go(func() {
			for _, need := range s.Needs {
				select {
				case <-done[need]:
				case <-ctx.Done():
					return
				}
			}
			if ctx.Err() != nil {
				return
			}
			if err := r.step(ctx, s); err != nil {
				cancel(err)
				return
			}
			close(done[s.ID])
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// step runs one step and records it.
func (r *run) step(ctx context.Context, s *Step) error {
	r.tell(Event{ID: r.in.ID, Step: s.ID})
	start := r.flow.opt.Clock()
	note, err := r.dispatch(ctx, s)
	r.mu.Lock()
	r.steps = append(r.steps, StepRecord{ID: s.ID, Millis: r.flow.opt.Clock().Sub(start).Milliseconds(), Note: note})
	r.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("capflow: %s: %w", s.ID, err)
	}
	r.tell(Event{ID: r.in.ID, Step: s.ID, Done: true, Note: note, Err: err})
	return err
}

func (r *run) tell(e Event) {
	if f := r.flow.opt.Events; f != nil {
		f(e)
	}
}

func (r *run) dispatch(ctx context.Context, s *Step) (note string, err error) {
	switch s.Kind {
	case kindRoute:
		err = r.route(ctx)
		if d := r.rec.Domain; d != nil {
			note = d.Label + " by " + d.Source
		}
		return note, err
	case kindAgent:
		return r.agent(ctx, s.agent)
	case kindLooks:
		return r.readLooks(ctx)
	case kindRegions:
		return r.regions(ctx)
	case kindSummary:
		return r.summary(ctx, s.Sees)
	case kindWindows:
		return r.windows(ctx)
	case kindDates:
		return r.dates(ctx)
	case kindLiterals:
		return r.literals()
	case kindGrounding:
		return r.grounding(ctx)
	case kindClaims:
		return r.claimsStep(ctx)
	case kindWeigh:
		return r.weigh(ctx)
	case kindRevise:
		return r.revise(ctx)
	case kindJudge:
		return r.judge(ctx)
	case kindDecide:
		return r.decide(ctx)
	case kindRender:
		return r.render(ctx, s.ID)
	}
	return "", fmt.Errorf("no step of kind %q", s.Kind)
}

func (r *run) off(name string) bool { return slices.Contains(r.flow.opt.Off, name) }

// wording is a prompt for the modality of the input.
func (r *run) wording(prompt string) string {
	if r.in.Video {
		return r.pack.ForVideo(prompt)
	}
	return prompt
}

// conversation returns the run's conversation of a role, opened at its first use.
func (r *run) conversation(ctx context.Context, role Role, name string) (*prefix, error) {
	m := r.flow.roleModel(role)
	key := prefixKey{m, name}
	r.mu.Lock()
	p := r.open[key]
	if p == nil {
		p = &prefix{}
		r.open[key] = p
	}
	p.uses++
	r.mu.Unlock()
	p.once.Do(func() { p.conv, p.err = m.Open(ctx, r.prefix(m, name)) })
	if p.err == nil && name == SeesImage {
		r.mu.Lock()
		r.describe(p.conv.Images())
		r.mu.Unlock()
	}
	return p, p.err
}

// prefix is what a conversation shares: the picture as the name says.
func (r *run) prefix(m Model, name string) Prefix {
	p := Prefix{System: r.pack.System}
	if name == SeesNothing {
		return p
	}
	p.Images, p.Video = slices.Clone(r.in.Images), r.in.Video
	for i := range p.Images {
		switch {
		case r.in.Video:
			p.Images[i].MaxTiles = 1
		case name == SeesThumbnail:
			p.Images[i].ThumbnailOnly = true
		default:
			p.Images[i].MaxTiles = r.budget(m)
		}
	}
	return p
}

// budget is the most tiles of a picture.
func (r *run) budget(m Model) int {
	n := r.flow.opt.MaxTiles
	if n == 0 {
		n = r.tiles
		if own := m.Info().MaxTiles; own > 0 && (n == 0 || n > own) {
			n = own
		}
	}
	return n
}

func (r *run) describe(images []engine.ImageReport) {
	s := &r.rec.Source
	s.Tiles = 0
	for i, im := range images {
		s.Tiles += im.Tiles
		if i == 0 {
			s.Width, s.Height = im.Width, im.Height
			s.Notes = im.Notes
		}
	}
}

// generate asks one question with room for as many as limit tokens, fewer if
// the context has no more. An answer that loops is cut, and asked once more
// with another seed.
func (r *run) generate(ctx context.Context, role Role, name, instruction string, limit int, q engine.Request) (*engine.Result, error) {
	p, err := r.conversation(ctx, role, name)
	if err != nil {
		return nil, err
	}
	info := r.flow.roleModel(role).Info()
	if info.ContextTokens > 0 {
		used := p.conv.PrefixTokens() + r.flow.roleModel(role).Tokens(instruction) + turnTokens
		if limit = min(limit, info.ContextTokens-used); limit < 1 {
			return nil, fmt.Errorf("prompt of %d tokens leaves no room in the context of %d", used, info.ContextTokens)
		}
	}
	q.MaxTokens, q.LogProbs = limit, true
	if q.Sampling == (engine.Sampling{}) {
		q.Sampling = r.flow.opt.Sampling
	}
	res, err := r.ask(ctx, p, instruction, q)
	if err == nil && res.Finish == engine.FinishLoop {
		q.Sampling = engine.Sampling{Temperature: 0.6, TopP: 0.95, Seed: res.Seed + 1}
		again, e := r.ask(ctx, p, instruction, q)
		if e != nil || again.Finish == engine.FinishLoop {
			res.Text = cutLoop(res)
			return res, e
		}
		return again, nil
	}
	return res, err
}

// turnTokens is room for the markup around an instruction.
const turnTokens = 32

func (r *run) ask(ctx context.Context, p *prefix, instruction string, q engine.Request) (*engine.Result, error) {
	res, err := p.conv.Generate(ctx, instruction, q)
	if err != nil {
		return nil, err
	}
	u := &res.Usage
	r.mu.Lock()
	p.cost.PromptTokens += u.PromptTokens
	p.cost.CachedTokens += u.CachedTokens
	p.cost.OutputTokens += u.OutputTokens
	p.calls++
	r.mu.Unlock()
	return res, nil
}

// cutLoop is the answer without the tokens that only repeat.
func cutLoop(res *engine.Result) string {
	var b strings.Builder
	for _, t := range res.Tokens[:len(res.Tokens)-min(res.Repeated, len(res.Tokens))] {
		b.WriteString(t.Text)
	}
	return b.String()
}

// score asks closed questions together.
func (r *run) score(ctx context.Context, role Role, name string, queries []engine.LabelQuery) ([][]float64, error) {
	if len(queries) == 0 {
		return nil, nil
	}
	p, err := r.conversation(ctx, role, name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.rec.Usage.Scores += len(queries)
	r.mu.Unlock()
	return p.conv.ScoreLabels(ctx, queries)
}

// close ends all conversations and adds up what they cost.
func (r *run) close() {
	c := &r.rec.Usage
	for key, p := range r.open {
		if p.conv == nil {
			continue
		}
		opened := p.conv.Usage() // prefix and scores
		tokens := p.conv.PrefixTokens()
		cached := opened.CachedTokens + p.cost.CachedTokens
		computed := opened.PromptTokens + p.cost.PromptTokens - cached
		c.Prefill += computed
		c.Cached += cached
		c.Decode += p.cost.OutputTokens
		c.Tiles += opened.TilesEncoded
		c.Calls += p.calls
		if priced, ok := p.conv.(interface{ Dollars() float64 }); ok {
			c.Dollars += priced.Dollars()
		}
		c.Prefixes = append(c.Prefixes, Shared{Name: key.name, Tokens: tokens, Computed: max(0, prefixComputed(p, tokens)), Uses: p.uses, Cached: cached})
		_ = p.conv.Close()
	}
	slices.SortFunc(c.Prefixes, func(a, b Shared) int { return strings.Compare(a.Name, b.Name) })
	r.rec.Steps = r.steps
}

// prefixComputed is how many tokens of a prefix were really computed.
func prefixComputed(p *prefix, tokens int) int {
	if opener, ok := p.conv.(interface{ Opening() engine.Usage }); ok {
		u := opener.Opening()
		return u.PromptTokens - u.CachedTokens
	}
	return tokens * p.calls
}
