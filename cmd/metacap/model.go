package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"metacap/engine"
	"metacap/internal/demo"
	"metacap/loader"
	"metacap/tokenizer"
	"metacap/vision"
)

// modelCmd is metacap model.
type modelCmd struct {
	Info     modelInfoCmd     `cmd:"" help:"Print dimensions, parameters, bytes, memory, and what is missing."`
	Quantize modelQuantizeCmd `cmd:"" help:"Write a checkpoint with its decoder rounded to 8 or 4 bits."`
	Compare  modelCompareCmd  `cmd:"" help:"Measure how far a checkpoint is from another one, on pictures."`
	Verify   modelVerifyCmd   `cmd:"" help:"Read every weight, print or compare checksums."`
}

// modelInfoCmd is metacap model info.
type modelInfoCmd struct {
	Dir  string `arg:"" optional:"" help:"Directory of a checkpoint; demo or nothing: the embedded one."`
	JSON bool   `name:"json" help:"As one JSON object."`

	Device  string   `default:"auto" placeholder:"NAME" help:"Plan the memory for this device: ${device_help}"`
	Dtype   string   `default:"auto" enum:"auto,f32,bf16" help:"Type to compute in: auto, f32 or bf16."`
	Memory  bytesize `default:"0" placeholder:"SIZE" help:"Most memory to use there, as 20GiB; 0 = what fits."`
	Context int      `default:"0" placeholder:"N" help:"Longest prompt and answer together, tokens; 0 = the model's limit."`
}

func (*modelInfoCmd) examples() string {
	return `
  metacap model info ~/models/MetaCaptioner-8B
  metacap model info demo                          what the embedded model is and knows
  metacap model info --memory 12GiB --context 8192 DIR
  metacap model info --json DIR

Only headers are read: it takes a moment whatever the size. Exit code 2 if
tensors or files are missing.
`
}

// modelRecord is what model info prints.
type modelRecord struct {
	Model        string           `json:"model"`
	Architecture string           `json:"architecture"`
	Layout       string           `json:"layout"`
	DTypes       map[string]int64 `json:"bytes_by_dtype"`
	Vision       *visionRecord    `json:"vision,omitempty"`
	Decoder      decoderRecord    `json:"decoder"`
	Parts        []partRecord     `json:"parts"`
	Total        partRecord       `json:"total"`
	KVPerToken   int64            `json:"kv_bytes_per_token"` // 16-bit elements
	Pictures     []sizeRecord     `json:"pictures,omitempty"`
	Memory       *budgetRecord    `json:"memory,omitempty"` // absent if it does not fit
	EndTokens    []string         `json:"end_tokens"`
	Template     bool             `json:"own_chat_template"`
	Problems     []string         `json:"problems,omitempty"`
	Unused       []string         `json:"unused_tensors,omitempty"`
	Card         string           `json:"card,omitempty"`
}

// visionRecord describes the vision encoder and the tiling.
type visionRecord struct {
	Layers        int  `json:"layers"`
	Width         int  `json:"width"`
	Heads         int  `json:"heads"`
	FFN           int  `json:"ffn"`
	PatchSize     int  `json:"patch_size"`
	TileSize      int  `json:"tile_size"`
	TokensPerTile int  `json:"tokens_per_tile"`
	MinTiles      int  `json:"min_tiles"`
	MaxTiles      int  `json:"max_tiles"`
	Thumbnail     bool `json:"thumbnail"`
}

// decoderRecord describes the decoder.
type decoderRecord struct {
	Family        string  `json:"family"`
	Layers        int     `json:"layers"`
	Width         int     `json:"width"`
	QueryHeads    int     `json:"query_heads"`
	KVHeads       int     `json:"kv_heads"`
	HeadSize      int     `json:"head_size"`
	FFN           int     `json:"ffn"`
	Vocabulary    int     `json:"vocabulary"`
	Context       int     `json:"context"`
	RopeTheta     float64 `json:"rope_theta"`
	RopeScaling   string  `json:"rope_scaling"`
	TiedEmbedding bool    `json:"tied_embedding"`
}

