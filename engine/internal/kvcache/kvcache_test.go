package kvcache_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"metacap/engine/internal/kvcache"
)

const size = 4

// owner is a sequence in the test: its table and the content it believes to have stored.
type owner struct {
	table  kvcache.Table
	tokens []int32
	spans  []kvcache.Span
	done   int // tokens stored
}

// TestPool plays sequences over a pool whose blocks have simulated content: a
// table must always lead to what its owner stored, whoever else shares, copies
// or evicts.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.IntRange(4, 16).Draw(t, "blocks")
		pool := kvcache.NewPool(kvcache.Config{Blocks: blocks, BlockSize: size, NoPrefixes: rapid.Bool().Draw(t, "no prefixes")})
		mem := make([]int64, blocks*size)
		var owners []*owner
		// value is what a position must hold: its token, and its picture's content.
		value := func(o *owner, pos int) int64 {
			v := int64(o.tokens[pos])
			for _, s := range o.spans {
				if pos >= s.Start && pos < s.End {
					v += 1000 * (1 + int64(s.Content[0])) * int64(1+pos-s.Start)
				}
			}
			return v
		}
		pick := func(t *rapid.T) *owner {
			if len(owners) == 0 {
				t.Skip()
			}
			return owners[rapid.IntRange(0, len(owners)-1).Draw(t, "owner")]
		}
		check := func(t *rapid.T) {
			var tables []*kvcache.Table
			for _, o := range owners {
				tables = append(tables, &o.table)
				for pos := range o.done {
					require.Equal(t, value(o, pos), mem[o.table.Slot(pool, pos)], "position %d", pos)
				}
			}
			require.NoError(t, pool.Check(tables...))
		}
		t.Repeat(map[string]func(*rapid.T){
			"new": func(t *rapid.T) {
				o := &owner{}
				n := rapid.IntRange(1, 20).Draw(t, "tokens")
				for range n {
					o.tokens = append(o.tokens, int32(rapid.IntRange(0, 1).Draw(t, "token")))
				}
				if start := rapid.IntRange(0, n).Draw(t, "image"); start < n {
					end := rapid.IntRange(start+1, n).Draw(t, "end")
					o.spans = []kvcache.Span{{Start: start, End: end, Content: kvcache.ContentKey{byte(rapid.IntRange(0, 1).Draw(t, "content"))}}}
					for i := start; i < end; i++ {
						o.tokens[i] = 7
					}
				}
				o.done = o.table.Match(pool, o.tokens, o.spans, n-1)
				require.Less(t, o.done, n)
				owners = append(owners, o)
			},
			"store": func(t *rapid.T) {
				o := pick(t)
				n := rapid.IntRange(0, len(o.tokens)-o.done).Draw(t, "more")
				if n == 0 {
					t.Skip()
				}
				need, free := o.table.Need(pool, o.done, o.done+n), pool.Available()
				copies, ok := o.table.Grow(pool, o.done, o.done+n, nil)
				require.Equal(t, need <= free, ok)
				if !ok {
					require.Empty(t, copies)
					return
				}
				for _, c := range copies {
					copy(mem[c[1]*size:(c[1]+1)*size], mem[c[0]*size:(c[0]+1)*size])
				}
				for range n {
					mem[o.table.Slot(pool, o.done)] = value(o, o.done)
					o.done++
				}
				o.table.Publish(pool, o.tokens, o.spans, o.done)
				pool.Settle()
			},
			"extend": func(t *rapid.T) {
				o := pick(t)
				if len(o.tokens) < 24 {
					o.tokens = append(slices.Clone(o.tokens), int32(rapid.IntRange(0, 1).Draw(t, "token")))
				}
			},
			"fork": func(t *rapid.T) {
				o := pick(t)
				n := rapid.IntRange(0, o.done).Draw(t, "shared")
				f := &owner{tokens: append(slices.Clone(o.tokens[:n]), 2, 3), done: n}
				for _, s := range o.spans {
					if s.Start < n {
						s.End = min(s.End, n)
						f.spans = append(f.spans, s)
					}
				}
				f.table.Fork(pool, &o.table, n)
				owners = append(owners, f)
			},
			"release": func(t *rapid.T) {
				o := pick(t)
				o.table.Release(pool)
				owners = slices.DeleteFunc(owners, func(x *owner) bool { return x == o })
			},
			"drop cached": func(t *rapid.T) { pool.DropCached() },
			"":            check,
		})
	})
}

// TestKeysSeparatePictures: a prefix with another picture, or the same picture
// at another place, is never found.
func TestKeysSeparatePictures(t *testing.T) {
	pool := kvcache.NewPool(kvcache.Config{Blocks: 16, BlockSize: size})
	tokens := slices.Repeat([]int32{7}, 12)
	span := func(start, end int, content byte) []kvcache.Span {
		return []kvcache.Span{{Start: start, End: end, Content: kvcache.ContentKey{content}}}
	}
	var a kvcache.Table
	_, ok := a.Grow(pool, 0, 12, nil)
	require.True(t, ok)
	a.Publish(pool, tokens, span(1, 11, 1), 12)
	for _, c := range []struct {
		spans []kvcache.Span
		want  int
	}{
		{span(1, 11, 1), 8},
		{span(1, 11, 2), 0},
		{span(2, 11, 1), 0},
		{span(1, 6, 1), 4}, // ends earlier, inside the second block
		{nil, 0},
		{span(1, 12, 1), 8}, // differs in the last block only, which is not looked up
	} {
		var b kvcache.Table
		require.Equal(t, c.want, b.Match(pool, tokens, c.spans, 11), "%v", c.spans)
		b.Release(pool)
	}
	a.Release(pool)
	st := pool.Stats()
	require.Equal(t, 3, st.Cached)
	require.EqualValues(t, 20, st.HitTokens)
}

// TestEviction: the least recently used prefix goes first, its end before its start.
func TestEviction(t *testing.T) {
	pool := kvcache.NewPool(kvcache.Config{Blocks: 4, BlockSize: size})
	fill := func(token int32) {
		tokens := slices.Repeat([]int32{token}, 8)
		var x kvcache.Table
		_, ok := x.Grow(pool, 0, 8, nil)
		require.True(t, ok)
		x.Publish(pool, tokens, nil, 8)
		x.Release(pool)
	}
	found := func(token int32) int {
		var x kvcache.Table
		defer x.Release(pool)
		return x.Match(pool, slices.Repeat([]int32{token}, 8), nil, 8)
	}
	fill(1)
	fill(2)
	require.Equal(t, []int{8, 8}, []int{found(1), found(2)})
	var x kvcache.Table
	_, ok := x.Grow(pool, 0, 4, nil)
	require.True(t, ok)
	require.Equal(t, []int{4, 8}, []int{found(1), found(2)})
	x.Release(pool)
	require.EqualValues(t, 1, pool.Stats().Evictions)
}
