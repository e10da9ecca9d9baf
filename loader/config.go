package loader

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"metacap/loader/internal/format"
)

// Layout is the naming of configuration keys and tensors.
type Layout uint8

// The layouts of this family.
const (
	LayoutText   Layout = iota // a bare language model (Qwen2ForCausalLM, Qwen3ForCausalLM)
	LayoutRemote               // InternVLChatModel, the remote-code layout
	LayoutHF                   // InternVLForConditionalGeneration, native in transformers
)

func (l Layout) String() string { return [...]string{"text", "remote", "hf"}[l] }

// Config is a checkpoint's config.json in one form for all layouts. Every field
// is validated; keys that are not listed in the sources are ignored.
type Config struct {
	Arch   string // "InternVLChatModel", "Qwen3ForCausalLM", …
	Layout Layout
	DType  string // "bfloat16", "float16", "float32" or empty; the tensors decide

	Vision VisionConfig // zero for a text-only model
	Text   TextConfig

	DownsampleRatio  float64 // pixel shuffle: 0.5 merges 2×2 patches
	PSVersion        int     // 1 or 2: order of the merged tokens
	SelectLayer      int     // ViT output used: -1 = last block; k >= 0: hidden state k, 0 = embedding
	MinTiles         int     // dynamic tiling
	MaxTiles         int
	UseThumbnail     bool
	DynamicImageSize bool // false: one tile whatever the picture
	ImageSize        int  // side of a tile in pixels
	Template         string
	SystemMessage    string // remote layout; empty: the template's own
	ImageTokenID     int    // HF layout; 0 = by string from the tokenizer
	EOS              []int  // eos_token_id of the top level or the text part; may be empty

	Quant *QuantConfig // nil for a dense checkpoint

	headDimGiven, vocabGiven bool
}

// VisionConfig describes the InternViT encoder.
type VisionConfig struct {
	Hidden       int // E
	Layers       int
	Heads        int
	HeadDim      int
	Intermediate int
	ImageSize    int // side of the picture the position table is for
	PatchSize    int
	Norm         string // "layer_norm" or "rms_norm"
	Eps          float64
	QKVBias      bool
	QKNorm       bool // RMSNorm over all heads of q and k
}

// Patches is the number of patches a tile, without the class token.
func (v VisionConfig) Patches() int { g := v.ImageSize / v.PatchSize; return g * g }

// TextConfig describes the decoder.
type TextConfig struct {
	Family        string // "qwen2" or "qwen3"
	Hidden        int    // C
	Layers        int
	Heads         int // Hq
	KVHeads       int // Hkv
	HeadDim       int // D
	Intermediate  int // F
	Vocab         int // V, rows of the embedding
	MaxPositions  int
	Eps           float64
	Rope          Rope
	QKVBias       bool
	OutputBias    bool // bias of o_proj
	QKNorm        bool // RMSNorm per head on q and k
	TiedEmbedding bool // lm_head is embed_tokens
}

// Rope is the rotary embedding.
type Rope struct {
	Theta  float64
	Kind   string  // "default", "linear", "dynamic" or "yarn"
	Factor float64 // of linear, dynamic, yarn; 1 for default
	// OriginalPositions is the context the scaling starts from (dynamic and yarn);
	// MaxPositions if the config does not give it.
	OriginalPositions int
	BetaFast          float64 // yarn; 32
	BetaSlow          float64 // yarn; 1
	AttentionFactor   float64 // yarn: factor of cos and sin; 0 = 0.1*ln(Factor)+1
}

// HasVision reports whether the model has a vision encoder.
func (c *Config) HasVision() bool { return c.Vision.Layers > 0 }

// ShuffleFactor is the side of the patch square that pixel shuffle merges: 2 for a ratio of 0.5.
func (c *Config) ShuffleFactor() int { return int(math.Round(1 / c.DownsampleRatio)) }

// TokensPerTile is the number of decoder tokens a tile.
func (c *Config) TokensPerTile() int {
	if !c.HasVision() {
		return 0
	}
	g := c.ImageSize / c.Vision.PatchSize / c.ShuffleFactor()
	return g * g
}

