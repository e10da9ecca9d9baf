package sched_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/engine/internal/kvcache"
	"metacap/engine/internal/sched"
)

const blockSize = 4

// world drives a scheduler in simulated time: a step is a tick, every generated
// token is a hash, and a sequence ends at its limit.
type world struct {
	s      *sched.Scheduler
	live   map[uint64]*sched.Sequence
	begun  map[uint64]int // step of arrival
	first  map[uint64]int // step of the first scheduled token
	step   int
	nextID uint64
}

func newWorld(blocks int, c sched.Config) *world {
	pool := kvcache.NewPool(kvcache.Config{Blocks: blocks, BlockSize: blockSize})
	return &world{s: sched.New(c, pool), live: map[uint64]*sched.Sequence{}, begun: map[uint64]int{}, first: map[uint64]int{}}
}

func config(sequences, tokens int) sched.Config {
	return sched.Config{StepTokens: tokens, MaxSequences: sequences, MaxRows: tokens, AgeSteps: 50}
}

// add submits a prompt of n tokens that generates up to limit.
func (w *world) add(q *sched.Sequence) *sched.Sequence {
	w.nextID++
	q.ID = w.nextID
	q.Prompt = len(q.Tokens)
	if q.RowsFrom == 0 {
		q.RowsFrom = len(q.Tokens) - 1
	}
	w.live[q.ID], w.begun[q.ID] = q, w.step
	w.s.Add(q)
	return q
}

func prompt(seed, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(seed*1000 + i)
	}
	return ids
}

// tick runs a step and fails t if the scheduler stands still or breaks an invariant.
func (w *world) tick(t require.TestingT) {
	w.step++
	b := w.s.Schedule()
	if b.Empty() {
		require.Zero(t, w.s.Running()+w.s.Waiting(), "step %d: nothing scheduled", w.step)
		return
	}
	for i := range b.Items {
		it := &b.Items[i]
		q := it.Seq
		if _, ok := w.first[q.ID]; !ok {
			w.first[q.ID] = w.step
		}
		var next []int32
		if it.Rows > 0 && !q.Hold {
			next = []int32{int32(len(q.Tokens)) * 7}
		}
		w.s.Commit(i, next)
		if len(q.Tokens) >= q.Limit && !q.Hold {
			w.s.Remove(q)
			delete(w.live, q.ID)
		}
	}
	w.s.Finish()
	require.NoError(t, w.s.Check(), "step %d", w.step)
}

func (w *world) drain(t require.TestingT, limit int) {
	for w.s.Running()+w.s.Waiting() > 0 {
		limit--
		require.Positive(t, limit, "%d sequences never end", len(w.live))
		w.tick(t)
	}
}

// TestScenarios submits, cancels and forks at random and checks every invariant
// after every step; everything must end, and give all blocks back.
func TestScenarios(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		context := 40
		blocks := context/blockSize + rapid.IntRange(1, 20).Draw(t, "blocks")
		sequences := rapid.IntRange(1, 6).Draw(t, "sequences")
		w := newWorld(blocks, config(sequences, sequences+rapid.IntRange(0, 20).Draw(t, "tokens")))
		var held []*sched.Sequence
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				n := rapid.IntRange(1, context-2).Draw(t, "prompt")
				w.add(&sched.Sequence{
					Tokens: prompt(rapid.IntRange(0, 3).Draw(t, "text"), n), Limit: rapid.IntRange(n+1, context).Draw(t, "limit"),
					Priority: rapid.IntRange(-1, 2).Draw(t, "priority"),
				})
			},
			"hold": func(t *rapid.T) {
				n := rapid.IntRange(1, context/2).Draw(t, "prefix")
				ids := prompt(rapid.IntRange(0, 3).Draw(t, "text"), n)
				held = append(held, w.add(&sched.Sequence{Tokens: ids, Limit: n, RowsFrom: n, Hold: true}))
			},
			"fork": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				p := held[rapid.IntRange(0, len(held)-1).Draw(t, "parent")]
				ids := append(append([]int32{}, p.Tokens...), prompt(9, rapid.IntRange(1, 10).Draw(t, "instruction"))...)
				w.add(&sched.Sequence{Tokens: ids, Limit: min(context, len(ids)+6), Parent: p, ForkTokens: len(p.Tokens), Priority: 1})
			},
			"release": func(t *rapid.T) {
				if len(held) > 0 {
					w.s.Remove(held[0])
					delete(w.live, held[0].ID)
					held = held[1:]
				}
			},
			"cancel": func(t *rapid.T) {
				for id, q := range w.live {
					if !q.Hold {
						w.s.Remove(q)
						delete(w.live, id)
						return
					}
				}
			},
			"step": func(t *rapid.T) { w.tick(t) },
			"":     func(t *rapid.T) { require.NoError(t, w.s.Check()) },
		})
		for _, h := range held {
			w.s.Remove(h)
		}
		w.drain(t, 10000)
		require.Zero(t, w.s.Pool().Stats().Used)
	})
}

