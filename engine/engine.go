package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"metacap/engine/internal/assemble"
	"metacap/engine/internal/grammar"
	"metacap/engine/internal/kvcache"
	"metacap/engine/internal/parts"
	"metacap/engine/internal/sched"
	"metacap/engine/internal/speculate"
	"metacap/kernels"
	"metacap/loader"
)

// Engine runs one model on one device. Open makes one; the zero value is not
// usable. Its methods may be called by many goroutines at once. See the package
// comment.
type Engine struct {
	cfg   Config
	parts parts.Parts
	info  Info
	log   *slog.Logger
	eos   []int32

	// Shared between callers and the loop.
	mu      sync.Mutex
	inbox   []*request
	calls   []func()
	waiting int // requests accepted and not finished
	closing bool
	fatal   error // first device error

	wake     chan struct{} // holds a token when the loop should look around
	ended    chan struct{} // closed when the loop has ended
	closeErr error         // valid after ended
	dirty    atomic.Bool   // a request was cancelled
	lastID   atomic.Uint64
	decode   chan struct{} // one token a running picture decoder
	grammars grammar.Cache

	// Owned by the loop.
	sched    *sched.Scheduler
	beginner parts.Beginner // nil if the runner never begins a step early
	live     []*request
	taken    []*request // last contents of inbox and calls
	called   []func()
	batch    *sched.Batch
	rowItem  []int32
	choosers []chooser // one a core
	price    speculate.Clock
	nextDue  time.Time // earliest deadline of a live request; zero = none
}

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
	Dir           string // directory of the checkpoint, or its name for OpenFS
	Backend       string // "cpu", "cuda", "ref"
	Device        string // device in words
	Driver        string // of a GPU: "CUDA 12.9"; else empty
	DType         string // "bf16" or "f32": type of activations
	Threads       int    // CPU threads, 0 on a GPU
	WeightBytes   int64  // on the device
	ContextTokens int    // longest sequence
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
	BlockBytes    int64 // of all layers
	Budget        Budget
	Work          Work
	Opening       Opening
}

// Opening is where the time of Open went. Device and Text run beside each other.
type Opening struct {
	Files     time.Duration // configuration and headers of the weights
	Device    time.Duration // the driver's start and the kernels
	Text      time.Duration // the tokenizer
	Weights   time.Duration // reading and placing all weights
	Workspace time.Duration // everything else that is allocated, the KV cache included
}

// Work is what computing costs at least, on any kernels: bytes to read and
// operations to do (a multiplication and an addition are two).
type Work struct {
	StepBytes   int64 // weights of the decoder with its head, read once a step
	KVBytes     int64 // keys and values of a token, read by each later token of its sequence
	TokenOps    int64 // products of a token, without the head
	RowOps      int64 // the head, for a row of logits
	PairOps     int64 // attention of a token to one token
	TileOps     int64 // encoder and projector, a tile
	VisionBytes int64 // weights of encoder and projector, read once a call
}

// Budget is the memory plan of an engine in bytes, computed from shapes before anything is allocated.
type Budget struct {
	Limit     int64 // what the engine may use; 0 = unknown
	Weights   int64
	Vision    int64 // workspace of the vision encoder
	Workspace int64 // workspace of the decoder, logits and step arrays
	Encoder   int64 // cache of encoded tiles
	Backend   int64 // working memory of the device's kernels
	KV        int64 // KV cache
}

// Total is the sum of all parts.
func (b Budget) Total() int64 {
	return b.Weights + b.Vision + b.Workspace + b.Encoder + b.Backend + b.KV
}

func (b Budget) String() string {
	const mib = 1 << 20
	return fmt.Sprintf("weights %d MiB, vision workspace %d MiB, decoder workspace %d MiB, encoded tiles %d MiB, backend workspace %d MiB, KV cache %d MiB; total %d MiB of %d MiB",
		b.Weights/mib, b.Vision/mib, b.Workspace/mib, b.Encoder/mib, b.Backend/mib, b.KV/mib, b.Total()/mib, b.Limit/mib)
}

