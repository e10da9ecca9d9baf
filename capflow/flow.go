package capflow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"os"
	"sync"
	"time"

	"metacap/capflow/pack"
	"metacap/engine"
)

// Options of a flow. The zero value is mode verified with the embedded pack.
type Options struct {
	Mode Mode       // "" = Verified
	Pack *pack.Pack // nil = pack.Default()
	// Roles gives roles models of their own; the others use the flow's.
	Roles map[Role]Model
	// Off switches agents (by id) and parts of the flow (OffRouting, …) off.
	Off []string
	// MaxTiles caps the tiles of a picture; 0 = the domain's budget, at most the model's own limit.
	MaxTiles int
	// Sampling of agents and summaries; zero = greedy. Retries and loops change the seed.
	Sampling engine.Sampling
	// Render lists further renderings: "alt", "words:N", "language:NAME".
	Render []string
	// Events is told of each step as it starts and ends; it is called from several goroutines.
	Events func(Event)
	// Stages keeps finished answers of unfinished captions; nil = none.
	Stages Stages
	// Meter measures what captions take of the machine, for their records.
	Meter Meter
	// Clock is the time; nil = time.Now.
	Clock func() time.Time
}

// Event tells of the progress of a caption.
type Event struct {
	ID   string // of the input
	Step string
	Done bool
	Note string
	Err  error
}

// Stages stores answers of steps, so that a caption that was cut short does not
// ask again. Key is the record's.
type Stages interface {
	Load(key, step string) (json.RawMessage, bool)
	Save(key, step string, value any) error
}

// Input is one picture or video.
type Input struct {
	ID     string
	URI    string         // what records call it; "" = the path of the first image
	Images []engine.Image // one, or the frames of a video
	Video  bool
	Domain string // given; "" = ask the router
	// Attempt counts earlier tries of the same input.
	Attempt int
}

// Flow captions pictures. Its methods may be called by many goroutines at once.
type Flow struct {
	model  Model
	opt    Options
	pack   *pack.Pack
	mode   Mode
	digest string
	shares shares
}

// New checks options and returns a flow on a model.
func New(m Model, o Options) (*Flow, error) {
	f := &Flow{model: m, opt: o, pack: o.Pack, mode: o.Mode}
	if f.pack == nil {
		f.pack = pack.Default()
	}
	if f.mode == "" {
		f.mode = Verified
	}
	if f.opt.Clock == nil {
		f.opt.Clock = time.Now
	}
	if _, err := Plan(f.pack, f.mode, nil, o.Off); err != nil {
		return nil, err
	}
	if _, err := f.openRenderings(); err != nil {
		return nil, fmt.Errorf("capflow: new: %w", err)
	}
	if err := f.checkLabels(); err != nil {
		return nil, fmt.Errorf("capflow: new: %w", err)
	}
	var err error
	f.digest, err = f.flowDigest()
	return f, err
}

// checkLabels makes sure that the router reads one row of logits. Labels of
// several tokens would be scored rightly elsewhere, only slower.
func (f *Flow) checkLabels() error {
	m := f.roleModel(RoleRouter)
	if f.mode == Single || m.Info().Backend == "endpoint" {
		return nil
	}
	stills, _ := f.stills()
	if err := singleTokens(m, letters(len(stills))); err != nil {
		return fmt.Errorf("%s: %w", RoleRouter, err)
	}
	return nil
}

