package loader

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"metacap/loader/internal/format"
)

// visionKeys are the names and class defaults of a layout's vision_config.
type visionKeys struct {
	def            VisionConfig
	qkvBias, qkNrm string // keys
}

var (
	remoteVision = visionKeys{
		def: VisionConfig{
			Hidden: 3200, Layers: 48, Heads: 25, Intermediate: 12800, ImageSize: 224, PatchSize: 14,
			Norm: "rms_norm", Eps: 1e-6, QKVBias: false, QKNorm: true,
		},
		qkvBias: "qkv_bias", qkNrm: "qk_normalization",
	}
	hfVision = visionKeys{
		def: VisionConfig{
			Hidden: 1024, Layers: 24, Heads: 16, Intermediate: 4096, ImageSize: 448, PatchSize: 14,
			Norm: "layer_norm", Eps: 1e-6, QKVBias: false, QKNorm: false,
		},
		qkvBias: "attention_bias", qkNrm: "use_qk_norm",
	}
)

func (c *Config) parseVision(top *format.Object, k visionKeys) {
	o, ok := top.Object("vision_config")
	if !ok {
		top.Fail("vision_config", "missing", "", "")
		return
	}
	if arch := o.Strings("architectures", 16); len(arch) > 0 && !slices.ContainsFunc(arch, func(a string) bool { return strings.HasPrefix(a, "InternV") }) {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: "vision_config.architectures", Value: strings.Join(arch, ", "), Have: "InternVisionModel"})
	}
	v := VisionConfig{
		Hidden:       o.Int("hidden_size", k.def.Hidden, 1, maxDim),
		Layers:       o.Int("num_hidden_layers", k.def.Layers, 1, maxLayers),
		Heads:        o.Int("num_attention_heads", k.def.Heads, 1, 4096),
		Intermediate: o.Int("intermediate_size", k.def.Intermediate, 1, maxDim),
		ImageSize:    square(o, "image_size", k.def.ImageSize, 1<<14),
		PatchSize:    square(o, "patch_size", k.def.PatchSize, 1<<10),
		Eps:          o.Float("layer_norm_eps", k.def.Eps, 0, 1),
		QKVBias:      o.Bool(k.qkvBias, k.def.QKVBias),
		QKNorm:       o.Bool(k.qkNrm, k.def.QKNorm),
		Norm:         o.String("norm_type", k.def.Norm, 64),
	}
	if v.Norm != "layer_norm" && v.Norm != "rms_norm" {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: "vision_config.norm_type", Value: format.Quote(v.Norm), Have: "layer_norm, rms_norm"})
	}
	c.one(o, "hidden_act", "gelu")
	if n := o.Int("num_channels", 3, 1, 1024); n != 3 {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: "vision_config.num_channels", Value: fmt.Sprint(n), Have: "3"})
	}
	for _, key := range []string{"use_mean_pooling", "use_absolute_position_embeddings"} {
		if !o.Bool(key, true) { // without mean pooling the tower ends in a LayerNorm
			o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: "vision_config." + key, Value: "false", Have: "true"})
		}
	}
	if v.Hidden%v.Heads != 0 {
		o.Fail("hidden_size", "not a multiple of num_attention_heads", fmt.Sprint(v.Hidden), fmt.Sprint(v.Heads))
	}
	v.HeadDim = v.Hidden / v.Heads
	c.Vision = v
}

// square reads a side length given as a number or as a pair of equal numbers.
func square(o *format.Object, key string, def, hi int) int {
	sides := o.Ints(key, 1, hi, 2)
	switch {
	case len(sides) == 0:
		return def
	case len(sides) == 2 && sides[0] != sides[1]:
		o.Fail(key, "not square", fmt.Sprint(sides), "")
	}
	return sides[0]
}