// TestFairness lets a stream of urgent sequences arrive for ever: an unimportant
// one must still get its turn, within the aging of the priorities between them.
func TestFairness(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(40, config(2, 12))
		low := w.add(&sched.Sequence{Tokens: prompt(1, 30), Limit: 35, Priority: -2})
		for w.first[low.ID] == 0 {
			if w.s.Waiting() < 20 {
				n := 1 + rng.IntN(20)
				w.add(&sched.Sequence{Tokens: prompt(2+rng.IntN(5), n), Limit: n + 1 + rng.IntN(10), Priority: rng.IntN(3)})
			}
			w.tick(t)
			require.Less(t, w.step, 50*4+500, "seed %d: starved", seed)
		}
		w.drain(t, 10000)
	}
}

// TestOrder checks that a higher priority is admitted first and the lowest is preempted.
func TestOrder(t *testing.T) {
	w := newWorld(64, config(1, 16))
	var ids []uint64
	for i, p := range []int{0, 2, 1, 2} {
		q := w.add(&sched.Sequence{Tokens: prompt(i, 8), Limit: 10, Priority: p})
		ids = append(ids, q.ID)
	}
	w.drain(t, 100)
	for _, pair := range [][2]int{{1, 3}, {3, 2}, {2, 0}} {
		require.Less(t, w.first[ids[pair[0]]], w.first[ids[pair[1]]], "%v", pair)
	}
}

func TestPreemption(t *testing.T) {
	w := newWorld(12, config(4, 48)) // 48 tokens for three sequences that grow to 24
	var qs []*sched.Sequence
	for i := range 3 {
		qs = append(qs, w.add(&sched.Sequence{Tokens: prompt(i, 8), Limit: 24}))
	}
	w.drain(t, 500)
	require.Zero(t, qs[0].Counters.Preemptions, "the first is never preempted")
	require.Positive(t, qs[1].Counters.Preemptions+qs[2].Counters.Preemptions)
}

// TestHeldPrefixesAreDroppedLast fills the pool with prefixes: work still gets done.
func TestHeldPrefixesAreDropped(t *testing.T) {
	w := newWorld(12, config(4, 48))
	var parents []*sched.Sequence
	for i := range 4 {
		parents = append(parents, w.add(&sched.Sequence{Tokens: prompt(i, 10), Limit: 10, RowsFrom: 10, Hold: true}))
		for range 3 {
			w.tick(t)
		}
	}
	for _, p := range parents {
		require.Contains(t, []sched.State{sched.Held, sched.Dropped}, p.State())
		w.add(&sched.Sequence{Tokens: append(append([]int32{}, p.Tokens...), 1, 2, 3), Limit: 20, Parent: p, ForkTokens: 10})
	}
	w.drain(t, 500)
	for _, p := range parents {
		w.s.Remove(p)
	}
	require.Zero(t, w.s.Pool().Stats().Used)
}

