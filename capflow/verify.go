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

// literals checks that each number and quoted text of the draft occurs in what
// perception, tools and the other looks read. A sentence with one that does not is doubtful.
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
	var texts []string
	for _, a := range r.evidence {
		if a.Type != "reasoning" {
			texts = append(texts, a.Text)
		}
	}
	for i, l := range r.looks {
		if i > 0 || r.given { // the first may be the text that is checked
			texts = append(texts, l.text)
		}
	}
	for _, t := range texts {
		for _, l := range prose.Literals(t) {
			s.norms[l.Norm] = true
		}
		for _, l := range prose.Numbers(t) {
			s.norms[l.Norm] = true
		}
		words = append(words, prose.Words(t)...)
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
		r.without("grounding: the model scores no given text")
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

// claimsStep gathers what the readings say and asks the claim question, each
// sentence alone, wherever the answer can decide.
func (r *run) claimsStep(ctx context.Context) (note string, err error) {
	if err := r.prepare(ctx); err != nil {
		return "", err
	}
	if !r.flow.roleModel(RoleVerifier).Info().Labels {
		r.without("claims: the model gives no probabilities of answers; the answers themselves are used")
	}
	open := r.undecided()
	if err := r.askClaims(ctx, open); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d sentences asked", len(open), len(r.claims)), nil
}

// askClaims asks every wording of the claim question and averages the log-odds.
func (r *run) askClaims(ctx context.Context, claims []*claim) error {
	var queries []engine.LabelQuery
	for _, c := range claims {
		for _, prompt := range r.pack.Tasks.Claim {
			queries = append(queries, engine.LabelQuery{Instruction: r.wording(pack.Fill(prompt, "claim", c.Text)), Labels: []string{r.pack.Yes, r.pack.No}})
		}
	}
	got, err := r.score(ctx, RoleVerifier, SeesImage, queries)
	if err != nil {
		return err
	}
	n := len(r.pack.Tasks.Claim)
	for i, c := range claims {
		c.odds, c.Looks = 0, n
		for _, g := range got[i*n : (i+1)*n] {
			c.odds += (g[0] - g[1]) / float64(n)
		}
		p := logistic(c.odds)
		c.Claim = &p
	}
	return nil
}

// revise asks once for a better caption when sentences were dropped and nothing
// took their place. Its new sentences are weighed like those of any reading.
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
	r.vote(named{"revision", prose.Sentences(strings.TrimSpace(res.Text))}, func(*claim) {})
	for _, c := range r.claims[n:] {
		c.Agents++
	}
	if err := r.askClaims(ctx, r.claims[n:]); err != nil {
		return "", err
	}
	return r.weigh(ctx)
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
	if r.flow.mode != Faithful && !r.off(OffLooks) {
		steps = append(steps, Step{ID: "looks", Kind: kindLooks})
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
		if literals || slices.Contains([]string{kindDates, kindGrounding, kindClaims, kindWeigh, kindJudge, kindDecide}, s.Kind) {
			if err := r.step(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}