// parseText reads the decoder's configuration from o; top is the whole file.
func (c *Config) parseText(o, top *format.Object) {
	family := c.textFamily(o)
	if family == "" {
		return
	}
	heads := o.Int("num_attention_heads", 32, 1, 4096)
	t := TextConfig{
		Family:       family,
		Hidden:       o.Int("hidden_size", 4096, 1, maxDim),
		Layers:       o.Int("num_hidden_layers", 32, 1, maxLayers),
		Heads:        heads,
		KVHeads:      o.Int("num_key_value_heads", heads, 1, 4096),
		Intermediate: o.Int("intermediate_size", 22016, 1, maxDim),
		Vocab:        o.Int("vocab_size", 151936, 1, 1<<24),
		MaxPositions: o.Int("max_position_embeddings", 32768, 1, maxPositionCap),
		Eps:          o.Float("rms_norm_eps", 1e-6, 0, 1),
		QKVBias:      family == "qwen2",
		QKNorm:       family == "qwen3",
	}
	def := t.Hidden / t.Heads
	if family == "qwen3" {
		def = 128
		bias := o.Bool("attention_bias", false)
		t.QKVBias, t.OutputBias = bias, bias
	}
	t.HeadDim = o.Int("head_dim", def, 1, 4096)
	c.headDimGiven, c.vocabGiven = o.Has("head_dim"), o.Has("vocab_size")
	t.TiedEmbedding = o.Bool("tie_word_embeddings", c.Layout == LayoutHF && top.Bool("tie_word_embeddings", false))
	t.Rope = c.parseRope(o, t)
	c.one(o, "hidden_act", "silu")
	c.checkText(o, t)
	c.EOS = o.Ints("eos_token_id", 0, maxTokenID, 64)
	if len(c.EOS) == 0 {
		c.EOS = nil
	}
	c.Text = t
}

// textFamily tells the decoder's family by its architecture, else by its model type.
func (c *Config) textFamily(o *format.Object) string {
	archs := o.Strings("architectures", 16)
	model := o.String("model_type", "", 256)
	families := map[string]string{"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "qwen2": "qwen2", "qwen3": "qwen3"}
	if c.Layout == LayoutText {
		return families[c.Arch]
	}
	for _, name := range append(slices.Clone(archs), model) {
		if f, ok := families[name]; ok {
			return f
		}
	}
	name := strings.Join(append(archs, model), " ")
	o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: o.Field("model_type"), Value: format.Quote(strings.TrimSpace(name)), Have: "qwen2, qwen3"})
	return ""
}

// checkText refuses what the decoder does not have, and shapes that cannot be.
func (c *Config) checkText(o *format.Object, t TextConfig) {
	no := func(key, value, have string) {
		o.Add(&UnsupportedError{File: configName, Family: t.Family, Feature: o.Field(key), Value: value, Have: have})
	}
	if t.Heads%t.KVHeads != 0 {
		o.Fail("num_attention_heads", "not a multiple of num_key_value_heads", fmt.Sprint(t.Heads), fmt.Sprint(t.KVHeads))
	}
	if t.HeadDim%2 != 0 || t.HeadDim == 0 {
		o.Fail("head_dim", "not a positive even number, as rotary embedding needs", fmt.Sprint(t.HeadDim), "")
	}
	for _, key := range []string{"num_experts", "num_local_experts", "n_routed_experts"} {
		if n := o.Int(key, 0, 0, maxDim); n > 0 {
			no(key, fmt.Sprint(n), "dense decoders")
		}
	}
	null := !o.Has("sliding_window") && slices.Contains(o.Keys(), "sliding_window")
	window := o.Bool("use_sliding_window", false) && !null
	if first := o.Int("max_window_layers", 28, 0, maxDim); window && first < t.Layers && !o.Has("layer_types") {
		no("use_sliding_window", fmt.Sprintf("true from layer %d on", first), "full attention")
	}
	for _, kind := range o.Strings("layer_types", maxLayers) {
		if kind != "full_attention" {
			no("layer_types", format.Quote(kind), "full_attention")
			break
		}
	}
}

