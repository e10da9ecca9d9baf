package cpu_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/kernels"
	"metacap/kernels/cpu"
)

// shared makes tensors on a backend for the tests of shared prefixes.
type shared struct {
	kernels.Backend
	t   testing.TB
	rng *rand.Rand
}

func (s shared) upload(t kernels.DType, raw []byte, shape ...int) kernels.Tensor {
	buf, err := s.Alloc(int64(len(raw)))
	require.NoError(s.t, err)
	x := kernels.Tensor{Buf: buf, DType: t, Shape: shape}
	require.NoError(s.t, s.Upload(x, raw))
	return x
}

func (s shared) ints(v []int32, shape ...int) kernels.Tensor {
	raw, err := binary.Append(nil, binary.LittleEndian, v)
	require.NoError(s.t, err)
	return s.upload(kernels.I32, raw, shape...)
}

func (s shared) floats(t kernels.DType, shape ...int) kernels.Tensor {
	x := kernels.Tensor{DType: t, Shape: shape}
	raw := make([]byte, x.Elements()*int64(t.Size()))
	for i := 0; i < len(raw); i += t.Size() {
		v := float32(s.rng.NormFloat64())
		if t == kernels.F32 {
			binary.LittleEndian.PutUint32(raw[i:], math.Float32bits(v))
		} else {
			binary.LittleEndian.PutUint16(raw[i:], dtype.ToBF16(v))
		}
	}
	return s.upload(t, raw, shape...)
}

// TestSharedPrefix runs sequences whose block tables begin alike in one batch, where
// their shared chunks are read once, and each alone, where nothing is shared: the bits
// are the same.
func TestSharedPrefix(t *testing.T) {
	const hq, hkv, width = 8, 2, 32
	// Tokens, rows of the step, and the family and number of leading blocks that are shared.
	sequences := []struct{ length, rows, family, common int }{
		{700, 1, 0, 16},
		{513, 1, 0, 16},
		{90, 1, 0, 2},
		{800, 3, 1, 9},
		{700, 1, 0, 16},
		{320, 2, 1, 9},
		{1000, 1, 0, 20},
		{257, 1, 1, 9},
		{256, 1, 1, 8},
		{400, 1, 2, 12},
		{990, 1, 0, 16},
		{700, 1, 0, 16},
		{450, 4, 0, 10},
		{1024, 1, 3, 0},
	}
	for _, isa := range append(cpu.ISAs(), emulated...) {
		for _, kind := range []kernels.DType{kernels.F32, kernels.BF16} {
			for _, d := range []int{16, 32, 64} {
				t.Run(fmt.Sprintf("%s/%s/D=%d", isa, kind, d), func(t *testing.T) {
					dev, err := cpu.Open(cpu.Options{ISA: isa, Threads: 2})
					require.NoError(t, err)
					defer dev.Close()
					s := shared{dev, t, rand.New(rand.NewPCG(3, uint64(d)))}
					blocks := width * (len(sequences) + 4)
					kv, err := dev.NewKV(kernels.KVShape{Layers: 1, Blocks: blocks, Heads: hkv, HeadDim: d, DType: kind})
					if err != nil {
						t.Skip(err) // pure Go has this test as a plain check of its own batches
					}
					slots := make([]int32, blocks*kernels.BlockSize)
					for i := range slots {
						slots[i] = int32(i)
					}
					require.NoError(t, dev.KVStore(kernels.KVStoreArgs{
						KV: kv, K: s.floats(kind, len(slots), hkv, d), V: s.floats(kind, len(slots), hkv, d), Slots: s.ints(slots, len(slots)),
					}))
					starts, lens, tables, most := []int32{0}, []int32{}, []int32{}, 0
					for i, q := range sequences {
						starts, lens = append(starts, starts[i]+int32(q.rows)), append(lens, int32(q.length))
						most = max(most, q.rows)
						for b := range width {
							block := (i+4)*width + b
							if b < q.common {
								block = q.family*width + b
							}
							tables = append(tables, int32(block))
						}
					}
					rows := int(starts[len(starts)-1])
					q, whole, alone := s.floats(kernels.F32, rows, hq, d), s.floats(kernels.F32, rows, hq, d), s.floats(kernels.F32, rows, hq, d)
					a := kernels.PagedAttentionArgs{
						Out: whole, Q: q, KV: kv, Starts: s.ints(starts, len(starts)), Lens: s.ints(lens, len(lens)),
						Tables: s.ints(tables, len(lens), width), Scale: 0.2, MaxRows: most, MaxLen: int(slices.Max(lens)),
					}
					require.NoError(t, dev.PagedAttention(a))
					for i, one := range sequences {
						lo, hi := int(starts[i]), int(starts[i+1])
						a.Out, a.Q = alone.Slice(lo, hi), q.Slice(lo, hi)
						a.Starts, a.Lens = s.ints([]int32{0, int32(one.rows)}, 2), s.ints(lens[i:i+1], 1)
						a.Tables = s.ints(tables[i*width:(i+1)*width], 1, width)
						a.MaxRows, a.MaxLen = one.rows, one.length
						require.NoError(t, dev.PagedAttention(a))
					}
					got, want := make([]byte, 4*rows*hq*d), make([]byte, 4*rows*hq*d)
					require.NoError(t, dev.Download(got, whole))
					require.NoError(t, dev.Download(want, alone))
					for i := range sequences {
						lo, hi := 4*hq*d*int(starts[i]), 4*hq*d*int(starts[i+1])
						require.True(t, bytes.Equal(want[lo:hi], got[lo:hi]), "sequence %d: bits differ between batch and alone", i)
					}
				})
			}
		}
	}
}

// BenchmarkSharedPrefix decodes one token of 8 forks of an image of 3,328 tokens, with the
// image's blocks shared and with a copy of them for each.
func BenchmarkSharedPrefix(b *testing.B) {
	const seqs, length, hq, hkv, d, layers, width = 8, 3328 + 64, 16, 8, 128, 4, 106
	for _, forks := range []bool{true, false} {
		b.Run(fmt.Sprintf("B=%d/len=%d/Hq=%d/Hkv=%d/D=%d/shared=%v", seqs, length, hq, hkv, d, forks), func(b *testing.B) {
			dev := openBench(b)
			kv, err := dev.NewKV(kernels.KVShape{Layers: layers, Blocks: seqs * width, Heads: hkv, HeadDim: d, DType: kernels.BF16})
			dev.must(err)
			starts, lens, tables := []int32{0}, []int32{}, []int32{}
			for i := range seqs {
				starts, lens = append(starts, int32(i+1)), append(lens, length)
				for j := range width {
					if forks && j < 3328/kernels.BlockSize {
						tables = append(tables, int32(j))
					} else {
						tables = append(tables, int32(i*width+j))
					}
				}
			}
			a := kernels.PagedAttentionArgs{
				Out: dev.tensor(kernels.F32, seqs, hq, d), Q: dev.tensor(kernels.F32, seqs, hq, d), KV: kv, Starts: dev.ints(starts...),
				Lens: dev.ints(lens...), Tables: dev.ints(tables...).Reshape(seqs, width), Scale: 0.09, MaxRows: 1, MaxLen: length,
			}
			dev.must(dev.Sync())
			start := processorTime()
			for b.Loop() {
				for a.Layer = range layers {
					dev.must(dev.PagedAttention(a))
				}
				dev.must(dev.Sync())
			}
			dev.report(processorTime()-start, layers*4*float64(length*d*hq*seqs), float64(layers*4*length*d*hkv*seqs))
		})
	}
}
