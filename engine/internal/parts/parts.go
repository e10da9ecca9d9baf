// Package parts says what an engine is put together from: something that runs
// steps, something that turns text into ids and back, something that makes tiles
// of pictures. engine.Open fills it from a checkpoint; package engine/fake from
// nothing but a script.
package parts

import (
	"context"
	"image"

	"metacap/engine/internal/runner"
	"metacap/engine/internal/sched"
	"metacap/tokenizer"
)

// Parts of an engine. Close is called once, on the goroutine that ran the steps.
type Parts struct {
	Runner   Runner
	Text     Text
	Images   Images // nil without vision
	Sched    sched.Config
	KVBlocks int
	Block    int // tokens a block
	Context  int
	Locked   bool // the steps must stay on one OS thread
	Close    func() error
	// FreeMemory is the device memory that nobody uses; nil on a device without its own.
	FreeMemory func() (int64, error)
}

// Runner executes steps.
type Runner interface {
	Run(*sched.Batch, runner.Sink) error
	Timing() runner.Timing
	Vocabulary() int
}

// Beginner is implemented by runners that may begin a step before it is planned: see
// Batch.Ahead. While one is begun the engine plans with ScheduleEarly.
type Beginner interface {
	Begun() bool
	// BegunSteps counts the steps begun early, and those of them that were planned later.
	BegunSteps() (begun, taken int64)
}

// Text turns conversations and text into ids and ids into text. Its methods may
// be called by several goroutines.
type Text interface {
	// Encode returns the ids of text, in which special tokens are not recognised.
	Encode(text string) []int32
	// Render writes a conversation up to the opening of the assistant's turn.
	Render([]tokenizer.Message, tokenizer.RenderOptions) (*tokenizer.Prompt, error)
	// Open writes a conversation whose last user message stays open.
	Open([]tokenizer.Message, tokenizer.RenderOptions) (Prefix, error)
	NewStream() Stream
	// Display is the text of one token by itself.
	Display(id int32) string
	// EOS are the ids that end an answer.
	EOS() []int32
	// Bytes are the bytes of an ordinary token, nothing for special and unused
	// ones. They must not be changed.
	Bytes(id int32) []byte
}

// Prefix is an open conversation. Prompt().IDs followed by Continue(s) are the
// ids of the whole conversation with s in the open message.
type Prefix interface {
	Prompt() *tokenizer.Prompt
	Continue(instruction string) []int32
}

// Stream turns the ids of an answer into text, one by one.
type Stream interface {
	Next(id int32) string
	Flush() string
}

// Images makes tiles of pictures. Its methods may be called by several goroutines.
type Images interface {
	Prepare(ctx context.Context, src ImageSource) (*Prepared, error)
	// Plan returns the tiles of a picture of width×height pixels.
	Plan(width, height, maxTiles int) (tiles int, err error)
}

// ImageSource is a picture before it is read.
type ImageSource struct {
	Path          string
	Data          []byte
	Decoded       image.Image
	MaxTiles      int
	ThumbnailOnly bool
	Crop          image.Rectangle
}

// Prepared is a picture as tiles.
type Prepared struct {
	Tiles         []sched.Tile
	Key           [32]byte // of all tiles and their arrangement
	Format        string
	Width, Height int
	Cols, Rows    int
	Notes         []string
}
