// Package pack holds the prompt pack: everything of a captioning flow that is
// data, not code. Domains, agents, wordings, order, tile budgets, limits and
// filter thresholds are in one versioned JSON file; [Default] is embedded,
// [Load] reads another. A new domain or agent needs no code.
//
// Which agents a domain has in mode faithful, and the five criteria, are those
// of the published workflow (arXiv 2510.12126, table 1). Every wording, limit
// and threshold is ours: the authors published none.
package pack

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Schema is the format of a pack file.
const Schema = "capflow-pack/1"

// maxPackBytes bounds a pack file.
const maxPackBytes = 4 << 20

// Pack is a prompt pack. Treat it as read-only once loaded.
type Pack struct {
	Schema  string `json:"schema"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// System is the system text of every prompt; empty = the checkpoint's own.
	// It is one for all agents: a system text of its own would cost an agent the shared prefix.
	System string `json:"system"`
	// VideoRule replaces words of a prompt, pair by pair, when the input is a video.
	VideoRule [][2]string `json:"video_rule"`
	// VideoDate is how captions name a frame, as "frame {n}"; empty = they do not.
	VideoDate string    `json:"video_date,omitempty"`
	Domains   []Domain  `json:"domains"`
	Agents    []Agent   `json:"agents"`
	Summaries []Summary `json:"summaries"`
	Order     []string  `json:"order"`    // of agents in the evidence
	Fallback  []string  `json:"fallback"` // agents when the router is not sure
	// Views are what is cut from the left, top, right and bottom side of a
	// picture, as shares, for each look at it besides the whole.
	Views      [][4]float64         `json:"views"`
	Base       string               `json:"base"`    // which text is verified: "caption" or "summary"
	Support    Support              `json:"support"` // what makes a sentence true
	Tasks      Tasks                `json:"tasks"`
	Probes     []Probe              `json:"probes"`
	Yes        string               `json:"yes"`
	No         string               `json:"no"`
	Refusals   []string             `json:"refusals"`   // answers that refuse
	Unreadable string               `json:"unreadable"` // stands for a word that cannot be read
	Leaks      []string             `json:"leaks"`      // no caption may hold these
	Criteria   map[string][]Measure `json:"criteria"`   // "image" and "video"
	Renderings []Rendering          `json:"renderings"`
	RenderOpen RenderOpen           `json:"render_open"`
	Thresholds Thresholds           `json:"thresholds"`

	digest string
}

// Domain is an answer of the router and the agents that it calls.
type Domain struct {
	ID            string   `json:"id"`
	Option        string   `json:"option"` // its line in the router's question
	Video         bool     `json:"video,omitempty"`
	Tiles         int      `json:"tiles"` // most tiles of a picture; of a frame, for a video
	Faithful      []string `json:"faithful"`
	Verified      []string `json:"verified"`
	Summary       string   `json:"summary"`
	LiteralRecall float64  `json:"literal_recall"` // least share of fragile literals kept; 0 = no demand
}

// Agent is one prompt with its limits.
type Agent struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"` // guideline, perception, reasoning or tool
	Prompt     string          `json:"prompt"`
	MaxTokens  int             `json:"max_tokens"`
	Sentinels  []string        `json:"sentinels"` // answers that mean: nothing to say
	JSONSchema json.RawMessage `json:"json_schema,omitempty"`
	Claims     bool            `json:"claims,omitempty"` // its sentences may be added to a caption that lacks them
	Probe      string          `json:"probe,omitempty"`  // the probe that can switch it off or on
}

// Summary is the prompt of a summariser; {evidence} is replaced.
type Summary struct {
	ID        string `json:"id"`
	Prompt    string `json:"prompt"`
	MaxTokens int    `json:"max_tokens"`
}

// Tasks are the prompts that belong to no agent.
type Tasks struct {
	Caption string   `json:"caption"` // mode single, and the question behind the grounding score
	Router  string   `json:"router"`  // {options}
	Claim   []string `json:"claim"`   // {claim}; the log-odds of all wordings are averaged
	Judge   string   `json:"judge"`   // {criterion}, {caption}
	Revise  string   `json:"revise"`  // {draft}, {wrong}
}

// Probe is a yes-or-no question on the thumbnail.
type Probe struct {
	ID     string `json:"id"`
	Prompt string `json:"prompt"`
}

// Measure is a criterion of the judge. ID "factual" has a threshold of its own.
type Measure struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Rendering is a form made from the finished caption; {caption} is replaced.
type Rendering struct {
	ID        string `json:"id"`
	Prompt    string `json:"prompt"`
	MaxTokens int    `json:"max_tokens"`
	List      bool   `json:"list,omitempty"` // the answer is a comma-separated list
}

// RenderOpen are the prompts of renderings with a parameter.
type RenderOpen struct {
	Words    string `json:"words"`    // {caption}, {n}
	Alt      string `json:"alt"`      // {caption}
	Language string `json:"language"` // {caption}, {language}
}

