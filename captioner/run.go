package captioner

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"metacap/captioner/internal/filter"
	"metacap/captioner/internal/journal"
	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
)

// ErrNothing occurs when the inputs hold no picture or video.
var ErrNothing = errors.New("nothing to caption")

// ErrStopped occurs when Job.Stop or the context ended the job early. The report
// comes with it; running the job again resumes it.
var ErrStopped = errors.New("stopped before the end")

// runner is a job under way.
type runner struct {
	job      *Job
	script   *script
	journal  *journal.Journal
	progress *Progress
	seen     *filter.Seen
	place    sink.Place
	sidecars []string // formats
	bytes    *semaphore.Weighted
	engines  []Engine
	dead     []atomic.Bool // engines that failed

	mu      sync.Mutex
	broken  error                    // of the last engine that failed
	flights map[string]chan struct{} // ids being captioned
	owners  map[uint64]uint64        // hash of a sidecar's path without extension -> hash of its input
	files   map[string]string        // of Embed: a file without symbolic links -> key of the input that is written into it
	pending map[string]stamp         // files that were still growing, of Watch
}

type stamp struct{ size, mtime int64 }

// Run works through a job with engines, one a device, that share one queue. It
// returns when all inputs are finished. A bad input is recorded and counted in
// the report; only what makes going on pointless is an error: no inputs, a full
// disk, a job directory in use, engines that failed. The report is not nil when
// the job was begun, and with ErrStopped.
func Run(ctx context.Context, engines []Engine, job Job) (*Report, error) {
	if len(engines) == 0 {
		return nil, errors.New("captioner: run: no engine")
	}
	if err := job.prepare(); err != nil {
		return nil, err
	}
	script, err := newScript(job.Recipe)
	if err != nil {
		return nil, err
	}
	lock, log, err := job.open()
	if err != nil {
		return nil, err
	}
	r := &runner{
		job: &job, script: script, journal: log, progress: job.Progress, seen: filter.NewSeen(), engines: engines,
		place: sink.Place{Base: job.Base, Out: job.Out, Ext: job.Ext}, bytes: semaphore.NewWeighted(job.Bytes),
		dead: make([]atomic.Bool, len(engines)), flights: map[string]chan struct{}{}, owners: map[uint64]uint64{}, files: map[string]string{}, pending: map[string]stamp{},
	}
	if r.progress == nil {
		r.progress = &Progress{}
	}
	for _, f := range job.Write {
		if sink.IsSidecar(f) {
			r.sidecars = append(r.sidecars, f)
		}
	}
	r.progress.begin()
	if err = r.knownFiles(); err == nil {
		err = r.all(ctx)
	}
	r.progress.finish()
	rep, ferr := r.conclude(err)
	err = errors.Join(err, ferr, log.Close(), lock.Release())
	return rep, err
}

// workers is the number of inputs in flight: enough for every engine's sequences
// and, beside them, for pictures being read and decoded.
func (r *runner) workers() int {
	if r.job.InFlight > 0 {
		return r.job.InFlight
	}
	n := runtime.GOMAXPROCS(0)
	for _, e := range r.engines {
		n += min(max(e.Info().MaxSequences, 1), 256) * 3 / 2
	}
	return n
}

