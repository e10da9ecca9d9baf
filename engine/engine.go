package engine

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
)

// Engine runs one model on one device. Its methods may be called by many
// goroutines at once. See the package comment.
type Engine struct{}

// Event is a piece of a streamed answer.
type Event struct {
	// Text is released by this event; empty while characters are incomplete or a stop string may begin.
	Text string
	// Token is the generated token; nil in the last event.
	Token *Token
	// Result is set in the last event only: the whole answer.
	Result *Result
}

// Info describes an open engine. It is constant.
type Info struct {
	Architecture  string // as in the checkpoint's config: "InternVLChatModel"
	Dir           string // directory of the checkpoint; empty for OpenFS
	Backend       string // "cpu", "cuda", "ref"
	Device        string // device in words
	DType         string // "bf16" or "f32": type of activations and KV cache
	Threads       int    // CPU threads, 0 on a GPU
	Parameters    int64
	WeightBytes   int64 // on the device
	ContextTokens int   // longest sequence
	Vocabulary    int
	Layers        int
	Vision        bool
	TileSize      int // pixels on a side; 0 without vision
	TileTokens    int // tokens a tile; 0 without vision
	MaxTiles      int // the model's own limit for one picture, without thumbnail
	MaxSequences  int
	StepTokens    int
	KVBlocks      int
	BlockTokens   int
	Budget        Budget
}

// Budget is the memory plan of an engine in bytes, computed from shapes before anything is allocated.
type Budget struct {
	Limit     int64 // what the engine may use
	Weights   int64
	Vision    int64 // workspace of the vision encoder
	Workspace int64 // workspace of the decoder, logits and step arrays
	Encoder   int64 // cache of encoded tiles
	KV        int64 // KV cache
}

// Total is the sum of all parts.
func (b Budget) Total() int64 { return b.Weights + b.Vision + b.Workspace + b.Encoder + b.KV }

// Estimate says what a request would cost before it is made.
type Estimate struct {
	PromptTokens int
	ImageTokens  int
	Tiles        int
	KVBytes      int64 // of the prompt
	MaxNew       int   // tokens that the context leaves for the answer
}

// Open reads the checkpoint in dir, a directory with config.json, tokenizer and
// safetensors files in either layout of the family, and places it on a device.
func Open(ctx context.Context, dir string, c Config) (*Engine, error) {
	return nil, fmt.Errorf("engine: open %s: %w", dir, ErrUnsupportedModel)
}

// OpenFS is Open for a checkpoint inside a file system, such as an embedded one. name is for messages.
func OpenFS(ctx context.Context, fsys fs.FS, name string, c Config) (*Engine, error) {
	return nil, fmt.Errorf("engine: open %s: %w", name, ErrUnsupportedModel)
}

// Close ends all requests with ErrClosed, waits for the step in progress and
// frees the device. Idempotent.
func (e *Engine) Close() error { return nil }

// Info describes the engine.
func (e *Engine) Info() Info { return Info{} }

// Generate runs a request to its end. On cancellation or deadline it returns
// the partial result with the error.
func (e *Engine) Generate(ctx context.Context, r Request) (*Result, error) {
	return nil, fmt.Errorf("engine: generate: %w", ErrClosed)
}

// Stream runs a request and yields its events in order. The last event carries
// the Result. An error ends the stream and is yielded once, with the partial
// Result if there is one. Breaking out of the loop, or cancelling ctx, frees
// the request's memory within one step. A slow reader does not slow the engine.
func (e *Engine) Stream(ctx context.Context, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		yield(Event{}, fmt.Errorf("engine: stream: %w", ErrClosed))
	}
}

// Estimate says what r would cost. Pictures are read and tiled but not encoded.
func (e *Engine) Estimate(ctx context.Context, r Request) (Estimate, error) {
	return Estimate{}, fmt.Errorf("engine: estimate: %w", ErrClosed)
}

// Tokens returns the token ids of text; special tokens are not recognised in it.
func (e *Engine) Tokens(text string) []int32 { return nil }

// ImageTokens returns tiles (with thumbnail) and prompt tokens of a picture of
// width×height pixels; maxTiles 0 = the model's own limit.
func (e *Engine) ImageTokens(width, height, maxTiles int) (tiles, tokens int, err error) {
	return 0, 0, fmt.Errorf("engine: image tokens: %w", ErrNoVision)
}