// KVBytesPerToken is the size of keys and values of one token in all layers, with elements of elemBytes.
func (c *Config) KVBytesPerToken(elemBytes int) int64 {
	t := c.Text
	return 2 * int64(t.Layers) * int64(t.KVHeads) * int64(t.HeadDim) * int64(elemBytes)
}

const (
	configName     = "config.json"
	maxDim         = 1 << 20
	maxLayers      = 1024
	maxTokenID     = 1 << 24
	maxPositionCap = 1 << 26
)

// ParseConfig reads config.json of any layout. Missing keys take the defaults of
// the reference's configuration class of that layout. All bad fields are reported
// together. Sources: transformers configuration_{internvl,qwen2,qwen3}.py, InternVL
// configuration_internvl_chat.py and configuration_intern_vit.py.
func ParseConfig(data []byte) (Config, error) {
	o, err := format.ParseObject(configName, data)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := c.detect(o); err != nil {
		return Config{}, err
	}
	c.DType = o.String("dtype", o.String("torch_dtype", "", 64), 64)
	switch c.Layout {
	case LayoutRemote:
		c.parseRemote(o)
	case LayoutHF:
		c.parseHF(o)
	default:
		c.parseText(o, o)
	}
	if c.EOS == nil {
		c.EOS = o.Ints("eos_token_id", 0, maxTokenID, 64)
	}
	if c.HasVision() && len(o.Errs()) == 0 {
		c.checkVision(o)
	}
	c.parseQuant(o)
	return c, errors.Join(o.Errs()...)
}

// detect sets Arch and Layout, or names the family as unsupported.
func (c *Config) detect(o *format.Object) error {
	archs := o.Strings("architectures", 16)
	model := o.String("model_type", "", 256)
	layouts := map[string]Layout{
		"InternVLChatModel":                LayoutRemote,
		"InternVLForConditionalGeneration": LayoutHF,
		"Qwen3ForCausalLM":                 LayoutText,
		"Qwen2ForCausalLM":                 LayoutText,
	}
	if len(archs) == 0 { // some converters leave it out
		archs = map[string][]string{
			"internvl_chat": {"InternVLChatModel"}, "internvl": {"InternVLForConditionalGeneration"},
			"qwen3": {"Qwen3ForCausalLM"}, "qwen2": {"Qwen2ForCausalLM"},
		}[model]
	}
	for _, a := range archs {
		if l, ok := layouts[a]; ok {
			c.Arch, c.Layout = a, l
			return nil
		}
	}
	if err := errors.Join(o.Errs()...); err != nil {
		return err
	}
	family := strings.Join(archs, ", ")
	if family == "" {
		family = model
	}
	if family == "" {
		return &FormatError{File: configName, Field: "architectures", Reason: "neither architectures nor model_type is given"}
	}
	have := make([]string, 0, len(layouts))
	for a := range layouts {
		have = append(have, a)
	}
	slices.Sort(have)
	return &UnsupportedError{File: configName, Family: family, Have: strings.Join(have, ", ")}
}

func (c *Config) parseRemote(o *format.Object) {
	c.unsupported(o, "use_backbone_lora", "0")
	c.unsupported(o, "use_llm_lora", "0")
	c.unsupported(o, "pad2square", "false")
	c.unsupported(o, "flash_mode", "false")
	c.DownsampleRatio = o.Float("downsample_ratio", 0.5, 1.0/64, 1)
	c.PSVersion = psVersion(o)
	c.SelectLayer = o.Int("select_layer", -1, -maxLayers, maxLayers)
	c.MinTiles = o.Int("min_dynamic_patch", 1, 1, 1024)
	c.MaxTiles = o.Int("max_dynamic_patch", 6, 1, 1024)
	c.UseThumbnail = o.Bool("use_thumbnail", false)
	c.DynamicImageSize = o.Bool("dynamic_image_size", false)
	c.Template = o.String("template", "", 256)
	c.SystemMessage = o.String("system_message", "", 1<<16)
	c.parseVision(o, remoteVision)
	c.ImageSize = o.Int("force_image_size", c.Vision.ImageSize, 1, 1<<14)
	if llm, ok := o.Object("llm_config"); ok {
		c.parseText(llm, o)
	} else {
		o.Fail("llm_config", "missing", "", "")
	}
}