// Open reads the checkpoint in dir, a directory with config.json, tokenizer and
// safetensors files in either layout of the family, and places it on a device.
func Open(ctx context.Context, dir string, c Config) (*Engine, error) {
	start := time.Now()
	ck, err := loader.Open(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	e, err := open(ctx, ck, dir, nil, c, start)
	if err != nil {
		return nil, openError(dir, errors.Join(err, ck.Close()))
	}
	return e, nil
}

// OpenFS is Open for a checkpoint at the root of a file system, such as an embedded one. name is for messages.
func OpenFS(ctx context.Context, fsys fs.FS, name string, c Config) (*Engine, error) {
	start := time.Now()
	ck, err := loader.OpenFS(fsys, ".")
	if err != nil {
		return nil, openError(name, err)
	}
	e, err := open(ctx, ck, name, fsys, c, start)
	if err != nil {
		return nil, openError(name, errors.Join(err, ck.Close()))
	}
	return e, nil
}

// openError gives an error of opening the sentinel that fits it.
func openError(name string, err error) error {
	var unsupported *loader.UnsupportedError
	switch {
	case errors.As(err, &unsupported):
		err = fmt.Errorf("%w: %w", ErrUnsupportedModel, err)
	case errors.Is(err, assemble.ErrMemory), errors.Is(err, kernels.ErrOutOfMemory):
		err = fmt.Errorf("%w: %w", ErrOutOfMemory, err)
	}
	return fmt.Errorf("engine: open %s: %w", name, err)
}

// open assembles an engine. On success the engine owns ck. start is when its files began to be opened.
func open(ctx context.Context, ck *loader.Checkpoint, name string, fsys fs.FS, c Config, start time.Time) (*Engine, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	took := Opening{Files: time.Since(start)}
	text, b, err := openTextAndDevice(ck, fsys, name, c, &took)
	if err != nil {
		return nil, err
	}
	a, err := assemble.Build(ctx, ck, b, c.settings())
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	p := parts.Parts{
		Runner: a.Runner, Text: text, Sched: a.Sched, KVBlocks: a.KVBlocks, Block: kernels.BlockSize, Context: a.Context,
		Locked: b.Info().Name == "cuda",
		Close: func() error {
			a.Free()
			return errors.Join(b.Close(), ck.Close())
		},
	}
	if m, ok := b.(kernels.MemoryReporter); ok {
		p.FreeMemory = m.FreeMemory
	}
	if a.Model.Vision != nil {
		p.Images = newImages(ck, c)
	}
	e, err := OpenParts(c, p)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	e.info = describe(ck, name, b.Info(), a)
	took.Weights, took.Workspace = a.WeightTime, a.WorkspaceTime
	e.info.Opening = took
	return e, nil
}

// openTextAndDevice opens both at once: a GPU's driver takes a third of a second to
// start, a large tokenizer about as long to read.
func openTextAndDevice(ck *loader.Checkpoint, fsys fs.FS, name string, c Config, took *Opening) (text parts.Text, b kernels.Backend, err error) {
	start := time.Now()
	opened := make(chan error, 1)
	go func() {
		var err error
		b, err = OpenBackend(c.Device, c.Threads)
		took.Device = time.Since(start)
		opened <- err
	}()
	text, err = openText(ck, fsys, name, c.PromptStyle)
	took.Text = time.Since(start)
	if failed := <-opened; failed != nil {
		return nil, nil, errors.Join(err, failed)
	}
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return text, b, nil
}

func describe(ck *loader.Checkpoint, name string, dev kernels.Info, a *assemble.Parts) Info {
	bud := a.Runner.Budget()
	i := Info{
		Architecture: ck.Config.Arch, Dir: name, Backend: dev.Name, Device: dev.Device, Driver: dev.Driver, DType: a.Model.DType.String(), Threads: dev.Threads,
		WeightBytes: a.Model.Bytes, ContextTokens: a.Context, Vocabulary: a.Runner.Vocabulary(), Layers: ck.Config.Text.Layers,
		MaxSequences: a.Sched.MaxSequences, StepTokens: a.Sched.StepTokens, KVBlocks: a.KVBlocks, BlockTokens: kernels.BlockSize,
		BlockBytes: bud.KV / int64(a.KVBlocks),
		Budget:     Budget{Limit: a.Limit, Weights: bud.Weights, Vision: bud.Vision, Workspace: bud.Workspace, Encoder: bud.Encoder, Backend: bud.Backend, KV: bud.KV},
	}
	w := a.Model.Work()
	i.Work = Work{
		StepBytes: w.StepBytes, KVBytes: i.BlockBytes / int64(i.BlockTokens), TokenOps: w.TokenOps, RowOps: w.RowOps,
		PairOps: w.PairOps, TileOps: w.TileOps, VisionBytes: w.VisionBytes,
	}
	if v := a.Model.Vision; v != nil {
		i.Vision, i.TileSize, i.TileTokens, i.MaxTiles = true, v.Dims.ImageSize, v.Dims.Tokens(), ck.Config.MaxTiles
	}
	return i
}

// validate checks what needs no checkpoint and no device.
func (c *Config) validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Threads", int64(c.Threads)},
		{"MemoryBytes", c.MemoryBytes},
		{"MaxSequences", int64(c.MaxSequences)},
		{"StepTokens", int64(c.StepTokens)},
		{"KVBlocks", int64(c.KVBlocks)},
		{"ContextTokens", int64(c.ContextTokens)},
		{"MaxWaiting", int64(c.MaxWaiting)},
	} {
		if f.value < 0 {
			return fmt.Errorf("Config.%s is %d, want 0 or more: %w", f.name, f.value, ErrInvalidRequest)
		}
	}
	switch c.PromptStyle {
	case "", "jinja", "conv":
	default:
		return fmt.Errorf("prompt style %q, want jinja or conv: %w", c.PromptStyle, ErrInvalidRequest)
	}
	switch c.ImageRecipe {
	case "", "exact":
	default:
		return fmt.Errorf("Config.ImageRecipe is %q, want nothing or exact: %w", c.ImageRecipe, ErrInvalidRequest)
	}
	return nil
}

