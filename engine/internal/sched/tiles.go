package sched

import "fmt"

// tileCache keeps account of the slots for encoded tiles: which tile lies in
// which slot, least recently used first. A tile needed by the step being
// planned is locked until the next plan.
type tileCache struct {
	slots []tileSlot
	index map[TileKey]int
	head  int // least recently used
	tail  int
	step  int64
	keep  bool // keep results past the step after their last use
	stats TileStats
}

type tileSlot struct {
	key        TileKey
	full       bool
	step       int64 // of last use; the current step locks the slot
	prev, next int
}

// TileStats counts look-ups of the encoder cache.
type TileStats struct {
	Slots, Full   int
	Hits, Encoded int64
}

func newTileCache(slots int, keep bool) *tileCache {
	c := &tileCache{slots: make([]tileSlot, slots), index: make(map[TileKey]int, slots), head: -1, tail: -1, keep: keep}
	for i := range c.slots {
		c.slots[i].prev, c.slots[i].next = -1, -1
		c.append(i)
	}
	return c
}

func (c *tileCache) append(i int) {
	s := &c.slots[i]
	s.prev, s.next = c.tail, -1
	if c.tail < 0 {
		c.head = i
	} else {
		c.slots[c.tail].next = i
	}
	c.tail = i
}

func (c *tileCache) unlink(i int) {
	s := &c.slots[i]
	if s.prev < 0 {
		c.head = s.next
	} else {
		c.slots[s.prev].next = s.next
	}
	if s.next < 0 {
		c.tail = s.prev
	} else {
		c.slots[s.next].prev = s.prev
	}
}

func (c *tileCache) touch(i int) {
	c.slots[i].step = c.step
	c.unlink(i)
	c.append(i)
}

// begin starts a step.
func (c *tileCache) begin() {
	c.step++
	if c.keep {
		return
	}
	// What the last step used stays for this one: a chunk may have ended inside a tile.
	for i := range c.slots {
		if s := &c.slots[i]; s.full && s.step < c.step-1 {
			delete(c.index, s.key)
			s.full = false
		}
	}
}

// find returns the slot of a tile that is encoded, or will be in this step.
func (c *tileCache) find(key TileKey) (int, bool) {
	i, ok := c.index[key]
	if ok {
		c.touch(i)
		c.stats.Hits++
	}
	return i, ok
}

// take gives a tile a slot in which the step must put its result; false if all are locked.
func (c *tileCache) take(key TileKey) (int, bool) {
	i := c.head
	if i < 0 || c.slots[i].step == c.step {
		return 0, false
	}
	s := &c.slots[i]
	if s.full {
		delete(c.index, s.key)
	}
	s.key, s.full = key, true
	c.index[key] = i
	c.touch(i)
	c.stats.Encoded++
	return i, true
}

func (c *tileCache) check() error {
	n, full := 0, 0
	for i := c.head; i >= 0; i = c.slots[i].next {
		if n++; n > len(c.slots) {
			return fmt.Errorf("sched: check: cycle in the list of tile slots")
		}
		if c.slots[i].full {
			full++
			if j, ok := c.index[c.slots[i].key]; !ok || j != i {
				return fmt.Errorf("sched: check: tile of slot %d leads to slot %d (%v)", i, j, ok)
			}
		}
	}
	if n != len(c.slots) || full != len(c.index) {
		return fmt.Errorf("sched: check: %d of %d tile slots listed, %d full, index has %d", n, len(c.slots), full, len(c.index))
	}
	return nil
}
