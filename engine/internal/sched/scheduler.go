package sched

import (
	"container/heap"
	"fmt"
	"math"
	"slices"

	"metacap/engine/internal/kvcache"
)

// Config sizes a Scheduler. All counts are > 0 unless said.
type Config struct {
	StepTokens   int // token budget of a step; at least MaxSequences
	MaxSequences int // sequences that run together
	MaxRows      int // logits rows of a step; at least MaxSequences
	AgeSteps     int // steps of waiting that outweigh one level of priority
	TileTokens   int // tokens a tile; 0 without vision
	TileSlots    int // slots for encoded tiles; at least MaxTiles
	MaxTiles     int // tiles encoded in a step
	KeepTiles    bool
	Ahead        bool // steps may be planned for a runner that begins the next one early
}

// Scheduler plans steps. It is used by one goroutine.
type Scheduler struct {
	cfg     Config
	pool    *kvcache.Pool
	tiles   *tileCache
	waiting queueHeap
	running []*Sequence // ascending rank: first served, last preempted
	held    []*Sequence
	asleep  int // sequences in state Blocked
	step    int64
	batch   Batch
	planned bool
	settled bool  // everybody who could be admitted was, and nobody came or went since
	early   bool  // the step being planned is one that the runner has begun
	taken   int64 // preemptions
	// left in the step being planned
	tokens, rows, encodes int
}

// New returns a scheduler over the blocks of pool.
func New(cfg Config, pool *kvcache.Pool) *Scheduler {
	s := &Scheduler{cfg: cfg, pool: pool}
	if cfg.TileTokens > 0 {
		s.tiles = newTileCache(cfg.TileSlots, cfg.KeepTiles)
	}
	return s
}

// Pool is the block pool.
func (s *Scheduler) Pool() *kvcache.Pool { return s.pool }

// TileStats returns the counters of the encoder cache.
func (s *Scheduler) TileStats() TileStats {
	if s.tiles == nil {
		return TileStats{}
	}
	st := s.tiles.stats
	st.Slots, st.Full = len(s.tiles.slots), len(s.tiles.index)
	return st
}

// Waiting is the number of sequences that wait, for room or for a parent.
func (s *Scheduler) Waiting() int { return len(s.waiting) + s.asleep }

// Running is the number of running sequences.
func (s *Scheduler) Running() int { return len(s.running) }

// Preemptions is how often a running sequence's blocks were taken back.
func (s *Scheduler) Preemptions() int64 { return s.taken }

// Add puts a new sequence into the queue.
func (s *Scheduler) Add(q *Sequence) {
	if q.state != Fresh {
		panic(fmt.Sprintf("sched: add: sequence %d is %v", q.ID, q.state))
	}
	q.rank = s.step - int64(q.Priority)*int64(s.cfg.AgeSteps)
	q.turn = q.ID
	q.item = noItem
	q.table.Reserve(s.pool.BlocksFor(q.Limit))
	if q.Parent == nil {
		q.lead = s.leader(q)
	} else {
		q.Parent.children++
	}
	s.enqueue(q)
}

// leadBlocks is how many blocks two prompts must share for one to wait for the other.
const leadBlocks = 2

// leader finds a sequence whose prompt is not yet computed and starts as q's
// does: q then waits and takes that part from the cache, instead of computing it
// beside it.
func (s *Scheduler) leader(q *Sequence) *Sequence {
	if !s.pool.KeepsPrefixes() {
		return nil
	}
	least := max(leadBlocks*s.pool.BlockSize(), len(q.Tokens)/2)
	for _, list := range [][]*Sequence{s.running, s.waiting} {
		for _, r := range list {
			if r.computed < r.Prompt && shares(q, r, least) {
				return r
			}
		}
	}
	return nil
}

// shares reports whether the first tokens of two sequences, least of them, are
// the same, pictures included. Pictures are compared first: their placeholders
// are all alike, and a queue of different ones must not be read token by token.
func shares(a, b *Sequence, least int) bool {
	n := min(len(a.Tokens), len(b.Tokens))
	for i := range max(len(a.Spans), len(b.Spans)) {
		if i >= len(a.Spans) || i >= len(b.Spans) || a.Spans[i] != b.Spans[i] {
			for _, q := range []*Sequence{a, b} {
				if i < len(q.Spans) {
					n = min(n, q.Spans[i].Start)
				}
			}
			break
		}
	}
	return n >= least && slices.Equal(a.Tokens[:least], b.Tokens[:least])
}