func psVersion(o *format.Object) int {
	switch v := o.String("ps_version", "v1", 16); v {
	case "v1":
		return 1
	case "v2":
		return 2
	default:
		o.Add(&UnsupportedError{File: configName, Feature: "ps_version", Value: format.Quote(v), Have: "v1, v2"})
		return 0
	}
}

// unsupported refuses a switch that is there and on.
func (c *Config) unsupported(o *format.Object, key, have string) {
	if v := o.Text(key); v != "" && v != "0" && v != "false" && v != "0.0" {
		o.Add(&UnsupportedError{File: o.File(), Family: c.Arch, Feature: o.Field(key), Value: v, Have: have})
	}
}

func (c *Config) parseHF(o *format.Object) {
	c.DownsampleRatio = o.Float("downsample_ratio", 0.5, 1.0/64, 1)
	c.PSVersion = 2
	if o.IsList("vision_feature_layer") {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: "vision_feature_layer", Value: "as a list", Have: "one layer"})
	} else {
		c.SelectLayer = o.Int("vision_feature_layer", -1, -maxLayers, maxLayers)
	}
	c.one(o, "vision_feature_select_strategy", "default")
	c.one(o, "projector_hidden_act", "gelu")
	c.ImageTokenID = o.Int("image_token_id", 0, 0, maxTokenID)
	c.MinTiles, c.MaxTiles, c.UseThumbnail, c.DynamicImageSize = 1, 12, true, true // ParseProcessor may narrow them
	c.parseVision(o, hfVision)
	c.ImageSize = c.Vision.ImageSize
	if text, ok := o.Object("text_config"); ok {
		c.parseText(text, o)
	} else {
		o.Fail("text_config", "missing", "", "")
	}
}

// one refuses any value of a string key but those we have; the first is the default.
func (c *Config) one(o *format.Object, key string, have ...string) string {
	v := o.String(key, have[0], 256)
	if !slices.Contains(have, v) {
		o.Add(&UnsupportedError{File: o.File(), Family: c.Arch, Feature: o.Field(key), Value: format.Quote(v), Have: strings.Join(have, ", ")})
	}
	return v
}

// checkVision verifies what spans several fields.
func (c *Config) checkVision(o *format.Object) {
	v, r := c.Vision, c.ShuffleFactor()
	switch grid := c.ImageSize / max(v.PatchSize, 1); {
	case math.Abs(c.DownsampleRatio*float64(r)-1) > 1e-9:
		o.Fail("downsample_ratio", "not one over an integer", fmt.Sprint(c.DownsampleRatio), "1/2, 1/4, …")
	case v.ImageSize%v.PatchSize != 0:
		o.Fail("vision_config.image_size", "not a multiple of the patch size", fmt.Sprint(v.ImageSize), fmt.Sprint(v.PatchSize))
	case c.ImageSize%v.PatchSize != 0: // the engine resizes the position table to this grid
		o.Fail("force_image_size", "not a multiple of the patch size", fmt.Sprint(c.ImageSize), fmt.Sprint(v.PatchSize))
	case grid%r != 0:
		o.Fail("downsample_ratio", fmt.Sprintf("does not divide a grid of %d patches", grid), fmt.Sprint(c.DownsampleRatio), "")
	case c.SelectLayer > v.Layers || c.SelectLayer < -v.Layers-1:
		o.Fail("select_layer", "no such layer", fmt.Sprint(c.SelectLayer), fmt.Sprintf("[%d,%d]", -v.Layers-1, v.Layers))
	case c.MinTiles > c.MaxTiles:
		o.Fail("min_dynamic_patch", "exceeds max_dynamic_patch", fmt.Sprint(c.MinTiles), fmt.Sprint(c.MaxTiles))
	}
}
