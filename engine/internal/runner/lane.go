package runner

import (
	"fmt"

	"metacap/engine/internal/model"
	"metacap/engine/internal/sched"
	"metacap/kernels"
)

// lane is what a step needs for itself: its arrays, here and on the device, and its
// recordings. There are two, so that a step can be prepared while another runs.
type lane struct {
	arrays arrays
	step   model.Step
	rows   kernels.Tensor // row indices of the step, all
	places kernels.Tensor // arena rows of newly encoded features

	// Only where steps are recorded:
	graphs map[graphKey]*graphEntry
	chosen kernels.HostBuffer // argmax of each row, then its log-probability; valid when done is reached
	done   kernels.Mark       // behind the lane's last step
	key    graphKey           // of the step under way
	tracks []track            // what it computes, by row
	rowOf  []int              // row of each item of its batch
	from   *lane              // where the ids of a step begun early come from
	tables []int32            // of a step begun early
	lens   []int32            // of it
}

// open allocates the lane's arrays, page-locked where the backend has that.
func (l *lane) open(r *Runner, elements int) error {
	l.graphs = map[graphKey]*graphEntry{}
	if err := l.arrays.open(r.b, r.async, elements); err != nil {
		return err
	}
	if r.async == nil {
		return nil
	}
	var err error
	if l.chosen, err = r.async.AllocHost(8 * r.cfg.MaxRows); err != nil {
		return fmt.Errorf("ids: %w", err)
	}
	l.done, err = r.async.NewMark()
	return err
}

func (l *lane) close() {
	l.arrays.close()
	if l.chosen != nil {
		l.chosen.Free()
	}
	if l.done != nil {
		l.done.Free()
	}
}

// nextLane is the lane that was used longer ago, when the device has no more use for it.
func (r *Runner) nextLane() (*lane, error) {
	r.turn = 1 - r.turn
	l := &r.lanes[r.turn]
	if l.done == nil {
		return l, nil
	}
	return l, l.done.Wait()
}

// upload sends the arrays of any step.
func (l *lane) upload(r *Runner, b *sched.Batch) error {
	a, s := &l.arrays, &l.step
	a.reset()
	a.add(&s.IDs, b.IDs)
	a.add(&s.Positions, b.Positions)
	a.add(&s.Slots, b.Slots)
	a.add(&s.Starts, b.Starts)
	a.add(&s.Lens, b.Lens)
	a.add2(&s.Tables, b.Tables, b.TableWidth)
	s.Shared.Buf, s.Settled = nil, false // several tokens of a sequence, or nobody to gain by it
	a.add(&l.rows, b.LogitRows)
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
		a.end(&l.places)
	}
	return a.send(r.b, r.async)
}

// uploadPadded sends the arrays of a recordable step, padded to the shape k.
func (l *lane) uploadPadded(r *Runner, b *sched.Batch, k graphKey) error {
	a, s, pad := &l.arrays, &l.step, k.batch-len(b.Items)
	a.reset()
	a.addPadded(&s.IDs, b.IDs, pad, 0)
	a.addPadded(&s.Positions, b.Positions, pad, 0)
	a.addPadded(&s.Slots, b.Slots, pad, -1)
	l.addStarts(k.batch)
	a.addPadded(&s.Lens, b.Lens, pad, 0)
	a.begin()
	for _, x := range b.Tables {
		a.push(x)
	}
	for range pad * k.width {
		a.push(0)
	}
	a.end2(&s.Tables, k.width)
	a.addPadded(&l.rows, b.LogitRows, pad, 0)
	l.addShared(r, k)
	s.Index.Buf, s.Places.Buf = nil, nil
	return a.send(r.b, r.async)
}

// uploadAhead sends the arrays of the step after that of batch b in lane before, in
// the same places as uploadPadded. The ids are not known yet.
func (l *lane) uploadAhead(r *Runner, before *lane, b *sched.Batch) error {
	a, s, k := &l.arrays, &l.step, l.key
	l.tables = l.tables[:0]
	for range k.batch * k.width {
		l.tables = append(l.tables, 0)
	}
	for i, slot := range b.Next {
		if slot >= 0 {
			copy(l.tables[before.rowOf[i]*k.width:][:k.width], b.Tables[i*b.TableWidth:][:b.TableWidth])
		}
	}
	a.reset()
	a.addPadded(&s.IDs, nil, k.batch, 0)
	l.addTracks(&s.Positions, func(t *track) int32 { return t.pos })
	l.addTracks(&s.Slots, func(t *track) int32 { return t.slot })
	l.addStarts(k.batch)
	l.addTracks(&s.Lens, (*track).length)
	a.add2(&s.Tables, l.tables, k.width)
	a.begin()
	for i := range k.batch {
		a.push(int32(i))
	}
	a.end(&l.rows)
	if k.shared {
		l.lens = l.lens[:0]
		for i := range l.tracks {
			l.lens = append(l.lens, l.tracks[i].length())
		}
		r.shares(l.tables, k.width, l.lens)
	}
	l.addShared(r, k)
	s.Index.Buf, s.Places.Buf = nil, nil
	return a.send(r.b, r.async)
}

// addShared adds what the runner found that sequences share, if the step is told.
func (l *lane) addShared(r *Runner, k graphKey) {
	l.step.Shared.Buf = nil
	if !k.shared {
		return
	}
	l.arrays.begin()
	for _, x := range r.shared {
		l.arrays.push(x)
	}
	for i := len(r.shared) / 2; i < k.batch; i++ {
		l.arrays.push(int32(i))
		l.arrays.push(0)
	}
	l.arrays.end2(&l.step.Shared, 2)
}

func (l *lane) addStarts(batch int) {
	l.arrays.begin()
	for i := range batch + 1 {
		l.arrays.push(int32(i))
	}
	l.arrays.end(&l.step.Starts)
}

func (l *lane) addTracks(t *kernels.Tensor, value func(*track) int32) {
	l.arrays.begin()
	for i := range l.tracks {
		l.arrays.push(value(&l.tracks[i]))
	}
	l.arrays.end(t)
}
