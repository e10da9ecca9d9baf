package capflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"metacap/capflow/internal/prose"
	"metacap/capflow/pack"
	"metacap/engine"
)

// claim is a sentence under verification.
type claim struct {
	ClaimRecord
	agreed    bool // a guideline agent, asked apart, wrote the same sentence
	doubtful  bool // literal check or grounding speak against it
	candidate bool // not in the draft: may be added
}

// Actions of a claim.
const (
	actionKeep  = "keep"  // in the caption
	actionDrop  = "drop"  // was in the draft, is not in the caption
	actionAdd   = "add"   // was not in the draft, is in the caption
	actionLeave = "leave" // a candidate that stays out
)

// split makes the draft's sentences claims, unless they are already.
func (r *run) split() {
	if r.claims != nil {
		return
	}
	guide := map[string]bool{}
	for _, a := range r.evidence {
		if a.Type == "guideline" {
			for _, s := range prose.Sentences(a.Text) {
				guide[prose.Key(s)] = true
			}
		}
	}
	for _, s := range prose.Sentences(r.draft) {
		c := &claim{ClaimRecord: ClaimRecord{Text: s, From: "draft", Action: actionKeep, PTrue: 0.5}}
		c.agreed = guide[prose.Key(s)]
		r.claims = append(r.claims, c)
	}
}

// candidates adds sentences of perception that the draft lacks.
func (r *run) candidates(from, text string) {
	have := map[string]bool{}
	for _, c := range r.claims {
		have[prose.Key(c.Text)] = true
	}
	for _, s := range prose.Sentences(text) {
		if k := prose.Key(s); k != "" && !have[k] {
			have[k] = true
			r.claims = append(r.claims, &claim{ClaimRecord: ClaimRecord{Text: s, From: from, Action: actionLeave, PTrue: 0.5}, candidate: true})
		}
	}
}

// literals checks that each number and quoted text of the draft occurs in what
// perception and tools read. A sentence with one that does not is doubtful.
func (r *run) literals() (note string, err error) {
	r.split()
	known := r.literalSet()
	n := 0
	for _, c := range r.claims {
		for _, l := range prose.Literals(c.Text) {
			if !known.has(l) {
				c.doubtful = true
				c.Reasons = append(c.Reasons, fmt.Sprintf("%s %q is in no evidence", l.Kind, l.Text))
				n++
			}
		}
	}
	return fmt.Sprintf("%d without evidence", n), nil
}

// literalSet is what the evidence holds.
type literalSet struct {
	norms map[string]bool
	text  string // all words, for quoted text inside longer text
}

func (r *run) literalSet() *literalSet {
	s := &literalSet{norms: map[string]bool{}}
	var words []string
	for _, a := range r.evidence {
		if a.Type == "reasoning" {
			continue
		}
		for _, l := range prose.Literals(a.Text) {
			s.norms[l.Norm] = true
		}
		for _, l := range prose.Numbers(a.Text) {
			s.norms[l.Norm] = true
		}
		words = append(words, prose.Words(a.Text)...)
	}
	s.text = " " + strings.Join(words, " ") + " "
	return s
}

func (s *literalSet) has(l prose.Literal) bool {
	return s.norms[l.Norm] || l.Kind == prose.KindQuote && strings.Contains(s.text, " "+l.Norm+" ")
}

// grounding compares the draft's log-probability with the picture and without:
// a sentence none of whose tokens gains is not taken from the picture.
func (r *run) grounding(ctx context.Context) (note string, err error) {
	r.split()
	if !r.flow.roleModel(RoleVerifier).Info().Text || r.draft == "" {
		r.rec.check().Off = append(r.rec.check().Off, "grounding: the model scores no given text")
		return "off", nil
	}
	prompt := r.wording(r.pack.Tasks.Caption)
	var with, without []engine.Token
	for i, name := range []string{SeesImage, SeesNothing} {
		p, err := r.conversation(ctx, RoleVerifier, name)
		if err != nil {
			return "", err
		}
		got, err := p.conv.ScoreText(ctx, prompt, r.draft)
		if err != nil {
			return "", err
		}
		if i == 0 {
			with = got
		} else {
			without = got
		}
	}
	return r.gains(with, without), nil
}

// gains gives each claim of the draft the largest gain of its tokens.
func (r *run) gains(with, without []engine.Token) string {
	at, low := 0, 0
	offset := 0
	text := r.draft
	for _, c := range r.claims {
		if c.candidate {
			continue
		}
		i := strings.Index(text[offset:], c.Text)
		if i < 0 {
			continue
		}
		lo, hi := offset+i, offset+i+len(c.Text)
		offset = hi
		best := math.Inf(-1)
		pos := 0
		for k := range with {
			end := pos + len(with[k].Text)
			if pos < hi && end > lo && strings.TrimSpace(with[k].Text) != "" && k < len(without) {
				best = max(best, with[k].LogProb-without[k].LogProb)
			}
			pos = end
		}
		if math.IsInf(best, 0) || math.IsNaN(best) {
			continue
		}
		at++
		c.Gain = &best
		if !(best > r.pack.Thresholds.Grounding) {
			c.doubtful = true
			c.Reasons = append(c.Reasons, "the picture does not make it likelier")
			low++
		}
	}
	return fmt.Sprintf("%d of %d sentences without gain", low, at)
}

