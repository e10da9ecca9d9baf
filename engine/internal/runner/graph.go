package runner

import (
	"fmt"
	"math"
	"slices"

	"metacap/engine/internal/model"
	"metacap/engine/internal/sched"
	"metacap/kernels"
)

// A step in which every sequence computes one token repeats the same operations
// on arrays of the same addresses: such steps are recorded, padded to a few batch
// sizes, and replayed with one call. Padding changes nothing for the others: a
// padded sequence has length 0 and stores nothing, and rows do not depend on
// their neighbours. The encoding of tiles is recorded for each number of tiles.

// graphKey is the shape of a recorded step.
type graphKey struct {
	batch  int  // sequences, padded
	width  int  // of the block tables
	shared bool // attention is told what sequences share
}

// graphEntry is a shape that was seen; graph is nil until its second step.
type graphEntry struct{ graph kernels.Graph }

// encoder is the recorded encoding of a number of tiles.
type encoder struct {
	graph    kernels.Graph
	features kernels.Tensor // what it computes
}

// maxGraphs bounds the recordings; a server meets a few dozen shapes, each in two lanes,
// and a dozen numbers of tiles.
const maxGraphs = 128

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
	k := graphKey{batch: graphBatch(n), width: b.TableWidth}
	ok := r.capture != nil && n > 0 && b.Tokens() == n && len(b.LogitRows) == n && len(b.Features) == 0 && len(b.Encodes) == 0 &&
		k.batch <= min(r.cfg.MaxRows, r.cfg.StepTokens) && k.batch <= r.cfg.MaxSequences
	k.shared = ok && r.shares(b.Tables, b.TableWidth, b.Lens)
	return k, ok
}

// shares finds what sequences share, a (leader, keys) of each in r.shared as
// kernels.PagedAttentionArgs has it, and reports whether that is a third of all they
// read or more: with less, large batches are read faster one by one.
func (r *Runner) shares(tables []int32, width int, lens []int32) bool {
	r.shared = r.shared[:0]
	saved, total := 0, 0
	for i, n := range lens {
		leader, most := i, 0
		for j := range i {
			if r.shared[2*j] != int32(j) {
				continue // follows another
			}
			// The newest token of either is of this step.
			whole := (int(min(n, lens[j])) - 1) / kernels.BlockSize
			k := 0
			for k < whole && tables[i*width+k] == tables[j*width+k] {
				k++
			}
			if k > most {
				leader, most = j, k
			}
		}
		r.shared = append(r.shared, int32(leader), int32(most*kernels.BlockSize))
		saved += most * kernels.BlockSize
		total += int(n)
	}
	return total > 0 && 3*saved >= total
}

// runGraph executes a recordable step, and begins the next one before it waits for
// this one where that is likely to be of use.
func (r *Runner) runGraph(b *sched.Batch, k graphKey, sink Sink) error {
	l, err := r.decodeLane(b, k)
	if err == nil {
		if err = r.lookAhead(l, b); err == nil {
			err = r.emitGraph(l, b, sink)
		}
	}
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	return nil
}

// decodeLane is the lane in which the step runs: already, or from now on.
func (r *Runner) decodeLane(b *sched.Batch, k graphKey) (*lane, error) {
	if l := r.takeBegun(b); l != nil {
		return l, nil
	}
	l, err := r.nextLane()
	if err != nil {
		return nil, err
	}
	if err := r.copyBlocks(b); err != nil {
		return nil, err
	}
	if err := l.uploadPadded(r, b, k); err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	l.follow(b, k)
	return l, r.enqueue(l, b.FullRows < len(b.Items))
}

// enqueue enqueues a lane's step: by hand the first time, so that the backend has
// its working memory; then it is recorded, and replayed ever after.
func (r *Runner) enqueue(l *lane, ids bool) error {
	e := l.graphs[l.key]
	var err error
	switch {
	case e == nil:
		if err := r.roomForGraph(); err != nil {
			return err
		}
		l.graphs[l.key] = &graphEntry{}
		err = r.decode(l)
	case e.graph == nil:
		if e.graph, err = r.record(func() error { return r.decode(l) }); err == nil {
			err = e.graph.Launch()
		}
	default:
		err = e.graph.Launch()
	}
	if err != nil {
		return err
	}
	if ids {
		if err := r.async.DownloadAsync(l.chosen.Bytes()[:8*l.key.batch], r.space.Rows(l.key.batch).Chosen); err != nil {
			return err
		}
	}
	return l.done.Set()
}

