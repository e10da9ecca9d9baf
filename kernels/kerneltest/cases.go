package kerneltest

import (
	"fmt"
	"math"
	"strings"

	"metacap/kernels"
)

const (
	f32  = kernels.F32
	bf16 = kernels.BF16
)

// cases lists the suite.
func cases() []testCase {
	var all []testCase
	for _, part := range [][]testCase{
		linearCases(), quantCases(), normCases(), elementCases(), rowCases(), ropeCases(),
		pagedCases(), segmentCases(), visionCases(), argMaxCases(), fusedCases(),
		linearInvariance(), rowInvariance(), attentionInvariance(), refusals(),
	} {
		all = append(all, part...)
	}
	for i := range all {
		all[i].name = strings.ReplaceAll(all[i].name, " ", ",") // as -run wants it
	}
	return all
}

func bound(op, name string, run func(*world)) testCase {
	return testCase{op: op, name: name, run: run, exact: true}
}

// mixes are the combinations of input and output type.
var mixes = [][2]kernels.DType{{f32, f32}, {bf16, bf16}, {bf16, f32}, {f32, bf16}}

func normCases() []testCase {
	var all []testCase
	for _, m := range mixes {
		for _, c := range []struct {
			shape  []int
			stride int
		}{{[]int{1, 1024}, 0}, {[]int{3, 4096}, 0}, {[]int{5, 100}, 0}, {[]int{2, 7}, 0}, {[]int{1, 1}, 0}, {[]int{7, 128}, 160}, {[]int{3, 8, 32}, 0}, {[]int{4, 2, 128}, 1024}, {[]int{2, 3, 16}, 64}} {
			name := fmt.Sprintf("%s-%s/%v,stride=%d", m[0], m[1], c.shape, c.stride)
			width := c.shape[len(c.shape)-1]
			all = append(all, bound("RMSNorm", name, func(w *world) {
				w.do(w.RMSNorm(kernels.RMSNormArgs{
					X: w.strided("X", m[0], c.stride, c.shape...), Out: w.out("Out", m[1], c.shape...),
					Weight: w.random("Weight", f32, width), Eps: 1e-6,
				}))
			}))
			if len(c.shape) == 2 {
				all = append(all, bound("LayerNorm", name, func(w *world) {
					w.do(w.LayerNorm(kernels.LayerNormArgs{
						X: w.strided("X", m[0], c.stride, c.shape...), Out: w.outStrided("Out", m[1], c.stride, c.shape...),
						Weight: w.random("Weight", f32, width), Bias: w.random("Bias", f32, width), Eps: 1e-6,
					}))
				}))
			}
		}
	}
	for _, d := range []kernels.DType{f32, bf16} {
		all = append(all, bound("RMSNorm", fmt.Sprintf("round_first_in_place/%s", d), func(w *world) {
			x := w.inPlace(w.strided("X", d, 320, 3, 4, 64))
			w.do(w.RMSNorm(kernels.RMSNormArgs{X: x, Out: x, Weight: w.random("Weight", f32, 64), Eps: 1e-6, RoundFirst: true}))
		}), bound("LayerNorm", fmt.Sprintf("in_place/%s", d), func(w *world) {
			x := w.inPlace(w.random("X", d, 3, 1024))
			w.do(w.LayerNorm(kernels.LayerNormArgs{X: x, Out: x, Weight: w.random("Weight", f32, 1024), Bias: w.random("Bias", f32, 1024), Eps: 1e-5}))
		}), bound("LayerNorm", fmt.Sprintf("large_mean/%s", d), func(w *world) {
			v := w.normal(2*1024, 1)
			for i := range v {
				v[i] += 100 // a one-pass variance loses its digits here
			}
			w.do(w.LayerNorm(kernels.LayerNormArgs{
				X: w.floats("X", d, v, 2, 1024), Out: w.out("Out", f32, 2, 1024),
				Weight: w.random("Weight", f32, 1024), Bias: w.random("Bias", f32, 1024), Eps: 1e-5,
			}))
		}), bound("RMSNorm", fmt.Sprintf("tiny_values/%s", d), func(w *world) {
			w.do(w.RMSNorm(kernels.RMSNormArgs{
				X: w.floats("X", d, w.normal(2*512, 1e-6), 2, 512), Out: w.out("Out", f32, 2, 512),
				Weight: w.random("Weight", f32, 512), Eps: 1e-6,
			}))
		}))
	}
	return all
}

