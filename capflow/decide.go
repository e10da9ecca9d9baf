package capflow

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"metacap/capflow/internal/prose"
	"metacap/engine"
)

// decide accepts the caption, tries again, or rejects it with reasons.
func (r *run) decide(ctx context.Context) (note string, err error) {
	r.assess()
	c := r.rec.check()
	verified := r.flow.mode == Verified || r.flow.mode == Exhaustive
	for try := 1; verified && !r.given && len(c.Reasons) > 0 && try <= r.pack.Thresholds.Retries; try++ {
		if err := r.retry(ctx, try); err != nil {
			return "", err
		}
		r.assess()
	}
	r.rec.Status = Accepted
	if len(c.Reasons) > 0 {
		r.rec.Status = Rejected
	}
	r.rec.Literals = r.literalRecords()
	if r.rec.Summary.Draft == r.rec.Captions.Long {
		r.rec.Summary.Draft = ""
	}
	return string(r.rec.Status), nil
}

// retry writes another draft with another seed and checks it like the first.
// The better of the two stays.
func (r *run) retry(ctx context.Context, try int) error {
	draft, finish, claims, drop, others, slots := r.draft, r.finish, r.claims, r.drop, r.others, r.slots
	oldChecks, oldCaptions, oldSummary := *r.rec.Checks, *r.rec.Captions, *r.rec.Summary
	sees := SeesImage
	if r.off(OffGrounding) {
		sees = SeesNothing
	}
	seed := uint64(try)
	if s := r.flow.opt.Sampling.Seed; s != 0 {
		seed += s
	}
	res, err := r.summarize(ctx, sees, engine.Request{Sampling: engine.Sampling{Temperature: 0.6, TopP: 0.95, Seed: seed}})
	if err != nil {
		return err
	}
	r.rec.Summary.Revisions++
	r.claims, r.gathered, r.others = nil, false, nil
	r.setDraft(res)
	r.base()
	for _, s := range []struct {
		off string
		do  func(context.Context) (string, error)
	}{
		{OffDates, r.dates},
		{OffLiterals, func(context.Context) (string, error) { return r.literals() }},
		{OffGrounding, r.grounding},
		{OffClaims, r.claimsStep},
		{OffWeigh, r.weigh},
		{OffJudge, r.judge},
	} {
		if r.off(s.off) {
			continue
		}
		if _, err := s.do(ctx); err != nil {
			return err
		}
	}
	r.assess()
	if len(r.rec.Checks.Reasons) >= len(oldChecks.Reasons) { // no better: the first stays
		revisions := r.rec.Summary.Revisions
		r.draft, r.finish, r.claims, r.drop, r.others, r.slots = draft, finish, claims, drop, others, slots
		*r.rec.Checks, *r.rec.Captions, *r.rec.Summary = oldChecks, oldCaptions, oldSummary
		r.rec.Summary.Revisions = revisions
	}
	return nil
}

// assess fills in the reasons against the caption.
func (r *run) assess() {
	c := r.rec.check()
	c.Reasons = r.hard()
	if r.flow.mode == Single {
		return
	}
	c.Claims, c.LeastTrue = nil, nil
	if r.flow.mode == Faithful {
		if !r.off(OffJudge) {
			c.Reasons = append(c.Reasons, allTop(c.Marks)...)
		}
		return
	}
	r.assessClaims(c)
	r.assessLiterals(c)
	if c.Judge != nil && !r.off(OffJudge) {
		sum := 0.0
		for _, v := range c.Judge {
			sum += v
		}
		t := &r.pack.Thresholds
		if mean := sum / float64(len(c.Judge)); mean < t.JudgeMean {
			c.Reasons = append(c.Reasons, fmt.Sprintf("judge: mean %.2f, want %.2f", mean, t.JudgeMean))
		}
		if f := c.Judge["factual"]; f < t.JudgeFactual {
			c.Reasons = append(c.Reasons, fmt.Sprintf("judge: factual %.2f, want %.2f", f, t.JudgeFactual))
		}
	}
}

// allTop is the published rule: a caption is kept only when every mark is 3.
func allTop(marks map[string]int) []string {
	var out []string
	for _, id := range sortedKeys(marks) {
		if m := marks[id]; m != 3 {
			out = append(out, fmt.Sprintf("judge: %s is %d, want 3", id, m))
		}
	}
	return out
}