// parseRope reads rope_theta and rope_scaling, or rope_parameters of transformers 5.
func (c *Config) parseRope(o *format.Object, t TextConfig) Rope {
	r := Rope{Theta: o.Float("rope_theta", 10000, 1.001, 1e12), Kind: "default", Factor: 1, OriginalPositions: t.MaxPositions}
	key := "rope_scaling"
	if o.Has("rope_parameters") {
		key = "rope_parameters"
	}
	if !o.Has(key) {
		return r
	}
	s, ok := o.Object(key)
	if !ok {
		return r
	}
	r.Theta = s.Float("rope_theta", r.Theta, 1.001, 1e12)
	r.Kind = s.String("rope_type", s.String("type", "default", 64), 64)
	switch r.Kind {
	case "default":
		return r
	case "linear", "dynamic", "yarn":
	default:
		o.Add(&UnsupportedError{File: configName, Family: t.Family, Feature: o.Field(key) + ".rope_type", Value: format.Quote(r.Kind), Have: "default, linear, dynamic, yarn"})
		return r
	}
	if !s.Has("factor") {
		s.Fail("factor", "missing", "", "a number")
	}
	r.Factor = s.Float("factor", 1, 1, 1e6)
	r.OriginalPositions = s.Int("original_max_position_embeddings", t.MaxPositions, 1, maxPositionCap)
	if r.Kind != "yarn" {
		return r
	}
	r.BetaFast = s.Float("beta_fast", 32, math.SmallestNonzeroFloat32, 1e6)
	r.BetaSlow = s.Float("beta_slow", 1, math.SmallestNonzeroFloat32, 1e6)
	r.AttentionFactor = s.Float("attention_factor", 0, 0, 1e3)
	for _, key := range []string{"mscale", "mscale_all_dim"} {
		if s.Has(key) {
			o.Add(&UnsupportedError{File: configName, Family: t.Family, Feature: s.Field(key), Value: s.Text(key), Have: "attention_factor"})
		}
	}
	if s.Has("truncate") && !s.Bool("truncate", true) {
		o.Add(&UnsupportedError{File: configName, Family: t.Family, Feature: s.Field("truncate"), Value: "false", Have: "true"})
	}
	return r
}

const (
	generationName = "generation_config.json"
	processorName  = "preprocessor_config.json"
)

// Generation is generation_config.json: what the publisher recommends. Nil
// pointers are keys that are not there. Nothing here is applied by the loader.
type Generation struct {
	EOS               []int
	BOS, Pad          []int // at most one; empty if not given
	DoSample          *bool
	Temperature       *float64
	TopP              *float64
	MinP              *float64
	RepetitionPenalty *float64
	TopK              *int
	MaxNewTokens      *int
}

// ParseGeneration reads generation_config.json; empty data is a file that is not there.
func ParseGeneration(data []byte) (Generation, error) {
	var g Generation
	if len(data) == 0 {
		return g, nil
	}
	o, err := format.ParseObject(generationName, data)
	if err != nil {
		return g, err
	}
	float := func(key string, lo, hi float64) *float64 {
		if !o.Has(key) {
			return nil
		}
		f := o.Float(key, 0, lo, hi)
		return &f
	}
	integer := func(key string, lo, hi int) *int {
		if !o.Has(key) {
			return nil
		}
		n := o.Int(key, 0, lo, hi)
		return &n
	}
	g.EOS = o.Ints("eos_token_id", 0, maxTokenID, 64)
	g.BOS = o.Ints("bos_token_id", 0, maxTokenID, 1)
	g.Pad = o.Ints("pad_token_id", 0, maxTokenID, 1)
	if o.Has("do_sample") {
		b := o.Bool("do_sample", false)
		g.DoSample = &b
	}
	g.Temperature = float("temperature", 0, 100)
	g.TopP = float("top_p", 0, 1)
	g.MinP = float("min_p", 0, 1)
	g.RepetitionPenalty = float("repetition_penalty", 1e-3, 100)
	g.TopK = integer("top_k", 0, maxTokenID)
	g.MaxNewTokens = integer("max_new_tokens", 0, maxPositionCap)
	return g, errors.Join(o.Errs()...)
}

