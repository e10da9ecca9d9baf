package vision

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
)

// PoolConfig says how a Pool works. The zero value is sane.
type PoolConfig struct {
	// Workers decode at the same time; 0 = GOMAXPROCS.
	Workers int
	// Bytes bounds the estimated memory of pictures being decoded and tiled; 0 = 1 GiB.
	// A picture that needs more runs alone. Finished tiles waiting in Map are bounded by
	// their number, two jobs a worker.
	Bytes int64
	// Options and Recipe apply to jobs that have none of their own.
	Options Options
	Recipe  Recipe
}

// Job is a picture to prepare. Exactly one of Data and Load is set.
type Job struct {
	Name   string
	Data   []byte
	Load   func(context.Context) ([]byte, error) // called by a worker
	Recipe *Recipe                               // nil = the pool's
	Tag    any                                   // for the caller
}

// Prepared is the result of a Job: tiles, or an error.
type Prepared struct {
	Job     Job
	Picture *Picture // what the decoder found; Pix is nil
	Tiles   *Tiles
	Err     error
}

// Pool prepares pictures on several goroutines with bounded memory. Its methods may be
// called concurrently. It owns goroutines only while Map runs.
type Pool struct {
	cfg     PoolConfig
	slots   *semaphore.Weighted
	bytes   *semaphore.Weighted
	workers sync.Pool // *worker
	tiles   sync.Pool // *Tiles given back
}

// worker is the reusable memory of one goroutine.
type worker struct {
	decoder Decoder
	tiler   Tiler
}

// NewPool returns a pool. It starts nothing.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Workers = cmp.Or(max(cfg.Workers, 0), runtime.GOMAXPROCS(0))
	cfg.Bytes = cmp.Or(max(cfg.Bytes, 0), 1<<30)
	return &Pool{cfg: cfg, slots: semaphore.NewWeighted(int64(cfg.Workers)), bytes: semaphore.NewWeighted(cfg.Bytes)}
}

// Recycle gives the memory of tiles back to the pool. The caller must not use them again.
func (p *Pool) Recycle(t *Tiles) {
	if t != nil {
		p.tiles.Put(t)
	}
}

// Prepare decodes and tiles one picture in the calling goroutine, after waiting for a
// free worker and for memory. Err is ctx's error if ctx ends while it waits.
func (p *Pool) Prepare(ctx context.Context, job Job) (out Prepared) {
	out.Job = job
	if out.Err = p.slots.Acquire(ctx, 1); out.Err != nil {
		return out
	}
	defer p.slots.Release(1)
	data := job.Data
	if job.Load != nil {
		if data, out.Err = job.Load(ctx); out.Err != nil {
			return out
		}
	}
	opts, recipe := p.cfg.Options, p.cfg.Recipe
	opts.Name = cmp.Or(job.Name, opts.Name)
	if job.Recipe != nil {
		recipe = *job.Recipe
	}
	need, err := p.need(data, opts, recipe)
	if err != nil {
		out.Err = err
		return out
	}
	if out.Err = p.bytes.Acquire(ctx, need); out.Err != nil {
		return out
	}
	defer p.bytes.Release(need)
	p.work(&out, data, opts, recipe)
	return out
}

// need estimates the memory of a job in bytes: RGB (twice when the picture is turned),
// what the decoder keeps beside it, and the tiles; at most the whole budget.
func (p *Pool) need(data []byte, opts Options, r Recipe) (int64, error) {
	info, err := Probe(data, opts)
	if err != nil {
		return 0, err
	}
	pixels := int64(info.Width) * int64(info.Height)
	perPixel := int64(3 + 4)
	if info.Format == FormatJPEG && info.Orientation == 1 {
		perPixel = 3 + 1
	}
	w, h := info.Upright()
	if opts.Exact && info.Format != FormatTIFF {
		w, h = info.Width, info.Height
	}
	_, _, tiles, err := r.Plan(w, h)
	if err != nil {
		return 0, fmt.Errorf("%w (%s)", err, cmp.Or(opts.Name, info.Format))
	}
	size := int64(cmp.Or(r.Size, 448))
	return min(pixels*perPixel+int64(tiles)*3*size*size, p.cfg.Bytes), nil
}

// work decodes and tiles with the memory of an idle worker.
func (p *Pool) work(out *Prepared, data []byte, opts Options, recipe Recipe) {
	w, _ := p.workers.Get().(*worker)
	if w == nil {
		w = &worker{decoder: Decoder{reuse: true}}
	}
	defer p.workers.Put(w)
	pic, err := w.decoder.Decode(data, opts)
	if err != nil {
		out.Err = err
		return
	}
	t, _ := p.tiles.Get().(*Tiles)
	if t == nil {
		t = new(Tiles)
	}
	if err := w.tiler.TileInto(t, pic, recipe); err != nil {
		out.Err = fmt.Errorf("%w (%s)", err, cmp.Or(opts.Name, pic.Format))
		return
	}
	head := *pic
	head.Pix = nil
	out.Picture, out.Tiles = &head, t
}

// Map prepares jobs on the pool's workers and gives the results in the order of the
// jobs. A failed job is a result with Err; it does not stop the others. jobs is read
// ahead by at most two jobs a worker, in a goroutine of its own; tiles belong to the
// consumer (see Recycle). When ctx ends, or the consumer stops, Map waits for the jobs
// under way and returns; jobs then left over give no result.
func (p *Pool) Map(ctx context.Context, jobs iter.Seq[Job]) iter.Seq[Prepared] {
	return func(yield func(Prepared) bool) {
		ctx, cancel := context.WithCancel(ctx)
		results := make(chan chan Prepared, 2*p.cfg.Workers)
		var running sync.WaitGroup
		running.Go(func() {
			defer close(results)
			p.dispatch(ctx, jobs, results, &running)
		})
		defer running.Wait()
		defer cancel()
		for r := range results {
			out := <-r
			if ctx.Err() != nil && out.Err != nil {
				return
			}
			if !yield(out) {
				return
			}
		}
	}
}

// dispatch starts a goroutine a job and queues where its result will appear; the queue
// bounds how far it runs ahead.
func (p *Pool) dispatch(ctx context.Context, jobs iter.Seq[Job], results chan<- chan Prepared, running *sync.WaitGroup) {
	for job := range jobs {
		result := make(chan Prepared, 1)
		select {
		case results <- result:
		case <-ctx.Done():
			return
		}
		running.Go(func() { result <- p.Prepare(ctx, job) })
	}
}
