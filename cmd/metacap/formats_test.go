package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine/trace"
	"metacap/internal/dtype"
	"metacap/loader"
)

// denseTwin writes the dense checkpoint of a quantised one: its linear layers as
// numpy dequantised them, stored as kind, and everything else as it is.
func denseTwin(t *testing.T, dir string, kind dtype.Type) string {
	t.Helper()
	out := t.TempDir()
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(data, &config))
	delete(config, "quantization_config")
	data, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(out, "config.json"), data, 0o644))
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header, body := map[string]entry{}, []byte{}
	put := func(name, kind string, shape []int, data []byte) {
		header[name] = entry{kind, shape, [2]int{len(body), len(body) + len(data)}}
		body = append(body, data...)
	}
	golden, err := loader.OpenTensors(filepath.Join(dir, "expected.safetensors"))
	require.NoError(t, err)
	defer golden.Close()
	for _, module := range golden.Names() {
		v, _ := golden.Tensor(module)
		values, err := v.Float32s()
		require.NoError(t, err)
		stored := make([]byte, len(values)*kind.Size())
		require.NoError(t, dtype.Encode(stored, values, kind))
		put("model.layers.0."+module+".weight", kind.String(), v.Shape, stored)
	}
	source, err := loader.OpenTensors(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	defer source.Close()
	for _, name := range source.Names() {
		v, _ := source.Tensor(name)
		linear := false
		for _, module := range golden.Names() {
			linear = linear || strings.HasPrefix(name, "model.layers.0."+module+".")
		}
		if !linear {
			put(name, v.DType.String(), v.Shape, v.Data)
		}
	}
	head, err := json.Marshal(header)
	require.NoError(t, err)
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	require.NoError(t, os.WriteFile(filepath.Join(out, "model.safetensors"), append(file, body...), 0o644))
	return out
}

// TestQuantisedForward checks that a checkpoint in each published format gives,
// bit for bit and stage by stage, what its dense twin gives on ref in float32:
// the weights are equal, so nothing else may differ.
func TestQuantisedForward(t *testing.T) {
	for format, kind := range map[string]dtype.Type{
		"awq-g16": dtype.F32, "gptq-g16": dtype.F32, "gptq-v2-8bit": dtype.F32, "gptq-actorder": dtype.F16,
		"ct-int4-g16": dtype.F32, "ct-int4-asym": dtype.F32, "ct-int8-packed": dtype.F32, "ct-int8": dtype.F32, "ct-int8-asym": dtype.F16,
		"ct-fp8": dtype.BF16, "fp8-block": dtype.BF16, "fp8-tensor": dtype.BF16,
	} {
		t.Run(format, func(t *testing.T) {
			dir := filepath.Join("../../testdata/quant", format)
			run := func(dir string) []trace.Stage {
				m, err := trace.Open(t.Context(), dir, trace.Options{Device: "ref", DType: "f32"})
				require.NoError(t, err)
				defer m.Close()
				out, err := m.Run(t.Context(), trace.Input{IDs: []int32{3, 1, 4, 1, 5, 9, 2, 6}})
				require.NoError(t, err)
				return out.Stages
			}
			got, want := run(dir), run(denseTwin(t, dir, kind))
			require.Equal(t, len(want), len(got))
			for i, s := range want {
				require.NotZero(t, slices.Max(s.Data), s.Name)
				require.Equal(t, s, got[i])
			}
		})
	}
}
