package quant_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/loader/internal/quant"
)

func same(f float32) float32 { return f }

// TestRound checks the choice of scales against a plain search, and edge values.
func TestRound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const k, group = 256, 64
	w := make([]float32, k)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	clear(w[64:128])
	q, scales := make([]int8, k), make([]float32, k/group)
	for _, bits := range []int{8, 4} {
		sum, worst := quant.Round(w, q, scales, group, bits, same)
		var wantSum, wantWorst float64
		for i, x := range w {
			d := math.Abs(float64(x) - float64(q[i])*float64(scales[i/group]))
			wantSum += d * d
			wantWorst = max(wantWorst, d)
		}
		require.InEpsilon(t, wantSum, sum, 1e-9)
		require.Equal(t, wantWorst, worst)
		require.Zero(t, scales[1])
		require.Equal(t, make([]int8, group), q[64:128])
		if bits == 8 { // the largest value is exact, the rest within half a step
			require.LessOrEqual(t, worst, float64(max(scales[0], scales[2], scales[3]))*0.5000001)
		} else { // better than the plain scale of max/7
			plain := 0.0
			for g := range scales {
				var top float64
				for _, x := range w[g*group : (g+1)*group] {
					top = max(top, math.Abs(float64(x)))
				}
				for _, x := range w[g*group : (g+1)*group] {
					if top > 0 {
						d := float64(x) - math.RoundToEven(float64(x)*7/top)*top/7
						plain += d * d
					}
				}
			}
			require.Less(t, sum, plain)
		}
	}
}

// TestRoundExtremes rounds groups at the ends of float32's range.
func TestRoundExtremes(t *testing.T) {
	for _, bits := range []int{8, 4} {
		for _, top := range []float32{math.SmallestNonzeroFloat32, 1e-38, 1e30, math.MaxFloat32} {
			q, scales := make([]int8, 4), []float32{-1}
			sum, worst := quant.Round([]float32{top, -top, 0, top / 3}, q, scales, 4, bits, same)
			require.False(t, math.IsNaN(sum) || math.IsNaN(worst))
			require.GreaterOrEqual(t, scales[0], float32(0))
			require.LessOrEqual(t, worst, float64(top), "%d bits, %g", bits, top)
			require.Zero(t, q[2])
			if top > 1e20 {
				require.Greater(t, q[0], int8(6))
			}
		}
	}
}

// TestPackRoundTrip packs signed values and reads them back.
func TestPackRoundTrip(t *testing.T) {
	const n, k = 3, 16
	q4, q8 := make([]int8, n*k), make([]int8, n*k)
	for i := range q4 {
		q4[i], q8[i] = int8(i%16-8), int8(i*5-120)
	}
	p4, p8 := quant.Pack(q4, 4, true), quant.Flip(quant.Pack(q8, 8, true))
	require.Equal(t, quant.Pack(q8, 8, false), p8)
	for i := range q4 {
		require.Equal(t, int(q4[i])+8, quant.Value(p4, i/k, i%k, k, 4))
		require.Equal(t, int(q8[i])+128, quant.Value(p8, i/k, i%k, k, 8))
	}
}

func BenchmarkRound(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 4))
	const k = 4096
	w, q := make([]float32, k), make([]int8, k)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	scales := make([]float32, k/128)
	for _, bits := range []int{8, 4} {
		b.Run(fmt.Sprintf("bits=%d", bits), func(b *testing.B) {
			for b.Loop() {
				quant.Round(w, q, scales, 128, bits, same)
			}
			b.ReportMetric(float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}

// BenchmarkUnpack converts a 4096×4096 matrix.
func BenchmarkUnpack(b *testing.B) {
	const n, k = 4096, 4096
	src := make([]byte, n*k/2)
	for name, f := range map[string]func(){
		"awq":  func() { quant.AWQ(src, n, k) },
		"gptq": func() { quant.GPTQ(src, n, k, 4) },
	} {
		b.Run("format="+name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(n*k)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}

// TestUnpack reads AWQ and GPTQ words value by value, for sizes beyond one block of inputs.
func TestUnpack(t *testing.T) {
	const n, k = 24, 520
	r := rand.New(rand.NewPCG(5, 6))
	raw := make([]byte, n*k)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	field := func(word, bits, j int) int {
		return int(binary.LittleEndian.Uint32(raw[4*word:]) >> (bits * j) & (1<<bits - 1))
	}
	columns := [8]int{0, 2, 4, 6, 1, 3, 5, 7} // of nibble i
	awq, gptq4, gptq8 := quant.AWQ(raw, n, k), quant.GPTQ(raw, n, k, 4), quant.GPTQ(raw, n, k, 8)
	for c := range n {
		for i := range k {
			require.Equal(t, field(i*(n/8)+c/8, 4, slices.Index(columns[:], c%8)), quant.Value(awq, c, i, k, 4), "awq %d,%d", c, i)
			require.Equal(t, field(i/8*n+c, 4, i%8), quant.Value(gptq4, c, i, k, 4), "gptq %d,%d", c, i)
			require.Equal(t, field(i/4*n+c, 8, i%4), quant.Value(gptq8, c, i, k, 8), "gptq 8 %d,%d", c, i)
		}
	}
}
