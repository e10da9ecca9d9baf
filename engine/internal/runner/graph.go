package runner

import (
	"fmt"

	"metacap/engine/internal/sched"
	"metacap/kernels"
)

// A step in which every sequence computes one token repeats the same operations
// on arrays of the same addresses: such steps are recorded, padded to a few batch
// sizes, and replayed with one call. Padding changes nothing for the others: a
// padded sequence has length 0 and stores nothing, and rows do not depend on
// their neighbours.

// graphKey is the shape of a recorded step.
type graphKey struct {
	batch int // sequences, padded
	width int // of the block tables
}

// graphEntry is a shape that was seen; graph is nil until its second step.
type graphEntry struct{ graph kernels.Graph }

// maxGraphs bounds the recordings; a server meets a few dozen shapes.
const maxGraphs = 96

// graphBatch rounds a batch size up to one that is recorded: 1, 2, 3, 4, 6, 8, 12, 16, 24, …
func graphBatch(n int) int {
	for p := 1; ; p *= 2 {
		if n <= p {
			return p
		}
		if p >= 2 && n <= p+p/2 {
			return p + p/2
		}
	}
}

// recordable reports whether a step is one token a sequence and nothing else.
func (r *Runner) recordable(b *sched.Batch) (graphKey, bool) {
	n := len(b.Items)
	k := graphKey{graphBatch(n), b.TableWidth}
	ok := r.capture != nil && n > 0 && b.Tokens() == n && len(b.LogitRows) == n && len(b.Features) == 0 && len(b.Encodes) == 0 &&
		k.batch <= min(r.cfg.MaxRows, r.cfg.StepTokens) && k.batch <= r.cfg.MaxSequences
	return k, ok
}

// uploadPadded sends the arrays of a recordable step, padded to the shape k.
func (r *Runner) uploadPadded(b *sched.Batch, k graphKey) error {
	a, s, pad := &r.arrays, &r.step, k.batch-len(b.Items)
	a.reset()
	a.addPadded(&s.IDs, b.IDs, pad, 0)
	a.addPadded(&s.Positions, b.Positions, pad, 0)
	a.addPadded(&s.Slots, b.Slots, pad, -1)
	a.begin()
	for i := range k.batch + 1 {
		a.push(int32(i))
	}
	a.end(&s.Starts)
	a.addPadded(&s.Lens, b.Lens, pad, 0)
	a.begin()
	for _, x := range b.Tables {
		a.push(x)
	}
	for range pad * k.width {
		a.push(0)
	}
	a.end2(&s.Tables, k.width)
	a.addPadded(&r.rows, b.LogitRows, pad, 0)
	s.Index.Buf, s.Places.Buf = nil, nil
	return a.send(r.b)
}

// runGraph executes a recordable step: by hand the first time, so that the
// backend has its working memory; then it is recorded, and replayed ever after.
func (r *Runner) runGraph(b *sched.Batch, k graphKey, sink Sink) error {
	if err := r.uploadPadded(b, k); err != nil {
		return fmt.Errorf("runner: upload: %w", err)
	}
	if err := r.copyBlocks(b); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	e := r.graphs[k]
	var err error
	switch {
	case e == nil:
		if len(r.graphs) >= maxGraphs {
			r.dropGraphs()
		}
		r.graphs[k] = &graphEntry{}
		err = r.decode(k)
	case e.graph == nil:
		err = r.record(e, k)
	default:
		err = e.graph.Launch()
	}
	if err == nil {
		err = r.emitGraph(b, k, sink)
	}
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	return nil
}

// decode enqueues a padded step from ids to logits and argmax.
func (r *Runner) decode(k graphKey) error {
	s, views := &r.step, r.space.Rows(k.batch)
	s.Views = r.space.Tokens(k.batch)
	s.MaxRows, s.MaxLen, s.Tap = 1, k.width*kernels.BlockSize, nil
	if err := r.m.Decoder.Forward(s); err != nil {
		return err
	}
	if err := r.m.Decoder.Logits(s.Views, r.rows, views, nil); err != nil {
		return err
	}
	return r.b.ArgMax(kernels.ArgMaxArgs{IDs: views.ArgMax, Logits: views.Logits})
}

func (r *Runner) record(e *graphEntry, k graphKey) error {
	if err := r.capture.BeginCapture(); err != nil {
		return err
	}
	failed := r.decode(k)
	g, err := r.capture.EndCapture()
	if failed != nil {
		if err == nil {
			g.Free()
		}
		return failed
	}
	if err != nil {
		return err
	}
	e.graph = g
	return g.Launch()
}

// emitGraph hands out the rows of a padded step.
func (r *Runner) emitGraph(b *sched.Batch, k graphKey, sink Sink) error {
	views := r.space.Rows(k.batch)
	if n := b.FullRows; n > 0 {
		count := n * r.m.Decoder.Dims.Vocab
		if err := r.b.Download(bytesOf(r.logits[:count]), r.space.Rows(n).Logits); err != nil {
			return err
		}
		fixFloats(r.logits[:count])
		if err := sink.Logits(0, n, r.logits[:count]); err != nil {
			return err
		}
	}
	n := len(b.LogitRows)
	if b.FullRows == n {
		return nil
	}
	if err := r.b.Download(r.host[:4*k.batch], views.ArgMax); err != nil {
		return err
	}
	for i := range n {
		r.ids[i] = int32(le32(r.host[4*i:]))
	}
	return sink.ArgMax(b.FullRows, r.ids[b.FullRows:n])
}

func (r *Runner) dropGraphs() {
	for _, e := range r.graphs {
		if e.graph != nil {
			e.graph.Free()
		}
	}
	clear(r.graphs)
}
