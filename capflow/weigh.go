package capflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"metacap/capflow/internal/prose"
	"metacap/engine"
)

// How a sentence is weighed.
//
// The base text's sentences open one slot each. Every other reading (a look at
// the picture or at a view of it, perception, guideline, summary, revision) is
// aligned with the base: an equal sentence is a vote, one that differs in a
// value is an alternative of the slot, one that stands for nothing in the base
// is a candidate with a slot of its own. Of each slot the likeliest sentence
// stands, if it is likely enough: a sentence is replaced or dropped, never
// rewritten.
//
// The probability that a sentence is true is logistic in four things: its
// log-probability as the caption's next sentence, averaged over the looks; the
// claim question's log-odds, averaged over wordings; the looks and the other
// readings that say it. The weights are fitted on pictures with known facts for
// one model (pack.Support). For any other model, and where text cannot be
// scored, votes choose within a slot and the claim question alone decides.

// maxClaims bounds the sentences that are weighed for one caption.
const maxClaims = 256

// claim is one sentence under verification.
type claim struct {
	ClaimRecord
	slot      int  // sentences of one slot exclude each other
	after     int  // slot of the base that a candidate follows; -1 = none
	at        int  // byte offset of the slot in the base
	doubtful  bool // literal check or grounding speak against it
	candidate bool // not in the base
	refuted   bool // openings of the video put it into another frame
	odds      float64
}

// Actions of a claim.
const (
	actionKeep  = "keep"  // in the caption
	actionDrop  = "drop"  // was in the base, is not in the caption
	actionAdd   = "add"   // was not in the base, is in the caption
	actionLeave = "leave" // stays out
)

// split makes the base's sentences claims, unless they are already.
func (r *run) split() {
	if r.claims != nil {
		return
	}
	at := 0
	for _, s := range prose.Sentences(r.draft) {
		if i := strings.Index(r.draft[at:], s); i >= 0 {
			at += i
		}
		c := &claim{ClaimRecord: ClaimRecord{Text: s, From: "draft", Action: actionKeep, PTrue: 0.5}, slot: len(r.claims), after: -1, at: at}
		r.claims = append(r.claims, c)
		at += len(s)
	}
	r.slots = len(r.claims)
}

// gather aligns all readings with the base. A caption that is judged gets votes
// and no alternatives.
func (r *run) gather() {
	r.split()
	r.refute()
	looks, agents := r.readings()
	for _, x := range looks {
		r.vote(x, func(c *claim) { c.Views++ })
	}
	for _, x := range agents {
		r.vote(x, func(c *claim) { c.Agents++ })
	}
}

// vote lets a reading speak.
func (r *run) vote(x named, count func(*claim)) {
	x.sentences = slices.Clone(x.sentences)
	for i, s := range x.sentences {
		x.sentences[i] = r.redate(s)
	}
	base := r.baseClaims()
	texts := make([]string, len(base))
	for i, c := range base {
		texts[i] = c.Text
	}
	partner := map[int]int{}
	for _, p := range prose.Align(texts, x.sentences) {
		partner[p[1]] = p[0]
	}
	said := map[*claim]bool{}
	after := -1
	for j, s := range x.sentences {
		i, aligned := partner[j]
		if aligned {
			after = i
		}
		c := r.find(s, i, aligned)
		if c == nil && r.given || prose.Key(s) == "" {
			continue
		}
		if c == nil {
			if c = r.alternative(x.from, s, i, aligned, after); c == nil {
				continue
			}
		}
		if !said[c] {
			said[c] = true
			count(c)
		}
	}
}

func (r *run) baseClaims() []*claim { return r.claims[:min(r.slots, len(r.claims))] }

// find returns the claim with a sentence's words: of its slot first.
func (r *run) find(s string, slot int, aligned bool) *claim {
	k := prose.Key(s)
	var other *claim
	for _, c := range r.claims {
		if prose.Key(c.Text) != k {
			continue
		}
		if aligned && c.slot == slot {
			return c
		}
		if other == nil {
			other = c
		}
	}
	return other
}

// alternative adds a sentence of a reading that the base lacks; nil if it may
// not come into a caption.
func (r *run) alternative(from, s string, slot int, aligned bool, after int) *claim {
	if len(r.claims) >= maxClaims {
		r.without(fmt.Sprintf("claims: more than %d sentences, the others were not weighed", maxClaims))
		return nil
	}
	c := &claim{ClaimRecord: ClaimRecord{Text: s, From: from, Action: actionLeave, PTrue: 0.5}, slot: slot, after: -1, candidate: true}
	if aligned {
		c.at = r.claims[slot].at
	} else {
		if a, ok := r.pack.Agent(from); ok && !a.Claims {
			return nil
		}
		c.slot, c.after = len(r.claims), after
		if after >= 0 {
			c.at = r.claims[after].at + len(r.claims[after].Text)
		}
	}
	r.claims = append(r.claims, c)
	return c
}