var acts = map[kernels.Act]string{kernels.ActNone: "none", kernels.ActGELU: "gelu", kernels.ActQuickGELU: "quickgelu", kernels.ActSiLU: "silu"}

func elementCases() []testCase {
	var all []testCase
	for _, m := range mixes {
		for _, shape := range [][]int{{1, 1}, {3, 17}, {5, 1024}, {2, 12288}} {
			name := fmt.Sprintf("%s-%s/%v", m[0], m[1], shape)
			for f := kernels.ActNone; f <= kernels.ActSiLU; f++ {
				all = append(all, bound("Activation", acts[f]+"/"+name, func(w *world) {
					x := w.floats("X", m[0], w.normal(shape[0]*shape[1], 2), shape...)
					w.do(w.Activation(kernels.ActivationArgs{X: x, Out: w.out("Out", m[1], shape...), Act: f}))
				}))
			}
			all = append(all, bound("SiLUMul", name, func(w *world) {
				w.do(w.SiLUMul(kernels.SiLUMulArgs{X: w.random("X", m[0], shape[0], 2*shape[1]), Out: w.out("Out", m[1], shape...)}))
			}), bound("Add", name, func(w *world) {
				w.do(w.Add(kernels.AddArgs{A: w.random("A", m[0], shape...), B: w.strided("B", m[1], shape[1]+16, shape...), Out: w.out("Out", m[1], shape...)}))
			}), bound("Cast", name, func(w *world) {
				w.do(w.Cast(kernels.CastArgs{X: w.random("X", m[0], shape...), Out: w.out("Out", m[1], shape...)}))
			}))
		}
	}
	for f := kernels.ActGELU; f <= kernels.ActSiLU; f++ {
		all = append(all, bound("Activation", acts[f]+"/tails", func(w *world) {
			v := make([]float32, 4096)
			for i := range v {
				v[i] = float32(i-2048) / 64 // -32 .. 32
			}
			v = append(v, 100, -100, 3e38, -3e38, 0, float32(math.Copysign(0, -1)), 1e-38, -1e-38)
			x := w.inPlace(w.floats("X", f32, v, 1, len(v)))
			w.do(w.Activation(kernels.ActivationArgs{X: x, Out: x, Act: f}))
		}))
	}
	all = append(all, bound("Add", "in_place_first", func(w *world) {
		a := w.inPlace(w.random("A", bf16, 3, 33))
		w.do(w.Add(kernels.AddArgs{A: a, B: w.random("B", f32, 3, 33), Out: a}))
	}), bound("Add", "in_place_second", func(w *world) {
		b := w.inPlace(w.strided("B", f32, 64, 3, 33))
		w.do(w.Add(kernels.AddArgs{A: w.random("A", bf16, 3, 33), B: b, Out: b}))
	}), bound("Cast", "ties_and_ranks", func(w *world) {
		v := w.normal(48, 1)
		for i := range v {
			v[i] = math.Float32frombits(math.Float32bits(v[i])&^0xffff | 0x8000) // ties to even
		}
		w.do(w.Cast(kernels.CastArgs{X: w.floats("X", f32, v, 2, 3, 8), Out: w.out("Out", bf16, 2, 3, 8)}))
	}), bound("Cast", "vector", func(w *world) {
		w.do(w.Cast(kernels.CastArgs{X: w.random("X", bf16, 77), Out: w.out("Out", f32, 77)}))
	}))
	return all
}

