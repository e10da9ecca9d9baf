package loader_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/loader"
	"metacap/loader/internal/format"
)

const quantDir = "../testdata/quant"

// values dequantises a linear layer by the plain definition of [loader.Quant].
func values(t *testing.T, l *loader.Linear) []float32 {
	t.Helper()
	var out []float32
	for _, p := range l.Parts {
		w := make([]float32, p.N*l.K)
		if p.Quant == nil {
			require.NoError(t, dtype.Decode(w, p.Data, p.DType))
			out = append(out, w...)
			continue
		}
		q := p.Quant
		groups := l.K / q.Group
		require.Zero(t, l.K%q.Group)
		scales := make([]float32, p.N*groups)
		dtype.DecodeF32(scales, q.Scales)
		require.Len(t, p.Data, p.N*l.K*q.Bits/8)
		for i := range w {
			n, k := i/l.K, i%l.K
			g := n*groups + k/q.Group
			v, zero := 0, 0
			if q.Bits == 8 {
				v = int(int8(p.Data[i]))
			} else {
				v, zero = int(p.Data[n*l.K/2+k/2]), 8
				if k%2 == 1 {
					v >>= 4
				}
				v &= 15
			}
			if q.Zeros != nil {
				zero = int(q.Zeros[g])
			}
			w[i] = float32(v-zero) * scales[g]
		}
		out = append(out, w...)
	}
	return out
}

// TestQuantisedGoldens compares every format with an independent dequantisation
// in numpy. The common integer form is exact; forms that it cannot hold are
// rounded to f16 (11 bits), 8-bit floats to bf16 (8 bits).
func TestQuantisedGoldens(t *testing.T) {
	cases := map[string]struct {
		form  string // "int4", "int8" or the dense type
		zeros bool
		bound float64 // relative
	}{
		"awq-g16":        {"int4", true, 0},
		"gptq-g16":       {"int4", true, 0},
		"gptq-v2-8bit":   {"int8", false, 0},
		"gptq-actorder":  {"F16", false, 1. / 2048},
		"ct-int4-g16":    {"int4", false, 0},
		"ct-int4-asym":   {"int4", true, 0},
		"ct-int8-packed": {"int8", false, 0},
		"ct-int8":        {"int8", false, 0},
		"ct-int8-asym":   {"F16", false, 1. / 2048},
		"ct-fp8":         {"BF16", false, 1. / 256},
		"fp8-block":      {"BF16", false, 1. / 256},
		"fp8-tensor":     {"BF16", false, 1. / 256},
	}
	dirs, err := os.ReadDir(quantDir)
	require.NoError(t, err)
	require.Len(t, dirs, len(cases))
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			c := open(t, filepath.Join(quantDir, name))
			require.NoError(t, c.Require(c.Config.Weights()))
			require.Empty(t, c.Extra(c.Config.Weights()))
			golden, err := loader.OpenTensors(filepath.Join(quantDir, name, "expected.safetensors"))
			require.NoError(t, err)
			defer golden.Close()
			require.Len(t, golden.Names(), 7)
			worst := 0.0
			for _, module := range golden.Names() {
				l, err := c.Linear("language_model.model.layers.0." + module)
				require.NoError(t, err)
				form := l.Parts[0].DType.String()
				if q := l.Parts[0].Quant; q != nil {
					form = map[int]string{4: "int4", 8: "int8"}[q.Bits]
					require.Equal(t, want.zeros, q.Zeros != nil, module)
				}
				require.Equal(t, want.form, form)
				v, _ := golden.Tensor(module)
				expect, err := v.Float32s()
				require.NoError(t, err)
				got := values(t, l)
				require.Len(t, got, len(expect))
				for i := range expect {
					diff := math.Abs(float64(got[i]) - float64(expect[i]))
					// Below f16's normal range the step is 2^-24 instead.
					if !(diff <= want.bound*math.Abs(float64(expect[i]))+want.bound*math.Ldexp(1, -14)) {
						t.Fatalf("%s: element %d: got %g, want %g", module, i, got[i], expect[i])
					}
					if expect[i] != 0 {
						worst = max(worst, diff/math.Abs(float64(expect[i])))
					}
				}
			}
			t.Logf("largest relative difference %.3g, allowed %.3g", worst, want.bound)
			qkv, err := c.Linear("language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.k_proj", "language_model.model.layers.0.self_attn.v_proj")
			require.NoError(t, err)
			require.Equal(t, 64, qkv.N())

			var layers int64
			for _, p := range c.Summary().Parts {
				if p.Name == "layers" {
					layers = p.Parameters
				}
			}
			require.Equal(t, int64(64*32+32*32+3*64*32+2*32+2*16), layers, "packed weights count as weights, scales do not")
		})
	}
}

