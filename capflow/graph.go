package capflow

import (
	"fmt"
	"slices"
	"strings"

	"metacap/capflow/pack"
)

// Mode is a flow.
type Mode string

// The modes. Single is one call. Faithful is the published flow: one label, the
// agents of its table, a summary from text alone, and a judge that wants the top
// mark on all five criteria. Verified is ours. Exhaustive adds a second look at regions.
const (
	Single     Mode = "single"
	Faithful   Mode = "faithful"
	Verified   Mode = "verified"
	Exhaustive Mode = "exhaustive"
)

// Modes lists all modes.
func Modes() []Mode { return []Mode{Single, Faithful, Verified, Exhaustive} }

// Switches that Options.Off knows besides the ids of agents.
const (
	OffLooks     = "looks"     // no plain captions beside the agents; the summary is the base
	OffWeigh     = "weigh"     // nothing is replaced, dropped or added
	OffRouting   = "routing"   // the fallback set for every picture
	OffGrounding = "grounding" // the summary does not see the picture, and no grounding score
	OffClaims    = "claims"    // no claim is asked
	OffLiterals  = "literals"  // literals are not checked
	OffJudge     = "judge"
	OffRevise    = "revise"
	OffProbes    = "probes"
	OffWindows   = "windows" // long videos are not read in windows
	OffDates     = "dates"   // the frames of events in a video are not looked for
	OffRender    = "render"
)

func switches() []string {
	return []string{OffLooks, OffWeigh, OffRouting, OffGrounding, OffClaims, OffLiterals, OffJudge, OffRevise, OffProbes, OffWindows, OffDates, OffRender}
}

// What a step sees.
const (
	SeesNothing   = "text"
	SeesImage     = "image"
	SeesThumbnail = "thumbnail"
	SeesRegions   = "regions"
	SeesWindows   = "windows"
	SeesOpenings  = "openings"
)

// Step is a node of a flow's graph.
type Step struct {
	ID    string   `json:"id"`
	Kind  string   `json:"kind"`
	Role  Role     `json:"role,omitempty"`
	Sees  string   `json:"sees,omitempty"` // text, image, thumbnail, regions, windows or openings; empty = no model is asked
	Needs []string `json:"needs,omitempty"`
	Note  string   `json:"note,omitempty"`
	agent *pack.Agent
}

// Graph is the flow of a picture, every step after those that it needs.
type Graph struct {
	Mode    Mode     `json:"mode"`
	Domains []string `json:"domains"`
	Steps   []Step   `json:"steps"`
}

// Kinds of steps.
const (
	kindRoute     = "route"
	kindAgent     = "agent"
	kindRegions   = "regions"
	kindLooks     = "looks"
	kindWeigh     = "weigh"
	kindSummary   = "summary"
	kindWindows   = "windows"
	kindDates     = "dates"
	kindLiterals  = "literals"
	kindGrounding = "grounding"
	kindClaims    = "claims"
	kindRevise    = "revise"
	kindJudge     = "judge"
	kindDecide    = "decide"
	kindRender    = "render"
)

// Plan returns the graph of a mode for domains: one, or two when the router
// joined their agents, or none for the fallback set. off are switches and ids of
// agents that do not run.
func Plan(p *pack.Pack, mode Mode, domains, off []string) (*Graph, error) {
	if !slices.Contains(Modes(), mode) {
		return nil, fmt.Errorf("capflow: plan: mode %q, want one of %v", mode, Modes())
	}
	for _, d := range domains {
		if _, ok := p.Domain(d); !ok {
			var ids []string
			for _, x := range p.Domains {
				ids = append(ids, x.ID)
			}
			return nil, fmt.Errorf("capflow: plan: domain %q is not in pack %s@%s; it has %s", d, p.Name, p.Version, strings.Join(ids, ", "))
		}
	}
	for _, o := range off {
		if _, ok := p.Agent(o); !ok && !slices.Contains(switches(), o) {
			return nil, fmt.Errorf("capflow: plan: nothing called %q to switch off; want an agent or one of %v", o, switches())
		}
	}
	return plan(p, mode, domains, off, nil), nil
}

