package sched

import (
	"metacap/engine/internal/kvcache"
)

// State of a sequence.
type State uint8

// States. A sequence starts Fresh; Done is final.
const (
	Fresh   State = iota // not yet added
	Waiting              // in the queue
	Blocked              // waits for its parent's prefix
	Running              // owns blocks, takes part in steps
	Held                 // a prefix that is computed and keeps its blocks
	Dropped              // a prefix whose blocks were taken back; runs again when needed
	Done
)

func (s State) String() string {
	return [...]string{"fresh", "waiting", "blocked", "running", "held", "dropped", "done"}[s]
}

// TileKey is a hash of the pixels of a tile.
type TileKey [32]byte

// Tile is one tile of a picture.
type Tile struct {
	Key    TileKey
	Pixels []byte // size*size*3 interleaved RGB
}

// Sequence is one token stream. The first group of fields is set by its creator
// and not changed by the scheduler, except that Commit appends to Tokens.
type Sequence struct {
	ID     uint64
	Tokens []int32        // prompt, then what was generated
	Prompt int            // tokens of the prompt
	Spans  []kvcache.Span // image ranges of the prompt
	Tiles  [][]Tile       // of each span, TileTokens tokens a tile
	// Limit is the largest len(Tokens).
	Limit    int
	Priority int
	// RowsFrom is the first position whose logits are wanted. Commit moves it.
	RowsFrom int
	// FullLogits asks for whole rows of logits on the host; otherwise only the argmax.
	FullLogits bool
	// LogProb asks for the log-probability of the argmax; with FullLogits it means nothing.
	LogProb bool
	// Hold keeps the blocks when the prompt is computed.
	Hold bool
	// Parent is a sequence with Hold whose first ForkTokens tokens, image content included, are also this one's.
	Parent     *Sequence
	ForkTokens int
	// Draft is a guess of the tokens after Tokens, verified in the next step.
	Draft []int32
	// Owner is the creator's record.
	Owner any

	state    State
	rank     int64
	turn     uint64 // decides between equal ranks: the ID, or that of who waits for it
	table    kvcache.Table
	computed int
	item     int         // index in the batch being planned, or noItem
	lead     *Sequence   // computes the same prompt at the moment; nil = none
	gate     *Sequence   // in whose blocked list this one is
	blocked  []*Sequence // sequences that wait for this prefix
	queue    int         // index in the waiting heap
	used     int64       // step of last use as a parent
	children int         // sequences with this parent that have not ended
	Counters Counters
}

const noItem = -1

// Counters count what a sequence cost.
type Counters struct {
	Steps        int // steps it took part in
	Cached       int // prompt tokens taken from the cache or a parent at first admission
	Prefilled    int // tokens computed as prefill, again after preemption included
	Decoded      int // tokens computed one at a time
	Drafted      int // drafted tokens computed
	Accepted     int // of these, accepted
	TilesEncoded int
	Preemptions  int
	admitted     bool
}

// State returns where the sequence is.
func (s *Sequence) State() State { return s.state }

// Computed is the number of tokens in the KV cache.
func (s *Sequence) Computed() int { return s.computed }

// Blocks is the number of blocks that the sequence refers to.
func (s *Sequence) Blocks() int { return s.table.Len() }

// missing is the number of tokens not yet computed.
func (s *Sequence) missing() int { return len(s.Tokens) - s.computed }

// queueHeap orders waiting sequences by rank, then by turn.
type queueHeap []*Sequence

func before(a, b *Sequence) bool {
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	if a.turn != b.turn {
		return a.turn < b.turn
	}
	return a.ID < b.ID
}

func (q queueHeap) Len() int           { return len(q) }
func (q queueHeap) Less(i, j int) bool { return before(q[i], q[j]) }
func (q queueHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].queue, q[j].queue = i, j
}

func (q *queueHeap) Push(x any) {
	s := x.(*Sequence)
	s.queue = len(*q)
	*q = append(*q, s)
}

func (q *queueHeap) Pop() any {
	old := *q
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return s
}
