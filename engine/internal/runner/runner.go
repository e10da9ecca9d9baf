package runner

import (
	"fmt"
	"time"

	"metacap/engine/internal/model"
	"metacap/engine/internal/sched"
	"metacap/kernels"
)

// Sink receives the logits of a step, in the order of its rows. The slices are
// valid during the call.
type Sink interface {
	// Logits receives rows [lo,lo+n) as [n,V].
	Logits(lo, n int, logits []float32) error
	// ArgMax receives the lowest index of the largest logit of rows [lo,lo+len(ids)).
	ArgMax(lo int, ids []int32) error
}

// Timing says where the time of a step went.
type Timing struct {
	Vision time.Duration
	Total  time.Duration
}

// Runner executes steps. It is used by one goroutine.
type Runner struct {
	b      kernels.Backend
	m      *model.Model
	cfg    Config
	budget Budget
	kv     kernels.KV
	space  *model.DecoderSpace
	vspace *model.VisionSpace

	arena    kernels.Tensor // [slots*tokens,C]
	arrays   arrays
	step     model.Step
	rows     kernels.Tensor // row indices of the step, all
	rowsView kernels.Tensor // those of one call of Logits
	places   kernels.Tensor // arena rows of newly encoded features
	pairs    [][2]int32
	host     []byte // ids as downloaded
	ids      []int32
	logits   []float32
	timing   Timing
	closed   bool

	capture kernels.Capturer // nil if the backend cannot record
	graphs  map[graphKey]*graphEntry
}

// Open allocates everything that m needs on b. The runner does not own b or m.
func Open(b kernels.Backend, m *model.Model, cfg Config) (*Runner, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Runner{b: b, m: m, cfg: cfg, graphs: map[graphKey]*graphEntry{}}
	r.capture, _ = b.(kernels.Capturer)
	var vis *model.VisionDims
	if m.Vision != nil {
		vis = &m.Vision.Dims
	}
	r.budget = Plan(b, m.Decoder.Dims, vis, m.Bytes, cfg)
	if err := r.alloc(vis); err != nil {
		r.Close()
		return nil, fmt.Errorf("runner: open: %w", err)
	}
	return r, nil
}

func (r *Runner) alloc(vis *model.VisionDims) (err error) {
	d, c := r.m.Decoder.Dims, r.cfg
	if vis != nil {
		r.vspace = model.NewVisionSpace(*vis, c.DType, c.MaxTiles)
		if err := r.vspace.Alloc(r.b); err != nil {
			return err
		}
		buf, err := r.b.Alloc(r.budget.Encoder)
		if err != nil {
			return fmt.Errorf("cache of %d encoded tiles: %w", c.TileSlots, err)
		}
		r.arena = kernels.Tensor{Buf: buf, DType: c.DType, Shape: []int{c.TileSlots * vis.Tokens(), d.Width}}
	}
	r.space = model.NewDecoderSpace(d, c.DType, c.StepTokens, c.MaxRows, features(vis, c))
	if err := r.space.Alloc(r.b); err != nil {
		return err
	}
	if err := r.arrays.open(r.b, arrayCap(vis, c)); err != nil {
		return err
	}
	if be, ok := r.b.(kernels.Reserver); ok {
		if err := be.Reserve(workLimits(d, vis, c)); err != nil {
			return err
		}
	}
	r.kv, err = r.b.NewKV(kernels.KVShape{Layers: d.Layers, Blocks: c.KVBlocks, Heads: d.KVHeads, HeadDim: d.HeadDim, DType: c.KVDType})
	if err != nil {
		return fmt.Errorf("KV cache of %d blocks: %w", c.KVBlocks, err)
	}
	r.step.KV, r.step.Features = r.kv, r.arena
	r.host = make([]byte, 4*c.MaxRows)
	r.logits = make([]float32, c.MaxRows*d.Vocab)
	r.ids = make([]int32, c.MaxRows)
	return nil
}

// Budget is the memory plan.
func (r *Runner) Budget() Budget { return r.budget }

// Timing of the last Run.
func (r *Runner) Timing() Timing { return r.timing }

// Vocabulary is the length of a row of logits.
func (r *Runner) Vocabulary() int { return r.m.Decoder.Dims.Vocab }

// Run executes a step and gives its logits to sink.
func (r *Runner) Run(b *sched.Batch, sink Sink) error { return r.RunTap(b, sink, nil) }

// RunTap is Run with a tap on intermediate results.
func (r *Runner) RunTap(b *sched.Batch, sink Sink, tap model.Tap) error {
	start := time.Now()
	if k, ok := r.recordable(b); ok && tap == nil {
		err := r.runGraph(b, k, sink)
		r.timing = Timing{Total: time.Since(start)}
		return err
	}
	if err := r.upload(b); err != nil {
		return fmt.Errorf("runner: upload: %w", err)
	}
	r.timing.Vision = 0
	if len(b.Encodes) > 0 {
		if err := r.encode(b, tap); err != nil {
			return fmt.Errorf("runner: encode %d tiles: %w", len(b.Encodes), err)
		}
		r.timing.Vision = time.Since(start)
	}
	if b.Tokens() > 0 {
		if err := r.forward(b, sink, tap); err != nil {
			return fmt.Errorf("runner: %w", err)
		}
	}
	r.timing.Total = time.Since(start)
	return nil
}