// decode enqueues a padded step from ids to logits and argmax.
func (r *Runner) decode(l *lane) error {
	s, views := &l.step, r.space.Rows(l.key.batch)
	s.Views = r.space.Tokens(l.key.batch)
	s.MaxRows, s.MaxLen, s.Tap = 1, l.key.width*kernels.BlockSize, nil
	s.Settled = true // copies of blocks come before the upload
	if err := r.m.Decoder.Forward(s); err != nil {
		return err
	}
	if err := r.m.Decoder.Logits(s.Views, l.rows, views, nil); err != nil {
		return err
	}
	// A device that records steps has the log-probabilities for nothing.
	return r.b.ArgMax(kernels.ArgMaxArgs{IDs: views.ArgMax, LogProbs: views.LogProbs, Logits: views.Logits})
}

// features computes the features of the tiles in the workspace: by hand the first time
// for a number of tiles, which is recorded while the device works, and replayed ever
// after. With a tap always by hand.
func (r *Runner) features(tiles int, tap model.Tap) (kernels.Tensor, error) {
	if e := r.encoders[tiles]; e != nil && tap == nil {
		return e.features, e.graph.Launch()
	}
	encode := func() (kernels.Tensor, error) { return r.m.Vision.Encode(r.vspace, tiles, tap) }
	out, err := encode()
	if err != nil || r.capture == nil || tap != nil {
		return out, err
	}
	if err := r.roomForGraph(); err != nil {
		return out, err
	}
	g, err := r.record(func() error {
		_, err := encode()
		return err
	})
	if err == nil {
		r.encoders[tiles] = &encoder{graph: g, features: out}
	}
	return out, err
}

// record records the operations that fn enqueues.
func (r *Runner) record(fn func() error) (kernels.Graph, error) {
	if err := r.capture.BeginCapture(); err != nil {
		return nil, err
	}
	failed := fn()
	g, err := r.capture.EndCapture()
	if failed != nil {
		if err == nil {
			g.Free()
		}
		return nil, failed
	}
	return g, err
}

// roomForGraph forgets all recordings if there are as many as there may be.
func (r *Runner) roomForGraph() error {
	if len(r.lanes[0].graphs)+len(r.lanes[1].graphs)+len(r.encoders) < maxGraphs {
		return nil
	}
	if err := r.b.Sync(); err != nil {
		return err
	}
	r.dropGraphs()
	return nil
}

// emitGraph hands out the rows of a padded step.
func (r *Runner) emitGraph(l *lane, b *sched.Batch, sink Sink) error {
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
	if err := l.done.Wait(); err != nil {
		return err
	}
	host := l.chosen.Bytes()
	for i := b.FullRows; i < n; i++ {
		r.ids[i] = int32(le32(host[4*l.rowOf[i]:]))
		r.logProbs[i] = math.Float32frombits(le32(host[4*(l.key.batch+l.rowOf[i]):]))
	}
	// The next step may have begun with these ids; takeBegun compares.
	for i := range b.Items {
		l.tracks[l.rowOf[i]].id = r.ids[i]
	}
	return r.giveArgMax(b.FullRows, b.FullRows, n, b, sink)
}

func (r *Runner) dropGraphs() {
	for _, e := range r.encoders {
		e.graph.Free()
	}
	clear(r.encoders)
	for i := range r.lanes {
		for _, e := range r.lanes[i].graphs {
			if e.graph != nil {
				e.graph.Free()
			}
		}
		clear(r.lanes[i].graphs)
	}
}