// partRecord is a part of the checkpoint.
type partRecord struct {
	Name       string `json:"name"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
	Bytes      int64  `json:"bytes"`
}

// budgetRecord is the memory plan on a device, in bytes.
type budgetRecord struct {
	Device    string `json:"device"`
	Limit     int64  `json:"limit"` // 0 = unknown
	Weights   int64  `json:"weights"`
	Vision    int64  `json:"vision_workspace"`
	Workspace int64  `json:"decoder_workspace"`
	Encoder   int64  `json:"encoded_tiles"`
	Backend   int64  `json:"backend_workspace"`
	KV        int64  `json:"kv_cache"`
	Total     int64  `json:"total"`
}

// sizeRecord is what a picture of some size costs.
type sizeRecord struct {
	Width   int   `json:"width"`
	Height  int   `json:"height"`
	Tiles   int   `json:"tiles"`
	Tokens  int   `json:"tokens"`
	KVBytes int64 `json:"kv_bytes"`
}

// pictureSizes are the sizes that model info shows.
var pictureSizes = [][2]int{{448, 448}, {640, 480}, {1024, 1024}, {1280, 960}, {1920, 1080}, {1080, 1920}, {4000, 3000}}

// Run is called by kong.
func (c *modelInfoCmd) Run(a *app) error {
	f := engineFlags{Model: c.Dir, Device: c.Device, Dtype: c.Dtype, Memory: c.Memory, Context: c.Context, PromptStyle: "jinja"}
	r, err := inspect(&f)
	if err != nil {
		return err
	}
	if len(r.Problems) == 0 {
		if err := r.planMemory(&f, a); err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	if c.JSON {
		err = writeJSON(a.stdout, r)
	} else {
		err = r.print(a.stdout)
	}
	if err == nil && len(r.Problems) > 0 {
		return &exitError{Code: exitSomeFailed}
	}
	return err
}

// headers are a model's configuration, mapped weights and tokenizer.
type headers struct {
	*loader.Checkpoint
	tokenizer *tokenizer.Tokenizer
	problem   error // why there is no tokenizer
}

// openHeaders opens a model without placing it on a device.
func openHeaders(f *engineFlags) (*headers, error) {
	h := &headers{}
	var err error
	switch {
	case !f.embedded():
		if _, err := os.Stat(f.Model); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: no such directory", f.Model)
		}
		if h.Checkpoint, err = loader.Open(f.Model); err == nil {
			h.tokenizer, h.problem = tokenizer.Open(f.Model)
		}
	case !demo.Included():
		err = errNoModel
	default:
		if h.Checkpoint, err = loader.OpenFS(demo.FS(), "."); err == nil {
			h.tokenizer, h.problem = tokenizer.OpenFS(demo.FS())
		}
	}
	return h, err
}

// inspect reads what model info prints.
func inspect(f *engineFlags) (*modelRecord, error) {
	ck, err := openHeaders(f)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	cfg, s := &ck.Config, ck.Summary()
	r := &modelRecord{
		Model: f.name(), Architecture: s.Arch, Layout: s.Layout, DTypes: s.DTypes,
		Decoder: decoderRecord{
			Family: cfg.Text.Family, Layers: cfg.Text.Layers, Width: cfg.Text.Hidden,
			QueryHeads: cfg.Text.Heads, KVHeads: cfg.Text.KVHeads, HeadSize: cfg.Text.HeadDim, FFN: cfg.Text.Intermediate,
			Vocabulary: cfg.Text.Vocab, Context: cfg.Text.MaxPositions, RopeTheta: cfg.Text.Rope.Theta,
			RopeScaling: cfg.Text.Rope.Kind, TiedEmbedding: cfg.Text.TiedEmbedding,
		},
		KVPerToken: s.KVBytesPerToken, Unused: s.Extra,
	}
	for _, p := range s.Parts {
		r.Parts = append(r.Parts, partRecord(p))
	}
	r.Total = partRecord(s.Total)
	if cfg.HasVision() {
		if err := r.addVision(cfg); err != nil {
			return nil, err
		}
	}
	if p := s.Problems; p != nil {
		r.Problems = strings.Split(p.Error(), "\n")
	}
	if ck.problem != nil {
		r.Problems = append(r.Problems, ck.problem.Error())
	} else {
		r.Template = ck.tokenizer.Template() != ""
		for _, id := range ck.tokenizer.EOS() {
			r.EndTokens = append(r.EndTokens, ck.tokenizer.Token(id))
		}
	}
	if f.embedded() {
		if card, err := fs.ReadFile(demo.FS(), "README.md"); err == nil {
			r.Card = string(card)
		}
	}
	return r, nil
}

// planMemory fills in the memory plan for the device of the flags.
func (r *modelRecord) planMemory(f *engineFlags, a *app) error {
	b, err := f.memoryPlan(a)
	if err != nil {
		return err
	}
	plan := budgetOf(f.Device, b)
	r.Memory = &plan
	return nil
}

// memoryPlan is the plan of the flags' model on their device.
func (f *engineFlags) memoryPlan(a *app) (engine.Budget, error) {
	if f.embedded() {
		return engine.PlanMemoryFS(demo.FS(), demo.Name, f.config(a))
	}
	return engine.PlanMemory(f.Model, f.config(a))
}

func budgetOf(device string, b engine.Budget) budgetRecord {
	return budgetRecord{device, b.Limit, b.Weights, b.Vision, b.Workspace, b.Encoder, b.Backend, b.KV, b.Total()}
}

// text is the plan as a sum.
func (m *budgetRecord) text() string {
	limit, backend := "", ""
	if m.Limit > 0 {
		limit = fmt.Sprintf(" (limit %s)", size(m.Limit))
	}
	if m.Backend > 0 {
		backend = fmt.Sprintf(" + kernels %s", size(m.Backend))
	}
	return fmt.Sprintf("%s%s = weights %s + vision %s + decoder %s + encoded tiles %s%s + KV cache %s",
		size(m.Total), limit, size(m.Weights), size(m.Vision), size(m.Workspace), size(m.Encoder), backend, size(m.KV))
}

// addVision fills in the encoder's dimensions and what pictures cost.
func (r *modelRecord) addVision(cfg *loader.Config) error {
	v := cfg.Vision
	r.Vision = &visionRecord{
		Layers: v.Layers, Width: v.Hidden, Heads: v.Heads, FFN: v.Intermediate, PatchSize: v.PatchSize,
		TileSize: cfg.ImageSize, TokensPerTile: cfg.TokensPerTile(),
		MinTiles: cfg.MinTiles, MaxTiles: cfg.MaxTiles, Thumbnail: cfg.UseThumbnail,
	}
	recipe := vision.Recipe{Size: cfg.ImageSize, MinTiles: cfg.MinTiles, MaxTiles: cfg.MaxTiles, NoThumbnail: !cfg.UseThumbnail, ThumbnailOnly: !cfg.DynamicImageSize}
	sizes := pictureSizes
	if cfg.MaxTiles == 1 || !cfg.DynamicImageSize {
		sizes = [][2]int{{cfg.ImageSize, cfg.ImageSize}} // all cost the same
	}
	for _, size := range sizes {
		_, _, tiles, err := recipe.Plan(size[0], size[1])
		if err != nil {
			return err
		}
		tokens := tiles * cfg.TokensPerTile()
		r.Pictures = append(r.Pictures, sizeRecord{size[0], size[1], tiles, tokens, int64(tokens) * r.KVPerToken})
	}
	return nil
}

func (r *modelRecord) print(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s, %s layout, %s\n\n", r.Model, r.Architecture, r.Layout, strings.Join(slices.Sorted(maps.Keys(r.DTypes)), " and "))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if v := r.Vision; v != nil {
		thumbnail := ""
		if v.Thumbnail {
			thumbnail = ", and a thumbnail if more than one"
		}
		fmt.Fprintf(t, "vision\t%d blocks, width %d, %d heads, FFN %d, patches of %d pixels\n", v.Layers, v.Width, v.Heads, v.FFN, v.PatchSize)
		number := "one a picture"
		if v.MaxTiles > 1 {
			number = fmt.Sprintf("%d to %d a picture%s", v.MinTiles, v.MaxTiles, thumbnail)
		}
		fmt.Fprintf(t, "tiles\t%d pixels, %d tokens each; %s\n", v.TileSize, v.TokensPerTile, number)
	}
	d := r.Decoder
	fmt.Fprintf(t, "decoder\t%s, %d layers, width %d, %d query and %d key/value heads of %d, FFN %d\n", d.Family, d.Layers, d.Width, d.QueryHeads, d.KVHeads, d.HeadSize, d.FFN)
	fmt.Fprintf(t, "text\t%s tokens of vocabulary, context %s, rope theta %g (%s), end of turn %s\n", grouped(int64(d.Vocabulary)), grouped(int64(d.Context)), d.RopeTheta, d.RopeScaling, strings.Join(r.EndTokens, " "))
	template := "none shipped; the family's"
	if r.Template {
		template = "the checkpoint's own"
	}
	fmt.Fprintf(t, "template\t%s\n", template)
	t.Flush()
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "part\ttensors\tparameters\tsize\t\n")
	for _, p := range append(slices.Clone(r.Parts), r.Total) {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t\n", p.Name, p.Tensors, grouped(p.Parameters), size(p.Bytes))
	}
	t.Flush()
	fmt.Fprintf(w, "\nKV cache %s a token (16-bit), %s for the whole context of %s\n", size(r.KVPerToken), size(r.KVPerToken*int64(d.Context)), grouped(int64(d.Context)))
	if len(r.Pictures) > 0 {
		fmt.Fprintln(w)
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(t, "picture\ttiles\ttokens\tKV cache\t\n")
		for _, p := range r.Pictures {
			fmt.Fprintf(t, "%d×%d\t%d\t%s\t%s\t\n", p.Width, p.Height, p.Tiles, grouped(int64(p.Tokens)), size(p.KVBytes))
		}
		t.Flush()
	}
	if m := r.Memory; m != nil {
		fmt.Fprintf(w, "\nmemory on device %s: %s\n", m.Device, m.text())
	}
	if len(r.Unused) > 0 {
		fmt.Fprintf(w, "\nnot used: %s\n", plural(len(r.Unused), "tensor"))
		for _, n := range r.Unused[:min(8, len(r.Unused))] {
			fmt.Fprintf(w, "  %s\n", n)
		}
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(w, "\ncomplete: nothing is missing")
	} else {
		fmt.Fprintf(w, "\nPROBLEMS\n%s\n", strings.Join(r.Problems, "\n"))
	}
	if r.Card != "" {
		fmt.Fprintf(w, "\n%s", r.Card)
	}
	return nil
}

// grouped writes a number with commas.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size writes bytes in decimal units.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