// upload sends the step's arrays to the device and makes views of them.
func (r *Runner) upload(b *sched.Batch) error {
	a, s := &r.arrays, &r.step
	a.reset()
	a.add(&s.IDs, b.IDs)
	a.add(&s.Positions, b.Positions)
	a.add(&s.Slots, b.Slots)
	a.add(&s.Starts, b.Starts)
	a.add(&s.Lens, b.Lens)
	a.add2(&s.Tables, b.Tables, b.TableWidth)
	a.add(&r.rows, b.LogitRows)
	a.add(&s.Index, b.Features)
	a.add(&s.Places, b.Places)
	if n := len(b.Encodes); n > 0 {
		a.begin()
		tokens := r.m.Vision.Dims.Tokens()
		for _, e := range b.Encodes {
			for j := range tokens {
				a.push(int32(e.Slot*tokens + j))
			}
		}
		a.end(&r.places)
	}
	return a.send(r.b)
}

func (r *Runner) encode(b *sched.Batch, tap model.Tap) error {
	n := len(b.Encodes)
	tiles := r.vspace.Tiles(n)
	for i, e := range b.Encodes {
		if len(e.Pixels) != r.m.Vision.Dims.TileBytes() {
			return fmt.Errorf("tile of %d bytes, want %d", len(e.Pixels), r.m.Vision.Dims.TileBytes())
		}
		if err := r.b.Upload(tiles.Slice(i, i+1), e.Pixels); err != nil {
			return err
		}
	}
	features, err := r.m.Vision.Encode(r.vspace, n, tap)
	if err != nil {
		return err
	}
	if err := r.b.ScatterRows(kernels.ScatterRowsArgs{Out: r.arena, X: features, Index: r.places}); err != nil {
		return err
	}
	return r.b.Sync()
}

func (r *Runner) forward(b *sched.Batch, sink Sink, tap model.Tap) error {
	s := &r.step
	s.Views = r.space.Tokens(b.Tokens())
	s.MaxRows, s.MaxLen, s.Tap = b.MaxRows, b.MaxLen, tap
	if n := len(b.Features); n > 0 {
		s.Picked = r.space.Picked(n)
	}
	if err := r.copyBlocks(b); err != nil {
		return err
	}
	if err := r.m.Decoder.Forward(s); err != nil {
		return err
	}
	if len(b.LogitRows) == 0 {
		return r.b.Sync()
	}
	return r.emit(b, sink, tap)
}

// copyBlocks makes the copies of blocks that the step writes into.
func (r *Runner) copyBlocks(b *sched.Batch) error {
	if len(b.Copies) == 0 {
		return nil
	}
	r.pairs = r.pairs[:0]
	for _, c := range b.Copies {
		r.pairs = append(r.pairs, c)
	}
	return r.b.KVCopy(kernels.KVCopyArgs{KV: r.kv, Pairs: r.pairs})
}

// emit computes logits a few rows at a time: whole rows first, then those of
// which only the argmax is wanted.
func (r *Runner) emit(b *sched.Batch, sink Sink, tap model.Tap) error {
	for lo := 0; lo < len(b.LogitRows); {
		full := lo < b.FullRows
		end := len(b.LogitRows)
		if full {
			end = b.FullRows
		}
		n := min(end-lo, r.cfg.MaxRows)
		views := r.space.Rows(n)
		r.rowsView = r.rows
		r.rowsView.Offset += 4 * int64(lo)
		r.rowsView.Shape = views.ArgMax.Shape
		if err := r.m.Decoder.Logits(r.step.Views, r.rowsView, views, tap); err != nil {
			return err
		}
		var err error
		if full {
			err = r.emitFull(views, lo, n, sink)
		} else {
			err = r.emitArgMax(views, lo, n, sink)
		}
		if err != nil {
			return err
		}
		lo += n
	}
	return nil
}

func (r *Runner) emitFull(v *model.RowViews, lo, n int, sink Sink) error {
	count := n * r.m.Decoder.Dims.Vocab
	if err := r.b.Download(bytesOf(r.logits[:count]), v.Logits); err != nil {
		return err
	}
	fixFloats(r.logits[:count])
	return sink.Logits(lo, n, r.logits[:count])
}

func (r *Runner) emitArgMax(v *model.RowViews, lo, n int, sink Sink) error {
	if err := r.b.ArgMax(kernels.ArgMaxArgs{IDs: v.ArgMax, Logits: v.Logits}); err != nil {
		return err
	}
	if err := r.b.Download(r.host[:4*n], v.ArgMax); err != nil {
		return err
	}
	for i := range n {
		r.ids[i] = int32(le32(r.host[4*i:]))
	}
	return sink.ArgMax(lo, r.ids[:n])
}

// Close frees the runner's device memory. Idempotent.
func (r *Runner) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.dropGraphs()
	if r.vspace != nil {
		r.vspace.Free()
	}
	if r.arena.Buf != nil {
		r.arena.Buf.Free()
	}
	if r.space != nil {
		r.space.Free()
	}
	r.arrays.close()
	if r.kv != nil {
		r.kv.Free()
	}
}