// plan draws the graph; probed are agents that probes of the picture call for.
func plan(p *pack.Pack, mode Mode, domains, off, probed []string) *Graph {
	b := &planner{pack: p, off: off, probed: probed, g: &Graph{Mode: mode, Domains: domains}}
	b.build()
	return b.g
}

type planner struct {
	pack   *pack.Pack
	off    []string
	probed []string
	g      *Graph
	last   string
}

func (b *planner) isOff(name string) bool { return slices.Contains(b.off, name) }

// video reports whether the flow is one of videos.
func (b *planner) video() bool {
	return slices.ContainsFunc(b.g.Domains, func(id string) bool {
		d, ok := b.pack.Domain(id)
		return ok && d.Video
	})
}

// chain adds a step that needs the one before.
func (b *planner) chain(s Step) {
	if b.last != "" && s.Needs == nil {
		s.Needs = []string{b.last}
	}
	b.g.Steps = append(b.g.Steps, s)
	b.last = s.ID
}

func (b *planner) build() {
	mode := b.g.Mode
	if mode == Single {
		b.chain(Step{ID: "caption", Kind: kindSummary, Role: RoleSummarizer, Sees: SeesImage, Note: "one call"})
		b.chain(Step{ID: "decide", Kind: kindDecide, Note: "hard checks only"})
		return
	}
	b.chain(Step{ID: "route", Kind: kindRoute, Role: RoleRouter, Sees: SeesThumbnail, Note: "given, else video, else letters"})
	agents := AgentSet(b.pack, mode, b.g.Domains)
	for _, id := range b.probed {
		if mode != Faithful && !slices.Contains(agents, id) {
			agents = append(agents, id)
		}
	}
	needs := []string{}
	for _, id := range agents {
		if b.isOff(id) {
			continue
		}
		a, _ := b.pack.Agent(id)
		b.g.Steps = append(b.g.Steps, Step{ID: id, Kind: kindAgent, Role: RoleAgent, Sees: SeesImage, Needs: []string{"route"}, Note: a.Type, agent: a})
		needs = append(needs, id)
	}
	if mode != Faithful && !b.isOff(OffLooks) {
		b.g.Steps = append(b.g.Steps, Step{ID: "looks", Kind: kindLooks, Role: RoleAgent, Sees: SeesImage, Needs: []string{"route"}, Note: "the plain caption, of the whole picture and of views of it"})
		needs = append(needs, "looks")
	}
	if n := b.pack.Thresholds.WindowFrames; mode != Faithful && n > 0 && b.video() && !b.isOff(OffWindows) {
		b.g.Steps = append(b.g.Steps, Step{ID: "windows", Kind: kindWindows, Role: RoleAgent, Sees: SeesWindows, Needs: []string{"route"}, Note: fmt.Sprintf("perception of overlapping stretches, of videos of more than %d frames", n)})
		needs = append(needs, "windows")
	}
	if mode == Exhaustive {
		b.g.Steps = append(b.g.Steps, Step{ID: "regions", Kind: kindRegions, Role: RoleAgent, Sees: SeesRegions, Needs: []string{"route"}, Note: "perception and text of overlapping crops"})
		needs = append(needs, "regions")
	}
	if len(needs) == 0 {
		needs = []string{"route"}
	}
	sees := SeesImage
	if mode == Faithful || b.isOff(OffGrounding) {
		sees = SeesNothing
	}
	b.chain(Step{ID: "summary", Kind: kindSummary, Role: RoleSummarizer, Sees: sees, Needs: needs, Note: "caption from the evidence"})
	if mode == Faithful {
		b.faithfulTail()
		return
	}
	b.verifiedTail()
}

