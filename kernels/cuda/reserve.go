package cuda

import (
	"fmt"
	"slices"

	"metacap/kernels"
)

var (
	_ kernels.Reserver       = (*Backend)(nil)
	_ kernels.MemoryReporter = (*Backend)(nil)
)

// FreeMemory asks the driver.
func (b *Backend) FreeMemory() (free int64, err error) {
	err = b.do(func() error {
		free, _, err = b.ctx.Memory()
		return err
	})
	return free, err
}

// workSizes are the workspaces' sizes for operations within the limits. The
// functions that ask for scratch memory and this one must agree; a test in the simulator
// sees an allocation after Reserve.
func workSizes(l kernels.WorkLimits) [numWorkspaces]int64 {
	var s [numWorkspaces]int64
	for _, p := range l.Linear {
		if p.Tiled && (p.DType != kernels.BF16 || p.K%64 != 0) {
			s[workRows] = max(s[workRows], stagedBytes(p.Rows, p.K))
		}
	}
	for _, a := range l.Attention {
		if a.KVDType != kernels.BF16 || a.DType != kernels.BF16 || a.HeadDim != 64 && a.HeadDim != 128 {
			continue
		}
		if _, rows := splitRows(a.Heads/a.KVHeads, a.MaxRows); rows > 0 {
			s[workAttention] = max(s[workAttention], partialBytes(min(a.Sequences, maxGridY), a.KVHeads, partitions(a.MaxLen), rows, a.HeadDim))
		}
	}
	s[workArgMax] = argMaxBytes(l.LogitRows, l.Vocab)
	s[workPairs] = 8 * int64(l.Copies)
	for i, n := range s {
		s[i] = roundWork(n)
	}
	return s
}

// workAlign is the multiple to which workspaces are rounded, in bytes.
const workAlign = 64 << 10

func roundWork(n int64) int64 { return (n + workAlign - 1) &^ (workAlign - 1) }

// stagedBytes is the size of rows that are copied to bf16 of a padded width.
func stagedBytes(rows, k int) int64 { return int64(rows) * int64(paddedK(k)) * 2 }

// splitRows are the rows of a sequence that the split kernels take (query heads of a
// group times tokens), and how many partial results a step of maxRows tokens has; 0 = they take none.
func splitRows(group, maxRows int) (limit, rows int) {
	if group > mmaRows {
		return 0, 0
	}
	limit = mmaRows / group * group
	return limit, min(limit, maxRows*group)
}

func partitions(maxLen int) int { return max(1, (maxLen+partitionKeys-1)/partitionKeys) }

// partialBytes is the size of split attention's partial results: maximum, sum and output.
func partialBytes(sequences, kvHeads, partitions, rows, d int) int64 {
	return int64(sequences) * int64(kvHeads) * int64(partitions) * int64(rows) * int64(d+2) * 4
}

// argMaxPart is the number of logits that a part of ArgMax looks through.
const argMaxPart = 4096

func argMaxParts(vocab int) int { return (vocab + argMaxPart - 1) / argMaxPart }

func argMaxBytes(rows, vocab int) int64 { return int64(rows) * int64(argMaxParts(vocab)) * 16 }

// ReserveBytes is the size of all workspaces for operations within the limits.
func (b *Backend) ReserveBytes(l kernels.WorkLimits) int64 {
	total := int64(0)
	for _, n := range workSizes(l) {
		total += n
	}
	return total
}

// Reserve allocates the workspaces and frees the loader's staging memory.
func (b *Backend) Reserve(l kernels.WorkLimits) error {
	if err := b.notCapturing("reserve"); err != nil {
		return err
	}
	return b.do(func() error {
		if err := b.freeSlots(); err != nil {
			return fmt.Errorf("cuda: reserve: %w", err)
		}
		for which, n := range workSizes(l) {
			if n == 0 {
				continue
			}
			if _, err := b.scratchOf(which, n, n); err != nil {
				return fmt.Errorf("cuda: reserve: %w", err)
			}
		}
		return nil
	})
}

// freeSlots frees the staging slots that nobody holds. It must run inside do.
func (b *Backend) freeSlots() error {
	var first error
	keep := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	for {
		var s *slot
		select {
		case s = <-b.slots.free:
		default:
			return first
		}
		b.mu.Lock()
		b.slotList = slices.DeleteFunc(b.slotList, func(t *slot) bool { return t == s })
		delete(b.live, s.scratch)
		b.mu.Unlock()
		keep(s.stream.Synchronize())
		keep(b.ctx.Free(s.scratch.ptr))
		s.scratch.ptr = 0
		keep(s.close())
		b.slots.room <- struct{}{}
	}
}
