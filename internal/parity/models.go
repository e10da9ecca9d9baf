package parity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"metacap/engine"
	"metacap/engine/trace"
	"metacap/loader"
	"metacap/tokenizer"
	"metacap/vision"
)

const (
	hiddenMax = 1e-4 // times 1+|x|
	logitsMax = 2e-4
	marginMin = 2e-3 // below, the reference's own choice is a matter of rounding
	// bf16Factor bounds a bfloat16 run by the reference's own bfloat16 run.
	bf16Factor = 2
	// f32Factor bounds a float32 run of a large model by two float32 runs of the
	// reference's own, where the golden has them.
	f32Factor = 10
)

// goldenFile is goldens/NAME.json.
type goldenFile struct {
	Model       string
	SameWeights []string `json:"same_weights"`
	Batch       []string
	Prompts     []prompt
}

// prompt is one prompt of a golden.
type prompt struct {
	ID            string
	Prompt        *string // {tile} = the placeholders of one tile
	IDs           []int32 `json:"input_ids"`
	Images        []string
	MaxNum        []int `json:"max_num"`
	TilesPerImage []int `json:"tiles_per_image"`
	TokensPerTile int   `json:"tokens_per_tile"`
	Positions     []int
	Greedy        struct {
		IDs         []int32
		LogProbs    []float64
		TopIDs      [][]int32   `json:"top5_ids"`
		TopLogProbs [][]float64 `json:"top5_logprobs"`
		Margin      []float64
	}
	BF16 *struct {
		MaxLogitDiff  float64 `json:"max_abs_logit_diff"`
		MaxVisionDiff float64 `json:"max_abs_vision_diff"`
	}
	F32 *struct {
		MaxLogitDiff float64 `json:"max_abs_logit_diff"`
		MaxStageDiff float64 `json:"max_rel_stage_diff"`
	}
}

// logitsMax bounds logits and log-probabilities of a float32 run.
func (p *prompt) logitsMax() float64 {
	if p.F32 == nil {
		return logitsMax
	}
	return max(logitsMax, f32Factor*p.F32.MaxLogitDiff)
}

// marginMin is the margin below which the reference's own choice is a matter of rounding.
func (p *prompt) marginMin() float64 { return marginMin / logitsMax * p.logitsMax() }

// validate checks that the lists of a prompt fit together.
func (p *prompt) validate() error {
	n := len(p.Greedy.IDs)
	for _, l := range []struct {
		name string
		have int
		want int
	}{
		{"greedy.logprobs", len(p.Greedy.LogProbs), n},
		{"greedy.top5_ids", len(p.Greedy.TopIDs), n},
		{"greedy.top5_logprobs", len(p.Greedy.TopLogProbs), n},
		{"greedy.margin", len(p.Greedy.Margin), n},
		{"max_num", len(p.MaxNum), len(p.Images)},
		{"tiles_per_image", len(p.TilesPerImage), len(p.Images)},
	} {
		if l.have != l.want {
			return fmt.Errorf("golden: %s has %d entries, want %d", l.name, l.have, l.want)
		}
	}
	for t, ids := range p.Greedy.TopIDs {
		if len(ids) != len(p.Greedy.TopLogProbs[t]) {
			return fmt.Errorf("golden: token %d has %d top ids and %d log-probabilities", t, len(ids), len(p.Greedy.TopLogProbs[t]))
		}
	}
	return nil
}

// golden is a golden with its tensors.
type golden struct {
	goldenFile
	dir     string
	tensors *loader.Tensors
}

// models compares every golden in dir with the checkpoints that it names.
func (r *runner) models(ctx context.Context, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, name := range names {
		base := strings.TrimSuffix(name, ".json")
		if !exists(base + ".safetensors") {
			continue
		}
		g := &golden{dir: dir}
		if err := readJSON(name, &g.goldenFile); err != nil {
			return err
		}
		if err := r.golden(ctx, g, base); err != nil {
			return err
		}
	}
	return nil
}