func (b *planner) faithfulTail() {
	if !b.isOff(OffJudge) {
		b.chain(Step{ID: "judge", Kind: kindJudge, Role: RoleJudge, Sees: SeesImage, Note: "five criteria, 1 to 3"})
	}
	b.chain(Step{ID: "decide", Kind: kindDecide, Note: "kept if every mark is 3"})
}

func (b *planner) verifiedTail() {
	if b.video() && !b.isOff(OffDates) {
		b.chain(Step{ID: "dates", Kind: kindDates, Role: RoleAgent, Sees: SeesOpenings, Note: "in which frame a thing happens: the least opening whose plain caption tells of it"})
	}
	if !b.isOff(OffLiterals) {
		b.chain(Step{ID: "literals", Kind: kindLiterals, Note: "numbers and quotes against the evidence"})
	}
	if !b.isOff(OffGrounding) {
		b.chain(Step{ID: "grounding", Kind: kindGrounding, Role: RoleVerifier, Sees: SeesImage, Note: "each sentence with and without the picture"})
	}
	if !b.isOff(OffClaims) {
		b.chain(Step{ID: "claims", Kind: kindClaims, Role: RoleVerifier, Sees: SeesImage, Note: "sentences alone, where the answer can decide"})
	}
	if !b.isOff(OffWeigh) {
		b.chain(Step{ID: "weigh", Kind: kindWeigh, Role: RoleVerifier, Sees: SeesImage, Note: "of what the readings say, the likeliest stands, if it is likely enough"})
		if !b.isOff(OffRevise) {
			b.chain(Step{ID: "revise", Kind: kindRevise, Role: RoleSummarizer, Sees: SeesImage, Note: "once, for what was dropped; new sentences are checked"})
		}
	}
	if !b.isOff(OffJudge) {
		b.chain(Step{ID: "judge", Kind: kindJudge, Role: RoleJudge, Sees: SeesImage, Note: "five criteria, expected score"})
	}
	b.chain(Step{ID: "decide", Kind: kindDecide, Note: fmt.Sprintf("accept, retry (at most %d), or reject with reasons", b.pack.Thresholds.Retries)})
	if !b.isOff(OffRender) {
		decide := b.last
		for _, r := range b.pack.Renderings {
			b.chain(Step{ID: r.ID, Kind: kindRender, Role: RoleSummarizer, Sees: SeesNothing, Needs: []string{decide}, Note: "from the caption, the picture is not read again"})
		}
	}
}

// AgentSet returns the agents of a mode for domains, each once, in the pack's order of evidence.
func AgentSet(p *pack.Pack, mode Mode, domains []string) []string {
	var ids []string
	if len(domains) == 0 {
		ids = slices.Clone(p.Fallback)
	}
	for _, id := range domains {
		d, _ := p.Domain(id)
		set := d.Verified
		if mode == Faithful {
			set = d.Faithful
		}
		for _, a := range set {
			if !slices.Contains(ids, a) {
				ids = append(ids, a)
			}
		}
	}
	if mode != Faithful { // the published order is kept as published
		slices.SortStableFunc(ids, func(a, b string) int { return p.Rank(a) - p.Rank(b) })
	}
	return ids
}

// String draws the graph as a table.
func (g *Graph) String() string {
	var b strings.Builder
	domains := strings.Join(g.Domains, " + ")
	if domains == "" {
		domains = "any"
	}
	fmt.Fprintf(&b, "mode %s, domain %s\n", g.Mode, domains)
	for _, s := range g.Steps {
		needs := "-"
		if len(s.Needs) > 0 {
			needs = strings.Join(s.Needs, ", ")
		}
		sees := s.Sees
		if sees == "" {
			sees = "-"
		}
		fmt.Fprintf(&b, "  %-24s sees %-10s after %s\n", s.ID, sees, needs)
		fmt.Fprintf(&b, "  %-24s %s\n", "", s.Note)
	}
	return b.String()
}