// corrupt changes the bytes of one stored tensor.
func corrupt(t *testing.T, dir, tensor string, change func(data []byte)) {
	t.Helper()
	file := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	h, err := format.ParseHeader(file, data)
	require.NoError(t, err)
	at := slices.IndexFunc(h.Entries, func(e format.Entry) bool { return e.Name == tensor })
	require.GreaterOrEqual(t, at, 0, tensor)
	change(data[h.Entries[at].Start:h.Entries[at].End])
	require.NoError(t, os.WriteFile(file, data, 0o644))
}

func TestCorruptQuantised(t *testing.T) {
	const q = "model.layers.0.self_attn.q_proj."
	const module = "language_model.model.layers.0.self_attn.q_proj"
	put16 := func(bits uint16) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b[6:], bits) }
	}
	quantization := func(change func(q map[string]any)) func(map[string]any) {
		return func(m map[string]any) { change(m["quantization_config"].(map[string]any)) }
	}
	scheme := func(key string, v any) func(map[string]any) {
		return quantization(func(q map[string]any) {
			q["config_groups"].(map[string]any)["group_0"].(map[string]any)["weights"].(map[string]any)[key] = v
		})
	}
	cases := map[string]struct {
		base   string
		tensor string
		change func([]byte)
		config func(map[string]any)
		stage  string // "open", "require" or "linear"
		want   string
	}{
		"nan_scale":         {"awq-g16", "scales", put16(0x7e00), nil, "linear", "tensor " + q + "scales: scale is not a finite non-negative number, got NaN at element 3"},
		"inf_scale":         {"gptq-g16", "scales", put16(0x7c00), nil, "linear", "got +Inf at element 3"},
		"negative_scale":    {"ct-int4-g16", "weight_scale", put16(0xbf80), nil, "linear", "tensor " + q + "weight_scale: scale is not a finite non-negative number, got -1 at element 3"},
		"nan_weight":        {"fp8-block", "weight", func(b []byte) { b[33] = 0xff }, nil, "linear", "tensor " + q + "weight: weight is not a number, got 0xff at row 1, input 1"},
		"index_beyond":      {"gptq-actorder", "g_idx", func(b []byte) { b[4] = 2 }, nil, "require", module + ".g_idx: want groups below 2, got 2 at input 1"},
		"index_negative":    {"gptq-actorder", "g_idx", func(b []byte) { b[7] = 0x80 }, nil, "require", "at input 1"},
		"wrong_shape":       {"ct-int4-g16", "weight_shape", func(b []byte) { b[8] = 31 }, nil, "require", module + ".weight_shape: want the shape of [32 4] packed, got [32 31]"},
		"zero_shape":        {"ct-int4-g16", "weight_shape", func(b []byte) { b[8] = 0 }, nil, "require", "got [32 0]"},
		"awq_group":         {"awq-g16", "", nil, quantization(func(q map[string]any) { q["group_size"] = 32 }), "require", module + ".scales: want [1 32], got [2 32]"},
		"awq_group_odd":     {"awq-g16", "", nil, quantization(func(q map[string]any) { q["group_size"] = 24 }), "require", module + ".scales: want a group size that divides 32 inputs, got group_size 24"},
		"ct_group":          {"ct-int4-g16", "", nil, scheme("group_size", 32), "require", module + ".weight_scale: want one of the configured (bits, group)"},
		"ct_bits":           {"ct-int4-g16", "", nil, scheme("num_bits", 8), "require", module + ".weight_scale: want one of the configured (bits, group)"},
		"fp8_block":         {"fp8-block", "", nil, quantization(func(q map[string]any) { q["weight_block_size"] = []int{8, 8} }), "require", module + ".weight_scale_inv: want [4 4], got [2 2]"},
		"other_method":      {"awq-g16", "", nil, quantization(func(q map[string]any) { q["quant_method"] = "fp8" }), "require", module + ".qweight: want a tensor of method fp8, got I32"},
		"no_config":         {"awq-g16", "", nil, func(m map[string]any) { delete(m, "quantization_config") }, "require", module + ".qweight: want a quantization_config in config.json, got none"},
		"unknown_method":    {"awq-g16", "", nil, quantization(func(q map[string]any) { q["quant_method"] = "hqq" }), "open", `quantization_config.quant_method "hqq" is not supported`},
		"gemv":              {"awq-g16", "", nil, quantization(func(q map[string]any) { q["version"] = "gemv" }), "open", `quantization_config.version "gemv" is not supported (have gemm, GEMM)`},
		"three_bits":        {"gptq-g16", "", nil, quantization(func(q map[string]any) { q["bits"] = 3 }), "open", "quantization_config.bits 3 is not supported (have [4 8])"},
		"group_zero":        {"gptq-g16", "", nil, quantization(func(q map[string]any) { q["group_size"] = 0 }), "open", "quantization_config.group_size: out of range, got 0"},
		"ct_format":         {"ct-int8", "", nil, quantization(func(q map[string]any) { q["format"] = "nvfp4-pack-quantized" }), "open", `quantization_config.format "nvfp4-pack-quantized" is not supported`},
		"ct_sparse":         {"ct-int8", "", nil, quantization(func(q map[string]any) { q["sparsity_config"] = map[string]any{"format": "sparse-24"} }), "open", "quantization_config.sparsity_config"},
		"ct_without_groups": {"ct-int8", "", nil, quantization(func(q map[string]any) { delete(q, "config_groups") }), "open", "quantization_config.config_groups: missing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(quantDir, c.base))))
			if c.tensor != "" {
				corrupt(t, dir, q+c.tensor, c.change)
			}
			if c.config != nil {
				edit(t, dir, "config.json", c.config)
			}
			m, err := loader.Open(dir)
			if c.stage == "open" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			defer m.Close()
			err = m.Require(m.Config.Weights())
			if c.stage == "require" {
				require.ErrorContains(t, err, c.want)
			} else {
				require.NoError(t, err)
			}
			_, err = m.Linear(module)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestBiasOfZeros accepts the bias of zeros that some GPTQ exporters add to
// layers that have none, and refuses one that would change the result.
func TestBiasOfZeros(t *testing.T) {
	for value, want := range map[byte]string{0: "", 1: "unexpected: language_model.model.layers.0.self_attn.o_proj.bias"} {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(quantDir, "gptq-g16"))))
		file := filepath.Join(dir, "model.safetensors")
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		h, err := format.ParseHeader(file, data)
		require.NoError(t, err)
		entries := append(slices.Clone(h.Entries), format.Entry{Name: "model.layers.0.self_attn.o_proj.bias", DType: dtype.F16, Shape: []int{32}})
		head, _, err := format.EncodeHeader(entries, nil)
		require.NoError(t, err)
		out := append(head, data[h.Entries[0].Start:]...)
		bias := make([]byte, 64)
		bias[9] = value
		require.NoError(t, os.WriteFile(file, append(out, bias...), 0o644))
		c := open(t, dir)
		err = c.Require(c.Config.Weights())
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
}