// ask scores claims: the first wording for all, and the others for those it
// leaves undecided; the probabilities are averaged.
func (r *run) askClaims(ctx context.Context, claims []*claim) error {
	t := &r.pack.Thresholds
	for look, prompt := range r.pack.Tasks.Claim {
		var queries []engine.LabelQuery
		var asked []*claim
		for _, c := range claims {
			undecided := c.Margin() < t.Keep && c.Margin() > t.False || c.doubtful && c.Margin() > t.False && c.Margin() < t.Add
			if c.Looks == look && (look == 0 || undecided) {
				queries = append(queries, engine.LabelQuery{Instruction: r.wording(pack.Fill(prompt, "claim", c.Text)), Labels: []string{r.pack.Yes, r.pack.No}})
				asked = append(asked, c)
			}
		}
		got, err := r.score(ctx, RoleVerifier, SeesImage, queries)
		if err != nil {
			return err
		}
		for i, c := range asked {
			p := softmax(got[i], 1)[0]
			c.PTrue = (c.PTrue*float64(c.Looks) + p) / float64(c.Looks+1)
			c.Looks++
		}
	}
	return nil
}

// verify scores each sentence alone and edits the caption.
func (r *run) verify(ctx context.Context) (note string, err error) {
	r.split()
	if !r.flow.roleModel(RoleVerifier).Info().Labels {
		r.rec.check().Off = append(r.rec.check().Off, "claims: the model gives no probabilities of answers; the answers themselves are used")
	}
	if !r.given {
		for _, a := range r.evidence {
			if agent, ok := r.pack.Agent(a.ID); ok && agent.Claims || a.ID == "regions" {
				r.candidates(a.ID, a.Text)
			}
		}
	}
	if err := r.askClaims(ctx, r.claims); err != nil {
		return "", err
	}
	r.settleClaims()
	return r.count(), nil
}

// settleClaims decides what stays, and writes the caption from it.
func (r *run) settleClaims() {
	t := &r.pack.Thresholds
	for _, c := range r.claims {
		need := t.Keep
		switch {
		case c.agreed: // two prompts, asked apart, gave the same overview
			need = -1
		case c.candidate || c.doubtful:
			need = t.Add
		}
		holds := c.Looks == 0 || c.Margin() >= need
		switch {
		case c.candidate && holds && c.Looks > 0:
			c.Action = actionAdd
		case c.candidate:
			c.Action = actionLeave
		case holds || r.given:
			c.Action = actionKeep
		default:
			c.Action = actionDrop
			c.Reasons = append(c.Reasons, fmt.Sprintf("P(true)-P(false) is %.2f, want %.2f", c.Margin(), need))
		}
	}
	if r.given {
		return
	}
	r.resolve()
	r.compose()
}

// resolve lets the likelier of two sentences stand, one of the draft and one of the
// evidence, that differ in one number alone.
func (r *run) resolve() {
	for i, a := range r.claims {
		for _, b := range r.claims[i+1:] {
			if !a.in() || !b.in() || a.candidate == b.candidate || !prose.SameButNumber(a.Text, b.Text) {
				continue
			}
			loser, winner := b, a
			if b.Margin() > a.Margin() && (!b.candidate || a.doubtful || b.Margin()-a.Margin() > 0.1) {
				loser, winner = a, b
			}
			loser.Reasons = append(loser.Reasons, fmt.Sprintf("contradicts %q", winner.Text))
			loser.Action = actionDrop
			if loser.candidate {
				loser.Action = actionLeave
			}
		}
	}
}

func (c *claim) in() bool { return c.Action == actionKeep || c.Action == actionAdd }

// compose writes the caption: the draft's sentences in their order; an added
// sentence follows the one that it follows in its own source, or stands at the end.
func (r *run) compose() {
	var order []*claim
	for _, c := range r.claims {
		if !c.candidate {
			order = append(order, c)
		}
	}
	for i, c := range r.claims {
		if !c.candidate {
			continue
		}
		at := len(order)
		if before := r.before(c, i); before != nil {
			if k := slices.Index(order, before); k >= 0 {
				at = k + 1
			}
		}
		order = slices.Insert(order, at, c)
	}
	var b strings.Builder
	r.drop = nil
	for _, c := range order {
		if !c.in() {
			if c.Action == actionDrop {
				r.drop = append(r.drop, c.Text)
			}
			continue
		}
		if b.Len() > 0 {
			b.WriteString(r.separator(c))
		}
		b.WriteString(c.Text)
	}
	r.rec.Captions.Long = b.String()
}

