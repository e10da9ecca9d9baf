package fake

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	run "metacap/engine/internal/runner"
	"metacap/engine/internal/sample"
	"metacap/engine/internal/sched"
)

// cell is what the simulated KV cache keeps of a token: the hash of everything
// up to it, and the token itself.
type cell struct {
	state uint64
	token int32
}

// runner simulates a decoder on the arrays of a batch alone, as a device would:
// a token's state is the hash of its id, or of its picture's feature, and of the
// state found in the slot of the position before it. A wrong block table, slot,
// copy or feature therefore changes everything after it.
type runner struct {
	opt        Options
	tileTokens int
	kv         []cell
	arena      []uint64
	feature    []uint64 // of each token of the step; 0 = none
	logits     []float32
	ids        []int32
	logProbs   []float32
	steps      int
	begun      bool
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *runner) Vocabulary() int    { return vocabulary }
func (r *runner) Timing() run.Timing { return run.Timing{} }

// Begun pretends that a step was begun whenever the batch allowed it.
func (r *runner) Begun() bool { return r.begun }

// BegunSteps is nothing: there are no such steps.
func (r *runner) BegunSteps() (begun, taken int64) { return 0, 0 }

// Run executes a step.
func (r *runner) Run(b *sched.Batch, sink run.Sink) error {
	r.steps++
	r.begun = b.Ahead
	if r.opt.StepTime > 0 {
		time.Sleep(r.opt.StepTime)
	}
	if r.steps == r.opt.FailStep {
		return ErrStep
	}
	for _, c := range b.Copies {
		copy(r.kv[c[1]*BlockTokens:(c[1]+1)*BlockTokens], r.kv[c[0]*BlockTokens:(c[0]+1)*BlockTokens])
	}
	for _, e := range b.Encodes {
		h := binary.LittleEndian.Uint64(e.Pixels)
		for i := range r.tileTokens {
			r.arena[e.Slot*r.tileTokens+i] = mix(h + uint64(i)*0x9e3779b97f4a7c15)
		}
	}
	if err := r.forward(b); err != nil {
		return err
	}
	return r.emit(b, sink)
}

func (r *runner) forward(b *sched.Batch) error {
	r.feature = append(r.feature[:0], make([]uint64, b.Tokens())...)
	for i, place := range b.Places {
		r.feature[place] = r.arena[b.Features[i]]
	}
	for i := range b.Items {
		lo, hi := b.Starts[i], b.Starts[i+1]
		for t := lo; t < hi; t++ {
			pos := b.Positions[t]
			if want := b.Lens[i] - (hi - t); pos != want {
				return fmt.Errorf("fake: token %d has position %d, its length says %d", t, pos, want)
			}
			if b.IDs[t] == imageToken != (r.feature[t] != 0) {
				return fmt.Errorf("fake: token %d is %d, feature %x", t, b.IDs[t], r.feature[t])
			}
			h := mix(uint64(b.IDs[t])+1) ^ r.feature[t]
			if pos > 0 {
				h ^= r.at(b, i, pos-1).state * 3
			}
			if slot := r.slot(b, i, pos); slot != b.Slots[t] {
				return fmt.Errorf("fake: token %d is stored in slot %d, its table says %d", t, b.Slots[t], slot)
			}
			r.kv[b.Slots[t]] = cell{mix(h + uint64(pos)), b.IDs[t]}
		}
	}
	return nil
}

func (r *runner) slot(b *sched.Batch, item int, pos int32) int32 {
	return b.Tables[item*b.TableWidth+int(pos/BlockTokens)]*BlockTokens + pos%BlockTokens
}

func (r *runner) at(b *sched.Batch, item int, pos int32) cell { return r.kv[r.slot(b, item, pos)] }

// emit computes the logits of the step, whole rows first.
func (r *runner) emit(b *sched.Batch, sink run.Sink) error {
	if len(b.LogitRows) == 0 {
		return nil
	}
	r.logits = append(r.logits[:0], make([]float32, len(b.LogitRows)*vocabulary)...)
	r.ids, r.logProbs = r.ids[:0], nil
	for i := range b.Items {
		it := &b.Items[i]
		for j := range it.Rows {
			row := r.logits[(it.Row+j)*vocabulary:][:vocabulary]
			pos := b.Positions[b.LogitRows[it.Row+j]]
			r.row(b, i, pos, row)
		}
	}
	if n := b.FullRows; n > 0 {
		if err := sink.Logits(0, n, r.logits[:n*vocabulary]); err != nil {
			return err
		}
	}
	for i := b.FullRows; i < len(b.LogitRows); i++ {
		row, best := r.logits[i*vocabulary:][:vocabulary], 0
		for id, l := range row {
			if l > row[best] {
				best = id
			}
		}
		r.ids = append(r.ids, int32(best))
		if b.LogProbs {
			r.logProbs = append(r.logProbs, float32(sample.NewLogProbs(row).Of(int32(best))))
		}
	}
	if len(r.ids) == 0 {
		return nil
	}
	return sink.ArgMax(b.FullRows, r.ids, r.logProbs)
}

// row fills the logits after position pos of an item.
func (r *runner) row(b *sched.Batch, item int, pos int32, row []float32) {
	h, copied := uint64(0), int32(-1)
	here := r.at(b, item, pos).token
	for p := range pos + 1 { // read the whole context, as attention does
		c := r.at(b, item, p)
		h = mix(h ^ c.state)
		if c.token == here && p < pos {
			copied = r.at(b, item, p+1).token
		}
	}
	rng := rand.New(rand.NewPCG(h, 1))
	for id := range end {
		row[id] = float32(rng.IntN(64)) / 16 // multiples of 1/16: ties occur
	}
	for id := end; id < vocabulary; id++ {
		row[id] = -20
	}
	if r.opt.Answer != nil {
		row[r.scripted(b.Items[item].Seq, int(pos))] = 16
		return
	}
	switch k := rng.IntN(64); {
	case k == 0:
		row[end] = 8
	case k < 40 && copied >= 0 && copied < end:
		row[copied] = 8 // text repeats itself, as real text does
	}
}

// scripted is the next id of the scripted answer after position pos.
func (r *runner) scripted(q *sched.Sequence, pos int) int32 {
	p := Prompt{Text: words(q.Tokens[:q.Prompt])}
	start := q.Prompt
	if i := lastAssistant(q.Tokens[:q.Prompt]); i >= 0 { // scored text is part of the prompt
		start = i + 1
		p.Text = words(q.Tokens[:start])
	}
	for _, tiles := range q.Tiles {
		p.Images = append(p.Images, string(tiles[0].Pixels[tileBytes:]))
	}
	answer := r.opt.Answer(p)
	if k := pos + 1 - start; k >= 0 && k < len(answer) {
		return int32(answer[k])
	}
	return end
}

func lastAssistant(ids []int32) int {
	for i := len(ids) - 1; i >= 0; i-- {
		if ids[i] == assistant {
			return i
		}
	}
	return -1
}