// enqueue makes q wait for room; or first for its parent, if that is not held,
// or for the one that computes its prompt.
func (s *Scheduler) enqueue(q *Sequence) {
	s.settled = false
	if l := q.lead; l != nil && l.state == Done && l.computed < l.Prompt {
		q.lead = s.leader(q) // it ended before it was of use: one of its followers takes over
	}
	if l := q.lead; l != nil && l.computed < l.Prompt {
		s.block(q, l)
		return
	}
	q.lead = nil
	if q.Parent != nil && q.Parent.state == Done {
		s.orphan(q)
	}
	p := q.Parent
	if p == nil || p.state == Held {
		q.state = Waiting
		heap.Push(&s.waiting, q)
		return
	}
	if p.state == Dropped {
		// It is computed again for q and stands where q stands, not where it stood
		// itself: else prefixes that do not fit together would take each other's
		// place before anybody has used them.
		p.rank, p.turn = q.rank, q.turn
		s.enqueue(p)
	}
	s.block(q, p)
}

// block makes q wait for p, which is served no later than q would be.
func (s *Scheduler) block(q, p *Sequence) {
	q.state, q.gate = Blocked, p
	s.asleep++
	p.blocked = append(p.blocked, q)
	s.raise(p, q)
}

// raise makes p, and what p waits for itself, be served no later than q would be,
// which waits for it.
func (s *Scheduler) raise(p, q *Sequence) {
	for p != nil && (q.rank < p.rank || q.rank == p.rank && q.turn < p.turn) {
		p.rank, p.turn = q.rank, q.turn
		switch p.state {
		case Waiting:
			heap.Fix(&s.waiting, p.queue)
		case Running:
			s.running = slices.DeleteFunc(s.running, func(r *Sequence) bool { return r == p })
			s.insert(p)
		}
		p = p.gate
	}
}

// insert puts q into the running list by its rank.
func (s *Scheduler) insert(q *Sequence) {
	i, _ := slices.BinarySearchFunc(s.running, q, func(a, b *Sequence) int {
		if before(a, b) {
			return -1
		}
		return 1
	})
	s.running = slices.Insert(s.running, i, q)
}

// wake lets those that wait for p try again.
func (s *Scheduler) wake(p *Sequence) {
	list := p.blocked
	p.blocked = nil
	for _, q := range list {
		s.asleep--
		q.gate = nil
		s.enqueue(q)
	}
}

// Remove ends a sequence in any state and gives its blocks back.
func (s *Scheduler) Remove(q *Sequence) {
	switch q.state {
	case Waiting:
		heap.Remove(&s.waiting, q.queue)
	case Blocked:
		q.gate.blocked = slices.DeleteFunc(q.gate.blocked, func(r *Sequence) bool { return r == q })
		q.gate = nil
		s.asleep--
	case Running:
		s.running = slices.DeleteFunc(s.running, func(r *Sequence) bool { return r == q })
	case Held:
		s.held = slices.DeleteFunc(s.held, func(r *Sequence) bool { return r == q })
	}
	q.table.Release(s.pool)
	q.state = Done
	s.orphan(q)
	s.settled = false
	s.wake(q)
}

// orphan ends q's tie to its parent.
func (s *Scheduler) orphan(q *Sequence) {
	if p := q.Parent; p != nil {
		p.children--
		p.used = s.step
		q.Parent = nil
	}
}

// Schedule plans a step. The batch is valid until the next call; it is
// Empty when nothing can run. Commit or Remove every item's sequence, then call Finish.
func (s *Scheduler) Schedule() *Batch {
	s.begin()
	s.plan(true)
	s.plan(false)
	s.admit()
	s.settled = true
	return s.finish()
}

// ScheduleEarly plans the step that the runner has begun already: the decoding
// sequences that are left, a token each. Drafts and newcomers wait for the next one.
func (s *Scheduler) ScheduleEarly() *Batch {
	s.begin()
	s.early = true
	s.plan(true)
	s.early = false
	return s.finish()
}

func (s *Scheduler) begin() {
	if s.planned {
		panic("sched: schedule: the last step is not finished")
	}
	s.step++
	s.batch.reset()
	s.tokens, s.rows = s.cfg.StepTokens, s.cfg.MaxRows
	s.encodes = s.cfg.MaxTiles
	if s.tiles != nil {
		s.tiles.begin()
	}
}

func (s *Scheduler) finish() *Batch {
	b := &s.batch
	s.group()
	b.build(s.pool, s.cfg.TileTokens, s.tiles)
	b.Ahead = s.cfg.Ahead && s.settled && b.PrefillTokens+b.DraftTokens == 0 && len(b.Items) == len(s.running)
	s.planned = !b.Empty()
	return b
}

