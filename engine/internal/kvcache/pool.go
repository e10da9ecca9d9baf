package kvcache

import (
	"fmt"
)

// BlockID is the index of a block in the device's KV cache.
type BlockID int32

// Config sizes a Pool.
type Config struct {
	Blocks     int  // number of blocks, > 0
	BlockSize  int  // tokens a block, > 0
	NoPrefixes bool // do not keep the blocks of finished sequences for reuse
}

// Stats counts what a Pool did. Gauges are momentary, counters only grow.
type Stats struct {
	Blocks, Free, Cached, Used int
	Evictions                  int64 // cached blocks taken for new content
	Queries                    int64 // prefix look-ups
	QueryTokens, HitTokens     int64 // tokens looked up and found
	Copies                     int64 // blocks copied on write
}

// none ends the linked lists of blocks.
const none = BlockID(-1)

// block is the record of one block. prev and next link it into the free or the
// cached list while refs is 0.
type block struct {
	refs       int32
	keyed      bool
	listed     bool
	prev, next BlockID
	key        Key
}

// list is a doubly linked list of blocks, oldest first.
type list struct {
	head, tail BlockID
	n          int
}

// Pool owns the blocks. It is used by one goroutine. See the package comment
// for its invariants.
type Pool struct {
	cfg    Config
	blocks []block
	free   list
	cached list // least recently used first
	index  map[Key]BlockID
	keys   keyer
	stats  Stats
	// pending are sources of copies that the device has not made yet, a reference each.
	pending []BlockID
}

// NewPool returns a pool with all blocks free. It panics if a size is not positive.
func NewPool(cfg Config) *Pool {
	if cfg.Blocks <= 0 || cfg.BlockSize <= 0 {
		panic(fmt.Sprintf("kvcache: new pool: %d blocks of %d tokens", cfg.Blocks, cfg.BlockSize))
	}
	p := &Pool{
		cfg:    cfg,
		blocks: make([]block, cfg.Blocks),
		free:   list{head: none, tail: none},
		cached: list{head: none, tail: none},
		index:  make(map[Key]BlockID, cfg.Blocks),
		keys:   keyer{buf: make([]byte, 0, 16+4*cfg.BlockSize+4*44)},
	}
	for i := range p.blocks {
		p.push(&p.free, BlockID(i))
	}
	return p
}

// BlockSize is the number of tokens a block.
func (p *Pool) BlockSize() int { return p.cfg.BlockSize }

// Blocks is the number of blocks.
func (p *Pool) Blocks() int { return p.cfg.Blocks }

// Available is the number of blocks that Table.Grow could take now: free and cached ones.
func (p *Pool) Available() int { return p.free.n + p.cached.n }

// KeepsPrefixes reports whether the blocks of finished sequences can be found again.
func (p *Pool) KeepsPrefixes() bool { return !p.cfg.NoPrefixes }

// BlocksFor is the number of blocks that hold so many tokens.
func (p *Pool) BlocksFor(tokens int) int { return (tokens + p.cfg.BlockSize - 1) / p.cfg.BlockSize }

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	s := p.stats
	s.Blocks, s.Free, s.Cached = p.cfg.Blocks, p.free.n, p.cached.n
	s.Used = s.Blocks - s.Free - s.Cached
	return s
}

// DropCached forgets all cached prefixes.
func (p *Pool) DropCached() {
	for p.cached.n > 0 {
		p.evict()
	}
}

func (p *Pool) push(l *list, id BlockID) {
	b := &p.blocks[id]
	b.prev, b.next, b.listed = l.tail, none, true
	if l.tail == none {
		l.head = id
	} else {
		p.blocks[l.tail].next = id
	}
	l.tail = id
	l.n++
}

func (p *Pool) remove(l *list, id BlockID) {
	b := &p.blocks[id]
	if b.prev == none {
		l.head = b.next
	} else {
		p.blocks[b.prev].next = b.next
	}
	if b.next == none {
		l.tail = b.prev
	} else {
		p.blocks[b.next].prev = b.prev
	}
	b.prev, b.next, b.listed = none, none, false
	l.n--
}