// golden compares one golden with each checkpoint of the same weights.
func (r *runner) golden(ctx context.Context, g *golden, base string) error {
	tensors, cleanup, err := openTensors(base + ".safetensors")
	if err != nil {
		return err
	}
	defer cleanup()
	g.tensors = tensors
	checkpoints := append([]string{g.Model}, g.SameWeights...)
	slices.Sort(checkpoints)
	ran := false
	for _, name := range slices.Compact(checkpoints) {
		dir := filepath.Join(g.dir, "..", "models", name)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		ran = true
		if !r.wants(name) {
			continue
		}
		if err := r.checkpoint(ctx, g, name, dir); err != nil {
			return err
		}
	}
	if !ran && r.wants(g.Model) {
		r.fail(Check{Part: PartModels, Case: g.Model, Stage: "open"}, fmt.Errorf("none of the checkpoints %v is in %s", checkpoints, filepath.Join(g.dir, "..", "models")))
	}
	return nil
}

// checkpoint runs a golden on a checkpoint in float32 and, where the golden has
// bounds for it, in bfloat16.
func (r *runner) checkpoint(ctx context.Context, g *golden, name, dir string) error {
	modes := []string{"f32"}
	if slices.ContainsFunc(g.Prompts, func(p prompt) bool { return p.BF16 != nil }) {
		modes = append(modes, "bf16")
	}
	for _, mode := range modes {
		c := Check{Part: PartModels, Case: name, Mode: mode, Stage: "open"}
		m, err := trace.Open(ctx, dir, trace.Options{Device: r.Device, DType: mode, Threads: r.Threads})
		switch {
		case errors.Is(err, engine.ErrUnsupportedModel):
			c.Verdict, c.Detail = Unsupported, err.Error()
			r.check(c)
			return nil
		case errors.Is(err, engine.ErrNoDevice):
			return err
		case err != nil:
			r.fail(c, err)
			continue
		}
		err = r.mode(ctx, g, c, dir, m)
		m.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// mode runs all prompts on an open model.
func (r *runner) mode(ctx context.Context, g *golden, c Check, dir string, m *trace.Model) error {
	tok, err := tokenizer.Open(dir)
	if err != nil {
		r.fail(c, err)
		return nil
	}
	inputs := map[string]trace.Input{}
	for i := range g.Prompts {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := &g.Prompts[i]
		c.Item = p.ID
		if err := p.validate(); err != nil {
			c.Stage = "golden"
			r.fail(c, err)
			continue
		}
		if c.Mode == "f32" {
			r.ids(c, tok, p)
		}
		tiles, ok := r.promptTiles(c, g, p, m.Config())
		if !ok {
			continue
		}
		in := trace.Input{IDs: p.IDs, Tiles: tiles, Positions: p.Positions}
		out, err := m.Run(ctx, in)
		if err != nil {
			c.Stage = "run"
			r.fail(c, err)
			continue
		}
		if err := r.stages(c, g, p, out); err != nil {
			return err
		}
		inputs[p.ID] = in
	}
	if c.Mode == "f32" {
		c.Item = ""
		return r.greedy(ctx, g, c, m, inputs)
	}
	return nil
}

// ids compares the tokenised prompt.
func (r *runner) ids(c Check, tok *tokenizer.Tokenizer, p *prompt) {
	if p.Prompt == nil {
		return
	}
	c.Stage, c.Count = "ids", len(p.IDs)
	text := strings.ReplaceAll(*p.Prompt, "{tile}", strings.Repeat("<IMG_CONTEXT>", p.TokensPerTile))
	got := tok.EncodeSpecial(text)
	if !slices.Equal(got, p.IDs) {
		c.Measured, c.Detail = 1, difference(got, p.IDs)
	}
	r.check(c)
}

// difference says where two id lists part.
func difference(got, want []int32) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("id %d: got %d, want %d", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("got %d ids, want %d", len(got), len(want))
}

// promptTiles decodes and tiles the pictures of a prompt and compares the tiles
// with the stored ones where they are stored.
func (r *runner) promptTiles(c Check, g *golden, p *prompt, cfg loader.Config) (tiles [][]byte, ok bool) {
	c.Stage = "tiles"
	for i, name := range p.Images {
		data, err := os.ReadFile(filepath.Join(g.dir, name))
		if err != nil {
			r.fail(c, err)
			return nil, false
		}
		pic, err := vision.Decode(data, vision.Options{Exact: true, Name: name})
		if err != nil {
			r.fail(c, err)
			return nil, false
		}
		cut, err := vision.Tile(pic, vision.Recipe{Size: cfg.ImageSize, MaxTiles: p.MaxNum[i], NoThumbnail: !cfg.UseThumbnail})
		if err != nil {
			r.fail(c, err)
			return nil, false
		}
		if cut.Count() != p.TilesPerImage[i] {
			r.fail(c, fmt.Errorf("%s: got %d tiles, want %d", name, cut.Count(), p.TilesPerImage[i]))
			return nil, false
		}
		for t := range cut.Count() {
			tiles = append(tiles, cut.Tile(t))
		}
	}
	stored, has := g.tensors.Tensor(p.ID + ".tiles_u8")
	if !has || c.Mode != "f32" {
		return tiles, true
	}
	c.Count = len(stored.Data)
	got := slices.Concat(tiles...)
	if len(got) != len(stored.Data) {
		r.fail(c, fmt.Errorf("got %d bytes, want %d", len(got), len(stored.Data)))
		return tiles, true
	}
	for i, w := range stored.Data {
		if got[i] != w {
			c.Measured++
		}
	}
	r.check(c)
	return tiles, true
}

// pickRows reduces all encoder tokens of tile 0 to those that goldens keep:
// {0,1,2,17,last}, class token first.
func pickRows(s trace.Stage) []float32 {
	var out []float32
	rows, width := s.Shape[0], s.Shape[1]
	last := -1
	for _, i := range []int{0, 1, 2, 17, rows - 1} {
		if i < rows && i > last {
			out = append(out, s.Data[i*width:(i+1)*width]...)
			last = i
		}
	}
	return out
}

// stages compares what a run found with the tensors of the golden.
func (r *runner) stages(c Check, g *golden, p *prompt, out *trace.Output) error {
	prefix := p.ID + "."
	for _, name := range g.tensors.Names() {
		stage, ok := strings.CutPrefix(name, prefix)
		group, known := stageGroup(stage)
		if !ok || !known {
			continue
		}
		view, _ := g.tensors.Tensor(name)
		want, err := view.Float32s()
		if err != nil {
			return err
		}
		cs := c
		cs.Stage, cs.Detail, cs.Count = group, stage, len(want)
		bound, relative, ok := bounds(c.Mode, group, p)
		if !ok {
			continue
		}
		got, ok := out.Stage(stage)
		if !ok {
			r.fail(cs, fmt.Errorf("%s: the run gave no such stage", stage))
			continue
		}
		if group == "ViT" {
			got.Data = pickRows(got)
		}
		if len(got.Data) < len(want) || group != "projector" && len(got.Data) != len(want) {
			r.fail(cs, fmt.Errorf("%s: got shape %v, want %v", stage, got.Shape, view.Shape))
			continue
		}
		cs.Allowed = bound
		cs.Measured = deviation(got.Data[:len(want)], want, relative)
		r.check(cs)
	}
	return nil
}

// stageGroup is the stage of the table for a tensor of a golden.
func stageGroup(stage string) (string, bool) {
	switch {
	case strings.HasPrefix(stage, "vit."):
		return "ViT", true
	case stage == "vision":
		return "projector", true
	case strings.HasPrefix(stage, "hidden."):
		return "hidden", true
	case stage == "logits":
		return "logits", true
	}
	return "", false
}

// bounds is the allowed deviation of a stage; !ok if there is none in this mode.
func bounds(mode, group string, p *prompt) (bound float64, relative, ok bool) {
	if mode == "f32" {
		if group == "logits" {
			return p.logitsMax(), false, true
		}
		stages := float64(hiddenMax)
		if p.F32 != nil {
			stages = max(stages, f32Factor*p.F32.MaxStageDiff)
		}
		return stages, true, true
	}
	switch {
	case p.BF16 == nil:
		return 0, false, false
	case group == "logits":
		return bf16Factor * p.BF16.MaxLogitDiff, false, true
	case group == "projector" && p.BF16.MaxVisionDiff > 0:
		return bf16Factor * p.BF16.MaxVisionDiff, false, true
	}
	return 0, false, false
}

// deviation is the largest |got-want|, divided by 1+|want| if relative. NaN if any value is NaN.
func deviation(got, want []float32, relative bool) float64 {
	most := 0.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if relative {
			d /= 1 + math.Abs(float64(w))
		}
		if !(d <= most) { // also when d is NaN
			most = d
		}
		if math.IsNaN(most) {
			return most
		}
	}
	return most
}