func rowCases() []testCase {
	var all []testCase
	for _, table := range []kernels.DType{f32, bf16, kernels.F16} {
		for _, out := range []kernels.DType{f32, bf16} {
			for _, c := range []int{1, 32, 100, 1024} {
				all = append(all, bound("Embed", fmt.Sprintf("%s-%s/C=%d", table, out, c), func(w *world) {
					w.do(w.Embed(kernels.EmbedArgs{
						Table: w.random("Table", table, 50, c), IDs: w.ints("IDs", []int32{0, 49, 7, 7, 1}, 5), Out: w.out("Out", out, 5, c),
					}))
				}))
			}
		}
	}
	for _, d := range []kernels.DType{f32, bf16} {
		for _, c := range []int{1, 9, 256} {
			name := fmt.Sprintf("%s/C=%d", d, c)
			all = append(all, bound("GatherRows", name, func(w *world) {
				w.do(w.GatherRows(kernels.GatherRowsArgs{
					X: w.strided("X", d, c+8, 6, c), Index: w.ints("Index", []int32{5, 0, 5, 2}, 4), Out: w.out("Out", d, 4, c),
				}))
			}))
			for _, from := range []kernels.DType{f32, bf16} {
				all = append(all, bound("ScatterRows", fmt.Sprintf("%s-%s", from, name), func(w *world) {
					out := w.inPlace(w.random("Out", d, 6, c))
					w.do(w.ScatterRows(kernels.ScatterRowsArgs{X: w.random("X", from, 4, c), Index: w.ints("Index", []int32{5, -1, 0, 3}, 4), Out: out}))
				}))
			}
		}
	}
	return all
}

func ropeCases() []testCase {
	var all []testCase
	for _, d := range []kernels.DType{f32, bf16} {
		for _, c := range []struct{ t, h, d, stride int }{{1, 1, 2, 0}, {3, 8, 32, 0}, {5, 2, 16, 96}, {4, 32, 128, 0}, {2, 3, 80, 0}, {9, 2, 64, 192}, {2, 1, 6, 0}} {
			run := func(sections []int, factor float32) func(*world) {
				return func(w *world) {
					freq := make([]float32, c.d/2)
					for i := range freq {
						freq[i] = float32(math.Pow(1e6, -2*float64(i)/float64(c.d)))
					}
					rows, shape := 1, []int{c.t}
					if sections != nil {
						rows, shape = 3, []int{3, c.t}
					}
					positions := make([]int32, rows*c.t)
					for i := range positions {
						positions[i] = []int32{0, 1, 3327, 40959, 17, 262143}[(i*5+i/c.t)%6]
					}
					x := w.inPlace(w.strided("X", d, c.stride, c.t, c.h, c.d))
					w.do(w.Rope(kernels.RopeArgs{
						X: x, Positions: w.ints("Positions", positions, shape...),
						InvFreq: w.floats("InvFreq", f32, freq, len(freq)), Factor: factor, Sections: sections,
					}))
				}
			}
			name := fmt.Sprintf("%s/T=%d,H=%d,D=%d,stride=%d", d, c.t, c.h, c.d, c.stride)
			all = append(all, bound("Rope", name, run(nil, 0)), bound("Rope", "yarn/"+name, run(nil, 1.25)))
			if c.d >= 16 {
				q := c.d / 8
				all = append(all, bound("Rope", "sections/"+name, run([]int{c.d/2 - 2*q, q, q}, 1)))
			}
		}
	}
	return all
}

