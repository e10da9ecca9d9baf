package model

import (
	"fmt"

	"metacap/kernels"
)

// DecoderDims are the dimensions of a decoder. Config keys in brackets.
type DecoderDims struct {
	Layers  int // L [num_hidden_layers]
	Width   int // C [hidden_size]
	FFN     int // F [intermediate_size]
	Vocab   int // V, rows of embed_tokens
	Heads   int // Hq [num_attention_heads]
	KVHeads int // Hkv [num_key_value_heads]
	HeadDim int // D [head_dim], or Width/Heads
	Eps     float32
	QKNorm  bool // q_norm and k_norm per head (Qwen3)
	Bias    bool // biases of q, k and v (Qwen2, or [attention_bias])
	OutBias bool // bias of o_proj
	Tied    bool // lm_head is embed_tokens
	Context int  // longest sequence
	Rope    RopeDims
}

// VisionDims are the dimensions of InternViT and its projector.
type VisionDims struct {
	Layers    int // blocks in the checkpoint
	Run       int // blocks to run, from [select_layer]
	Width     int // E
	FFN       int
	Heads     int
	ImageSize int // S, pixels on a side of a tile
	PatchSize int // p
	PosGrid   int // grid side of the stored position embedding
	Eps       float32
	RMSNorm   bool // norms are RMSNorm without bias [norm_type]
	QKNorm    bool // RMSNorm over the whole width of q and of k [qk_normalization]
	QKVBias   bool
	Act       kernels.Act
	Shuffle   int // r, 1/downsample_ratio
	Version   int // ps_version, 1 or 2
	OutWidth  int // C of the decoder
	ProjWidth int // hidden width of the projector
}

// ProjectorEps is the epsilon of the projector's LayerNorm: PyTorch's default,
// in no config. Source: InternVLChatModel mlp1, nn.LayerNorm.
const ProjectorEps = 1e-5

// HeadDim is the width of an attention head of the encoder.
func (d VisionDims) HeadDim() int { return d.Width / d.Heads }

// Grid is the number of patches on a side of a tile.
func (d VisionDims) Grid() int { return d.ImageSize / d.PatchSize }

// Patches is P, the number of patches a tile.
func (d VisionDims) Patches() int { return d.Grid() * d.Grid() }

// Rows is the number of encoder tokens a tile, class token included.
func (d VisionDims) Rows() int { return 1 + d.Patches() }

// Tokens is the number of decoder tokens a tile.
func (d VisionDims) Tokens() int { q := d.Grid() / d.Shuffle; return q * q }

// TileBytes is the size of a tile's pixels.
func (d VisionDims) TileBytes() int { return d.ImageSize * d.ImageSize * 3 }

// DimError is a dimension outside what the engine supports.
type DimError struct {
	Field string // config key
	Value any
	Want  string
}

func (e *DimError) Error() string {
	return fmt.Sprintf("model: config: %s is %v, want %s", e.Field, e.Value, e.Want)
}

// limit on any single dimension: larger values are taken for damage.
const maxDim = 1 << 24

type dimCheck struct{ err error }

func (c *dimCheck) is(ok bool, field string, value any, want string) {
	if c.err == nil && !ok {
		c.err = &DimError{field, value, want}
	}
}

func (c *dimCheck) positive(field string, v int) {
	c.is(v > 0 && v <= maxDim, field, v, fmt.Sprintf("1 to %d", maxDim))
}

// Validate checks the decoder's dimensions.
func (d DecoderDims) Validate() error {
	var c dimCheck
	c.positive("num_hidden_layers", d.Layers)
	c.positive("hidden_size", d.Width)
	c.positive("intermediate_size", d.FFN)
	c.positive("vocab_size", d.Vocab)
	c.positive("num_attention_heads", d.Heads)
	c.positive("num_key_value_heads", d.KVHeads)
	c.positive("head_dim", d.HeadDim)
	c.positive("max_position_embeddings", d.Context)
	if c.err != nil {
		return c.err
	}
	c.is(d.Heads%d.KVHeads == 0, "num_key_value_heads", d.KVHeads, fmt.Sprintf("a divisor of the %d query heads", d.Heads))
	c.is(d.HeadDim%2 == 0, "head_dim", d.HeadDim, "an even number")
	c.is(d.Width%8 == 0, "hidden_size", d.Width, "a multiple of 8")
	c.is(d.HeadDim%8 == 0, "head_dim", d.HeadDim, "a multiple of 8")
	c.is(d.FFN%8 == 0, "intermediate_size", d.FFN, "a multiple of 8")
	c.is(d.Eps > 0 && d.Eps < 1, "rms_norm_eps", d.Eps, "between 0 and 1")
	if c.err != nil {
		return c.err
	}
	return d.Rope.validate()
}

// Validate checks the encoder's dimensions.
func (d VisionDims) Validate() error {
	var c dimCheck
	c.positive("vision num_hidden_layers", d.Layers)
	c.positive("vision hidden_size", d.Width)
	c.positive("vision intermediate_size", d.FFN)
	c.positive("vision num_attention_heads", d.Heads)
	c.positive("vision image_size", d.ImageSize)
	c.positive("vision patch_size", d.PatchSize)
	c.positive("downsample_ratio", d.Shuffle)
	c.is(d.Run >= 0 && d.Run <= d.Layers, "select_layer", d.Run, fmt.Sprintf("a layer among the %d of the encoder", d.Layers))
	if c.err != nil {
		return c.err
	}
	c.is(d.ImageSize <= 4096, "vision image_size", d.ImageSize, "at most 4096")
	c.is(d.ImageSize%d.PatchSize == 0, "vision image_size", d.ImageSize, fmt.Sprintf("a multiple of patch_size %d", d.PatchSize))
	c.is(d.Grid()%d.Shuffle == 0 && d.Grid() >= d.Shuffle, "downsample_ratio", d.Shuffle, fmt.Sprintf("a divisor of the %d patches on a side", d.Grid()))
	c.is(d.Width%d.Heads == 0 && d.HeadDim()%8 == 0, "vision num_attention_heads", d.Heads, fmt.Sprintf("heads of a multiple of 8 of the width %d", d.Width))
	c.is(d.Version == 1 || d.Version == 2, "ps_version", d.Version, "v1 or v2")
	c.is(d.Eps > 0 && d.Eps < 1, "vision layer_norm_eps", d.Eps, "between 0 and 1")
	c.is(d.PosGrid > 0, "position_embedding", d.PosGrid, "a square grid")
	c.is(d.OutWidth%8 == 0 && d.ProjWidth%8 == 0, "projector width", d.OutWidth, "a multiple of 8")
	return c.err
}
