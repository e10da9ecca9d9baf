package runner

import (
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
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
	// ArgMax receives the lowest index of the largest logit of rows [lo,lo+len(ids)),
	// and the log-probabilities of these where the batch asks for them; else nil.
	ArgMax(lo int, ids []int32, logProbs []float32) error
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
	lanes    [2]lane
	turn     int   // the lane last used
	begun    *lane // whose step no batch has taken yet
	count    struct{ begun, taken int64 }
	rowsView kernels.Tensor // row indices of one call of Logits
	pairs    [][2]int32
	shared   []int32            // what shares found
	pixels   kernels.HostBuffer // tiles on their way; nil = uploaded from where they are
	marks    [2]kernels.Mark    // around the encoding of tiles
	encoders map[int]*encoder   // recorded, by the number of tiles
	host     []byte             // ids and their log-probabilities as downloaded
	ids      []int32
	logProbs []float32
	logits   []float32
	timing   Timing
	closed   bool

	async   kernels.Async    // nil if the backend's calls do their work themselves
	capture kernels.Capturer // nil if the backend cannot record; else async is there too
}

// Open allocates everything that m needs on b. The runner does not own b or m.
func Open(b kernels.Backend, m *model.Model, cfg Config) (*Runner, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Runner{b: b, m: m, cfg: cfg, encoders: map[int]*encoder{}}
	if r.async, _ = b.(kernels.Async); r.async != nil {
		r.capture, _ = b.(kernels.Capturer)
	}
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
	for i := range r.lanes {
		if err := r.lanes[i].open(r, arrayCap(vis, c)); err != nil {
			return err
		}
		r.lanes[i].step.Features = r.arena
	}
	if err := r.openStaging(vis); err != nil {
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
	r.lanes[0].step.KV, r.lanes[1].step.KV = r.kv, r.kv
	r.host = make([]byte, 8*c.MaxRows)
	r.logProbs = make([]float32, c.MaxRows)
	r.logits = make([]float32, c.MaxRows*d.Vocab)
	r.ids = make([]int32, c.MaxRows)
	return nil
}

// openStaging makes what tiles pass through on their way to the device.
func (r *Runner) openStaging(vis *model.VisionDims) (err error) {
	if vis == nil || r.async == nil {
		return nil
	}
	if r.pixels, err = r.async.AllocHost(r.cfg.MaxTiles * vis.TileBytes()); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	for i := range r.marks {
		if r.marks[i], err = r.async.NewMark(); err != nil {
			return err
		}
	}
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
	r.begun = nil
	l, err := r.nextLane()
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	if err := l.upload(r, b); err != nil {
		return fmt.Errorf("runner: upload: %w", err)
	}
	r.timing.Vision = 0
	if len(b.Encodes) > 0 {
		if err := r.encode(l, b, tap); err != nil {
			return fmt.Errorf("runner: encode %d tiles: %w", len(b.Encodes), err)
		}
	}
	if b.Tokens() > 0 {
		if err := r.forward(l, b, sink, tap); err != nil {
			return fmt.Errorf("runner: %w", err)
		}
	}
	if err := r.endStep(l, b, start); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	return nil
}

// endStep takes the times. A chunk in the middle of a prompt gives nothing back, so
// there is nothing to wait for; the lane's mark tells when its arrays are free again.
func (r *Runner) endStep(l *lane, b *sched.Batch, start time.Time) error {
	if r.async == nil {
		r.timing.Total = time.Since(start)
		return nil
	}
	if err := l.done.Set(); err != nil {
		return err
	}
	if len(b.Encodes) > 0 {
		if err := l.done.Wait(); err != nil {
			return err
		}
		var err error
		if r.timing.Vision, err = r.marks[1].Since(r.marks[0]); err != nil {
			return err
		}
	}
	r.timing.Total = time.Since(start)
	return nil
}

// encode computes the features of new tiles and puts them into the arena.
func (r *Runner) encode(l *lane, b *sched.Batch, tap model.Tap) error {
	for _, e := range b.Encodes {
		if len(e.Pixels) != r.m.Vision.Dims.TileBytes() {
			return fmt.Errorf("tile of %d bytes, want %d", len(e.Pixels), r.m.Vision.Dims.TileBytes())
		}
	}
	start := time.Now()
	if r.async != nil {
		if err := r.marks[0].Set(); err != nil {
			return err
		}
	}
	if err := r.sendTiles(b.Encodes); err != nil {
		return err
	}
	features, err := r.features(len(b.Encodes), tap)
	if err != nil {
		return err
	}
	if err := r.b.ScatterRows(kernels.ScatterRowsArgs{Out: r.arena, X: features, Index: l.places}); err != nil {
		return err
	}
	if r.async != nil {
		return r.marks[1].Set() // its reading waits for the whole step
	}
	err = r.b.Sync()
	r.timing.Vision = time.Since(start)
	return err
}

// maxStagers is the number of goroutines that saturate the memory of a host.
const maxStagers = 8

// sendTiles uploads the pixels of tiles. Where the device reads page-locked memory
// by itself they are gathered there, by this goroutine and by helpers when they have
// woken up, and the device copies a tile while others are gathered. A step with tiles
// waits for its end, so the memory is free.
func (r *Runner) sendTiles(list []sched.Encode) error {
	n := len(list)
	tiles := r.vspace.Tiles(n)
	if r.pixels == nil {
		for i, e := range list {
			if err := r.b.Upload(tiles.Slice(i, i+1), e.Pixels); err != nil {
				return err
			}
		}
		return nil
	}
	size := r.m.Vision.Dims.TileBytes()
	host := r.pixels.Bytes()
	var next atomic.Int64
	gather := func() (tile int, ok bool) {
		i := int(next.Add(1)) - 1
		if i >= n {
			return 0, false
		}
		copy(host[i*size:(i+1)*size], list[i].Pixels)
		return i, true
	}
	gathered := make(chan int, n)
	for range min(n, maxStagers, runtime.GOMAXPROCS(0)) - 1 {
		go func() {
			for i, ok := gather(); ok; i, ok = gather() {
				gathered <- i
			}
		}()
	}
	var first error
	for range n { // to the end after an error, too: the helpers must be done
		i, ok := gather()
		if !ok {
			i = <-gathered
		}
		if first == nil {
			first = r.async.UploadAsync(tiles.Slice(i, i+1), host[i*size:(i+1)*size])
		}
	}
	return first
}

func (r *Runner) forward(l *lane, b *sched.Batch, sink Sink, tap model.Tap) error {
	s := &l.step
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
		if r.async == nil {
			return r.b.Sync()
		}
		return nil
	}
	return r.emit(l, b, sink, tap)
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
func (r *Runner) emit(l *lane, b *sched.Batch, sink Sink, tap model.Tap) error {
	for lo := 0; lo < len(b.LogitRows); {
		full := lo < b.FullRows
		end := len(b.LogitRows)
		if full {
			end = b.FullRows
		}
		n := min(end-lo, r.cfg.MaxRows)
		views := r.space.Rows(n)
		r.rowsView = l.rows
		r.rowsView.Offset += 4 * int64(lo)
		r.rowsView.Shape = views.ArgMax.Shape
		if err := r.m.Decoder.Logits(l.step.Views, r.rowsView, views, tap); err != nil {
			return err
		}
		var err error
		if full {
			err = r.emitFull(views, lo, n, sink)
		} else {
			err = r.emitArgMax(views, lo, n, b, sink)
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

func (r *Runner) emitArgMax(v *model.RowViews, lo, n int, b *sched.Batch, sink Sink) error {
	a := kernels.ArgMaxArgs{IDs: v.ArgMax, Logits: v.Logits}
	src := v.ArgMax
	if b.LogProbs {
		a.LogProbs, src = v.LogProbs, v.Chosen
	}
	if err := r.b.ArgMax(a); err != nil {
		return err
	}
	host := r.host[:4*src.Rows()]
	if err := r.b.Download(host, src); err != nil {
		return err
	}
	for i := range n {
		r.ids[i] = int32(le32(host[4*i:]))
		if b.LogProbs {
			r.logProbs[i] = math.Float32frombits(le32(host[4*(n+i):]))
		}
	}
	return r.giveArgMax(lo, 0, n, b, sink)
}

// giveArgMax hands out ids from..to, the first of them of row lo.
func (r *Runner) giveArgMax(lo, from, to int, b *sched.Batch, sink Sink) error {
	if !b.LogProbs {
		return sink.ArgMax(lo, r.ids[from:to], nil)
	}
	return sink.ArgMax(lo, r.ids[from:to], r.logProbs[from:to])
}

// Close frees the runner's device memory. Idempotent.
func (r *Runner) Close() {
	if r.closed {
		return
	}
	r.closed = true
	if r.begun != nil {
		_ = r.b.Sync() // a step that nobody wants; its error has no reader
	}
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
	for i := range r.lanes {
		r.lanes[i].close()
	}
	if r.pixels != nil {
		r.pixels.Free()
	}
	for _, m := range r.marks {
		if m != nil {
			m.Free()
		}
	}
	if r.kv != nil {
		r.kv.Free()
	}
}