// Processor is how pixels become ViT input: (px/255 - Mean)/Std on square tiles
// of Size pixels, resized with the bicubic filter.
type Processor struct {
	Size      int
	Mean, Std [3]float32 // R, G, B
}

var (
	imagenetMean = [3]float64{0.485, 0.456, 0.406}
	imagenetStd  = [3]float64{0.229, 0.224, 0.225}
	clipMean     = [3]float64{0.48145466, 0.4578275, 0.40821073}
	clipStd      = [3]float64{0.26862954, 0.26130258, 0.27577711}
)

// ParseProcessor reads preprocessor_config.json for a model; empty data is a file
// that is not there, and then the family's ImageNet constants hold. In the HF
// layout the file also sets the tiling limits of c, and its class default for
// mean and std is CLIP's (GotOcr2ImageProcessor); the remote code has ImageNet's.
func ParseProcessor(data []byte, c *Config) (Processor, error) {
	p := Processor{Size: c.ImageSize}
	o := format.Empty(processorName)
	mean, std := imagenetMean, imagenetStd
	if len(data) > 0 {
		var err error
		if o, err = format.ParseObject(processorName, data); err != nil {
			return p, err
		}
		if c.Layout == LayoutHF {
			mean, std = clipMean, clipStd
		}
	}
	triple(o, "image_mean", &mean, -16, 16)
	triple(o, "image_std", &std, 1e-6, 16)
	for i := range mean {
		p.Mean[i], p.Std[i] = float32(mean[i]), float32(std[i])
	}
	for _, key := range []string{"do_resize", "do_normalize", "do_rescale"} {
		if !o.Bool(key, true) {
			o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: key, Value: "false", Have: "true"})
		}
	}
	if n := o.Int("resample", 3, 0, 16); n != 3 {
		o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: "resample", Value: fmt.Sprint(n), Have: "3, bicubic"})
	}
	if f := o.Float("rescale_factor", 1./255, 0, 1e3); !(math.Abs(f*255-1) <= 1e-6) {
		o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: "rescale_factor", Value: fmt.Sprint(f), Have: "1/255"})
	}
	if n := processorSize(o); n != 0 && n != c.ImageSize {
		o.Fail("size", "differs from the model's image size", fmt.Sprint(n), fmt.Sprint(c.ImageSize))
	}
	if c.Layout == LayoutHF {
		c.MinTiles = o.Int("min_patches", c.MinTiles, 1, 1024)
		c.MaxTiles = o.Int("max_patches", c.MaxTiles, 1, 1024)
		if c.MinTiles > c.MaxTiles {
			o.Fail("min_patches", "exceeds max_patches", fmt.Sprint(c.MinTiles), fmt.Sprint(c.MaxTiles))
		}
	}
	return p, errors.Join(o.Errs()...)
}

func triple(o *format.Object, key string, dst *[3]float64, lo, hi float64) {
	if !o.Has(key) {
		return
	}
	switch v := o.Floats(key, lo, hi, 3); {
	case len(v) == 3:
		copy(dst[:], v)
	case v != nil:
		o.Fail(key, "not three numbers", fmt.Sprint(v), "3")
	}
}

// processorSize reads size as a number, {height,width} or {shortest_edge}; 0 if not given.
func processorSize(o *format.Object) int {
	const hi = 1 << 14
	if !o.IsObject("size") {
		return o.Int("size", 0, 1, hi)
	}
	s, _ := o.Object("size")
	edge := s.Int("shortest_edge", 0, 1, hi)
	h, w := s.Int("height", edge, 1, hi), s.Int("width", edge, 1, hi)
	if h != w {
		o.Fail("size", "not square", fmt.Sprintf("%d×%d", w, h), "")
	}
	return h
}