// settings are the parts of the configuration that size an engine.
func (c Config) settings() assemble.Settings {
	return assemble.Settings{
		DType: c.DType, MemoryBytes: c.MemoryBytes, MaxSequences: c.MaxSequences, StepTokens: c.StepTokens,
		KVBlocks: c.KVBlocks, Context: c.ContextTokens, EncoderBytes: c.EncoderCacheBytes, Workers: runtime.GOMAXPROCS(0),
	}
}

// PlanMemory is the budget that Open would keep to on a device, computed from
// shapes: nothing is placed. A backend may pack the weights a little larger. Errors as from Open, ErrOutOfMemory among them.
func PlanMemory(dir string, c Config) (Budget, error) {
	ck, err := loader.Open(dir)
	return planMemory(ck, err, dir, c)
}

// PlanMemoryFS is PlanMemory for a checkpoint inside a file system.
func PlanMemoryFS(fsys fs.FS, name string, c Config) (Budget, error) {
	ck, err := loader.OpenFS(fsys, ".")
	return planMemory(ck, err, name, c)
}

// planMemory closes ck, unless opening it failed.
func planMemory(ck *loader.Checkpoint, opened error, name string, c Config) (Budget, error) {
	if opened != nil {
		return Budget{}, openError(name, opened)
	}
	defer ck.Close()
	b, err := OpenBackend(c.Device, c.Threads)
	if err != nil {
		return Budget{}, openError(name, err)
	}
	defer b.Close()
	plan, limit, err := assemble.Plan(ck, b, c.settings())
	if err != nil {
		return Budget{}, openError(name, err)
	}
	return Budget{Limit: limit, Weights: plan.Weights, Vision: plan.Vision, Workspace: plan.Workspace, Encoder: plan.Encoder, Backend: plan.Backend, KV: plan.KV}, nil
}

// OpenParts opens an engine over parts that are not a checkpoint. It is for
// package engine/fake: no other package can name the type of p.
func OpenParts(c Config, p parts.Parts) (*Engine, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 1024
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pool := kvcache.NewPool(kvcache.Config{Blocks: p.KVBlocks, BlockSize: p.Block, NoPrefixes: c.DisablePrefixCache})
	e := &Engine{
		cfg: c, parts: p, log: log, eos: p.Text.EOS(),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), decode: make(chan struct{}, runtime.GOMAXPROCS(0)),
		sched: sched.New(p.Sched, pool), choosers: make([]chooser, max(1, runtime.GOMAXPROCS(0))),
		info: Info{
			ContextTokens: p.Context, Vocabulary: p.Runner.Vocabulary(), Vision: p.Images != nil, TileTokens: p.Sched.TileTokens,
			MaxSequences: p.Sched.MaxSequences, StepTokens: p.Sched.StepTokens, KVBlocks: p.KVBlocks, BlockTokens: p.Block,
		},
	}
	if p.Sched.Ahead {
		e.beginner, _ = p.Runner.(parts.Beginner)
	}
	go e.loop()
	return e, nil
}

// Close ends all requests with ErrClosed, waits for the step in progress and
// frees the device. Idempotent.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.signal()
	<-e.ended
	return e.closeErr
}

// Info describes the engine.
func (e *Engine) Info() Info { return e.info }

// FreeMemory is the memory of the device that nobody uses at the moment, in bytes;
// 0 on a device without memory of its own. It waits for the step in progress.
func (e *Engine) FreeMemory() (int64, error) {
	if e.parts.FreeMemory == nil {
		return 0, nil
	}
	var free int64
	var err error
	asked := make(chan struct{})
	e.do(func() {
		free, err = e.parts.FreeMemory()
		close(asked)
	})
	select {
	case <-asked:
	case <-e.ended:
		return 0, fmt.Errorf("engine: free memory: %w", ErrClosed)
	}
	if err != nil {
		return 0, fmt.Errorf("engine: free memory: %w", err)
	}
	return free, nil
}

// signal makes the loop look at its inbox.
func (e *Engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