// evict moves the least recently used cached block to the free list.
func (p *Pool) evict() {
	id := p.cached.head
	p.remove(&p.cached, id)
	p.unkey(id)
	p.push(&p.free, id)
	p.stats.Evictions++
}

func (p *Pool) unkey(id BlockID) {
	b := &p.blocks[id]
	if b.keyed {
		delete(p.index, b.key)
		b.keyed, b.key = false, Key{}
	}
}

// alloc returns a block with one reference and no key.
func (p *Pool) alloc() (BlockID, bool) {
	if p.free.n == 0 {
		if p.cached.n == 0 {
			return 0, false
		}
		p.evict()
	}
	id := p.free.head
	p.remove(&p.free, id)
	p.blocks[id].refs = 1
	return id, true
}

func (p *Pool) ref(id BlockID) {
	b := &p.blocks[id]
	if b.refs == 0 {
		p.remove(&p.cached, id)
	}
	b.refs++
}

func (p *Pool) release(id BlockID) {
	b := &p.blocks[id]
	if b.refs <= 0 {
		panic(fmt.Sprintf("kvcache: release of block %d with %d references", id, b.refs))
	}
	b.refs--
	if b.refs > 0 {
		return
	}
	if b.keyed {
		p.push(&p.cached, id)
	} else {
		p.push(&p.free, id)
	}
}

// Settle drops the references on sources of copies. Call it when the copies of
// a step are enqueued on the device and before the next step is planned.
func (p *Pool) Settle() {
	for _, id := range p.pending {
		p.release(id)
	}
	p.pending = p.pending[:0]
}

// publish gives a block in use its key unless another block has it already.
func (p *Pool) publish(id BlockID, key Key) {
	if p.cfg.NoPrefixes {
		return
	}
	if _, taken := p.index[key]; taken {
		return
	}
	b := &p.blocks[id]
	b.keyed, b.key = true, key
	p.index[key] = id
}

// Check verifies the invariants of the package comment. tables are all tables that may hold blocks.
func (p *Pool) Check(tables ...*Table) error {
	refs := make([]int32, len(p.blocks))
	for _, t := range tables {
		for _, id := range t.blocks {
			if id < 0 || int(id) >= len(p.blocks) {
				return fmt.Errorf("kvcache: check: table lists block %d of %d", id, len(p.blocks))
			}
			refs[id]++
		}
	}
	for _, id := range p.pending {
		refs[id]++
	}
	where := make([]byte, len(p.blocks))
	for mark, l := range map[byte]*list{'f': &p.free, 'c': &p.cached} {
		n := 0
		for id := l.head; id != none; id = p.blocks[id].next {
			if where[id] != 0 {
				return fmt.Errorf("kvcache: check: block %d is in two lists or in a cycle", id)
			}
			where[id] = mark
			n++
		}
		if n != l.n {
			return fmt.Errorf("kvcache: check: list %c has %d blocks, counts %d", mark, n, l.n)
		}
	}
	keyed := 0
	for i := range p.blocks {
		b := &p.blocks[i]
		if b.refs != refs[i] {
			return fmt.Errorf("kvcache: check: block %d counts %d references, tables hold %d", i, b.refs, refs[i])
		}
		if (b.refs > 0) == (where[i] != 0) || b.listed != (where[i] != 0) {
			return fmt.Errorf("kvcache: check: block %d with %d references is in list %q", i, b.refs, where[i])
		}
		if b.keyed {
			keyed++
			if id, ok := p.index[b.key]; !ok || id != BlockID(i) {
				return fmt.Errorf("kvcache: check: key of block %d leads to block %d (%v)", i, id, ok)
			}
		}
		if where[i] == 'f' && b.keyed || where[i] == 'c' && !b.keyed {
			return fmt.Errorf("kvcache: check: block %d in list %c, keyed %v", i, where[i], b.keyed)
		}
	}
	if keyed != len(p.index) {
		return fmt.Errorf("kvcache: check: %d keyed blocks, index has %d", keyed, len(p.index))
	}
	return nil
}
