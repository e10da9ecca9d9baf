package capflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"
	"strconv"
	"strings"

	"metacap/capflow/internal/prose"
	"metacap/capflow/pack"
	"metacap/engine"
)

// letters are the labels of n options.
func letters(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = string(rune('A' + i))
	}
	return out
}

// stills returns the domains that the router chooses from, and that of videos.
func (f *Flow) stills() (stills []*pack.Domain, video *pack.Domain) {
	for i := range f.pack.Domains {
		if d := &f.pack.Domains[i]; d.Video {
			video = d
		} else {
			stills = append(stills, d)
		}
	}
	return stills, video
}

// route decides the domains: given, else video, else by the router's letters.
func (r *run) route(ctx context.Context) error {
	if r.loadStage("route", &r.rec.Domain) && r.rec.Domain != nil {
		r.settle()
		return nil
	}
	_, video := r.flow.stills()
	d := &DomainRecord{Source: "given", Label: r.in.Domain, Confidence: 3}
	switch {
	case r.in.Domain != "":
	case r.in.Video && video != nil:
		d.Label, d.Source = video.ID, "video"
	case r.in.Video:
		return fmt.Errorf("pack %s@%s has no domain of videos", r.pack.Name, r.pack.Version)
	case r.off(OffRouting):
		d.Label, d.Source, d.Confidence = "", "fallback", 1
	default:
		if err := r.routeByLetters(ctx, d); err != nil {
			return err
		}
	}
	r.rec.Domain = d
	if err := r.probe(ctx); err != nil {
		return err
	}
	r.settle()
	return r.save("route", d)
}

// loadStage fills in the answer of a step that an earlier run left.
func (r *run) loadStage(step string, v any) bool {
	if r.flow.opt.Stages == nil {
		return false
	}
	data, ok := r.flow.opt.Stages.Load(r.key, step)
	return ok && json.Unmarshal(data, v) == nil
}

func (r *run) save(step string, v any) error {
	if r.flow.opt.Stages == nil {
		return nil
	}
	return r.flow.opt.Stages.Save(r.key, step, v)
}

// settle takes what follows from the domain record: agents and tile budget.
func (r *run) settle() {
	d := r.rec.Domain
	r.domains = d.Labels
	if len(d.Labels) == 0 && d.Source != "fallback" {
		r.domains = []string{d.Label}
	}
	for _, id := range r.domains {
		if x, ok := r.pack.Domain(id); ok {
			r.tiles = max(r.tiles, x.Tiles)
		}
	}
}

// routeByLetters scores the letters of the options on the thumbnail, in the
// pack's order and reversed, and averages: a preference for a place cancels out.
func (r *run) routeByLetters(ctx context.Context, d *DomainRecord) error {
	domains, _ := r.flow.stills()
	n := len(domains)
	labels := letters(n)
	orders := [][]int{make([]int, n), make([]int, n)}
	var queries []engine.LabelQuery
	for k := range orders {
		lines := make([]string, n)
		for i := range n {
			at := i
			if k == 1 {
				at = n - 1 - i
			}
			orders[k][i] = at
			lines[i] = labels[i] + ". " + domains[at].Option
		}
		queries = append(queries, engine.LabelQuery{Instruction: pack.Fill(r.pack.Tasks.Router, "options", strings.Join(lines, "\n")), Labels: labels})
	}
	if r.flow.mode == Faithful {
		queries, orders = queries[:1], orders[:1]
	}
	got, err := r.score(ctx, RoleRouter, SeesThumbnail, queries)
	if err != nil {
		return err
	}
	p := make([]float64, n)
	for k, order := range orders {
		for i, v := range softmax(got[k], r.pack.Thresholds.Temperature) {
			p[order[i]] += v / float64(len(orders))
		}
	}
	r.choose(d, domains, p)
	return nil
}