// fitted reports whether the pack's weights are those of the model that verifies.
func (r *run) fitted() bool {
	info := r.flow.roleModel(RoleVerifier).Info()
	s := &r.pack.Support
	return info.Labels && info.Text && s.Config != "" && s.Config == info.Config && len(r.looks) > 1
}

// scoreTexts gives each claim its log-probability as the next sentence of the
// base, averaged over the looks.
func (r *run) scoreTexts(ctx context.Context) error {
	type job struct {
		look string
		text string
		of   []*claim
		lo   int
	}
	var jobs []job
	base := r.baseClaims()
	if len(base) > 0 && base[0].LogP != nil {
		base = nil // scored already: a revision added the others
	}
	for _, l := range r.looks {
		if len(base) > 0 {
			jobs = append(jobs, job{look: l.prefix, text: r.draft, of: base})
		}
		for _, c := range r.claims[r.slots:] {
			if c.LogP != nil {
				continue
			}
			head := r.draft[:c.at]
			if c.after >= 0 {
				head += " "
			}
			jobs = append(jobs, job{look: l.prefix, text: head + c.Text, of: []*claim{c}, lo: len(head)})
		}
	}
	sums := make([][]float64, len(jobs))
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	together := make(chan struct{}, scoresTogether)
	for i, j := range jobs {
		together <- struct{}{}
		wg.Go(func() {
			defer func() { <-together }()
			var tokens []engine.Token
			if tokens, errs[i] = r.scoreText(ctx, j.look, j.text); errs[i] != nil {
				return
			}
			for _, c := range j.of {
				lo := c.at
				if c.candidate {
					lo = j.lo
				}
				sums[i] = append(sums[i], logProb(tokens, lo, lo+len(c.Text)))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	mean := map[*claim]float64{}
	for i, j := range jobs {
		for k, c := range j.of {
			mean[c] += sums[i][k] / float64(len(r.looks))
		}
	}
	for c, v := range mean {
		c.LogP = &v
	}
	return nil
}

// scoresTogether is the number of texts that are scored at a time.
const scoresTogether = 8

func (r *run) scoreText(ctx context.Context, name, text string) ([]engine.Token, error) {
	p, err := r.conversation(ctx, RoleAgent, name)
	if err != nil {
		return nil, err
	}
	return p.conv.ScoreText(ctx, r.wording(r.pack.Tasks.Caption), text)
}

// logProb adds up the tokens that overlap bytes [lo, hi) of a text.
func logProb(tokens []engine.Token, lo, hi int) float64 {
	sum, pos := 0.0, 0
	for _, t := range tokens {
		end := pos + len(t.Text)
		if pos < hi && end > lo {
			sum += t.LogProb
		}
		pos = end
	}
	return sum
}

// prepare gathers the readings and scores what they say, once.
func (r *run) prepare(ctx context.Context) error {
	if !r.gathered {
		r.gather()
		r.gathered = true
	}
	if !r.fitted() {
		r.without("weights: the pack's are not for this model, or there are no looks: votes choose, the claim question decides")
		return nil
	}
	return r.scoreTexts(ctx)
}

// undecided are the claims of slots whose outcome the claim question can change.
func (r *run) undecided() []*claim {
	if !r.fitted() {
		return r.claims
	}
	bound := func(c *claim, odds float64) float64 {
		x := *c
		x.odds, x.Looks = odds, 1
		return r.probability(&x, true)
	}
	settled := map[int]bool{}
	for _, c := range r.claims {
		least, most := bound(c, -oddsBound), bound(c, oddsBound)
		if r.given {
			t := r.pack.Thresholds.Reject
			settled[c.slot] = !c.doubtful && (least >= t || most < t)
			continue
		}
		wins := least >= r.pack.Thresholds.Hold && !c.doubtful
		for _, o := range r.claims {
			wins = wins && (o == c || o.slot != c.slot || bound(o, oddsBound) < least)
		}
		settled[c.slot] = settled[c.slot] || wins
	}
	var out []*claim
	for _, c := range r.claims {
		if !settled[c.slot] {
			out = append(out, c)
		}
	}
	return out
}

// weigh gives each claim its probability and writes the caption from the
// likeliest of each slot.
func (r *run) weigh(ctx context.Context) (note string, err error) {
	if err := r.prepare(ctx); err != nil {
		return "", err
	}
	fitted := r.fitted()
	for _, c := range r.claims {
		c.PTrue = r.probability(c, fitted)
	}
	r.settleClaims(fitted)
	return r.count(), nil
}

// oddsBound and logProbFloor keep one extreme value from outweighing the rest.
const (
	oddsBound    = 6.0
	logProbFloor = -8.0
)

func (r *run) probability(c *claim, fitted bool) float64 {
	if c.refuted {
		return 0
	}
	if !fitted {
		if c.Looks == 0 {
			return 0.5
		}
		return logistic(c.odds)
	}
	s := &r.pack.Support.Own
	if r.given {
		s = &r.pack.Support.Given
	}
	odds := s.OddsUnasked
	if c.Looks > 0 {
		odds = max(-oddsBound, min(oddsBound, c.odds))
	}
	return logistic(s.Bias + s.LogProb*max(logProbFloor, *c.LogP) + s.Claim*odds + s.View*float64(c.Views) + s.Agent*float64(c.Agents))
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// need is the probability from which a claim stands.
func (r *run) need(c *claim, fitted bool) float64 {
	t := &r.pack.Thresholds
	switch {
	case c.doubtful && c.Claim != nil && *c.Claim < t.Add:
		return t.Add
	case !fitted && c.slot >= r.slots:
		return t.Add
	}
	return t.Hold
}

// better reports whether a stands before b of the same slot.
func (r *run) better(a, b *claim, fitted bool) bool {
	if !fitted {
		if ha, hb := a.PTrue >= r.need(a, fitted), b.PTrue >= r.need(b, fitted); ha != hb {
			return ha
		}
		if va, vb := a.Views+a.Agents, b.Views+b.Agents; va != vb {
			return va > vb
		}
	}
	return a.PTrue > b.PTrue
}

// settleClaims decides what stands, and writes the caption from it.
func (r *run) settleClaims(fitted bool) {
	best := map[int]*claim{}
	for _, c := range r.claims {
		if b := best[c.slot]; b == nil || r.better(c, b, fitted) {
			best[c.slot] = c
		}
	}
	for _, c := range r.claims {
		need := r.need(c, fitted)
		holds := best[c.slot] == c && c.PTrue >= need
		switch {
		case r.given:
			c.Action = actionKeep
		case c.candidate && holds:
			c.Action = actionAdd
		case c.candidate:
			c.Action = actionLeave
		case holds:
			c.Action = actionKeep
		default:
			c.Action = actionDrop
			why := fmt.Sprintf("likelier: %q", best[c.slot].Text)
			if best[c.slot] == c {
				why = fmt.Sprintf("P(true) is %.2f, want %.2f", c.PTrue, need)
			}
			c.Reasons = append(c.Reasons, why)
		}
	}
	if !r.given {
		r.compose()
	}
}

// compose writes the caption in the base's order; an added sentence stands in
// its slot, or after the one that it follows in its reading.
func (r *run) compose() {
	var order []*claim
	place := func(slot int) {
		for _, c := range r.claims {
			if c.slot == slot && slot >= 0 || c.after == slot && c.slot >= r.slots {
				order = append(order, c)
			}
		}
	}
	for slot := -1; slot < r.slots; slot++ {
		place(slot)
	}
	var b strings.Builder
	r.drop = nil
	said := map[string]bool{}
	for _, c := range order {
		k := prose.Key(c.Text)
		if c.in() && said[k] {
			c.Action = actionLeave
			c.Reasons = append(c.Reasons, "said already")
		}
		if !c.in() {
			if c.Action == actionDrop && best(r.claims, c.slot) == nil {
				r.drop = append(r.drop, c.Text)
			}
			continue
		}
		said[k] = true
		if b.Len() > 0 {
			b.WriteString(r.separator(c))
		}
		b.WriteString(c.Text)
	}
	r.rec.Captions.Long = b.String()
}

// best returns the claim of a slot that is in the caption.
func best(claims []*claim, slot int) *claim {
	for _, c := range claims {
		if c.slot == slot && c.in() {
			return c
		}
	}
	return nil
}

func (c *claim) in() bool { return c.Action == actionKeep || c.Action == actionAdd }

// separator is what stands before a sentence: the base's own line break, or a space.
func (r *run) separator(c *claim) string {
	if c.after < 0 && c.at > 0 && strings.HasSuffix(strings.TrimRight(r.draft[:c.at], " "), "\n") {
		return "\n"
	}
	return " "
}

func (r *run) count() string {
	n := map[string]int{}
	for _, c := range r.claims {
		n[c.Action]++
	}
	return fmt.Sprintf("keep %d, drop %d, add %d, leave %d", n[actionKeep], n[actionDrop], n[actionAdd], n[actionLeave])
}
