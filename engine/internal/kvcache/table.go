package kvcache

// Copy asks the device to copy a whole block, all layers, before the step.
type Copy [2]int32 // source, destination

// Table is a sequence's list of blocks. The zero Table is empty. Its methods
// take the pool that owns the blocks, always the same one.
type Table struct {
	blocks    []BlockID
	published int // leading blocks whose keys are known
	key       Key // of the first published blocks
}

// Len is the number of blocks.
func (t *Table) Len() int { return len(t.blocks) }

// Blocks is the list of blocks, owned by the table.
func (t *Table) Blocks() []BlockID { return t.blocks }

// Reserve makes room for so many blocks, so that growing up to it allocates nothing.
func (t *Table) Reserve(blocks int) {
	if cap(t.blocks) < blocks {
		t.blocks = append(make([]BlockID, 0, blocks), t.blocks...)
	}
}

// Slot returns the slot of token position pos.
func (t *Table) Slot(p *Pool, pos int) int32 {
	size := p.cfg.BlockSize
	return int32(t.blocks[pos/size])*int32(size) + int32(pos%size)
}

// Match fills an empty table with cached blocks that hold the longest known
// prefix of tokens, at most limit tokens, and returns how many tokens they hold.
func (t *Table) Match(p *Pool, tokens []int32, spans []Span, limit int) int {
	if len(t.blocks) != 0 {
		panic("kvcache: match into a table that is not empty")
	}
	if p.cfg.NoPrefixes {
		return 0
	}
	size := p.cfg.BlockSize
	limit = min(limit, len(tokens))
	p.stats.Queries++
	p.stats.QueryTokens += int64(limit)
	n := 0
	for n+size <= limit {
		key := p.keys.next(t.key, n, tokens[n:n+size], spans)
		id, ok := p.index[key]
		if !ok {
			break
		}
		p.ref(id)
		t.blocks = append(t.blocks, id)
		t.key = key
		n += size
	}
	t.published = len(t.blocks)
	p.stats.HitTokens += int64(n)
	return n
}

// InUse returns how many blocks Match would find that other tables hold now:
// sharing them takes nothing from Available.
func (p *Pool) InUse(tokens []int32, spans []Span) int {
	if p.cfg.NoPrefixes {
		return 0
	}
	size := p.cfg.BlockSize
	var key Key
	n := 0
	for i := 0; i+size <= len(tokens); i += size {
		key = p.keys.next(key, i, tokens[i:i+size], spans)
		id, ok := p.index[key]
		if !ok {
			break
		}
		if p.blocks[id].refs > 0 {
			n++
		}
	}
	return n
}

// Fork fills an empty table with the blocks of src that hold its first tokens
// tokens, the last of them perhaps partly.
func (t *Table) Fork(p *Pool, src *Table, tokens int) {
	if len(t.blocks) != 0 {
		panic("kvcache: fork into a table that is not empty")
	}
	n := p.BlocksFor(tokens)
	for _, id := range src.blocks[:n] {
		p.ref(id)
		t.blocks = append(t.blocks, id)
	}
	// Keys of the shared blocks are computed again by Publish; the chain is not
	// stored a block, and a fork is rare.
	t.published, t.key = 0, Key{}
}

// Need returns how many blocks Grow would take from the pool so that tokens
// [from,to) can be written: new ones, and copies of shared ones.
func (t *Table) Need(p *Pool, from, to int) int {
	n := max(p.BlocksFor(to)-len(t.blocks), 0)
	for i := from / p.cfg.BlockSize; i < len(t.blocks) && i*p.cfg.BlockSize < to; i++ {
		if p.blocks[t.blocks[i]].refs > 1 {
			n++
		}
	}
	return n
}

// Grow makes tokens [from,to) writable: it copies shared blocks, which it adds
// to copies, and appends blocks. The sources of copies keep a reference until
// Pool.Settle. If the pool has too few blocks it changes nothing and returns false.
func (t *Table) Grow(p *Pool, from, to int, copies []Copy) ([]Copy, bool) {
	size := p.cfg.BlockSize
	if t.Need(p, from, to) > p.Available() {
		return copies, false
	}
	for i := from / size; i < len(t.blocks) && i*size < to; i++ {
		if t.published > i {
			t.published, t.key = 0, Key{}
		}
		old := t.blocks[i]
		if p.blocks[old].refs == 1 {
			p.unkey(old) // ours alone: what was findable under its key ends here
			continue
		}
		id, ok := p.alloc()
		if !ok {
			panic("kvcache: grow: pool lost blocks")
		}
		t.blocks[i] = id
		if from <= i*size { // nothing in it survives
			p.release(old)
			continue
		}
		copies = append(copies, Copy{int32(old), int32(id)})
		p.pending = append(p.pending, old)
		p.stats.Copies++
	}
	for len(t.blocks) < p.BlocksFor(to) {
		id, ok := p.alloc()
		if !ok {
			panic("kvcache: grow: pool lost blocks")
		}
		t.blocks = append(t.blocks, id)
	}
	return copies, true
}

// Publish makes every block that is full with the first computed tokens findable by its key.
func (t *Table) Publish(p *Pool, tokens []int32, spans []Span, computed int) {
	if p.cfg.NoPrefixes {
		return
	}
	size := p.cfg.BlockSize
	for (t.published+1)*size <= computed {
		i := t.published
		t.key = p.keys.next(t.key, i*size, tokens[i*size:(i+1)*size], spans)
		if !p.blocks[t.blocks[i]].keyed {
			p.publish(t.blocks[i], t.key)
		}
		t.published++
	}
}

// Release gives all blocks back. Blocks with a key stay findable until their
// room is needed; the end of a prefix goes before its start.
func (t *Table) Release(p *Pool) {
	for i := len(t.blocks) - 1; i >= 0; i-- {
		p.release(t.blocks[i])
	}
	t.blocks = t.blocks[:0]
	t.published, t.key = 0, Key{}
}
