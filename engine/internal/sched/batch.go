package sched

import (
	"metacap/engine/internal/kvcache"
)

// Item is a sequence's share of a step.
type Item struct {
	Seq    *Sequence
	Start  int // its first row among the tokens of the step
	Tokens int // scheduled tokens, drafts included
	Draft  int // of these, drafts (the last ones)
	Row    int // its first logits row
	Rows   int // logits rows: of its last Rows tokens
	// Encoded says that tiles are encoded for it in this step.
	Encoded bool
}

// Encode asks for a tile to be encoded into a slot before the step's tokens run.
type Encode struct {
	Pixels []byte
	Slot   int
}

// Batch is the plan of a step: its items and their flat arrays, laid out for
// the device. All slices are reused by the next plan.
type Batch struct {
	Items []Item

	IDs       []int32 // [T] token ids
	Positions []int32 // [T]
	Slots     []int32 // [T] slot mapping
	Starts    []int32 // [B+1] first row of each item
	Lens      []int32 // [B] context length after the step
	Tables    []int32 // [B,TableWidth] block tables, 0 past a table's end
	LogitRows []int32 // [R] row among T of each logits row; the first FullRows want whole rows
	Features  []int32 // [n] slot*TileTokens+offset of an image token's feature
	Places    []int32 // [n] its row among T
	Next      []int32 // [B] slot of the token after the step's; -1 = no block yet, or the sequence ends before

	TableWidth int
	FullRows   int
	LogProbs   bool // of rows after FullRows the log-probability is wanted too
	MaxRows    int  // largest share of tokens
	MaxLen     int  // largest context length
	// Ahead says that the next step is likely this one's sequences again, a token further.
	Ahead bool

	Encodes []Encode
	Copies  []kvcache.Copy

	PrefillTokens, DecodeTokens, DraftTokens int
}

// Tokens is the number of tokens of the step.
func (b *Batch) Tokens() int { return len(b.IDs) }

// Empty reports whether there is nothing to do.
func (b *Batch) Empty() bool { return len(b.Items) == 0 && len(b.Encodes) == 0 }

func (b *Batch) reset() {
	b.Items = b.Items[:0]
	b.Encodes = b.Encodes[:0]
	b.Copies = b.Copies[:0]
	b.PrefillTokens, b.DecodeTokens, b.DraftTokens = 0, 0, 0
	b.Ahead = false
}

// build fills the flat arrays from Items.
func (b *Batch) build(pool *kvcache.Pool, tileTokens int, tiles *tileCache) {
	b.IDs, b.Positions, b.Slots = b.IDs[:0], b.Positions[:0], b.Slots[:0]
	b.Starts, b.Lens, b.Tables = append(b.Starts[:0], 0), b.Lens[:0], b.Tables[:0]
	b.LogitRows, b.Features, b.Places, b.Next = b.LogitRows[:0], b.Features[:0], b.Places[:0], b.Next[:0]
	b.MaxRows, b.MaxLen, b.FullRows, b.LogProbs = 0, 0, 0, false
	blocks := 1
	for i := range b.Items {
		it := &b.Items[i]
		it.Start = len(b.IDs)
		b.addTokens(it, pool)
		b.count(it)
		b.addFeatures(it, tileTokens, tiles)
		end := it.Seq.computed + it.Tokens
		b.Starts = append(b.Starts, int32(len(b.IDs)))
		b.Lens = append(b.Lens, int32(end))
		b.MaxRows, b.MaxLen = max(b.MaxRows, it.Tokens), max(b.MaxLen, end)
		blocks = max(blocks, pool.BlocksFor(end))
	}
	b.TableWidth = tableWidth(blocks)
	for i := range b.Items {
		t := b.Items[i].Seq.table.Blocks()
		t = t[:min(len(t), b.TableWidth)]
		for _, id := range t {
			b.Tables = append(b.Tables, int32(id))
		}
		for range b.TableWidth - len(t) {
			b.Tables = append(b.Tables, 0)
		}
		b.Next = append(b.Next, b.Items[i].next(pool, len(t)))
	}
	b.addRows(true)
	b.FullRows = len(b.LogitRows)
	b.addRows(false)
}

func (b *Batch) count(it *Item) {
	b.DraftTokens += it.Draft
	if it.Tokens-it.Draft == 1 && it.Seq.computed >= it.Seq.Prompt {
		b.DecodeTokens++
	} else {
		b.PrefillTokens += it.Tokens
	}
}

// next is the slot of the token after the step's, if it lies in the first blocks of the table.
func (it *Item) next(pool *kvcache.Pool, blocks int) int32 {
	end := it.Seq.computed + it.Tokens
	if end+1 >= it.Seq.Limit || pool.BlocksFor(end+1) > blocks {
		return -1
	}
	return it.Seq.table.Slot(pool, end)
}

// tableWidth rounds up so that few widths occur and little is added: 8, 16, 24, … 64, 80, 96, …
func tableWidth(blocks int) int {
	unit := 8
	for 8*unit < blocks {
		unit *= 2
	}
	return (max(blocks, 1) + unit - 1) / unit * unit
}

func (b *Batch) addTokens(it *Item, pool *kvcache.Pool) {
	s := it.Seq
	n := min(it.Tokens, s.missing())
	b.IDs = append(b.IDs, s.Tokens[s.computed:s.computed+n]...)
	b.IDs = append(b.IDs, s.Draft[:it.Draft]...)
	for pos := s.computed; pos < s.computed+it.Tokens; pos++ {
		b.Positions = append(b.Positions, int32(pos))
		b.Slots = append(b.Slots, s.table.Slot(pool, pos))
	}
}

// addFeatures maps the image tokens of an item to the features of their tiles.
func (b *Batch) addFeatures(it *Item, tileTokens int, tiles *tileCache) {
	s := it.Seq
	lo, hi := s.computed, s.computed+it.Tokens
	for i := range s.Spans {
		sp := &s.Spans[i]
		if sp.End <= lo {
			continue
		}
		if sp.Start >= hi {
			return
		}
		for pos, end := max(lo, sp.Start), min(hi, sp.End); pos < end; {
			tile := (pos - sp.Start) / tileTokens
			first := sp.Start + tile*tileTokens
			slot := tiles.index[s.Tiles[i][tile].Key]
			for stop := min(end, first+tileTokens); pos < stop; pos++ {
				b.Features = append(b.Features, int32(slot*tileTokens+pos-first))
				b.Places = append(b.Places, int32(it.Start+pos-lo))
			}
		}
	}
}

func (b *Batch) addRows(full bool) {
	for i := range b.Items {
		it := &b.Items[i]
		if it.Seq.FullLogits != full {
			continue
		}
		end := it.Seq.computed + it.Tokens
		it.Rows = max(0, end-max(it.Seq.RowsFrom, it.Seq.computed))
		it.Row = len(b.LogitRows)
		b.LogProbs = b.LogProbs || !full && it.Rows > 0 && it.Seq.LogProb
		for r := it.Tokens - it.Rows; r < it.Tokens; r++ {
			b.LogitRows = append(b.LogitRows, int32(it.Start+r))
		}
	}
}
