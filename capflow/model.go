package capflow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"metacap/engine"
)

// ErrCapability occurs when a model cannot do what a step needs. The flow then
// does without the step and says so in the record.
var ErrCapability = errors.New("capflow: the model cannot do this")

// Capabilities say what a model can do besides generating text.
type Capabilities struct {
	Labels bool // true probabilities of closed answers
	Text   bool // log-probabilities of given text
	Shared bool // one prefix computed once for all questions
	JSON   bool // answers constrained by a JSON schema
}

// ModelInfo describes a model for records.
type ModelInfo struct {
	Name          string `json:"model"`
	Weights       string `json:"weights_sha256,omitempty"`
	Config        string `json:"config_sha256,omitempty"`
	Engine        string `json:"engine,omitempty"`
	Backend       string `json:"backend"`
	DType         string `json:"dtype,omitempty"`
	Device        string `json:"device,omitempty"`
	ContextTokens int    `json:"-"` // 0 = unknown
	MaxTiles      int    `json:"-"` // the model's own limit for one picture; 0 = unknown
	Capabilities  `json:"-"`
}

// Prefix is what all questions of a conversation share.
type Prefix struct {
	System string
	Images []engine.Image // none = text only
	Video  bool           // the images are the frames of one video
}

// Model answers questions about pictures: the engine in this process ([Local])
// or an endpoint. Its methods may be called by many goroutines at once.
type Model interface {
	Info() ModelInfo
	// Tokens estimates the tokens of a text; the engine's count is exact.
	Tokens(text string) int
	// Open starts a conversation over a prefix. The caller closes it.
	Open(ctx context.Context, p Prefix) (Conversation, error)
}

// Conversation is a set of independent questions over one prefix.
type Conversation interface {
	// Generate answers an instruction. r.Messages is nil.
	Generate(ctx context.Context, instruction string, r engine.Request) (*engine.Result, error)
	// ScoreLabels returns the natural logarithm of the probability of each label.
	ScoreLabels(ctx context.Context, queries []engine.LabelQuery) ([][]float64, error)
	// ScoreText returns the log-probability of each token of text as the answer
	// to instruction, or ErrCapability.
	ScoreText(ctx context.Context, instruction, text string) ([]engine.Token, error)
	PrefixTokens() int
	// Usage is what the prefix and the scores have cost; generations report their own.
	Usage() engine.Usage
	Images() []engine.ImageReport
	Close() error
}

// Role is a part of the flow that may have a model of its own.
type Role string

// The roles. Render and revise are the summariser's.
const (
	RoleRouter     Role = "router"
	RoleAgent      Role = "agent"
	RoleSummarizer Role = "summarizer"
	RoleVerifier   Role = "verifier"
	RoleJudge      Role = "judge"
)

// Roles lists all roles.
func Roles() []Role {
	return []Role{RoleRouter, RoleAgent, RoleSummarizer, RoleVerifier, RoleJudge}
}

// Local is the engine of this process as a Model.
func Local(e *engine.Engine, info ModelInfo) Model {
	i := e.Info()
	info.Backend, info.DType, info.Device = i.Backend, i.DType, i.Device
	info.ContextTokens, info.MaxTiles = i.ContextTokens, i.MaxTiles
	info.Capabilities = Capabilities{Labels: true, Text: true, Shared: true, JSON: true}
	return &local{e, info}
}

type local struct {
	engine *engine.Engine
	info   ModelInfo
}

func (l *local) Info() ModelInfo        { return l.info }
func (l *local) Tokens(text string) int { return len(l.engine.Tokens(text)) }

func (l *local) Open(ctx context.Context, p Prefix) (Conversation, error) {
	s, err := l.engine.NewSession(ctx, messages(p), engine.SessionOptions{})
	if err != nil {
		return nil, err
	}
	return &conversation{s}, nil
}

// messages renders a prefix: the system text, then a user turn that stays open.
func messages(p Prefix) []engine.Message {
	var out []engine.Message
	if p.System != "" {
		out = append(out, engine.Message{Role: engine.RoleSystem, Parts: []engine.Part{{Text: p.System}}})
	}
	user := engine.Message{Role: engine.RoleUser}
	switch {
	case p.Video:
		user.Parts = append(user.Parts, engine.Part{Video: &engine.Video{Frames: slices.Clone(p.Images)}})
	default:
		for i := range p.Images {
			user.Parts = append(user.Parts, engine.Part{Image: &p.Images[i]})
		}
	}
	return append(out, user)
}

type conversation struct{ *engine.Session }

func (c *conversation) Usage() engine.Usage {
	u, s := c.Session.Usage(), c.ScoreUsage()
	u.PromptTokens += s.PromptTokens
	u.CachedTokens += s.CachedTokens
	return u
}

// ScoreLabels scores the queries together.
func (c *conversation) ScoreLabels(ctx context.Context, queries []engine.LabelQuery) ([][]float64, error) {
	return c.ScoreLabelsBatch(ctx, queries)
}

// Opening is what the prefix alone has cost.
func (c *conversation) Opening() engine.Usage { return c.Session.Usage() }

// singleTokens checks that each label is one token of a model, so that the
// router and the filter read one row of logits a question.
func singleTokens(m Model, labels []string) error {
	for _, l := range labels {
		if n := m.Tokens(l); n != 1 {
			return fmt.Errorf("label %q is %d tokens of %s, want 1", l, n, m.Info().Name)
		}
	}
	return nil
}
