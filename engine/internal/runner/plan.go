package runner

import (
	"fmt"

	"metacap/engine/internal/model"
	"metacap/kernels"
)

// Config sizes a Runner.
type Config struct {
	StepTokens   int // token budget of a step
	MaxSequences int
	MaxRows      int // logits rows computed at a time
	MaxTiles     int // tiles encoded at a time; 0 without vision
	TileSlots    int // encoded tiles kept
	KVBlocks     int
	Context      int // tokens of the longest sequence
	DType        kernels.DType
	KVDType      kernels.DType
	Precision    kernels.Precision // that the weights were packed with
}

// Budget is a memory plan in bytes.
type Budget struct {
	Weights   int64
	Vision    int64 // workspace of the encoder
	Workspace int64 // workspace of the decoder with logits, and step arrays
	Encoder   int64 // encoded tiles
	Backend   int64 // working memory of the backend's own
	KV        int64
}

// Total is the sum of all parts.
func (b Budget) Total() int64 {
	return b.Weights + b.Vision + b.Workspace + b.Encoder + b.Backend + b.KV
}

// KVBlockBytes is the size of one KV block of all layers.
func KVBlockBytes(d model.DecoderDims, dt kernels.DType) int64 {
	return 2 * int64(d.Layers) * int64(d.KVHeads) * int64(d.HeadDim) * kernels.BlockSize * int64(dt.Size())
}

// TileSlotBytes is the size of the features of one tile.
func TileSlotBytes(v model.VisionDims, dt kernels.DType) int64 {
	return int64(v.Tokens()) * int64(v.OutWidth) * int64(dt.Size())
}

// Plan computes what a runner of this configuration allocates on a backend. weights
// is the size of the model's weights.
func Plan(be kernels.Backend, dec model.DecoderDims, vis *model.VisionDims, weights int64, c Config) Budget {
	b := Budget{Weights: weights, KV: int64(c.KVBlocks) * KVBlockBytes(dec, c.KVDType)}
	b.Workspace = model.NewDecoderSpace(dec, c.DType, c.StepTokens, c.MaxRows, features(vis, c)).Bytes() + 2*4*int64(arrayCap(vis, c))
	if vis != nil {
		b.Vision = model.NewVisionSpace(*vis, c.DType, c.MaxTiles).Bytes()
		b.Encoder = int64(c.TileSlots) * TileSlotBytes(*vis, c.DType)
	}
	if r, ok := be.(kernels.Reserver); ok {
		b.Backend = r.ReserveBytes(workLimits(dec, vis, c)) + recordingBytes
	}
	return b
}

// recordingBytes is set aside for what a driver keeps of recorded steps on the device,
// which it does not tell: about a megabyte each.
const recordingBytes = maxGraphs << 20

// workLimits bound the operations of a runner's steps.
func workLimits(d model.DecoderDims, vis *model.VisionDims, c Config) kernels.WorkLimits {
	tiled := c.Precision == kernels.PrecisionNative
	l := kernels.WorkLimits{
		LogitRows: c.MaxRows, Vocab: d.Vocab, Copies: 2*c.MaxSequences + c.StepTokens/kernels.BlockSize,
	}
	attention := func(rows, length int) {
		l.Attention = append(l.Attention, kernels.AttentionLimit{
			Sequences: c.MaxSequences, MaxRows: rows, MaxLen: length,
			Heads: d.Heads, KVHeads: d.KVHeads, HeadDim: d.HeadDim, DType: c.DType, KVDType: c.KVDType,
		})
	}
	attention(1, tableCap(c)*kernels.BlockSize) // recorded steps
	attention(c.StepTokens, c.Context)
	linear := func(rows int, widths ...int) {
		for _, k := range widths {
			l.Linear = append(l.Linear, kernels.LinearLimit{Rows: rows, K: k, DType: c.DType, Tiled: tiled})
		}
	}
	linear(c.StepTokens, d.Width, d.Heads*d.HeadDim, d.FFN)
	if v := vis; v != nil {
		linear(c.MaxTiles*v.Patches(), 3*v.PatchSize*v.PatchSize)
		linear(c.MaxTiles*v.Rows(), v.Width, v.FFN)
		linear(c.MaxTiles*v.Tokens(), v.Width*v.Shuffle*v.Shuffle, v.ProjWidth)
	}
	return l
}

// features is the largest number of image tokens of a step.
func features(vis *model.VisionDims, c Config) int {
	if vis == nil {
		return 0
	}
	return c.StepTokens
}

// tableCap is the widest block table, a power of two as sched.Batch makes it.
func tableCap(c Config) int {
	w := 8
	for w*kernels.BlockSize < c.Context {
		w *= 2
	}
	return w
}

// arrayAlign is the alignment of each step array in elements.
const arrayAlign = 64

// arrayCap is the size of all step arrays in elements.
func arrayCap(vis *model.VisionDims, c Config) int {
	n := 3*c.StepTokens + 4*(c.MaxSequences+1) + c.MaxSequences*tableCap(c) + max(c.StepTokens, c.MaxSequences)
	if vis != nil {
		n += 2*features(vis, c) + c.MaxTiles*vis.Tokens()
	}
	return n + 11*arrayAlign
}

func (c Config) validate() error {
	switch {
	case c.MaxSequences <= 0, c.StepTokens < c.MaxSequences, c.MaxRows <= 0, c.KVBlocks <= 0, c.Context <= 0, c.TileSlots < c.MaxTiles:
		return fmt.Errorf("runner: open: sizes %+v", c)
	}
	return nil
}