// TestIdlePrefixes: a session that nobody asks anything keeps its prefix while there
// is room, or while it is young; it does not keep others from running together.
func TestIdlePrefixes(t *testing.T) {
	open := func(w *world) *sched.Sequence {
		p := w.add(&sched.Sequence{Tokens: prompt(0, 40), Limit: 40, RowsFrom: 40, Hold: true})
		w.tick(t)
		require.Equal(t, sched.Held, p.State())
		return p
	}
	long := func(w *world, text int) *sched.Sequence {
		return w.add(&sched.Sequence{Tokens: prompt(text, 20), Limit: 200})
	}
	t.Run("idle", func(t *testing.T) {
		w := newWorld(60, config(4, 64)) // 240 tokens
		p := open(w)
		for range 60 {
			w.tick(t)
		}
		long(w, 1)
		for range 100 {
			w.tick(t)
		}
		require.Equal(t, sched.Held, p.State(), "there is room for all")
		q := w.add(&sched.Sequence{Tokens: prompt(2, 100), Limit: 110})
		w.tick(t)
		require.Equal(t, sched.Dropped, p.State())
		require.Equal(t, sched.Running, q.State(), "beside the one that runs")
		c := w.add(&sched.Sequence{Tokens: append(prompt(0, 40), 1), Limit: 50, Parent: p, ForkTokens: 40})
		w.drain(t, 500)
		require.Equal(t, sched.Done, c.State(), "the prefix was computed again for it")
	})
	t.Run("young", func(t *testing.T) {
		w := newWorld(60, config(4, 64))
		long(w, 1)
		for range 100 {
			w.tick(t)
		}
		p := open(w)
		w.add(&sched.Sequence{Tokens: prompt(2, 100), Limit: 110})
		for range 49 {
			w.tick(t)
			require.Equal(t, sched.Held, p.State())
		}
		w.tick(t)
		require.Equal(t, sched.Dropped, p.State())
	})
	t.Run("asked", func(t *testing.T) {
		w := newWorld(60, config(4, 64))
		p := open(w)
		w.add(&sched.Sequence{Tokens: append(prompt(0, 40), 1), Limit: 190, Parent: p, ForkTokens: 40})
		for range 80 {
			w.tick(t)
		}
		w.add(&sched.Sequence{Tokens: prompt(2, 130), Limit: 140})
		for range 20 {
			w.tick(t)
			require.Equal(t, sched.Held, p.State(), "somebody is at it")
		}
	})
}

func TestTiles(t *testing.T) {
	c := config(2, 32)
	c.TileTokens, c.MaxTiles, c.TileSlots, c.KeepTiles = 4, 2, 3, true
	w := newWorld(64, c)
	tile := func(k byte) sched.Tile { return sched.Tile{Key: sched.TileKey{k}, Pixels: []byte{k}} }
	add := func(keys ...byte) *sched.Sequence {
		var tiles []sched.Tile
		for _, k := range keys {
			tiles = append(tiles, tile(k))
		}
		n := 4 * len(keys)
		return w.add(&sched.Sequence{
			Tokens: prompt(int(keys[0]), n+3), Limit: n + 5, Tiles: [][]sched.Tile{tiles},
			Spans: []kvcache.Span{{Start: 1, End: 1 + n, Content: kvcache.ContentKey{keys[0]}}},
		})
	}
	a := add(1, 2, 3, 4, 5)
	w.drain(t, 50)
	require.Equal(t, 5, a.Counters.TilesEncoded)
	b := add(1, 2, 3, 4, 5) // equal content: the prefix cache has its full blocks
	w.drain(t, 50)
	require.Zero(t, b.Counters.TilesEncoded)
	require.Equal(t, 20, b.Counters.Cached)
	d := add(6, 5) // other content, but tile 5 is still in its slot
	w.drain(t, 50)
	require.Equal(t, 1, d.Counters.TilesEncoded)
}