// separator is what stands before a sentence: the draft's own line break, or a space.
func (r *run) separator(c *claim) string {
	if i := strings.Index(r.draft, c.Text); i > 0 && strings.HasSuffix(strings.TrimRight(r.draft[:i], " "), "\n") {
		return "\n"
	}
	return " "
}

// before is the claim that precedes a candidate in its source.
func (r *run) before(c *claim, i int) *claim {
	for _, a := range r.evidence {
		if a.ID != c.From {
			continue
		}
		previous := ""
		for _, s := range prose.Sentences(a.Text) {
			if s == c.Text {
				break
			}
			previous = prose.Key(s)
		}
		for _, d := range r.claims[:i] {
			if previous != "" && prose.Key(d.Text) == previous {
				return d
			}
		}
	}
	return nil
}

func (r *run) count() string {
	n := map[string]int{}
	for _, c := range r.claims {
		n[c.Action]++
	}
	return fmt.Sprintf("keep %d, drop %d, add %d, leave %d", n[actionKeep], n[actionDrop], n[actionAdd], n[actionLeave])
}

// revise asks once for a better caption when sentences were dropped. Its new
// sentences are claims like any other.
func (r *run) revise(ctx context.Context) (note string, err error) {
	if len(r.drop) == 0 {
		return "nothing to repair", nil
	}
	prompt := pack.Fill(r.pack.Tasks.Revise, "draft", r.draft, "wrong", strings.Join(r.drop, " "))
	res, err := r.generate(ctx, RoleSummarizer, SeesImage, r.wording(prompt), r.pack.Thresholds.Tokens, engine.Request{})
	if err != nil {
		return "", err
	}
	r.rec.Summary.Revisions++
	if res.Finish != engine.FinishStop {
		return "revision not finished: not used", nil
	}
	n := len(r.claims)
	r.candidates("revision", strings.TrimSpace(res.Text))
	if err := r.askClaims(ctx, r.claims[n:]); err != nil {
		return "", err
	}
	r.settleClaims()
	return r.count(), nil
}

// marks are the judge's answers.
var marks = []string{"1", "2", "3"}

// judge scores the caption on the five criteria.
func (r *run) judge(ctx context.Context) (note string, err error) {
	kind := "image"
	if r.in.Video {
		kind = "video"
	}
	var queries []engine.LabelQuery
	list := r.pack.Criteria[kind]
	for _, m := range list {
		queries = append(queries, engine.LabelQuery{Instruction: r.wording(pack.Fill(r.pack.Tasks.Judge, "criterion", m.Text, "caption", r.rec.Captions.Long)), Labels: marks})
	}
	got, err := r.score(ctx, RoleJudge, SeesImage, queries)
	if err != nil {
		return "", err
	}
	c := r.rec.check()
	c.Judge, c.Marks = map[string]float64{}, map[string]int{}
	for i, m := range list {
		best := 0
		for k, p := range softmax(got[i], 1) {
			c.Judge[m.ID] += p * float64(k+1)
			if got[i][k] > got[i][best] {
				best = k
			}
		}
		c.Marks[m.ID] = best + 1
	}
	return fmt.Sprintf("factual %.2f", c.Judge["factual"]), nil
}

// filter judges a given caption.
func (r *run) filter(ctx context.Context, caption string, evidence []AgentRecord) error {
	if strings.TrimSpace(caption) == "" {
		return errors.New("capflow: filter: empty caption")
	}
	r.given = true
	if err := r.step(ctx, &Step{ID: "route", Kind: kindRoute}); err != nil {
		return err
	}
	r.rec.Agents = slices.Clone(evidence)
	r.rec.Captions, r.rec.Summary = &Captions{}, &SummaryRecord{Mode: "given"}
	var steps []Step
	if len(evidence) == 0 && r.flow.mode != Faithful {
		for _, id := range AgentSet(r.pack, r.flow.mode, r.domains) {
			if a, _ := r.pack.Agent(id); a.Type == "guideline" && !r.off(id) {
				r.rec.Agents = append(r.rec.Agents, AgentRecord{ID: a.ID, Type: a.Type, Limit: a.MaxTokens})
				steps = append(steps, Step{ID: a.ID, Kind: kindAgent, agent: a})
			}
		}
	}
	if err := r.execute(ctx, steps); err != nil {
		return err
	}
	r.collect()
	r.draft, r.finish = strings.TrimSpace(caption), engine.FinishStop
	r.rec.Captions.Long = r.draft
	g, err := Plan(r.pack, r.flow.mode, r.domains, r.flow.opt.Off)
	if err != nil {
		return err
	}
	for i := range g.Steps {
		s := &g.Steps[i]
		literals := s.Kind == kindLiterals && len(evidence) > 0
		if literals || slices.Contains([]string{kindGrounding, kindClaims, kindJudge, kindDecide}, s.Kind) {
			if err := r.step(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}
