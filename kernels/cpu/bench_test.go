package cpu_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"metacap/internal/dtype"
	"metacap/kernels"
	"metacap/kernels/cpu"
)

// bench is a backend with operands for benchmarks.
type bench struct {
	kernels.Backend
	b   *testing.B
	rng *rand.Rand
}

// openBench opens the backend with METACAP_THREADS threads (default: all).
func openBench(b *testing.B) bench {
	threads, _ := strconv.Atoi(os.Getenv("METACAP_THREADS"))
	dev, err := cpu.Open(cpu.Options{Threads: threads})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dev.Close() })
	return bench{dev, b, rand.New(rand.NewPCG(1, 2))}
}

func (d bench) must(err error) {
	if err != nil {
		d.b.Fatal(err)
	}
}

func (d bench) tensor(t kernels.DType, shape ...int) kernels.Tensor {
	x := kernels.Tensor{DType: t, Shape: shape}
	buf, err := d.Alloc(x.Elements() * int64(t.Size()))
	d.must(err)
	x.Buf = buf
	raw := make([]byte, x.Elements()*int64(t.Size()))
	for i := 0; i < len(raw); i += t.Size() {
		v := float32(d.rng.NormFloat64())
		switch t {
		case kernels.F32:
			binary.LittleEndian.PutUint32(raw[i:], math.Float32bits(v))
		case kernels.BF16:
			binary.LittleEndian.PutUint16(raw[i:], dtype.ToBF16(v))
		}
	}
	d.must(d.Upload(x, raw))
	return x
}

func (d bench) ints(v ...int32) kernels.Tensor {
	x := d.tensor(kernels.I32, len(v))
	raw := make([]byte, 4*len(v))
	for i, n := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], uint32(n))
	}
	d.must(d.Upload(x, raw))
	return x
}