// Finish ends a step whose copies and tokens the device has received.
func (s *Scheduler) Finish() {
	for i := range s.batch.Items {
		s.batch.Items[i].Seq.item = noItem
	}
	s.pool.Settle()
	s.planned = false
}

// group puts decoding sequences with a common first block side by side: attention
// may then read the blocks they share once.
func (s *Scheduler) group() {
	items := s.batch.Items
	slices.SortStableFunc(items, func(a, b Item) int {
		if x, y := groupOf(&a), groupOf(&b); x != y {
			return x - y
		}
		return 0
	})
	for i := range items {
		items[i].Seq.item = i
	}
}

// groupOf orders items: decodes by their first block, then everything else.
func groupOf(it *Item) int {
	if it.Tokens-it.Draft > 1 {
		return math.MaxInt
	}
	return int(it.Seq.table.Blocks()[0])
}

// plan takes running sequences into the step: those that lack one token, or the others.
func (s *Scheduler) plan(decode bool) {
	for i := 0; i < len(s.running); i++ {
		q := s.running[i]
		if q.item != noItem || (q.missing() == 1) != decode || s.tokens == 0 {
			continue
		}
		s.take(q)
	}
}

// take plans as many tokens of a running sequence as fit. It reports whether any did.
func (s *Scheduler) take(q *Sequence) bool {
	n := min(q.missing(), s.tokens)
	draft := 0
	if q.missing() == 1 && !s.early {
		spare := min(s.tokens, s.rows) - len(s.running) // leave one of each to everybody
		draft = max(0, min(len(q.Draft), spare, q.Limit-len(q.Tokens)))
	}
	n = s.rowLimit(q, n)
	encodes := len(s.batch.Encodes)
	n = s.tileLimit(q, n)
	if n <= 0 {
		return false
	}
	from := q.computed
	if draft > 0 && q.table.Need(s.pool, from, from+n+draft) > s.pool.Available() {
		draft = 0 // a guess preempts nobody
	}
	for {
		copies, ok := q.table.Grow(s.pool, from, from+n+draft, s.batch.Copies)
		s.batch.Copies = copies
		if ok {
			break
		}
		if !s.makeRoom(q) {
			return false
		}
	}
	n += draft
	s.reserve(q, from+n)
	rows := max(0, from+n-max(q.RowsFrom, from))
	q.item = len(s.batch.Items)
	s.batch.Items = append(s.batch.Items, Item{Seq: q, Tokens: n, Draft: draft, Rows: rows, Encoded: len(s.batch.Encodes) > encodes})
	s.tokens -= n
	s.rows -= rows
	return true
}

// reserve gives a decoding sequence the block of its token at position end, if one is left over.
func (s *Scheduler) reserve(q *Sequence, end int) {
	if !s.cfg.Ahead || end < q.Prompt || end+1 >= q.Limit || q.table.Len() >= s.pool.BlocksFor(end+1) || s.pool.Available() <= len(s.running) {
		return
	}
	// The block is a new one: there is nothing to copy.
	s.batch.Copies, _ = q.table.Grow(s.pool, end, end+1, s.batch.Copies)
}

// rowLimit shortens a chunk so that its logits rows fit the step.
func (s *Scheduler) rowLimit(q *Sequence, n int) int {
	free := max(q.RowsFrom-q.computed, 0) // tokens without a row
	return min(n, free+s.rows)
}

// tileLimit shortens a chunk to what can be encoded, and books the tiles it needs.
func (s *Scheduler) tileLimit(q *Sequence, n int) int {
	end := q.computed + n
	for i := range q.Spans {
		sp := &q.Spans[i]
		if sp.End <= q.computed {
			continue
		}
		if sp.Start >= end {
			break
		}
		tt := s.cfg.TileTokens
		first := max(q.computed-sp.Start, 0) / tt
		last := (min(end, sp.End) - sp.Start - 1) / tt
		for t := first; t <= last; t++ {
			tile := &q.Tiles[i][t]
			if _, ok := s.tiles.find(tile.Key); ok {
				continue
			}
			stop := max(sp.Start+t*tt, q.computed) - q.computed
			if s.encodes == 0 {
				return stop
			}
			slot, ok := s.tiles.take(tile.Key)
			if !ok {
				return stop
			}
			s.encodes--
			q.Counters.TilesEncoded++
			s.batch.Encodes = append(s.batch.Encodes, Encode{Pixels: tile.Pixels, Slot: slot})
		}
	}
	return n
}

