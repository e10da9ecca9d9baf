package pack

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var idForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// checker collects what is wrong with a pack.
type checker struct{ errs []error }

func (c *checker) need(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

// prompt checks a wording: not empty, and with the placeholders it needs.
func (c *checker) prompt(where, text string, placeholders ...string) {
	c.need(strings.TrimSpace(text) != "", "%s: empty prompt", where)
	for _, p := range placeholders {
		c.need(strings.Contains(text, "{"+p+"}"), "%s: the prompt lacks {%s}", where, p)
	}
}

// ids checks that ids are well formed and differ.
func (c *checker) ids(what string, list []string) {
	for i, id := range list {
		c.need(idForm.MatchString(id), "%s %d: id %q, want lower-case letters, digits and _", what, i, id)
		c.need(slices.Index(list, id) == i, "%s %q is there twice", what, id)
	}
}

func names[T any](list []T, id func(T) string) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = id(x)
	}
	return out
}

func (p *Pack) validate() error {
	c := &checker{}
	c.need(p.Schema == Schema, "schema is %q, want %q", p.Schema, Schema)
	c.need(p.Name != "" && p.Version != "", "name and version are needed")
	c.ids("domain", names(p.Domains, func(d Domain) string { return d.ID }))
	c.ids("agent", names(p.Agents, func(a Agent) string { return a.ID }))
	c.ids("summary", names(p.Summaries, func(s Summary) string { return s.ID }))
	c.ids("probe", names(p.Probes, func(x Probe) string { return x.ID }))
	c.ids("rendering", names(p.Renderings, func(r Rendering) string { return r.ID }))
	c.need(p.VideoDate == "" || strings.Count(p.VideoDate, "{n}") == 1, "video_date is %q, want {n} in it once", p.VideoDate)
	p.checkDomains(c)
	p.checkAgents(c)
	p.checkTasks(c)
	p.checkWeighing(c)
	p.checkThresholds(c)
	return errors.Join(c.errs...)
}

func (p *Pack) checkDomains(c *checker) {
	stills, videos := 0, 0
	for _, d := range p.Domains {
		where := "domain " + d.ID
		c.prompt(where, d.Option)
		c.need(!strings.ContainsAny(d.Option, "\r\n"), "%s: its option has several lines", where)
		c.need(d.Tiles >= 1 && d.Tiles <= 256, "%s: tiles is %d, want 1 to 256", where, d.Tiles)
		c.need(d.LiteralRecall >= 0 && d.LiteralRecall <= 1, "%s: literal_recall is %v, want 0 to 1", where, d.LiteralRecall)
		c.need(len(d.Faithful) > 0 && len(d.Verified) > 0, "%s: no agents", where)
		p.checkSet(c, where+": faithful", d.Faithful)
		p.checkSet(c, where+": verified", d.Verified)
		_, ok := p.Summary(d.Summary)
		c.need(ok, "%s: no summary %q", where, d.Summary)
		if d.Video {
			videos++
		} else {
			stills++
		}
	}
	c.need(stills >= 1 && stills+videos <= 26, "%d domains of stills and %d of videos, want 1 to 26 in all, one a letter", stills, videos)
	c.need(videos <= 1, "%d domains of videos, want at most 1: a video is never routed", videos)
	p.checkSet(c, "fallback", p.Fallback)
	p.checkSet(c, "order", p.Order)
	for _, a := range p.Agents {
		c.need(slices.Contains(p.Order, a.ID), "order lacks agent %q", a.ID)
	}
}

// checkSet checks a list of agents.
func (p *Pack) checkSet(c *checker, where string, ids []string) {
	for i, id := range ids {
		_, ok := p.Agent(id)
		c.need(ok, "%s: no agent %q", where, id)
		c.need(slices.Index(ids, id) == i, "%s: agent %q is there twice", where, id)
	}
}

func (p *Pack) checkAgents(c *checker) {
	for _, a := range p.Agents {
		where := "agent " + a.ID
		c.prompt(where, a.Prompt)
		c.need(slices.Contains([]string{"guideline", "perception", "reasoning", "tool"}, a.Type), "%s: type %q, want guideline, perception, reasoning or tool", where, a.Type)
		c.need(a.MaxTokens >= 1 && a.MaxTokens <= 1<<16, "%s: max_tokens is %d, want 1 to 65536", where, a.MaxTokens)
		c.need(a.Probe == "" || slices.ContainsFunc(p.Probes, func(x Probe) bool { return x.ID == a.Probe }), "%s: no probe %q", where, a.Probe)
		c.need(len(a.JSONSchema) == 0 || json.Valid(a.JSONSchema), "%s: json_schema is no JSON", where)
	}
	for _, s := range p.Summaries {
		c.prompt("summary "+s.ID, s.Prompt, "evidence")
		c.need(s.MaxTokens >= 1 && s.MaxTokens <= 1<<16, "summary %s: max_tokens is %d, want 1 to 65536", s.ID, s.MaxTokens)
	}
	for _, x := range p.Probes {
		c.prompt("probe "+x.ID, x.Prompt)
	}
}

