package compare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"metacap/engine/trace"
)

// Source is a checkpoint: a directory, or the root of a file system.
type Source struct {
	Name  string // the directory; for messages if Files is set
	Files fs.FS  // nil: the directory Name
}

// Options say what to compare on.
type Options struct {
	Device   string // as in engine.Config
	DType    string
	Threads  int
	Images   []string // files; at least one
	Question string
	Tokens   int // longest answer
	MaxTiles int // 0 = the model's own limit
	// Progress is told of each picture that a checkpoint is done with. May be nil.
	Progress func(checkpoint, image string)
}

// Layer is the difference of one stage, over all positions and pictures.
type Layer struct {
	Stage    string  `json:"stage"`
	Relative float64 `json:"relative_error"` // root mean square of the difference over that of the first
	Max      float64 `json:"max_error"`      // largest absolute difference
}

// Image is the outcome for one picture.
type Image struct {
	Path      string  `json:"image"`
	Tokens    int     `json:"tokens"`    // of the first checkpoint's answer, end of turn included
	Agree     int     `json:"agree"`     // of them, how often the second would choose the same
	KL        float64 `json:"kl"`        // mean, nats
	MaxKL     float64 `json:"max_kl"`    // nats
	Identical bool    `json:"identical"` // the second's own answer is the first's
	TextA     string  `json:"first_answer"`
	TextB     string  `json:"second_answer"`
}

// Report is a whole comparison.
type Report struct {
	A         string  `json:"first"`
	B         string  `json:"second"`
	Device    string  `json:"device"`
	Question  string  `json:"question"`
	Layers    []Layer `json:"layers"`
	Images    []Image `json:"images"`
	Tokens    int     `json:"tokens"`
	Agreement float64 `json:"greedy_agreement"` // share of the tokens, teacher-forced
	Identical float64 `json:"identical_answers"`
	KL        float64 `json:"kl"` // mean over tokens of KL(first ‖ second), nats
	MaxKL     float64 `json:"max_kl"`
}

// answer is what one checkpoint made of one picture.
type answer struct {
	input  trace.Input
	ids    []int32
	text   string
	stages []trace.Stage // at the positions that predict ids
}

// Run compares b with a.
func Run(ctx context.Context, a, b Source, o Options) (*Report, error) {
	if len(o.Images) == 0 {
		return nil, errors.New("compare: no pictures")
	}
	if o.Tokens < 1 {
		return nil, fmt.Errorf("compare: answers of %d tokens, want at least 1", o.Tokens)
	}
	r := &Report{A: a.Name, B: b.Name, Question: o.Question}
	first, err := runAll(ctx, a, o, nil, r)
	if err != nil {
		return nil, err
	}
	second, err := runAll(ctx, b, o, first, r)
	if err != nil {
		return nil, err
	}
	sums := map[string]*sum{}
	for i := range first {
		if err := r.add(o.Images[i], &first[i], &second[i], sums); err != nil {
			return nil, fmt.Errorf("compare: %s: %w", o.Images[i], err)
		}
	}
	r.finish(sums)
	return r, nil
}

// runAll answers and traces every picture with one checkpoint. forced are the
// answers to trace; nil = its own.
func runAll(ctx context.Context, s Source, o Options, forced []answer, r *Report) (_ []answer, err error) {
	to := trace.Options{Device: o.Device, DType: o.DType, Threads: o.Threads}
	var m *trace.Model
	if s.Files != nil {
		m, err = trace.OpenFS(ctx, s.Files, s.Name, to)
	} else {
		m, err = trace.Open(ctx, s.Name, to)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	r.Device = m.Backend().Device
	out := make([]answer, len(o.Images))
	for i, path := range o.Images {
		in, err := m.Prompt(ctx, path, o.Question, o.MaxTiles)
		if err != nil {
			return nil, fmt.Errorf("compare: %s: %w", path, err)
		}
		steps, err := m.Greedy(ctx, []trace.Input{in}, o.Tokens, nil)
		if err != nil {
			return nil, fmt.Errorf("compare: %s: %w", path, err)
		}
		out[i].ids, out[i].text = m.Answer(steps[0])
		feed := out[i].ids
		if forced != nil {
			if !slices.Equal(in.IDs, forced[i].input.IDs) {
				return nil, fmt.Errorf("compare: %s: %s makes another prompt of it than %s: different tokenizers, templates or tilings", path, r.B, r.A)
			}
			feed = forced[i].ids
		}
		out[i].input = in
		if out[i].stages, err = stages(ctx, m, in, feed); err != nil {
			return nil, fmt.Errorf("compare: %s: %w", path, err)
		}
		if o.Progress != nil {
			o.Progress(s.Name, path)
		}
	}
	return out, nil
}

// stages feeds the prompt and all but the last id of an answer and keeps the
// decoder's stages where the answer is predicted.
func stages(ctx context.Context, m *trace.Model, in trace.Input, ids []int32) ([]trace.Stage, error) {
	last := len(in.IDs) - 1
	in.IDs = append(slices.Clone(in.IDs), ids[:len(ids)-1]...)
	for i := range ids {
		in.Positions = append(in.Positions, last+i)
	}
	in.VisionRows = []int{0}
	out, err := m.Run(ctx, in)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out.Stages, func(s trace.Stage) bool { return strings.HasPrefix(s.Name, "vit.") }), nil
}

