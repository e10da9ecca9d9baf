package cuda

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// finishCase is a way of finishing a layer.
type finishCase struct {
	name                  string
	out                   kernels.DType
	bias, residual, scale bool
	inPlace               bool
	act                   kernels.Act
	gated, plain          bool
}

var finishCases = []finishCase{
	{name: "f32", out: kernels.F32},
	{name: "sum", out: kernels.BF16},
	{name: "bias", out: kernels.BF16, bias: true},
	{name: "gelu", out: kernels.BF16, bias: true, act: kernels.ActGELU},
	{name: "silu", out: kernels.BF16, bias: true, act: kernels.ActSiLU},
	{name: "residual", out: kernels.BF16, residual: true},
	{name: "residual_in_place", out: kernels.BF16, residual: true, inPlace: true},
	{name: "scaled", out: kernels.BF16, bias: true, residual: true, scale: true, inPlace: true},
	{name: "gated", out: kernels.BF16, gated: true},
	{name: "gated_f32", out: kernels.F32, gated: true},
	{name: "gated_plain", out: kernels.BF16, gated: true, plain: true},
}

// finished computes a case with rows rows and returns the bits.
func finished(t testing.TB, b *Backend, c finishCase, rows, n, k, variant int) []byte {
	t.Helper()
	load := func(dt kernels.DType, v []float32, shape ...int) kernels.Tensor {
		x, err := tensor(b, dt, v, shape...)
		require.NoError(t, err)
		return x
	}
	src := kernels.LinearSource{Name: "w", K: k, Gated: c.gated, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: make3(normal(n * k))}}}
	if c.gated {
		src.Parts = []kernels.MatrixPart{{N: n / 2, DType: kernels.BF16, Data: make3(normal(n / 2 * k))}, {N: n / 2, DType: kernels.BF16, Data: make3(normal(n / 2 * k))}}
	}
	w, err := b.PackLinear(src)
	require.NoError(t, err)
	defer w.Free()
	x := load(kernels.BF16, normal(rows*k), rows, k)
	width := n
	if c.gated && !c.plain {
		width = n / 2
	}
	out := load(c.out, normal(rows*width), rows, width)
	a := kernels.LinearArgs{Out: out, X: x, W: w, Act: c.act}
	var owned []kernels.Tensor
	if c.bias {
		a.Bias = load(kernels.F32, normal(n), n)
		owned = append(owned, a.Bias)
	}
	if c.scale {
		a.Scale = load(kernels.F32, normal(n), n)
		owned = append(owned, a.Scale)
	}
	if c.inPlace {
		a.Residual = out
	} else if c.residual {
		a.Residual = load(c.out, normal(rows*width), rows, width)
		owned = append(owned, a.Residual)
	}
	b.forceTile = variant
	if c.gated && !c.plain {
		scratch := load(c.out, make([]float32, rows*n), rows, n)
		owned = append(owned, scratch)
		err = b.SwiGLU(kernels.SwiGLUArgs{Out: out, X: x, W: w, Scratch: scratch})
	} else {
		err = b.Linear(a)
	}
	b.forceTile = 0
	require.NoError(t, err)
	got := make([]byte, out.Elements()*int64(c.out.Size()))
	require.NoError(t, b.Download(got, out))
	for _, v := range append(owned, x, out) {
		v.Buf.Free()
	}
	return got
}

// tiles compares every variant of the wgmma kernels with the portable kernels, bit for bit.
func tiles(t *testing.T, b, portable *Backend, rows, n, k int) {
	for _, c := range finishCases {
		want := finished(t, portable, c, rows, n, k, 0)
		for i, v := range tileKernels {
			t.Run(fmt.Sprintf("%s/%s/rows=%d,n=%d,k=%d", v.name, c.name, rows, n, k), func(t *testing.T) {
				got := finished(t, b, c, rows, n, k, i+1)
				if bytes.Equal(got, want) {
					return
				}
				differ, first := 0, -1
				for j := range want {
					if got[j] != want[j] {
						if first < 0 {
							first = j
						}
						differ++
					}
				}
				width := len(want) / rows
				t.Errorf("%d of %d bytes differ, first in row %d at byte %d of %d", differ, len(want), first/width, first%width, width)
			})
		}
	}
}