// report prints rates by the clock and by processor time: on a machine with other
// work only the second means something. Both are of one iteration of the loop.
func (d bench) report(used time.Duration, flops, bytes float64) {
	n := float64(d.b.N)
	seconds, busy := d.b.Elapsed().Seconds()/n, used.Seconds()/n
	if flops > 0 {
		d.b.ReportMetric(flops/seconds/1e9, "Gflop/s")
		d.b.ReportMetric(flops/busy/1e9, "Gflop/cpu-s")
	}
	if bytes > 0 {
		d.b.ReportMetric(bytes/seconds/1e9, "GB/s")
		d.b.ReportMetric(bytes/busy/1e9, "GB/cpu-s")
	}
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// weight packs a layer of one random part of the given format.
func (d bench) weight(format string, n, k int) kernels.Weight {
	p := kernels.MatrixPart{N: n}
	switch format {
	case "f32", "bf16":
		p.DType = map[string]kernels.DType{"f32": kernels.F32, "bf16": kernels.BF16}[format]
		p.Data = make([]byte, n*k*p.DType.Size())
		for i := range n * k {
			v := float32(int(d.rng.Uint32()%2001)-1000) / 30000
			if format == "f32" {
				binary.LittleEndian.PutUint32(p.Data[4*i:], math.Float32bits(v))
			} else {
				binary.LittleEndian.PutUint16(p.Data[2*i:], dtype.ToBF16(v))
			}
		}
	default:
		bits, group := 8, 128
		if format == "int4" {
			bits, group = 4, 64
		}
		p.Data = make([]byte, n*k*bits/8)
		for i := range p.Data {
			p.Data[i] = byte(d.rng.Uint32())
		}
		p.Quant = &kernels.QuantPart{Bits: bits, Group: group, Scales: make([]byte, 4*n*k/group)}
		for i := 0; i < len(p.Quant.Scales); i += 4 {
			binary.LittleEndian.PutUint32(p.Quant.Scales[i:], math.Float32bits(0.001))
		}
	}
	w, err := d.PackLinear(kernels.LinearSource{Name: "bench", K: k, Parts: []kernels.MatrixPart{p}})
	d.must(err)
	return w
}

// BenchmarkLinear runs enough different layers that the weights do not stay in
// cache. GB/s counts weight bytes, Gflop/s two operations a weight and row.
func BenchmarkLinear(b *testing.B) {
	for _, format := range []string{"bf16", "f32", "int8", "int4"} {
		for _, s := range [][3]int{{1, 3072, 1024}, {4, 3072, 1024}, {8, 3072, 1024}, {512, 3072, 1024}, {1, 12288, 4096}, {512, 4096, 4096}, {1025, 4096, 1024}} {
			b.Run(fmt.Sprintf("format=%s/T=%d/N=%d/K=%d", format, s[0], s[1], s[2]), func(b *testing.B) {
				d := openBench(b)
				t, n, k := s[0], s[1], s[2]
				layers := 1
				if t <= 16 {
					layers = max(1, 200_000_000/(n*k*2))
				}
				x, out := d.tensor(kernels.F32, t, k), d.tensor(kernels.F32, t, n)
				var weights []kernels.Weight
				bytes := int64(0)
				for range layers {
					weights = append(weights, d.weight(format, n, k))
					bytes += weights[0].Bytes()
				}
				d.must(d.Sync()) // what was enqueued so far is not measured
				start := processorTime()
				for b.Loop() {
					for _, w := range weights {
						d.must(d.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
					}
					d.must(d.Sync())
				}
				d.report(processorTime()-start, 2*float64(t*n*k*layers), float64(bytes))
			})
		}
	}
}

// BenchmarkAttention runs causal attention over a paged bf16 cache, and a vision tile.
func BenchmarkAttention(b *testing.B) {
	for _, s := range []struct{ rows, length, hq, hkv, d, seqs int }{{1, 3328, 16, 8, 128, 1}, {1, 3328, 32, 8, 128, 1}, {1, 512, 32, 8, 128, 8}, {512, 512, 16, 8, 128, 1}, {512, 3840, 16, 8, 128, 1}, {1, 300, 8, 4, 32, 1}} {
		b.Run(fmt.Sprintf("rows=%d/S=%d/Hq=%d/Hkv=%d/D=%d/B=%d", s.rows, s.length, s.hq, s.hkv, s.d, s.seqs), func(b *testing.B) {
			d := openBench(b)
			width := (s.length + 31) / 32
			const layers = 4
			kv, err := d.NewKV(kernels.KVShape{Layers: layers, Blocks: width * s.seqs, Heads: s.hkv, HeadDim: s.d, DType: kernels.BF16})
			d.must(err)
			slots := make([]int32, s.length)
			k, v := d.tensor(kernels.BF16, s.length, s.hkv, s.d), d.tensor(kernels.BF16, s.length, s.hkv, s.d)
			starts, lens, tables := []int32{0}, []int32{}, []int32{}
			order := d.rng.Perm(width * s.seqs)
			for q := range s.seqs {
				for i := range slots {
					slots[i] = int32(order[q*width+i/32]*32 + i%32)
				}
				for l := range layers {
					d.must(d.KVStore(kernels.KVStoreArgs{KV: kv, Layer: l, K: k, V: v, Slots: d.ints(slots...)}))
				}
				starts, lens = append(starts, int32((q+1)*s.rows)), append(lens, int32(s.length))
				for i := range width {
					tables = append(tables, int32(order[q*width+i]))
				}
			}
			t := s.rows * s.seqs
			a := kernels.PagedAttentionArgs{
				Out: d.tensor(kernels.F32, t, s.hq, s.d), Q: d.tensor(kernels.F32, t, s.hq, s.d), KV: kv,
				Starts: d.ints(starts...), Lens: d.ints(lens...), Tables: d.ints(tables...).Reshape(s.seqs, width), Scale: 0.09, MaxRows: s.rows, MaxLen: s.length,
			}
			d.must(d.Sync()) // what was enqueued so far is not measured
			start := processorTime()
			for b.Loop() {
				for a.Layer = range layers {
					d.must(d.PagedAttention(a))
				}
				d.must(d.Sync())
			}
			seen := float64(s.rows)*float64(s.length-s.rows) + float64(s.rows)*float64(s.rows+1)/2
			d.report(processorTime()-start, layers*4*seen*float64(s.d*s.hq*s.seqs), float64(layers*4*s.length*s.d*s.hkv*s.seqs))
		})
	}
	b.Run("vision/N=1025/H=16/D=64", func(b *testing.B) {
		d := openBench(b)
		qkv := d.tensor(kernels.F32, 1025, 3*1024)
		head := func(i int) kernels.Tensor { return qkv.Cols(i*1024, (i+1)*1024).Reshape(1025, 16, 64) }
		out, starts := d.tensor(kernels.F32, 1025, 16, 64), d.ints(0, 1025)
		d.must(d.Sync()) // what was enqueued so far is not measured
		start := processorTime()
		for b.Loop() {
			d.must(d.SegmentAttention(kernels.SegmentAttentionArgs{Out: out, Q: head(0), K: head(1), V: head(2), Starts: starts, Scale: 0.125, MaxRows: 1025, AllowBF16: true}))
			d.must(d.Sync())
		}
		d.report(processorTime()-start, 4*1025*1025*64*16, 0)
	})
}

// BenchmarkTiny runs the decode step of a model of 12 M parameters (width 256, 8
// layers, 8 query and 4 kv heads of 32, FFN 1024, vocabulary 16384): overhead shows.
func BenchmarkTiny(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, rows := range []int{1, 8, 256} {
			b.Run(fmt.Sprintf("threads=%d/T=%d", threads, rows), func(b *testing.B) {
				d := openBench(b)
				dev, err := cpu.Open(cpu.Options{Threads: threads})
				d.must(err)
				defer dev.Close()
				d.Backend = dev
				benchTiny(d, rows)
			})
		}
	}
}

func benchTiny(d bench, rows int) {
	const c, f, hq, hkv, hd, layers, vocab, depth = 256, 1024, 8, 4, 32, 8, 16384, 320
	kv, err := d.NewKV(kernels.KVShape{Layers: layers, Blocks: 20 * rows, Heads: hkv, HeadDim: hd, DType: kernels.BF16})
	d.must(err)
	type layer struct{ qkv, o, up, down kernels.Weight }
	var ls []layer
	for range layers {
		ls = append(ls, layer{d.weight("bf16", (hq+2*hkv)*hd, c), d.weight("bf16", c, hq*hd), d.weight("bf16", 2*f, c), d.weight("bf16", c, f)})
	}
	head := d.weight("bf16", vocab, c)
	norm, hnorm, freq := d.tensor(kernels.F32, c), d.tensor(kernels.F32, hd), d.tensor(kernels.F32, hd/2)
	x, y := d.tensor(kernels.F32, rows, c), d.tensor(kernels.F32, rows, c)
	qkv, att := d.tensor(kernels.F32, rows, (hq+2*hkv)*hd), d.tensor(kernels.F32, rows, hq, hd)
	mid, scratch, logits := d.tensor(kernels.F32, rows, f), d.tensor(kernels.F32, rows, 2*f), d.tensor(kernels.F32, rows, vocab)
	ids := d.tensor(kernels.I32, rows)
	var starts, lens, tables, slots, positions []int32
	starts = append(starts, 0)
	seqs, each := rows, 1
	if rows > 16 {
		seqs, each = 1, rows
	}
	for s := range seqs {
		starts, lens = append(starts, int32((s+1)*each)), append(lens, depth)
		for i := range depth / 32 {
			tables = append(tables, int32(s*10+i))
		}
		for i := range each {
			slots, positions = append(slots, int32(s*320+depth-each+i)), append(positions, int32(depth-each+i))
		}
	}
	st, lt, tt := d.ints(starts...), d.ints(lens...), d.ints(tables...).Reshape(seqs, depth/32)
	sl, ps := d.ints(slots...), d.ints(positions...)
	d.must(d.Sync()) // what was enqueued so far is not measured
	start := processorTime()
	for d.b.Loop() {
		for i, l := range ls {
			d.must(d.RMSNorm(kernels.RMSNormArgs{Out: y, X: x, Weight: norm, Eps: 1e-6}))
			d.must(d.Linear(kernels.LinearArgs{Out: qkv, X: y, W: l.qkv}))
			d.must(kernels.QKNormRopeStore(d.Backend, kernels.QKNormRopeStoreArgs{QKV: qkv, QNorm: hnorm, KNorm: hnorm, Eps: 1e-6, Positions: ps, InvFreq: freq, KV: kv, Layer: i, Slots: sl}))
			d.must(d.PagedAttention(kernels.PagedAttentionArgs{Out: att, Q: qkv.Cols(0, hq*hd).Reshape(rows, hq, hd), KV: kv, Layer: i, Starts: st, Lens: lt, Tables: tt, Scale: 0.17, MaxRows: each, MaxLen: depth}))
			d.must(d.Linear(kernels.LinearArgs{Out: x, X: att.Reshape(rows, hq*hd), W: l.o, Residual: x}))
			d.must(d.RMSNorm(kernels.RMSNormArgs{Out: y, X: x, Weight: norm, Eps: 1e-6}))
			d.must(kernels.SwiGLU(d.Backend, kernels.SwiGLUArgs{Out: mid, X: y, W: l.up, Scratch: scratch}))
			d.must(d.Linear(kernels.LinearArgs{Out: x, X: mid, W: l.down, Residual: x}))
		}
		last := x
		lo := logits
		if rows > 16 {
			last, lo = x.Slice(rows-1, rows), logits.Slice(rows-1, rows)
		}
		d.must(d.RMSNorm(kernels.RMSNormArgs{Out: y.Slice(0, last.Rows()), X: last, Weight: norm, Eps: 1e-6}))
		d.must(d.Linear(kernels.LinearArgs{Out: lo, X: y.Slice(0, last.Rows()), W: head}))
		d.must(d.ArgMax(kernels.ArgMaxArgs{IDs: ids.Slice(0, lo.Rows()), Logits: lo}))
		d.must(d.Sync())
	}
	d.b.ReportMetric(float64(rows*d.b.N)/d.b.Elapsed().Seconds(), "tok/s")
	d.b.ReportMetric(float64(rows*d.b.N)/(processorTime()-start).Seconds(), "tok/cpu-s")
}