// sum gathers the differences of a stage.
type sum struct {
	diff, ref, worst float64
	order            int
}

// add compares the two runs of a picture.
func (r *Report) add(path string, a, b *answer, sums map[string]*sum) error {
	im := Image{Path: path, Tokens: len(a.ids), TextA: a.text, TextB: b.text, Identical: slices.Equal(a.ids, b.ids)}
	if len(a.stages) != len(b.stages) {
		return fmt.Errorf("%d stages and %d: the checkpoints are of different shapes", len(a.stages), len(b.stages))
	}
	for i, s := range a.stages {
		t := b.stages[i]
		if s.Name != t.Name || len(s.Data) != len(t.Data) {
			return fmt.Errorf("stage %s %v and %s %v: the checkpoints are of different shapes", s.Name, s.Shape, t.Name, t.Shape)
		}
		if sums[s.Name] == nil {
			sums[s.Name] = &sum{order: len(sums)}
		}
		if err := sums[s.Name].add(s.Data, t.Data); err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
		if s.Name == "logits" {
			im.compare(s, t, a.ids)
		}
	}
	r.Images = append(r.Images, im)
	return nil
}

func (s *sum) add(a, b []float32) error {
	for i := range a {
		x, d := float64(a[i]), math.Abs(float64(a[i])-float64(b[i]))
		if !(d <= math.MaxFloat32) || !(math.Abs(x) <= math.MaxFloat32) {
			return fmt.Errorf("element %d: %g and %g: not finite", i, a[i], b[i])
		}
		s.diff += d * d
		s.ref += x * x
		s.worst = max(s.worst, d)
	}
	return nil
}

// compare fills in what the logits [tokens,V] say.
func (im *Image) compare(a, b trace.Stage, ids []int32) {
	vocab := a.Shape[1]
	for i, id := range ids {
		p, q := a.Data[i*vocab:(i+1)*vocab], b.Data[i*vocab:(i+1)*vocab]
		kl := divergence(p, q)
		im.KL += kl / float64(len(ids))
		im.MaxKL = max(im.MaxKL, kl)
		if argmax(q) == int(id) {
			im.Agree++
		}
	}
}

// argmax is the lowest index of the largest value, as greedy sampling picks it.
func argmax(row []float32) int {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	return best
}

// divergence is KL(p ‖ q) of two rows of logits, nats: Σ p·(log p − log q).
func divergence(p, q []float32) float64 {
	zp, zq := logSum(p), logSum(q)
	kl := 0.0
	for i := range p {
		lp, lq := float64(p[i])-zp, float64(q[i])-zq
		kl += math.Exp(lp) * (lp - lq)
	}
	return max(kl, 0) // equal rows may give -1e-17
}

// logSum is log Σ exp(x).
func logSum(row []float32) float64 {
	high := float64(slices.Max(row))
	total := 0.0
	for _, v := range row {
		total += math.Exp(float64(v) - high)
	}
	return high + math.Log(total)
}

// finish computes the totals.
func (r *Report) finish(sums map[string]*sum) {
	r.Layers = make([]Layer, len(sums))
	for name, s := range sums {
		l := Layer{Stage: name, Max: s.worst}
		if s.ref > 0 {
			l.Relative = math.Sqrt(s.diff / s.ref)
		}
		r.Layers[s.order] = l
	}
	agree, identical := 0, 0
	for _, im := range r.Images {
		r.Tokens += im.Tokens
		agree += im.Agree
		r.KL += im.KL * float64(im.Tokens)
		r.MaxKL = max(r.MaxKL, im.MaxKL)
		if im.Identical {
			identical++
		}
	}
	r.KL /= float64(r.Tokens)
	r.Agreement = float64(agree) / float64(r.Tokens)
	r.Identical = float64(identical) / float64(len(r.Images))
}