// makeRoom takes blocks from others for q: from a held prefix that is idle, from the
// running sequence of the worst rank, or from any held prefix when q is that one and runs alone.
// It reports whether it is worth trying again; if not, q was preempted.
func (s *Scheduler) makeRoom(q *Sequence) bool {
	if s.dropIdle() {
		return true
	}
	last := s.running[len(s.running)-1]
	if last != q {
		s.preempt(last)
		return true
	}
	if len(s.running) == 1 && s.dropHeld(q.Parent) {
		return true
	}
	s.preempt(q)
	return false
}

// preempt takes a running sequence's blocks back and makes it wait again.
func (s *Scheduler) preempt(q *Sequence) {
	if q.item != noItem {
		s.unplan(q)
	}
	s.running = slices.DeleteFunc(s.running, func(r *Sequence) bool { return r == q })
	q.table.Release(s.pool)
	q.computed = 0
	q.Draft = q.Draft[:0]
	q.Counters.Preemptions++
	s.taken++
	s.enqueue(q)
}

// unplan takes a sequence out of the step being planned.
func (s *Scheduler) unplan(q *Sequence) {
	b := &s.batch
	it := b.Items[q.item]
	s.tokens += it.Tokens
	s.rows += it.Rows
	b.Items = slices.Delete(b.Items, q.item, q.item+1)
	for i := q.item; i < len(b.Items); i++ {
		b.Items[i].Seq.item = i
	}
	b.Copies = slices.DeleteFunc(b.Copies, func(c kvcache.Copy) bool {
		return slices.Contains(q.table.Blocks(), kvcache.BlockID(c[1]))
	})
	q.item = noItem
}

// dropHeld takes back the blocks of the held prefix that was least recently used, keep excepted if there is another.
func (s *Scheduler) dropHeld(keep *Sequence) bool {
	var old *Sequence
	for _, h := range s.held {
		if old == nil || old == keep || h != keep && h.used < old.used {
			old = h
		}
	}
	if old != nil {
		s.drop(old)
	}
	return old != nil
}

// dropIdle takes back the blocks of the held prefix that has no continuation and
// was used least recently, AgeSteps ago or longer: a session that nobody asks
// anything must not keep others from running. What is young may just be about to be asked.
func (s *Scheduler) dropIdle() bool {
	var old *Sequence
	for _, h := range s.held {
		if h.children == 0 && s.step-h.used >= int64(s.cfg.AgeSteps) && (old == nil || h.used < old.used) {
			old = h
		}
	}
	if old != nil {
		s.drop(old)
	}
	return old != nil
}

// drop takes a held prefix's blocks back; a continuation computes it again.
func (s *Scheduler) drop(old *Sequence) {
	s.held = slices.DeleteFunc(s.held, func(r *Sequence) bool { return r == old })
	old.table.Release(s.pool)
	old.computed = 0
	old.state = Dropped
}

// admit moves waiting sequences into the step while there is room.
func (s *Scheduler) admit() {
	promised := -1
	for len(s.waiting) > 0 && s.tokens > 0 && len(s.running) < s.cfg.MaxSequences {
		q := s.waiting[0]
		if q.Parent != nil && q.Parent.state != Held {
			heap.Pop(&s.waiting)
			s.enqueue(q) // its prefix was dropped meanwhile
			continue
		}
		if promised < 0 {
			promised = s.promised()
		}
		if !s.fits(q, promised) {
			if s.dropIdle() {
				promised = -1
				continue
			}
			if len(s.running) > 0 {
				return
			}
			if s.dropHeld(q.Parent) {
				if q.Parent != nil && q.Parent.state != Held {
					s.orphan(q) // even its own prefix had to go: it runs by itself
				}
				continue
			}
		}
		heap.Pop(&s.waiting)
		s.start(q)
		if !s.take(q) {
			return
		}
		promised = -1
	}
}

// promised is the number of blocks that running prefills will still take, and
// one for each running sequence to grow into.
func (s *Scheduler) promised() int {
	n := len(s.running)
	for _, r := range s.running {
		n += max(s.pool.BlocksFor(len(r.Tokens))-r.table.Len(), 0)
	}
	return n
}

// fits reports whether the pool can hold q's tokens beside what it promised to
// running sequences. Blocks that q would share with sequences in use cost nothing.
func (s *Scheduler) fits(q *Sequence, promised int) bool {
	need := s.pool.BlocksFor(len(q.Tokens)) + promised - s.pool.Available()
	if need <= 0 {
		return true
	}
	if q.Parent != nil {
		return need <= s.forkTokens(q)/s.pool.BlockSize()
	}
	return need <= s.pool.InUse(q.Tokens, q.Spans)
}