// TestTilesAcrossChunks: without a cache of tiles a chunk may still end inside a
// tile, which the next step then finds; every tile is encoded once.
func TestTilesAcrossChunks(t *testing.T) {
	c := config(2, 6)
	c.TileTokens, c.MaxTiles, c.TileSlots = 4, 2, 2
	w := newWorld(64, c)
	var tiles []sched.Tile
	for k := range byte(5) {
		tiles = append(tiles, sched.Tile{Key: sched.TileKey{k}, Pixels: []byte{k}})
	}
	for i := range 2 {
		q := w.add(&sched.Sequence{
			Tokens: prompt(i, 23), Limit: 25, Tiles: [][]sched.Tile{tiles}, Spans: []kvcache.Span{{Start: 1, End: 21, Content: kvcache.ContentKey{byte(i)}}},
		})
		w.drain(t, 50)
		require.Equal(t, 5, q.Counters.TilesEncoded, "nothing is left for a later sequence, nothing is encoded twice")
	}
}

// TestLeaderEnds cancels the sequence that computes a common prompt: one of those
// that wait for it takes over, and the prompt is computed once.
func TestLeaderEnds(t *testing.T) {
	w := newWorld(64, config(6, 48))
	ids := prompt(1, 40)
	leader := w.add(&sched.Sequence{Tokens: ids, Limit: 42})
	var rest []*sched.Sequence
	for i := range 5 {
		rest = append(rest, w.add(&sched.Sequence{Tokens: append(append([]int32{}, ids...), int32(i)), Limit: 44}))
	}
	w.s.Remove(leader)
	w.drain(t, 100)
	computed := 0
	for _, q := range rest {
		computed += q.Counters.Prefilled
	}
	require.LessOrEqual(t, computed, 41+4*(41-36), "%d tokens were computed for a prompt of 40", computed)
}

// TestInheritance: an urgent sequence waits for an unimportant one that computes
// its prompt; that one must then not be preempted by what lies between them.
func TestInheritance(t *testing.T) {
	c := config(2, 3)
	c.AgeSteps = 10000
	w := newWorld(14, c)
	w.add(&sched.Sequence{Tokens: prompt(100, 8), Limit: 40}) // grows until blocks run out
	ids := prompt(1, 40)
	low := w.add(&sched.Sequence{Tokens: ids, Limit: 42, Priority: -2})
	for low.State() != sched.Running {
		w.tick(t)
	}
	urgent := w.add(&sched.Sequence{Tokens: append(append([]int32{}, ids...), 1), Limit: 44, Priority: 2})
	for i := 0; w.first[urgent.ID] == 0; i++ {
		if w.s.Waiting() < 5 {
			w.add(&sched.Sequence{Tokens: prompt(2+i, 8), Limit: 30})
		}
		w.tick(t)
		require.Less(t, w.step, 100, "the urgent sequence waits for others")
	}
}

// TestPrefixesTakeTurns: two prefixes, each with a continuation that waits for it,
// do not fit the pool together. The one that is computed must be used before the
// other takes its place, or both are computed for ever.
func TestPrefixesTakeTurns(t *testing.T) {
	w := newWorld(14, config(4, 80))
	var parents []*sched.Sequence
	for i := range 3 {
		ids := prompt(i, 32+i)
		parents = append(parents, w.add(&sched.Sequence{Tokens: ids, Limit: len(ids), RowsFrom: len(ids), Hold: true}))
		w.tick(t)
	}
	for round := range 3 {
		for _, p := range parents {
			w.add(&sched.Sequence{Tokens: append(append([]int32{}, p.Tokens...), 1, 2, int32(round)), Limit: 48, Parent: p, ForkTokens: len(p.Tokens)})
		}
	}
	w.drain(t, 300)
	for _, p := range parents {
		w.s.Remove(p)
	}
	require.Zero(t, w.s.Pool().Stats().Used)
}