// portableKernels is a simulated device that has nothing but the portable kernels.
func portableKernels(t *testing.T) *Backend {
	b, err := Open(Options{Library: library(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestTiles(t *testing.T) {
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulatedOn(t, simHopper)
		portable := portableKernels(t)
		tiles(t, b, portable, 450, 208, 192)
		tiles(t, b, portable, 1300, 400, 64)
	})
	t.Run("device", func(t *testing.T) {
		b, portable := device(t, Options{}), device(t, Options{Portable: true})
		for _, s := range [][3]int{{128, 512, 64}, {300, 1024, 1024}, {1000, 1000, 640}, {4000, 400, 128}} {
			tiles(t, b, portable, s[0], s[1], s[2])
		}
	})
}

// BenchmarkTiles times the variants on the layers of the 8B model, each finished as the
// model does. tileCost is fitted to it.
func BenchmarkTiles(bb *testing.B) {
	b := newBench(bb)
	bias := b.floats(24576)
	for _, s := range []struct {
		name   string
		n, k   int
		rows   []int
		finish finishCase
	}{
		{"qkv", 6144, 4096, []int{100, 300, 2304}, finishCase{}},
		{"out", 4096, 4096, []int{300, 2304}, finishCase{residual: true}},
		{"gateup", 24576, 4096, []int{100, 1000, 2304}, finishCase{gated: true}},
		{"down", 4096, 12288, []int{1000, 2304}, finishCase{residual: true}},
		{"vit_qkv", 3072, 1024, []int{1025, 8200, 13325}, finishCase{bias: true}},
		{"vit_out", 1024, 1024, []int{1025, 8200, 13325}, finishCase{bias: true, residual: true, scale: true}},
		{"vit_fc1", 4096, 1024, []int{1025, 8200, 13325}, finishCase{bias: true, act: kernels.ActGELU}},
		{"vit_fc2", 1024, 4096, []int{1025, 8200, 13325}, finishCase{bias: true, residual: true, scale: true}},
	} {
		count := max(2, min(8, 200<<20/(s.n*s.k*2)+1)) // more than the cache holds
		var weights []kernels.Weight
		for range count {
			weights = append(weights, b.linear(s.n, s.k, s.finish.gated))
		}
		for _, rows := range s.rows {
			width := s.n
			if s.finish.gated {
				width /= 2
			}
			x, out, scratch := b.rows(rows, s.k), b.rows(rows, width), kernels.Tensor{}
			if s.finish.gated {
				scratch = b.rows(rows, s.n)
			}
			for variant := -1; variant <= len(tileKernels); variant++ {
				name := "portable"
				if variant > 0 {
					name = tileKernels[variant-1].name
				} else if variant == 0 || rows > 100 {
					continue
				}
				bb.Run(fmt.Sprintf("%s/rows=%d/%s", s.name, rows, name), func(bb *testing.B) {
					b.forceTile = variant
					defer func() { b.forceTile = 0 }()
					ms := b.time(bb, func() error {
						for _, w := range weights {
							a := kernels.LinearArgs{Out: out, X: x, W: w, Act: s.finish.act}
							if s.finish.bias {
								a.Bias = bias.Slice(0, s.n)
							}
							if s.finish.residual {
								a.Residual = out
							}
							if s.finish.scale {
								a.Scale = bias.Slice(0, s.n)
							}
							var err error
							if s.finish.gated {
								err = b.SwiGLU(kernels.SwiGLUArgs{Out: out, X: x, W: w, Scratch: scratch})
							} else {
								err = b.Linear(a)
							}
							if err != nil {
								return err
							}
						}
						return nil
					}) / float64(count)
					bb.ReportMetric(ms*1e3, "us/layer")
					bb.ReportMetric(2*float64(rows)*float64(s.n)*float64(s.k)/ms/1e9, "TFLOP/s")
				})
			}
			x.Buf.Free()
			out.Buf.Free()
			if scratch.Buf != nil {
				scratch.Buf.Free()
			}
		}
		for _, w := range weights {
			w.Free()
		}
	}
}

// streams compares every variant of the streaming kernels with the portable kernels, bit for
// bit, on as many strips a multiprocessor as it takes, at most most.
func streams(t *testing.T, b, portable *Backend, cases []finishCase, most, k int) {
	for i, v := range streamKernels {
		for _, c := range cases {
			per := most
			if v.limit > 0 {
				per = min(per, v.limit)
			}
			rows, n := v.rows-v.rows/3, 16*(b.sms*per-1)
			t.Run(fmt.Sprintf("%s/%s/rows=%d,n=%d,k=%d", kernelTable[v.id].name, c.name, rows, n, k), func(t *testing.T) {
				b.forceStream = i + 1
				got := finished(t, b, c, rows, n, k, 0)
				b.forceStream = 0
				require.True(t, bytes.Equal(finished(t, portable, c, rows, n, k, 0), got), "bits differ")
			})
		}
	}
}

func TestStreams(t *testing.T) {
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulatedOn(t, simHopper)
		portable := portableKernels(t)
		streams(t, b, portable, finishCases, 2, 768)
		streams(t, b, portable, finishCases, 7, 256)
		streams(t, b, portable, finishCases[:1], 1, 256*20) // more than the rings hold
	})
	t.Run("device", func(t *testing.T) {
		b, portable := device(t, Options{}), device(t, Options{Portable: true})
		streams(t, b, portable, finishCases, 3, 512)
		streams(t, b, portable, finishCases[:1], 7, 1024)
		streams(t, b, portable, finishCases[:1], 1, 256*20)
	})
}