func visionCases() []testCase {
	var all []testCase
	for _, d := range []kernels.DType{f32, bf16} {
		for _, c := range []struct{ tiles, side, p, columns int }{{1, 28, 14, 588}, {2, 56, 14, 592}, {3, 16, 4, 48}, {1, 8, 8, 200}, {1, 448, 14, 588}} {
			all = append(all, bound("Patchify", fmt.Sprintf("%s/I=%d,S=%d,p=%d,columns=%d", d, c.tiles, c.side, c.p, c.columns), func(w *world) {
				raw := make([]byte, c.tiles*c.side*c.side*3)
				for i := range raw {
					raw[i] = byte(w.rng.UintN(256))
				}
				g := c.side / c.p
				w.do(w.Patchify(kernels.PatchifyArgs{
					Tiles: w.place("Tiles", kernels.U8, raw, 0, c.tiles, c.side, c.side, 3).t,
					LUT:   w.random("LUT", f32, 3, 256), PatchSize: c.p, Out: w.out("Out", d, c.tiles*g*g, c.columns),
				}))
			}))
		}
		for _, m := range [][3]int{{1, 1, 8}, {2, 16, 1024}, {3, 4, 100}} {
			for _, from := range []kernels.DType{f32, bf16} {
				all = append(all, bound("VisionEmbed", fmt.Sprintf("%s-%s/I=%d,P=%d,E=%d", from, d, m[0], m[1], m[2]), func(w *world) {
					w.do(w.VisionEmbed(kernels.VisionEmbedArgs{
						X: w.random("X", from, m[0]*m[1], m[2]), Class: w.random("Class", f32, m[2]),
						Pos: w.random("Pos", f32, m[1]+1, m[2]), Out: w.out("Out", d, m[0], m[1]+1, m[2]),
					}))
				}))
			}
		}
		for _, m := range [][4]int{{1, 4, 8, 2}, {2, 32, 16, 2}, {2, 6, 5, 3}, {1, 4, 4, 1}} {
			for version := 1; version <= 2; version++ {
				tiles, g, e, r := m[0], m[1], m[2], m[3]
				all = append(all, bound("PixelShuffle", fmt.Sprintf("%s/v%d/I=%d,g=%d,E=%d,r=%d", d, version, tiles, g, e, r), func(w *world) {
					w.do(w.PixelShuffle(kernels.PixelShuffleArgs{
						X: w.random("X", d, tiles, 1+g*g, e), Factor: r, Version: version, Out: w.out("Out", d, tiles, g*g/r/r, r*r*e),
					}))
				}))
			}
		}
	}
	return all
}

func argMaxCases() []testCase {
	var all []testCase
	for _, v := range []int{1, 2, 15, 17, 1000, 151936} {
		for _, rows := range []int{1, 3} {
			all = append(all, bound("ArgMax", fmt.Sprintf("B=%d,V=%d", rows, v), func(w *world) {
				w.do(w.ArgMax(kernels.ArgMaxArgs{
					Logits: w.floats("Logits", f32, w.normal(rows*v, 3), rows, v),
					IDs:    w.out("IDs", kernels.I32, rows), LogProbs: w.out("LogProbs", f32, rows),
				}))
			}))
		}
	}
	for _, at := range [][]int{{0, 5}, {3, 40}, {98, 99}, {16, 17}} {
		all = append(all, bound("ArgMax", fmt.Sprintf("ties/%v", at), func(w *world) {
			v := w.normal(100, 1)
			for _, i := range at {
				v[i] = 10
			}
			w.do(w.ArgMax(kernels.ArgMaxArgs{Logits: w.floats("Logits", f32, v, 1, 100), IDs: w.out("IDs", kernels.I32, 1)}))
		}))
	}
	all = append(all, bound("ArgMax", "masked_logits", func(w *world) {
		v := w.normal(300, 1)
		for i := range v {
			if i != 257 {
				v[i] = float32(math.Inf(-1))
			}
		}
		w.do(w.ArgMax(kernels.ArgMaxArgs{Logits: w.floats("Logits", f32, v, 1, 300), IDs: w.out("IDs", kernels.I32, 1), LogProbs: w.out("LogProbs", f32, 1)}))
	}), bound("ArgMax", "large_negative", func(w *world) {
		v := w.normal(50, 1)
		for i := range v {
			v[i] -= 1e5
		}
		w.do(w.ArgMax(kernels.ArgMaxArgs{Logits: w.floats("Logits", f32, v, 1, 50), IDs: w.out("IDs", kernels.I32, 1), LogProbs: w.out("LogProbs", f32, 1)}))
	}))
	return all
}
