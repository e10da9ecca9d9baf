package parity

import (
	"context"
	"fmt"
	"math"

	"metacap/engine/trace"
)

// greedy decodes all prompts of the golden's batch together, as one ragged
// batch, and compares ids and log-probabilities with those of each prompt alone.
func (r *runner) greedy(ctx context.Context, g *golden, c Check, m *trace.Model, inputs map[string]trace.Input) error {
	var prompts []*prompt
	var batch []trace.Input
	var longest int
	for _, id := range g.Batch {
		in, ok := inputs[id]
		if !ok {
			continue // its run failed, and was reported
		}
		for i := range g.Prompts {
			if p := &g.Prompts[i]; p.ID == id {
				prompts, batch = append(prompts, p), append(batch, in)
				longest = max(longest, len(p.Greedy.IDs))
			}
		}
	}
	if len(batch) == 0 {
		return nil
	}
	c.Stage = "greedy ids"
	free, err := m.Greedy(ctx, batch, longest, nil)
	if err != nil {
		r.fail(c, err)
		return ctx.Err()
	}
	var again []int // prompts that part at a near tie: fed the reference's ids
	for i, p := range prompts {
		c.Item = p.ID
		parts, tie := parting(free[i], p)
		if tie {
			again = append(again, i)
			continue
		}
		r.steps(c, p, free[i], parts, "")
	}
	if len(again) == 0 {
		return nil
	}
	return r.forced(ctx, c, m, prompts, batch, again)
}

// parting is the first step at which ids differ, len if none; tie reports
// whether the reference's margin there is too small to demand equality.
func parting(steps []trace.Step, p *prompt) (at int, tie bool) {
	for t, want := range p.Greedy.IDs {
		if t >= len(steps) || steps[t].ID != want {
			return t, t < len(steps) && p.Greedy.Margin[t] <= p.marginMin()
		}
	}
	return len(p.Greedy.IDs), false
}

// forced repeats prompts that part at a near tie with the reference's ids fed.
func (r *runner) forced(ctx context.Context, c Check, m *trace.Model, prompts []*prompt, batch []trace.Input, again []int) error {
	var in []trace.Input
	var ids [][]int32
	longest := 0
	for _, i := range again {
		in, ids = append(in, batch[i]), append(ids, prompts[i].Greedy.IDs)
		longest = max(longest, len(prompts[i].Greedy.IDs))
	}
	for k := range ids { // all runs take the same number of steps
		for len(ids[k]) < longest {
			ids[k] = append(ids[k][:len(ids[k]):len(ids[k])], ids[k][len(ids[k])-1])
		}
	}
	steps, err := m.Greedy(ctx, in, longest, ids)
	if err != nil {
		r.fail(c, err)
		return ctx.Err()
	}
	for k, i := range again {
		p := prompts[i]
		c.Item = p.ID
		at := len(p.Greedy.IDs)
		for t, want := range p.Greedy.IDs {
			if steps[k][t].ID != want && p.Greedy.Margin[t] > p.marginMin() {
				at = t
				break
			}
		}
		r.steps(c, p, steps[k], at, "near tie, the reference's ids were fed")
	}
	return nil
}

// steps reports the ids, which agree up to step at, and the log-probabilities up to there.
func (r *runner) steps(c Check, p *prompt, steps []trace.Step, at int, note string) {
	c.Stage, c.Count, c.Detail = "greedy ids", len(p.Greedy.IDs), note
	if at < len(p.Greedy.IDs) {
		c.Measured = 1
		c.Detail = fmt.Sprintf("token %d: got %d, want %d (margin %.3g)", at, steps[at].ID, p.Greedy.IDs[at], p.Greedy.Margin[at])
	}
	r.check(c)
	c.Stage, c.Count, c.Measured, c.Allowed, c.Detail = "logprobs", 0, 0, p.logitsMax(), ""
	for t := range at {
		for k, id := range p.Greedy.TopIDs[t] {
			got, ok := topLogProb(steps[t], id)
			if !ok {
				continue // it swapped places with the sixth
			}
			d := math.Abs(got - p.Greedy.TopLogProbs[t][k])
			if !(d <= c.Measured) {
				c.Measured, c.Detail = d, fmt.Sprintf("token %d, id %d", t, id)
			}
			c.Count++
		}
	}
	r.check(c)
}

// topLogProb is the log-probability of an id among a step's best.
func topLogProb(s trace.Step, id int32) (float64, bool) {
	for i, top := range s.TopIDs {
		if top == id {
			return s.TopLogProbs[i], true
		}
	}
	return 0, false
}