// all lists the inputs and works on them.
func (r *runner) all(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan source.Item)
	var working sync.WaitGroup
	n := r.workers()
	r.progress.update(func(c *Counts) { c.Workers = n })
	for i := range n {
		working.Go(func() {
			for it := range queue {
				if ctx.Err() != nil {
					continue
				}
				if err := r.item(ctx, i%len(r.engines), &it); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := r.feed(ctx, queue)
	close(queue)
	working.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil && ctx.Err() != nil {
		err = ErrStopped
	}
	if errors.Is(err, context.Canceled) {
		err = ErrStopped
	}
	return err
}

// feed lists the inputs, again and again when watching, and queues what is not finished.
func (r *runner) feed(ctx context.Context, queue chan<- source.Item) error {
	for {
		n := 0
		for it, err := range source.List(ctx, r.job.Inputs, r.job.Select) {
			if err != nil {
				return err
			}
			n++
			if !r.wanted(&it) {
				continue
			}
			select {
			case queue <- it:
			case <-ctx.Done():
				return ctx.Err()
			case <-r.job.Stop:
				return ErrStopped
			}
		}
		r.progress.update(func(c *Counts) { c.ListingEnd = true })
		if r.job.Watch <= 0 {
			if n == 0 {
				return ErrNothing
			}
			return nil
		}
		select {
		case <-time.After(r.job.Watch):
		case <-ctx.Done():
			return ctx.Err()
		case <-r.job.Stop:
			return ErrStopped
		}
	}
}

// wanted counts an input and reports whether there is work to do on it.
func (r *runner) wanted(it *source.Item) bool {
	status, known := r.journal.Status(it.Key)
	if r.job.Watch > 0 {
		if known && status != journal.Intent && r.unchanged(it) || !known && r.growing(it) {
			return false
		}
	}
	r.progress.update(func(c *Counts) { c.Listed++ })
	if !known || status == journal.Intent {
		return true
	}
	if !r.unchanged(it) {
		return true
	}
	if status == journal.Done {
		r.claim(it)
		r.progress.update(func(c *Counts) { c.Before++ })
		return false
	}
	if r.job.RetryFailed {
		return true
	}
	r.progress.update(func(c *Counts) { c.FailedOld++ })
	return false
}

// unchanged compares an input with its journal line by size and time.
func (r *runner) unchanged(it *source.Item) bool {
	e, ok, err := r.journal.Key(it.Key)
	return err == nil && ok && e.Size == it.Size && e.MTime == it.MTime
}

// growing reports a file that was written to since the last look.
func (r *runner) growing(it *source.Item) bool {
	if it.Path == "" || it.Err != nil {
		return false
	}
	now := stamp{it.Size, it.MTime}
	if time.Since(time.Unix(0, it.MTime)) > 2*r.job.Watch || r.pending[it.Key] == now {
		delete(r.pending, it.Key)
		return false
	}
	r.pending[it.Key] = now
	return true
}

// claim reserves an input's sidecar names; ok is false when another input of the
// job has the same ones, as a.jpg and a.png have.
func (r *runner) claim(it *source.Item) bool {
	if len(r.sidecars) == 0 && !r.job.Embed {
		return true
	}
	name := r.place.Path(recordOf(it), "txt")
	me, place := hash64(it.Key), hash64(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	owner, taken := r.owners[place]
	if !taken {
		r.owners[place] = me
	}
	return !taken || owner == me
}

// knownFiles takes from the journal which files earlier runs have written into, or
// were about to.
func (r *runner) knownFiles() error {
	if !r.job.Embed {
		return nil
	}
	return r.journal.Each(func(e journal.Entry) error {
		rec := entryRecord(e)
		if rec == nil || rec.AliasOf != "" || rec.Path == "" {
			return nil
		}
		if real, err := filepath.EvalSymlinks(rec.Path); err == nil {
			r.files[real] = e.Key
		}
		return nil
	})
}

// file waits until no other input works on the file behind it, and returns the
// input that the file belongs to: its own, unless another name of the file came first.
func (r *runner) file(ctx context.Context, it *source.Item) (owner string, release func(), err error) {
	real, err := filepath.EvalSymlinks(it.Path)
	if it.Path == "" || err != nil { // reading it will say what is wrong
		return it.Key, func() {}, nil
	}
	if release, err = r.flight(ctx, "file "+real); err != nil {
		return "", nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if owner = r.files[real]; owner == "" {
		owner = it.Key
		r.files[real] = owner
	}
	return owner, release, nil
}

func hash64(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

func (r *runner) event(e Event) {
	if r.job.Event != nil {
		r.job.Event(e)
	}
}

// engine returns an engine that works, preferring the one of index i.
func (r *runner) engine(i int) (Engine, int, error) {
	for k := range r.engines {
		n := (i + k) % len(r.engines)
		if !r.dead[n].Load() {
			return r.engines[n], n, nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return nil, 0, fmt.Errorf("captioner: run: all %d engines have failed; run the job again to resume: %w", len(r.engines), r.broken)
}