// Looking ahead
//
// The device must not wait for the host between two decode steps. While a step runs,
// the next one is enqueued as it will most likely be: the same sequences, a token
// further, their ids taken on the device from the step's own argmax. If the batch that
// the engine then plans is that step, or a part of it because sequences have ended,
// its results are already under way. If it is not, they are ignored. That is harmless:
//
//   - A step writes keys and values only into the slots of its own tokens. When it is
//     enqueued these slots belong to their sequences alone and hold nothing that is
//     valid; whoever uses them later writes them first, later in the device's order.
//   - Rows do not depend on each other, so rows of sequences that ended are as good as
//     padding to the others.

// track is what a lane's step computes in one row.
type track struct {
	id        int32 // of the row's argmax, once it is known
	pos, slot int32 // slot -1: nothing
}

// length is how many keys the row's sequence has with this step's; 0 = nothing.
func (t *track) length() int32 {
	if t.slot < 0 {
		return 0
	}
	return t.pos + 1
}

// follow notes what the step of a batch computes.
func (l *lane) follow(b *sched.Batch, k graphKey) {
	l.key = k
	l.tracks, l.rowOf = l.tracks[:0], l.rowOf[:0]
	for i := range k.batch {
		t := track{slot: -1}
		if i < len(b.Items) {
			t.pos, t.slot = b.Positions[i], b.Slots[i]
			l.rowOf = append(l.rowOf, i)
		}
		l.tracks = append(l.tracks, t)
	}
}

// Begun reports whether a step was enqueued that no batch has taken yet. The engine
// should then plan with ScheduleEarly.
func (r *Runner) Begun() bool { return r.begun != nil }

// BegunSteps counts the steps enqueued early, and those of them that a batch took.
func (r *Runner) BegunSteps() (begun, taken int64) { return r.count.begun, r.count.taken }

// lookAhead enqueues the step that most likely follows l's, whose batch is b.
func (r *Runner) lookAhead(l *lane, b *sched.Batch) error {
	if !b.Ahead || b.FullRows > 0 {
		return nil
	}
	live := 0
	for _, slot := range b.Next {
		if slot >= 0 {
			live++
		}
	}
	if live == 0 || graphBatch(live) < l.key.batch {
		return nil
	}
	n, err := r.nextLane()
	if err != nil {
		return err
	}
	n.key, n.from = l.key, l
	n.tracks = n.tracks[:0]
	for range l.tracks {
		n.tracks = append(n.tracks, track{slot: -1})
	}
	for i, slot := range b.Next {
		if slot >= 0 {
			n.tracks[l.rowOf[i]] = track{pos: b.Positions[i] + 1, slot: slot}
		}
	}
	if err := n.uploadAhead(r, l, b); err != nil {
		return fmt.Errorf("upload ahead: %w", err)
	}
	if err := r.async.CopyAsync(n.step.IDs, r.space.Rows(n.key.batch).ArgMax); err != nil {
		return err
	}
	r.begun = n
	r.count.begun++
	return r.enqueue(n, true)
}

// takeBegun returns the lane whose step is the batch's; nil if there is none. Either
// way nothing is begun any more.
func (r *Runner) takeBegun(b *sched.Batch) *lane {
	l := r.begun
	r.begun = nil
	if l == nil || b.FullRows > 0 || len(b.Copies) > 0 || b.TableWidth > l.key.width {
		return nil
	}
	l.rowOf = l.rowOf[:0]
	j := 0
	for i := range b.Items {
		for n := 0; n < len(l.tracks) && l.tracks[j].slot != b.Slots[i]; n++ {
			j = (j + 1) % len(l.tracks)
		}
		t := &l.tracks[j]
		if t.slot != b.Slots[i] || t.pos != b.Positions[i] || l.from.tracks[j].id != b.IDs[i] || b.Lens[i] != t.pos+1 {
			return nil
		}
		blocks := (int(b.Lens[i]) + kernels.BlockSize - 1) / kernels.BlockSize
		if !slices.Equal(b.Tables[i*b.TableWidth:][:blocks], l.tables[j*l.key.width:][:blocks]) {
			return nil
		}
		l.rowOf = append(l.rowOf, j)
	}
	r.count.taken++
	return l
}