// flowDigest identifies what shapes a caption besides the picture.
func (f *Flow) flowDigest() (string, error) {
	roles := map[Role]ModelInfo{}
	for _, r := range Roles() {
		roles[r] = f.roleModel(r).Info()
		roles[r] = ModelInfo{Name: roles[r].Name, Weights: roles[r].Weights, Config: roles[r].Config, DType: roles[r].DType}
	}
	data, err := json.Marshal(map[string]any{
		"schema": RecordSchema, "mode": f.mode, "pack": f.pack.ID(), "off": f.opt.Off, "tiles": f.opt.MaxTiles,
		"sampling": f.opt.Sampling, "render": f.opt.Render, "roles": roles,
	})
	if err != nil {
		return "", fmt.Errorf("capflow: digest: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// Digest identifies mode, pack, switches and models: two records with one digest were made alike.
func (f *Flow) Digest() string { return f.digest }

// Pack returns the flow's pack.
func (f *Flow) Pack() *pack.Pack { return f.pack }

// Mode returns the flow's mode.
func (f *Flow) Mode() Mode { return f.mode }

func (f *Flow) roleModel(r Role) Model {
	if m, ok := f.opt.Roles[r]; ok && m != nil {
		return m
	}
	return f.model
}

func (in *Input) uri() string {
	if in.URI == "" && len(in.Images) > 0 {
		return in.Images[0].Path
	}
	return in.URI
}

// Key identifies a caption of an input: a digest of the pictures' bytes, the
// input's place and the flow. The error is that of reading a file; the key then
// rests on the place alone.
func (f *Flow) Key(in *Input) (key, content string, err error) {
	all := sha256.New()
	for i := range in.Images {
		im := &in.Images[i]
		data := im.Data
		if im.Path != "" && data == nil {
			var e error
			if data, e = os.ReadFile(im.Path); e != nil {
				err = errors.Join(err, e)
			}
		}
		sum := sha256.Sum256(data)
		if im.Decoded != nil {
			b := im.Decoded.Bounds()
			pixels := image.NewNRGBA(b)
			draw.Draw(pixels, b, im.Decoded, b.Min, draw.Src)
			sum = sha256.Sum256(fmt.Appendf(pixels.Pix, "decoded %s", b))
		}
		all.Write(sum[:])
		if i == 0 && len(in.Images) == 1 {
			content = hex.EncodeToString(sum[:])
		}
	}
	digest := all.Sum(nil)
	if len(in.Images) != 1 {
		content = hex.EncodeToString(digest)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%x|%q|%q|%s|%s", digest, in.ID, in.uri(), in.Domain, f.digest))
	return hex.EncodeToString(sum[:]), content, err
}

// Caption runs the flow on an input. What goes wrong with the input or a model
// is in the record (status error), which is always returned; the error is that
// of the context only.
func (f *Flow) Caption(ctx context.Context, in Input) (*Record, error) {
	r, err := f.newRun(ctx, in)
	if err == nil {
		err = r.all(ctx)
	}
	return f.finish(ctx, r, err)
}

// finish closes a run and fills in what is common to all records.
func (f *Flow) finish(ctx context.Context, r *run, err error) (*Record, error) {
	r.close()
	u := &r.rec.Usage
	if m := &f.opt.Meter; m.Read != nil {
		u.Seconds, u.Unit, u.PricePerHour = f.shares.leave(m, r).Seconds(), m.Unit, m.PricePerHour
		u.MachineDollars = u.Seconds / float64(max(1, m.Lanes)) / 3600 * m.PricePerHour
	}
	r.rec.Usage.Millis = f.opt.Clock().Sub(r.started).Milliseconds()
	if ctx.Err() != nil {
		return r.rec, ctx.Err()
	}
	if err != nil {
		text := err.Error()
		r.rec.Status, r.rec.Error = Failed, &text
	}
	return r.rec, nil
}

// Route asks only the router.
func (f *Flow) Route(ctx context.Context, in Input) (*Record, error) {
	r, err := f.newRun(ctx, in)
	if err == nil {
		err = r.route(ctx)
	}
	r.rec.Status = Accepted
	return f.finish(ctx, r, err)
}

// Filter judges a caption that somebody else made; it changes nothing. evidence
// may hold answers of agents of an earlier record.
func (f *Flow) Filter(ctx context.Context, in Input, caption string, evidence []AgentRecord) (*Record, error) {
	r, err := f.newRun(ctx, in)
	if err == nil {
		err = r.filter(ctx, caption, evidence)
	}
	return f.finish(ctx, r, err)
}

// Meter says what captions take of a machine.
type Meter struct {
	// Read is the time that the machine has worked so far: processor time of this
	// process, or wall time of a GPU that works for nobody else. nil = not measured.
	Read func() time.Duration
	Unit string // "cpu" or "gpu"
	// Lanes is how many seconds of Unit the machine has in a second: its processors, or 1 GPU; 0 = 1.
	Lanes int
	// PricePerHour is the price of the machine, in US dollars, stated by the user; 0 = none.
	PricePerHour float64
}

// shares divides the meter's time among the captions in work: what passes while
// n are in work counts one n-th for each. The shares add up to the meter's time.
type shares struct {
	mu   sync.Mutex
	last time.Duration
	live map[*run]time.Duration
}

// enter starts a caption's share.
func (s *shares) enter(m *Meter, r *run) {
	if m.Read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(m)
	if s.live == nil {
		s.live = map[*run]time.Duration{}
	}
	s.live[r] = 0
}

// leave ends it and returns it.
func (s *shares) leave(m *Meter, r *run) time.Duration {
	if m.Read == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(m)
	d := s.live[r]
	delete(s.live, r)
	return d
}

func (s *shares) advance(m *Meter) {
	now := m.Read()
	for r := range s.live {
		s.live[r] += (now - s.last) / time.Duration(len(s.live))
	}
	s.last = now
}