// choose turns probabilities into labels.
func (r *run) choose(d *DomainRecord, domains []*pack.Domain, p []float64) {
	rank := make([]int, len(p))
	d.Probs = map[string]float64{}
	for i := range rank {
		rank[i] = i
		d.Probs[domains[i].ID] = p[i]
	}
	slices.SortStableFunc(rank, func(a, b int) int {
		switch {
		case p[a] > p[b]:
			return -1
		case p[a] < p[b]:
			return 1
		}
		return 0
	})
	t := &r.pack.Thresholds
	first := rank[0]
	d.Label, d.Source = domains[first].ID, "router"
	d.Confidence = 1
	both := p[first]
	if len(rank) > 1 {
		both += p[rank[1]]
	}
	switch {
	case p[first] >= t.Single:
		d.Confidence = 3
	case r.flow.mode == Faithful: // one label, whatever its probability
	case both >= t.Union:
		d.Confidence = 2
		d.Labels = []string{d.Label, domains[rank[1]].ID}
	default:
		d.Source = "fallback"
	}
}

// softmax normalises log-probabilities at a temperature.
func softmax(logs []float64, temperature float64) []float64 {
	out := make([]float64, len(logs))
	top, sum := slices.Max(logs), 0.0
	for i, l := range logs {
		out[i] = math.Exp((l - top) / temperature)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// probe asks the yes-or-no questions on the thumbnail.
func (r *run) probe(ctx context.Context) error {
	if r.flow.mode == Faithful || r.off(OffProbes) || !r.flow.roleModel(RoleRouter).Info().Labels {
		return nil
	}
	var queries []engine.LabelQuery
	for _, x := range r.pack.Probes {
		queries = append(queries, engine.LabelQuery{Instruction: r.wording(x.Prompt), Labels: []string{r.pack.Yes, r.pack.No}})
	}
	got, err := r.score(ctx, RoleRouter, SeesThumbnail, queries)
	if err != nil {
		return err
	}
	r.rec.Domain.Probes = map[string]float64{}
	for i, x := range r.pack.Probes {
		r.rec.Domain.Probes[x.ID] = softmax(got[i], 1)[0]
	}
	return nil
}

// probed are the agents whose probe says that the picture has something for
// them, whatever its domain.
func (r *run) probed() []string {
	if r.rec.Domain == nil {
		return nil
	}
	var out []string
	for _, a := range r.pack.Agents {
		if p, ok := r.rec.Domain.Probes[a.Probe]; ok && p >= r.pack.Thresholds.ProbeOn {
			out = append(out, a.ID)
		}
	}
	return out
}

// agentRecord is the record of an agent. Agents run side by side, each on its own
// record: the search reads nothing of a record but its id, which nobody writes.
func (r *run) agentRecord(id string) *AgentRecord {
	for i := range r.rec.Agents {
		if a := &r.rec.Agents[i]; a.ID == id {
			return a
		}
	}
	panic("capflow: no record was planned for agent " + id)
}

// agent asks one agent on the shared prefix of the picture.
func (r *run) agent(ctx context.Context, a *pack.Agent) (note string, err error) {
	rec := r.agentRecord(a.ID)
	var old AgentRecord
	if r.loadStage(a.ID, &old) && old.ID == a.ID {
		rec.restore(old)
		return "from the journal", nil
	}
	if r.flow.mode != Faithful && a.Probe != "" && r.rec.Domain != nil {
		if p, ok := r.rec.Domain.Probes[a.Probe]; ok && p < r.pack.Thresholds.ProbeOff {
			rec.Skipped = fmt.Sprintf("probe %s is %.3f, below %.3f", a.Probe, p, r.pack.Thresholds.ProbeOff)
			return rec.Skipped, nil
		}
	}
	start := r.flow.opt.Clock()
	q := engine.Request{}
	if len(a.JSONSchema) > 0 && r.flow.roleModel(RoleAgent).Info().JSON {
		q.Grammar.JSONSchema = a.JSONSchema
	}
	res, err := r.generate(ctx, RoleAgent, SeesImage, r.wording(a.Prompt), a.MaxTokens, q)
	if err != nil {
		return "", err
	}
	fill(rec, res)
	if r.dense(rec) {
		if note, err = r.readBands(ctx, a, rec); err != nil {
			return "", err
		}
	}
	rec.Millis = r.flow.opt.Clock().Sub(start).Milliseconds()
	if slices.Contains(a.Sentinels, rec.Text) || rec.Text == "" {
		rec.Skipped = "nothing to say"
		note = rec.Skipped
	}
	return note, r.save(a.ID, rec)
}

// dense reports text that one reading of the page did not do justice to: it has many
// lines, or its limit ended it. Mode exhaustive reads bands of every page anyway.
func (r *run) dense(rec *AgentRecord) bool {
	n := r.pack.Thresholds.DenseLines
	return rec.ID == "ocr" && n > 0 && r.flow.mode == Verified && !r.in.Video &&
		(rec.Finish == string(engine.FinishLength) || strings.Count(rec.Text, "\n")+1 >= n)
}

// ocrBands is the number of overlapping bands, top to bottom, that text is read in.
const ocrBands = 3

// readBands replaces the text of a dense page by that of its bands. A model that
// does not tell the size of pictures reads it once.
func (r *run) readBands(ctx context.Context, a *pack.Agent, rec *AgentRecord) (note string, err error) {
	p, err := r.conversation(ctx, RoleAgent, SeesImage)
	if err != nil {
		return "", err
	}
	images := p.conv.Images()
	if len(images) != 1 || images[0].Height < ocrBands {
		r.without("ocr: a dense page of unknown size, read once")
		return "", nil
	}
	text, err := r.bands(ctx, a, images[0].Width, images[0].Height)
	if err != nil || text == "" {
		return "", err
	}
	rec.Text, rec.Finish = text, string(engine.FinishStop)
	return fmt.Sprintf("a dense page, read in %d bands", ocrBands), nil
}

// bands reads the text of a page band by band; what two of them see counts once.
func (r *run) bands(ctx context.Context, a *pack.Agent, w, h int) (string, error) {
	var texts []string
	for i, crop := range crops(w, h, 1, ocrBands) {
		text, err := r.look(ctx, a.ID, fmt.Sprintf("band %d", i+1), crop)
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return prose.MergeLines(texts), nil
}

// restore takes over what an earlier run found, all but the id.
func (rec *AgentRecord) restore(old AgentRecord) {
	rec.Type, rec.Limit, rec.Text, rec.Finish, rec.Skipped = old.Type, old.Limit, old.Text, old.Finish, old.Skipped
	rec.In, rec.Cached, rec.Out, rec.LogpMean = old.In, old.Cached, old.Out, old.LogpMean
	rec.Millis, rec.Seed, rec.Error = old.Millis, old.Seed, old.Error
}

func fill(rec *AgentRecord, res *engine.Result) {
	rec.Text, rec.Finish, rec.Seed = strings.TrimSpace(res.Text), string(res.Finish), res.Seed
	rec.In, rec.Cached, rec.Out = res.Usage.PromptTokens, res.Usage.CachedTokens, res.Usage.OutputTokens
	sum := 0.0
	for _, t := range res.Tokens {
		sum += t.LogProb
	}
	if n := len(res.Tokens); n > 0 {
		rec.LogpMean = sum / float64(n)
	}
}

// regionOverlap is the share of a crop's side that its neighbour sees too.
const regionOverlap = 4

// regions reads four overlapping crops with the perception agents of the
// domains and the text in three overlapping bands.
func (r *run) regions(ctx context.Context) (note string, err error) {
	if r.in.Video {
		return "not for videos", nil
	}
	p, err := r.conversation(ctx, RoleAgent, SeesImage)
	if err != nil {
		return "", err
	}
	images := p.conv.Images()
	if len(images) != 1 || images[0].Width < 4 || images[0].Height < 4 {
		return "size unknown", nil
	}
	w, h := images[0].Width, images[0].Height
	var ids []string
	for _, id := range AgentSet(r.pack, Exhaustive, r.domains) {
		if a, _ := r.pack.Agent(id); a.Type == "perception" && !r.off(id) {
			ids = append(ids, id)
		}
	}
	var texts []string
	for i, crop := range crops(w, h, 2, 2) {
		for _, id := range ids {
			text, err := r.look(ctx, id, fmt.Sprintf("region %d", i+1), crop)
			if err != nil {
				return "", err
			}
			if text != "" {
				texts = append(texts, text)
			}
		}
	}
	r.addRegion("regions", strings.Join(texts, " "))
	if a, ok := r.pack.Agent("ocr"); ok && !r.off("ocr") && slices.Contains(AgentSet(r.pack, Exhaustive, r.domains), "ocr") {
		text, err := r.bands(ctx, a, w, h)
		if err != nil {
			return "", err
		}
		r.addRegion("ocr_bands", text)
	}
	return fmt.Sprintf("%d regions with text", len(texts)), nil
}

// addRegion fills in the record of what regions said.
func (r *run) addRegion(id, text string) {
	rec := r.agentRecord(id)
	rec.Text, rec.Finish, rec.Skipped = text, "stop", ""
	if text == "" {
		rec.Skipped = "nothing to say"
	}
}

// crops divides a picture into cols x rows rectangles that overlap.
func crops(w, h, cols, rows int) []image.Rectangle {
	var out []image.Rectangle
	dx, dy := w/cols, h/rows
	for y := range rows {
		for x := range cols {
			c := image.Rect(x*dx-dx/regionOverlap, y*dy-dy/regionOverlap, (x+1)*dx+dx/regionOverlap, (y+1)*dy+dy/regionOverlap)
			out = append(out, c.Intersect(image.Rect(0, 0, w, h)))
		}
	}
	return out
}

// look asks an agent about a crop. A sentinel is the empty text.
func (r *run) look(ctx context.Context, id, name string, crop image.Rectangle) (string, error) {
	a, _ := r.pack.Agent(id)
	m := r.flow.roleModel(RoleAgent)
	p := r.prefix(m, SeesImage)
	p.Images[0].Crop = crop
	if sh := r.openAs(ctx, m, name, p); sh.err != nil {
		return "", sh.err
	}
	res, err := r.generate(ctx, RoleAgent, name, r.wording(a.Prompt), a.MaxTokens, engine.Request{})
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(res.Text)
	if slices.Contains(a.Sentinels, text) {
		return "", nil
	}
	return text, nil
}

// collect takes the answers that count as evidence, in the pack's order.
func (r *run) collect() {
	r.evidence = r.evidence[:0]
	for _, a := range r.rec.Agents {
		if a.Skipped == "" && a.Text != "" {
			r.evidence = append(r.evidence, a)
		}
	}
	if r.flow.mode != Faithful {
		slices.SortStableFunc(r.evidence, func(a, b AgentRecord) int { return rankOf(r.pack, a.ID) - rankOf(r.pack, b.ID) })
	}
	if i := slices.IndexFunc(r.evidence, func(a AgentRecord) bool { return a.ID == "data_table" }); i >= 0 {
		t := &Table{}
		if json.Unmarshal([]byte(r.evidence[i].Text), t) == nil && len(t.Rows) > 0 {
			r.rec.Table = t
		}
	}
}

// rankOf is an answer's place in the evidence; those that are no agent's come after perception.
func rankOf(p *pack.Pack, id string) int {
	if n := p.Rank(id); n >= 0 {
		return n
	}
	return slices.Index(p.Order, "coder")
}

// summary writes the draft.
func (r *run) summary(ctx context.Context, sees string) (note string, err error) {
	s := &SummaryRecord{Mode: "single"}
	r.rec.Summary = s
	q := engine.Request{}
	var res *engine.Result
	if r.flow.mode == Single {
		res, err = r.generate(ctx, RoleSummarizer, sees, r.wording(r.pack.Tasks.Caption), r.pack.Thresholds.Tokens, q)
	} else {
		s.Mode = map[string]string{SeesNothing: "text", SeesImage: "grounded"}[sees]
		r.collect()
		res, err = r.summarize(ctx, sees, q)
	}
	if err != nil {
		return "", err
	}
	r.setDraft(res)
	r.base()
	return strconv.Itoa(len(prose.Sentences(r.draft))) + " sentences", nil
}

func (r *run) setDraft(res *engine.Result) {
	r.draft, r.finish = strings.TrimSpace(res.Text), res.Finish
	r.rec.Captions = &Captions{Long: r.draft}
	r.rec.Summary.Draft = r.draft
}

// summarize asks for a caption from the evidence. Reasoning is left out, from
// the end, if the context has no room for all.
func (r *run) summarize(ctx context.Context, sees string, q engine.Request) (*engine.Result, error) {
	if len(r.evidence) == 0 {
		return nil, errors.New("no agent had anything to say")
	}
	id := r.pack.Summaries[0].ID
	if len(r.domains) > 0 {
		d, _ := r.pack.Domain(r.domains[0])
		id = d.Summary
	}
	s, _ := r.pack.Summary(id)
	p, err := r.conversation(ctx, RoleSummarizer, sees)
	if err != nil {
		return nil, err
	}
	m := r.flow.roleModel(RoleSummarizer)
	blocks := slices.Clone(r.evidence)
	prompt := ""
	for {
		prompt = r.wording(pack.Fill(s.Prompt, "evidence", evidenceText(blocks)))
		need := p.conv.PrefixTokens() + m.Tokens(prompt) + turnTokens + minAnswer
		if context := m.Info().ContextTokens; context == 0 || need <= context || len(blocks) == 1 {
			break
		}
		last := blocks[len(blocks)-1]
		r.without("evidence of " + last.ID + ": no room in the context")
		blocks = blocks[:len(blocks)-1]
	}
	r.rec.Summary.Inputs = nil
	for _, b := range blocks {
		r.rec.Summary.Inputs = append(r.rec.Summary.Inputs, b.ID)
	}
	return r.generate(ctx, RoleSummarizer, sees, prompt, s.MaxTokens, q)
}

// minAnswer is the least room that a caption must have, in tokens.
const minAnswer = 128

// evidenceText renders blocks as the summariser reads them.
func evidenceText(blocks []AgentRecord) string {
	var lines []string
	for _, b := range blocks {
		lines = append(lines, "["+b.ID+"]\n"+b.Text)
	}
	return strings.Join(lines, "\n")
}

// check returns the record's checks, made at their first use.
func (rec *Record) check() *Checks {
	if rec.Checks == nil {
		rec.Checks = &Checks{Reasons: []string{}}
	}
	return rec.Checks
}

// openRenderings are the renderings of Options.Render: id -> prompt without caption.
func (f *Flow) openRenderings() (map[string]string, error) {
	out := map[string]string{}
	for _, s := range f.opt.Render {
		kind, arg, _ := strings.Cut(s, ":")
		switch n, err := strconv.Atoi(arg); {
		case kind == "alt" && arg == "":
			out[s] = f.pack.RenderOpen.Alt
		case kind == "words" && err == nil && n > 0 && n <= 10000:
			out[s] = pack.Fill(f.pack.RenderOpen.Words, "n", arg)
		case kind == "language" && strings.TrimSpace(arg) != "" && len(arg) <= 40:
			out[s] = pack.Fill(f.pack.RenderOpen.Language, "language", arg)
		default:
			return nil, fmt.Errorf("rendering %q, want alt, words:N or language:NAME", s)
		}
	}
	return out, nil
}

// render makes one form of the finished caption, from text alone.
func (r *run) render(ctx context.Context, id string) (note string, err error) {
	if r.rec.Captions == nil || r.rec.Status == Failed {
		return "no caption", nil
	}
	i := slices.IndexFunc(r.pack.Renderings, func(x pack.Rendering) bool { return x.ID == id })
	x := &r.pack.Renderings[i]
	text, err := r.rewrite(ctx, x.Prompt, x.MaxTokens)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	c := r.rec.Captions
	switch {
	case x.List:
		c.Tags = prose.Tags(text)
	case id == "short":
		c.Short = text
	case id == "medium":
		c.Medium = text
	default:
		r.other(id, text)
	}
	r.mu.Unlock()
	if i != 0 {
		return "", nil
	}
	open, _ := r.flow.openRenderings()
	for name, prompt := range open { // once, beside the first rendering
		if text, err = r.rewrite(ctx, prompt, r.pack.Thresholds.Tokens); err != nil {
			return "", err
		}
		r.mu.Lock()
		r.other(name, text)
		r.mu.Unlock()
	}
	return "", nil
}

func (r *run) other(name, text string) {
	if r.rec.Captions.Other == nil {
		r.rec.Captions.Other = map[string]string{}
	}
	r.rec.Captions.Other[name] = text
}

func (r *run) rewrite(ctx context.Context, prompt string, limit int) (string, error) {
	r.mu.Lock()
	caption := r.rec.Captions.Long
	r.mu.Unlock()
	res, err := r.generate(ctx, RoleSummarizer, SeesNothing, r.wording(pack.Fill(prompt, "caption", caption)), limit, engine.Request{})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(res.Text), nil
}