func (s *Scheduler) forkTokens(q *Sequence) int {
	return max(min(q.ForkTokens, q.RowsFrom, len(q.Tokens)-1, q.Parent.computed), 0)
}

// start gives a sequence its cached or forked prefix and makes it run.
func (s *Scheduler) start(q *Sequence) {
	limit := min(q.RowsFrom, len(q.Tokens)-1)
	if q.Parent != nil {
		q.Parent.used = s.step
		q.computed = s.forkTokens(q)
		q.table.Fork(s.pool, &q.Parent.table, q.computed)
	} else {
		q.computed = q.table.Match(s.pool, q.Tokens, q.Spans, limit)
	}
	if !q.Counters.admitted {
		q.Counters.admitted = true
		q.Counters.Cached = min(q.computed, q.Prompt)
	}
	q.state = Running
	s.insert(q)
}

// Commit records what a step did for item i: its tokens are computed, and next
// are the tokens chosen after them: none while the prompt is not complete (or
// for a sequence that only scores), else the accepted drafts and one more, or
// fewer if the answer ends among them. It returns how many drafts came true.
func (s *Scheduler) Commit(i int, next []int32) (accepted int) {
	it := &s.batch.Items[i]
	q := it.Seq
	if q.state != Running {
		return 0 // ended while the step ran
	}
	q.Counters.Steps++
	for accepted < min(it.Draft, len(next)) && next[accepted] == q.Draft[accepted] {
		accepted++
	}
	real := it.Tokens - it.Draft
	if real == 1 && q.computed >= q.Prompt {
		q.Counters.Decoded++
	} else {
		q.Counters.Prefilled += real
	}
	q.Counters.Drafted += it.Draft
	q.Counters.Accepted += accepted
	q.computed += real + max(min(accepted, len(next)-1), 0) // the last token is computed by the next step
	q.Tokens = append(q.Tokens, next...)
	q.Draft = q.Draft[:0]
	if len(next) > 0 {
		q.RowsFrom = len(q.Tokens) - 1
	} else {
		q.RowsFrom = max(q.RowsFrom, q.computed)
	}
	q.table.Publish(s.pool, q.Tokens, q.Spans, q.computed)
	if len(q.blocked) > 0 && q.computed >= q.Prompt && !q.Hold {
		s.wake(q)
	}
	if q.Hold && q.missing() == 0 {
		s.running = slices.DeleteFunc(s.running, func(r *Sequence) bool { return r == q })
		q.state, q.used = Held, s.step
		s.held = append(s.held, q)
		s.wake(q)
	}
	return accepted
}

// Check verifies the scheduler's and the pool's invariants. It is slow.
func (s *Scheduler) Check() error {
	var tables []*kvcache.Table
	for i, q := range s.running {
		if q.state != Running {
			return fmt.Errorf("sched: check: sequence %d in the running list is %v", q.ID, q.state)
		}
		if i > 0 && !before(s.running[i-1], q) {
			return fmt.Errorf("sched: check: running list is not in rank order at sequence %d", q.ID)
		}
		tables = append(tables, &q.table)
	}
	children := map[*Sequence]int{}
	for _, q := range slices.Concat(s.running, s.waiting) {
		children[q.Parent]++
	}
	for _, q := range s.held {
		if q.children < children[q] {
			return fmt.Errorf("sched: check: held sequence %d counts %d continuations, %d run or wait", q.ID, q.children, children[q])
		}
		if q.state != Held || q.missing() != 0 {
			return fmt.Errorf("sched: check: held sequence %d is %v and lacks %d tokens", q.ID, q.state, q.missing())
		}
		tables = append(tables, &q.table)
	}
	for i, q := range s.waiting {
		if q.state != Waiting || q.queue != i || q.table.Len() != 0 || q.computed != 0 {
			return fmt.Errorf("sched: check: waiting sequence %d is %v at %d of %d with %d blocks", q.ID, q.state, q.queue, i, q.table.Len())
		}
	}
	for _, q := range slices.Concat(s.running, s.held) {
		if n := s.pool.BlocksFor(q.computed); q.table.Len() < n {
			return fmt.Errorf("sched: check: sequence %d has %d blocks for %d computed tokens", q.ID, q.table.Len(), q.computed)
		}
	}
	if s.tiles != nil {
		if err := s.tiles.check(); err != nil {
			return err
		}
	}
	return s.pool.Check(tables...)
}