// TestAcceptedAtTheEnd: an answer that ends among accepted drafts counts them all.
func TestAcceptedAtTheEnd(t *testing.T) {
	w := newWorld(16, config(1, 16))
	q := w.add(&sched.Sequence{Tokens: prompt(1, 4), Limit: 20})
	step := func(want int, next ...int32) {
		w.s.Schedule()
		require.Equal(t, want, w.s.Commit(0, next))
		w.s.Finish()
		require.NoError(t, w.s.Check())
	}
	step(0, 5)
	q.Draft = []int32{6, 7, 8}
	step(2, 6, 7, 9)
	q.Draft = []int32{1, 2, 3}
	step(2, 1, 2) // and then the end of the answer
	require.Equal(t, 4, q.Counters.Accepted)
	w.s.Remove(q)
	require.Zero(t, w.s.Pool().Stats().Used)
}

// BenchmarkAdd: a queue of requests with different pictures of the same size.
func BenchmarkAdd(b *testing.B) {
	const tokens, queue = 3400, 1024
	for b.Loop() {
		w := newWorld(2000, config(1, 16))
		for i := range queue {
			w.add(&sched.Sequence{Tokens: make([]int32, tokens), Limit: tokens + 10, Spans: []kvcache.Span{{Start: 30, End: 3358, Content: kvcache.ContentKey{byte(i), byte(i >> 8)}}}})
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N*queue), "µs/add")
}

// TestDecodeAllocatesNothing checks the steady state.
func TestDecodeAllocatesNothing(t *testing.T) {
	s, qs := decoding(16, 1<<12)
	next := []int32{5}
	perStep := testing.AllocsPerRun(300, func() { decodeStep(s, next) })
	require.Zero(t, perStep)
	require.Len(t, qs, 16)
}

// decoding returns a scheduler with n sequences in decode.
func decoding(n, limit int) (*sched.Scheduler, []*sched.Sequence) {
	pool := kvcache.NewPool(kvcache.Config{Blocks: n * (limit + 32) / 32, BlockSize: 32})
	s := sched.New(sched.Config{StepTokens: 64 * n, MaxSequences: n, MaxRows: 64 * n, AgeSteps: 100}, pool)
	var qs []*sched.Sequence
	for i := range n {
		ids := append(make([]int32, 0, limit), prompt(i, 64)...)
		q := &sched.Sequence{ID: uint64(i), Tokens: ids, Prompt: len(ids), RowsFrom: len(ids) - 1, Limit: limit}
		qs = append(qs, q)
		s.Add(q)
	}
	next := []int32{5}
	for range 4 {
		decodeStep(s, next)
	}
	return s, qs
}

func decodeStep(s *sched.Scheduler, next []int32) int {
	b := s.Schedule()
	for i := range b.Items {
		if b.Items[i].Rows > 0 {
			s.Commit(i, next)
		} else {
			s.Commit(i, nil)
		}
	}
	n := len(b.Items)
	s.Finish()
	return n
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("sequences=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			done := 0
			for b.Loop() {
				b.StopTimer()
				s, _ := decoding(n, 1200)
				b.StartTimer()
				for range 1000 {
					done += decodeStep(s, []int32{5})
				}
			}
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "seq-steps/s")
		})
	}
}

// TestEqualPromptsAreComputedOnce submits the same prompt many times at once.
func TestEqualPromptsAreComputedOnce(t *testing.T) {
	c := config(4, 16)
	c.TileTokens, c.MaxTiles, c.TileSlots = 1, 1, 1
	w := newWorld(64, c)
	var qs []*sched.Sequence
	for i := range 6 {
		qs = append(qs, w.add(&sched.Sequence{Tokens: prompt(1, 33), Limit: 40, Priority: i % 2}))
	}
	other := w.add(&sched.Sequence{
		Tokens: prompt(1, 33), Limit: 40,
		Spans: []kvcache.Span{{Start: 2, End: 3, Content: kvcache.ContentKey{1}}}, Tiles: [][]sched.Tile{{{Key: sched.TileKey{1}}}},
	})
	w.drain(t, 200)
	prefilled := 0
	for _, q := range qs {
		prefilled += q.Counters.Prefilled
	}
	require.Equal(t, 33+5, prefilled, "one whole prompt, and the last block of the others")
	require.Zero(t, other.Counters.Cached, "another picture")
}