// Thresholds are the numbers of router and filter.
type Thresholds struct {
	Temperature  float64 `json:"temperature"`   // divides the router's log-probabilities
	Single       float64 `json:"single"`        // p1 from which one domain is enough
	Union        float64 `json:"union"`         // p1+p2 from which two are
	ProbeOff     float64 `json:"probe_off"`     // an agent is off when its probe is below
	ProbeOn      float64 `json:"probe_on"`      // and on, in verified, when it is from here
	DenseLines   int     `json:"dense_lines"`   // lines of text from which verified reads a page in bands; 0 = never
	Hold         float64 `json:"hold"`          // P(true) from which a sentence stands
	Add          float64 `json:"add"`           // P of the claim question from which a doubtful sentence stands, or without weights a further one
	Reject       float64 `json:"reject"`        // a caption with a sentence below is rejected
	Grounding    float64 `json:"grounding"`     // least gain of log-probability by the picture, in nats
	JudgeMean    float64 `json:"judge_mean"`    // least mean of the five expected scores
	JudgeFactual float64 `json:"judge_factual"` // least expected score of factual accuracy
	WindowFrames int     `json:"window_frames"` // frames of a window, and of the longest video that is read without; 0 = no windows
	Retries      int     `json:"retries"`
	MinWords     int     `json:"min_words"`
	MaxWords     int     `json:"max_words"`
	Tokens       int     `json:"caption_tokens"` // longest caption of mode single, and of a revision
}

// Support is what makes a sentence likely to be true, as weights of a logistic
// probability. They hold for one model: that with the config.json of the digest
// Config. Any other model's sentences are weighed without them.
type Support struct {
	Config string `json:"config_sha256"` // "" = no weights
	// Own are for sentences that the flow's own readings say, Given for those of a caption that is judged.
	Own   Weights `json:"own"`
	Given Weights `json:"given"`
}

// Weights are added up where they apply: the sum is the log-odds that a sentence is true.
type Weights struct {
	Bias        float64 `json:"bias"`
	LogProb     float64 `json:"logprob"`      // a nat of the sentence's log-probability in its place
	Claim       float64 `json:"claim"`        // a nat of the claim question's log-odds
	OddsUnasked float64 `json:"odds_unasked"` // log-odds taken where the question was not asked
	View        float64 `json:"view"`         // a look that says the same
	Agent       float64 `json:"agent"`        // another reading that does
}

//go:embed default.json
var embedded []byte

// Default returns the embedded pack.
func Default() *Pack {
	p, err := Parse(embedded)
	if err != nil {
		panic(err) // checked by a test
	}
	return p
}

// Load reads a pack from a file.
func Load(path string) (*Pack, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPackBytes+1))
	if err == nil && len(data) > maxPackBytes {
		err = fmt.Errorf("more than %d bytes", maxPackBytes)
	}
	var p *Pack
	if err == nil {
		p, err = Parse(data)
	}
	if err != nil {
		return nil, fmt.Errorf("pack: %s: %w", path, err)
	}
	return p, nil
}

// Parse decodes and validates a pack. The error lists everything that is wrong.
func Parse(data []byte) (*Pack, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	p := &Pack{}
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	canonical, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(canonical)
	p.digest = hex.EncodeToString(sum[:])
	return p, nil
}

// ID names the pack with its content: "name@version#sha256".
func (p *Pack) ID() string { return p.Name + "@" + p.Version + "#" + p.digest }

// Domain returns the domain of an id.
func (p *Pack) Domain(id string) (*Domain, bool) {
	i := slices.IndexFunc(p.Domains, func(d Domain) bool { return d.ID == id })
	if i < 0 {
		return nil, false
	}
	return &p.Domains[i], true
}

// Agent returns the agent of an id.
func (p *Pack) Agent(id string) (*Agent, bool) {
	i := slices.IndexFunc(p.Agents, func(a Agent) bool { return a.ID == id })
	if i < 0 {
		return nil, false
	}
	return &p.Agents[i], true
}

// Summary returns the summariser of an id.
func (p *Pack) Summary(id string) (*Summary, bool) {
	i := slices.IndexFunc(p.Summaries, func(s Summary) bool { return s.ID == id })
	if i < 0 {
		return nil, false
	}
	return &p.Summaries[i], true
}

// Rank is an agent's place in the evidence.
func (p *Pack) Rank(agent string) int { return slices.Index(p.Order, agent) }

// ForVideo words a prompt for a video.
func (p *Pack) ForVideo(prompt string) string {
	for _, r := range p.VideoRule {
		prompt = strings.ReplaceAll(prompt, r[0], r[1])
	}
	return prompt
}

// Fill replaces {name} by value for each pair of names and values, in one pass:
// braces inside a value are left alone.
func Fill(prompt string, pairs ...string) string {
	list := make([]string, len(pairs))
	for i, s := range pairs {
		list[i] = s
		if i%2 == 0 {
			list[i] = "{" + s + "}"
		}
	}
	return strings.NewReplacer(list...).Replace(prompt)
}