func (p *Pack) checkTasks(c *checker) {
	c.prompt("tasks.caption", p.Tasks.Caption)
	c.prompt("tasks.router", p.Tasks.Router, "options")
	c.need(len(p.Tasks.Claim) > 0, "tasks.claim: no prompt")
	for i, t := range p.Tasks.Claim {
		c.prompt(fmt.Sprintf("tasks.claim[%d]", i), t, "claim")
	}
	c.prompt("tasks.judge", p.Tasks.Judge, "criterion", "caption")
	c.prompt("tasks.revise", p.Tasks.Revise, "draft", "wrong")
	c.need(p.Yes != "" && p.No != "" && p.Yes != p.No, "yes and no must differ and not be empty")
	for _, kind := range []string{"image", "video"} {
		c.need(len(p.Criteria[kind]) == 5, "criteria.%s: %d, want 5", kind, len(p.Criteria[kind]))
		for _, m := range p.Criteria[kind] {
			c.prompt("criteria."+kind, m.Text)
		}
		c.need(slices.ContainsFunc(p.Criteria[kind], func(m Measure) bool { return m.ID == "factual" }), "criteria.%s: none is \"factual\"", kind)
	}
	for _, r := range p.Renderings {
		c.prompt("rendering "+r.ID, r.Prompt, "caption")
		c.need(r.MaxTokens >= 1, "rendering %s: max_tokens is %d", r.ID, r.MaxTokens)
	}
	c.prompt("render_open.words", p.RenderOpen.Words, "caption", "n")
	c.prompt("render_open.alt", p.RenderOpen.Alt, "caption")
	c.prompt("render_open.language", p.RenderOpen.Language, "caption", "language")
}

// maxViews bounds the looks at a picture; maxCut what a view loses of a side.
const (
	maxViews = 8
	maxCut   = 0.25
)

func (p *Pack) checkWeighing(c *checker) {
	c.need(len(p.Views) <= maxViews, "views: %d, limit %d", len(p.Views), maxViews)
	for i, v := range p.Views {
		for _, x := range v {
			c.need(x >= 0 && x <= maxCut, "views[%d]: a side is cut by %v, want 0 to %v", i, x, maxCut)
		}
		c.need(v != [4]float64{}, "views[%d] is the whole picture", i)
	}
	c.need(p.Base == "caption" || p.Base == "summary", "base is %q, want caption or summary", p.Base)
	for name, w := range map[string]Weights{"own": p.Support.Own, "given": p.Support.Given} {
		for _, x := range []float64{w.LogProb, w.Claim, w.View, w.Agent} {
			c.need(x >= 0 && x <= 100, "support.%s: a weight is %v, want 0 to 100: more support must not make a sentence less likely", name, x)
		}
		c.need(w.Bias >= -100 && w.Bias <= 100, "support.%s.bias is %v, want -100 to 100", name, w.Bias)
	}
}

func (p *Pack) checkThresholds(c *checker) {
	t := &p.Thresholds
	within := func(name string, v, lo, hi float64) {
		c.need(v >= lo && v <= hi, "thresholds.%s is %v, want %v to %v", name, v, lo, hi)
	}
	within("temperature", t.Temperature, 0.01, 100)
	within("single", t.Single, 0, 1)
	within("union", t.Union, 0, 1)
	within("probe_off", t.ProbeOff, 0, 1)
	within("probe_on", t.ProbeOn, t.ProbeOff, 1)
	within("dense_lines", float64(t.DenseLines), 0, 1e6)
	c.need(t.WindowFrames == 0 || t.WindowFrames >= 4 && t.WindowFrames <= 1024, "thresholds.window_frames is %d, want 4 to 1024, or 0 for none", t.WindowFrames)
	within("hold", t.Hold, 0, 1)
	within("add", t.Add, 0, 1)
	within("reject", t.Reject, 0, 1)
	within("judge_mean", t.JudgeMean, 1, 3)
	within("judge_factual", t.JudgeFactual, 1, 3)
	within("retries", float64(t.Retries), 0, 8)
	within("min_words", float64(t.MinWords), 0, float64(t.MaxWords))
	within("max_words", float64(t.MaxWords), 1, 1e6)
	within("caption_tokens", float64(t.Tokens), 1, 1<<16)
}
