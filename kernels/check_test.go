package kernels_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// memory is a buffer that exists only by its size.
type memory int64

func (m *memory) Bytes() int64 { return int64(*m) }
func (m *memory) Free()        {}

func block(bytes int64) kernels.Buffer { m := memory(bytes); return &m }

func tensor(d kernels.DType, shape ...int) kernels.Tensor {
	t := kernels.Tensor{DType: d, Shape: shape}
	t.Buf = block(t.Elements() * int64(d.Size()))
	return t
}

func TestCheckNames(t *testing.T) {
	x := tensor(kernels.F32, 3, 8)
	add := func(mod func(*kernels.AddArgs)) error {
		a := kernels.AddArgs{Out: tensor(kernels.F32, 3, 8), A: x, B: tensor(kernels.BF16, 3, 8)}
		mod(&a)
		return a.Check()
	}
	require.NoError(t, add(func(*kernels.AddArgs) {}))
	for name, mod := range map[string]func(*kernels.AddArgs){
		"no buffer":       func(a *kernels.AddArgs) { a.A.Buf = nil },
		"empty":           func(a *kernels.AddArgs) { a.A.Shape = []int{0, 8} },
		"rank":            func(a *kernels.AddArgs) { a.A.Shape = []int{24} },
		"dtype":           func(a *kernels.AddArgs) { a.A.DType = kernels.I32 },
		"unknown dtype":   func(a *kernels.AddArgs) { a.A.DType = 200 },
		"columns":         func(a *kernels.AddArgs) { a.B = tensor(kernels.F32, 3, 7) },
		"rows":            func(a *kernels.AddArgs) { a.Out = tensor(kernels.F32, 2, 8) },
		"past the end":    func(a *kernels.AddArgs) { a.A.Offset = 16 },
		"misaligned":      func(a *kernels.AddArgs) { a.A = tensor(kernels.F32, 8, 8).Slice(0, 3); a.A.Offset = 4 },
		"negative offset": func(a *kernels.AddArgs) { a.A.Offset = -16 },
		"small stride":    func(a *kernels.AddArgs) { a.A.Stride = 7 },
		"large stride":    func(a *kernels.AddArgs) { a.A.Stride = 1 << 60 },
		"large shape":     func(a *kernels.AddArgs) { a.A.Shape = []int{1 << 40, 1 << 40} },
		"partial overlap": func(a *kernels.AddArgs) {
			a.Out = x
			a.A = x
			a.A.Buf = block(200)
			a.Out.Buf = a.A.Buf
			a.Out.Offset = 64
		},
		"different strides": func(a *kernels.AddArgs) { a.A.Buf = block(400); a.Out = a.A; a.A.Stride = 12 },
	} {
		var arg *kernels.ArgError
		require.ErrorAs(t, add(mod), &arg, name)
	}
}

func TestOverlap(t *testing.T) {
	m := tensor(kernels.F32, 4, 12)
	left, right := m.Cols(0, 4), m.Cols(4, 12)
	require.False(t, kernels.Overlap(left, right))
	require.True(t, kernels.Overlap(left, m.Cols(3, 5)))
	require.True(t, kernels.Overlap(m, right))
	require.False(t, kernels.Overlap(m.Slice(0, 2), m.Slice(2, 4)))
	require.False(t, kernels.Overlap(left.Slice(0, 2), right.Slice(1, 4)))
	require.False(t, kernels.Overlap(right.Slice(1, 4), left.Slice(0, 2)))
	require.True(t, kernels.Overlap(right.Slice(1, 4), m.Cols(8, 12)))
	require.False(t, kernels.Overlap(m, tensor(kernels.F32, 4, 12)))
	require.True(t, kernels.Same(left, left))
	require.False(t, kernels.Same(left, right))
}

func TestCheckAllocatesNothing(t *testing.T) {
	a := kernels.AddArgs{Out: tensor(kernels.F32, 3, 8), A: tensor(kernels.F32, 3, 8), B: tensor(kernels.F32, 3, 8)}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if a.Check() != nil {
			t.Fatal("valid operands refused")
		}
	}))
}

func TestSourceChecks(t *testing.T) {
	quant := func(mod func(*kernels.MatrixPart)) error {
		p := kernels.MatrixPart{N: 2, Data: make([]byte, 16), Quant: &kernels.QuantPart{Bits: 8, Group: 4, Scales: make([]byte, 16), Zeros: make([]uint8, 4)}}
		mod(&p)
		_, err := kernels.LinearSource{Name: "w", K: 8, Parts: []kernels.MatrixPart{p}}.Check()
		return err
	}
	require.NoError(t, quant(func(*kernels.MatrixPart) {}))
	for name, mod := range map[string]func(*kernels.MatrixPart){
		"outputs": func(p *kernels.MatrixPart) { p.N = 0 },
		"bits":    func(p *kernels.MatrixPart) { p.Quant.Bits = 3 },
		"group":   func(p *kernels.MatrixPart) { p.Quant.Group = 3 },
		"scales":  func(p *kernels.MatrixPart) { p.Quant.Scales = p.Quant.Scales[1:] },
		"zeros":   func(p *kernels.MatrixPart) { p.Quant.Zeros = p.Quant.Zeros[1:] },
		"data":    func(p *kernels.MatrixPart) { p.Data = p.Data[1:] },
		"dense":   func(p *kernels.MatrixPart) { p.Quant = nil },
	} {
		var arg *kernels.ArgError
		require.ErrorAs(t, quant(mod), &arg, name)
	}
}
