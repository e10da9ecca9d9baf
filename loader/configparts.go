package loader

import (
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
	if t.HeadDim%2 != 0 {
		o.Fail("head_dim", "odd: rotary embedding needs pairs", fmt.Sprint(t.HeadDim), "")
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