// assessClaims wants every sentence of the caption to be likely enough.
func (r *run) assessClaims(c *Checks) {
	t := &r.pack.Thresholds
	for _, x := range r.claims {
		c.Claims = append(c.Claims, x.ClaimRecord)
		if r.off(OffWeigh) || !x.in() {
			continue
		}
		if c.LeastTrue == nil || x.PTrue < *c.LeastTrue {
			p := x.PTrue
			c.LeastTrue = &p
		}
		if x.PTrue < t.Reject {
			c.Reasons = append(c.Reasons, strings.TrimSuffix(fmt.Sprintf("claim: %q has P(true) %.2f, want %.2f; %s", x.Text, x.PTrue, t.Reject, strings.Join(x.Reasons, "; ")), "; "))
		}
	}
}

// assessLiterals measures how much of what perception and table hold is in the caption.
func (r *run) assessLiterals(c *Checks) {
	if r.off(OffLiterals) || r.given && r.rec.Agents == nil {
		return
	}
	kept, all := 0, 0
	for _, l := range r.literalRecords() {
		if a, ok := r.pack.Agent(l.From); !ok || a.Type != "perception" && l.From != "data_table" {
			continue
		}
		all++
		if l.Kept {
			kept++
		}
	}
	if all == 0 {
		return
	}
	recall := float64(kept) / float64(all)
	c.LiteralRecall = &recall
	want := 0.0
	for _, id := range r.domains {
		d, _ := r.pack.Domain(id)
		want = max(want, d.LiteralRecall)
	}
	if recall < want {
		c.Reasons = append(c.Reasons, fmt.Sprintf("literals: %d of %d kept, want %.0f %%", kept, all, 100*want))
	}
}

// literalRecords lists the literals of the evidence, each once.
func (r *run) literalRecords() []LiteralRecord {
	var out []LiteralRecord
	have := (&run{evidence: []AgentRecord{{Text: r.rec.Captions.Long}}}).literalSet()
	seen := map[string]bool{}
	for _, a := range r.evidence {
		if a.Type == "reasoning" || a.Type == "guideline" {
			continue
		}
		list := prose.Literals(a.Text)
		if a.ID == "data_table" && r.rec.Table != nil {
			list = nil
			for _, row := range r.rec.Table.Rows {
				list = append(list, prose.Numbers(strings.Join(row, " "))...)
			}
		} else if a.Type == "tool" {
			list = prose.Numbers(a.Text)
		}
		for _, l := range list {
			if k := l.Kind + l.Norm; l.Norm != "" && !seen[k] {
				seen[k] = true
				out = append(out, LiteralRecord{Text: l.Text, Kind: l.Kind, From: a.ID, Kept: have.has(l)})
			}
		}
	}
	return out
}

// hard are the checks that need no model.
func (r *run) hard() []string {
	out := []string{}
	text := r.rec.Captions.Long
	words := len(strings.Fields(text))
	t := &r.pack.Thresholds
	switch {
	case words == 0:
		return []string{"hard: empty"}
	case words < t.MinWords:
		out = append(out, fmt.Sprintf("hard: %d words, want %d", words, t.MinWords))
	case words > t.MaxWords:
		out = append(out, fmt.Sprintf("hard: %d words, limit %d", words, t.MaxWords))
	}
	if r.finish != engine.FinishStop {
		out = append(out, fmt.Sprintf("hard: not finished (%s)", r.finish))
	}
	if slices.ContainsFunc(r.pack.Refusals, func(s string) bool { return strings.Contains(text, s) }) {
		out = append(out, "hard: refusal")
	}
	if leak := Leak(r.pack.Leaks, text); leak != "" {
		out = append(out, fmt.Sprintf("hard: prompt leak %q", leak))
	}
	return out
}

// Leak returns the first of leaks that a caption holds: at its start for a
// phrase of words, anywhere for markup; "" if none.
func Leak(leaks []string, caption string) string {
	for _, l := range leaks {
		if strings.HasPrefix(caption, l) || strings.ContainsAny(l, "<>|") && strings.Contains(caption, l) {
			return l
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
