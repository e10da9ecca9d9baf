package loader_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/loader"
)

// copyModel copies a fixture checkpoint into a temporary directory.
func copyModel(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(models, name))))
	return dir
}

// safetensors builds a file from header text and data, with a right length field.
func safetensors(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
}

// sparse makes a file of a size without content.
func sparse(t *testing.T, file string, head []byte, size int64) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, head, 0o644))
	if err := os.Truncate(file, size); err != nil {
		t.Skipf("no sparse files here: %v", err)
	}
}

func TestBrokenSafetensors(t *testing.T) {
	const ok = `"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}`
	long := strings.Repeat("x", 600)
	cases := map[string]struct {
		file []byte
		want string
	}{
		"empty":             {nil, "header length: file is too short, got 0 bytes, limit at least 8"},
		"header_over_file":  {[]byte("\xff\x00\x00\x00\x00\x00\x00\x00{}"), "header length: header exceeds the file, got 255, limit 2 bytes left"},
		"header_over_limit": {[]byte("\x01\xe1\xf5\x05\x00\x00\x00\x00{}"), "header length: too large, got 100000001, limit 100000000 bytes"},
		"header_negative":   {[]byte("\xff\xff\xff\xff\xff\xff\xff\xff{}"), "header length: too large, got 18446744073709551615"},
		"not_json":          {safetensors(`[]`, 0), `JSON at byte 0: '{' is expected, got '['`},
		"cut_json":          {safetensors(`{"a":{"dtype":"F32"`, 0), "JSON at byte 19: ends where '}' is expected"},
		"after_json":        {safetensors(`{} x`, 0), "JSON at byte 3: data after the JSON value"},
		"truncated":         {safetensors("{"+ok+"}", 12), "tensor a: data_offsets: file is truncated or the range exceeds it, got byte 81, limit byte 77"},
		"rest":              {safetensors("{"+ok+"}", 17), "file size: bytes after the last tensor, got 82 bytes, limit 81"},
		"overlap":           {safetensors(`{`+ok+`,"b":{"dtype":"U8","shape":[8],"data_offsets":[12,20]}}`, 20), "tensor b: data_offsets: overlaps tensor a, got byte 131, limit byte 135"},
		"hole":              {safetensors(`{`+ok+`,"b":{"dtype":"U8","shape":[4],"data_offsets":[20,24]}}`, 24), "tensor b: data_offsets: hole after tensor a"},
		"hole_at_start":     {safetensors(`{"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, 8), "tensor b: data_offsets: hole after the header"},
		"duplicate":         {safetensors(`{`+ok+`,`+ok+`}`, 16), `"a": duplicate tensor name`},
		"size_differs":      {safetensors(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,16]}}`, 16), "tensor a: data_offsets: F32[2 3] needs 24 bytes, got 16"},
		"backwards":         {safetensors(`{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]}}`, 16), "tensor a: data_offsets: not an ascending pair, got [16 0]"},
		"overflow":          {safetensors(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "tensor a: shape: number of bytes overflows, got [4294967296 4294967296]"},
		"huge_number":       {safetensors(`{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,0]}}`, 0), "integer exceeds 9223372036854775807"},
		"negative":          {safetensors(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}`, 0), "a non-negative integer is expected"},
		"fraction":          {safetensors(`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,0]}}`, 0), "an integer is expected, got a fraction"},
		"f64":               {safetensors(`{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, 8), `tensor a: dtype: not supported, got "F64", limit F32 F16 BF16`},
		"rank":              {safetensors(`{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}`, 1), "tensor a: shape: too many dimensions, got more than 8, limit 8"},
		"missing_key":       {safetensors(`{"a":{"dtype":"U8","shape":[1]}}`, 1), "tensor a: data_offsets: missing"},
		"unknown_key":       {safetensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}`, 1), `tensor a: "x": unknown key`},
		"double_key":        {safetensors(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1), "tensor a: dtype: duplicate key"},
		"long_name":         {safetensors(`{"`+long+`":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "string of 600 bytes is longer than 512"},
		"empty_name":        {safetensors(`{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "tensor name: empty or with control characters"},
		"bad_utf8":          {safetensors("{\"\xff\":{}}", 0), "string is not UTF-8"},
		"metadata":          {safetensors(`{"__metadata__":{"format":1}}`, 0), `__metadata__."format": value is not a string`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.safetensors")
			require.NoError(t, os.WriteFile(file, c.file, 0o644))
			_, err := loader.OpenTensors(file)
			var fe *loader.FormatError
			require.ErrorAs(t, err, &fe)
			require.ErrorContains(t, err, "loader: x.safetensors: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestOddButValid opens files that old or careful writers produce.
func TestOddButValid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.safetensors")
	header := `{"__metadata__":{"format":"pt","é":"\u00e9\n"},"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]},` +
		`"a":{"shape":[3],"data_offsets":[0,3],"dtype":"U8"},"empty":{"dtype":"F32","shape":[0,4],"data_offsets":[7,7]},` +
		`"scalar":{"dtype":"BF16","shape":[],"data_offsets":[7,9]}}   `
	data := safetensors(header, 9)
	copy(data[len(data)-9:], []byte{1, 2, 3, 0, 0, 0x80, 0x3f, 0x40, 0x40})
	require.NoError(t, os.WriteFile(file, data, 0o644))
	c, err := loader.OpenTensors(file)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{"a", "b", "empty", "scalar"}, c.Names())
	b, _ := c.Tensor("b")
	again, _ := c.Tensor("b")
	require.Same(t, &b.Data[0], &again.Data[0], "the aligned copy of a misaligned tensor is made once")
	f, err := b.Float32s()
	require.NoError(t, err)
	require.Equal(t, []float32{1}, f)
	s, _ := c.Tensor("scalar")
	f, err = s.Float32s()
	require.NoError(t, err)
	require.Equal(t, []float32{3}, f)
	e, ok := c.Tensor("empty")
	require.True(t, ok)
	require.Zero(t, e.Elements())
	require.Equal(t, map[string]string{"format": "pt", "é": "é\n"}, c.Metadata("a"))
}

func TestBrokenFiles(t *testing.T) {
	cases := map[string]struct {
		model  string
		damage func(t *testing.T, dir string)
		want   []string
	}{
		"no_directory": {"", func(t *testing.T, dir string) { os.RemoveAll(dir) }, []string{"no checkpoint"}},
		"no_config":    {"", func(t *testing.T, dir string) {}, []string{"no checkpoint", "config.json"}},
		"pickle_only": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "model.safetensors"))
			write(t, dir, "pytorch_model.bin", []byte("x"))
		}, []string{"no checkpoint", "pytorch_model.bin", "convert them to safetensors"}},
		"gguf_only": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "model.gguf"))
		}, []string{"no checkpoint", "GGUF"}},
		"truncated_shard": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model-00002-of-00002.safetensors"), 1_000_000))
		}, []string{"model-00002-of-00002.safetensors", "file is truncated", "limit byte 1000000"}},
		"empty_shard": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model-00001-of-00002.safetensors"), 0))
		}, []string{"model-00001-of-00002.safetensors: header length: file is too short"}},
		"missing_shard": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "model-00002-of-00002.safetensors"))
		}, []string{"model.safetensors.index.json", "shard model-00002-of-00002.safetensors named by the index cannot be opened"}},
		"shard_lacks_weight": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			edit(t, dir, "model.safetensors.index.json", func(m map[string]any) {
				m["weight_map"].(map[string]any)["mlp1.7.weight"] = "model-00002-of-00002.safetensors"
			})
		}, []string{`model.safetensors.index.json: weight_map."mlp1.7.weight": the shard lacks this tensor, got "model-00002-of-00002.safetensors"`}},
		"index_traversal": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			edit(t, dir, "model.safetensors.index.json", func(m map[string]any) {
				m["weight_map"].(map[string]any)["mlp1.0.weight"] = "../other/model.safetensors"
			})
		}, []string{`weight_map."mlp1.0.weight": shard is not a plain file name, got "../other/model.safetensors"`}},
		"index_other_type": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			edit(t, dir, "model.safetensors.index.json", func(m map[string]any) {
				m["weight_map"].(map[string]any)["mlp1.0.weight"] = "model.bin"
			})
		}, []string{`shard is not a safetensors file, got "model.bin"`}},
		"index_empty": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			write(t, dir, "model.safetensors.index.json", []byte(`{"metadata":{}}`))
		}, []string{"model.safetensors.index.json: weight_map: missing or empty"}},
		"index_duplicate": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			write(t, dir, "model.safetensors.index.json", []byte(`{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}`))
		}, []string{`weight_map."a": duplicate tensor name`}},
		"same_tensor_in_two_shards": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, "model-00001-of-00002.safetensors"))
			require.NoError(t, err)
			write(t, dir, "model-00002-of-00002.safetensors", data)
		}, []string{"model-00002-of-00002.safetensors: tensor ", "duplicate: also in model-00001-of-00002.safetensors"}},
		"two_spellings": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			write(t, dir, "model.safetensors", safetensors(`{"model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`+
				`"model.language_model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2))
		}, []string{"tensor model.norm.weight: duplicate", `"model.language_model.norm.weight" means the same`}},
		"lora": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			write(t, dir, "model.safetensors", safetensors(`{"model.layers.0.mlp.up_proj.lora_A.default.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
		}, []string{"model.safetensors: tensor model.layers.0.mlp.up_proj.lora_A.default.weight", "LoRA"}},
		"config_1GB": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			sparse(t, filepath.Join(dir, "config.json"), []byte("{"), 1<<30)
		}, []string{"config.json: file size: too large, got 1073741824 bytes, limit 4194304 bytes"}},
		"generation_1GB": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			sparse(t, filepath.Join(dir, "generation_config.json"), []byte("{"), 1<<30)
		}, []string{"generation_config.json: file size: too large, got 1073741824 bytes"}},
		"index_1GB": {"internvl35-56-remote-bf16", func(t *testing.T, dir string) {
			sparse(t, filepath.Join(dir, "model.safetensors.index.json"), []byte("{"), 1<<30)
		}, []string{"model.safetensors.index.json: file size: too large, got 1073741824 bytes, limit 67108864 bytes"}},
		"config_is_directory": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "config.json"))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "config.json"), 0o755))
		}, []string{"config.json: not a regular file"}},
		"generation_value": {"qwen2-tied-bf16", func(t *testing.T, dir string) {
			write(t, dir, "generation_config.json", []byte(`{"temperature":-1,"eos_token_id":"x"}`))
		}, []string{"generation_config.json: eos_token_id: wrong type", "generation_config.json: temperature: out of range, got -1, limit a number in [0,100]"}},
		"processor_value": {"internvl35-56-hf-bf16", func(t *testing.T, dir string) {
			write(t, dir, "preprocessor_config.json", []byte(`{"size":{"height":56,"width":57},"image_std":[0,1,1],"resample":2}`))
		}, []string{"preprocessor_config.json: image_std: out of range, got 0", "size: not square, got 57×56", "resample 2 is not supported (have 3, bicubic)"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.model != "" {
				dir = copyModel(t, c.model)
			}
			c.damage(t, dir)
			_, err := loader.Open(dir)
			require.Error(t, err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			if strings.Contains(c.want[0], "no checkpoint") {
				require.ErrorIs(t, err, loader.ErrNoCheckpoint)
			}
		})
	}
}

// edit changes a JSON file of a checkpoint.
func edit(t *testing.T, dir, name string, change func(map[string]any)) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m))
	change(m)
	data, err = json.Marshal(m)
	require.NoError(t, err)
	write(t, dir, name, data)
}

// TestRequireReportsTogether damages several tensors of one checkpoint and
// expects all of them in one error.
func TestRequireReportsTogether(t *testing.T) {
	dir := copyModel(t, "qwen3-tied-bf16")
	file := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(data)
	header := string(data[8 : 8+n])
	replace := func(old, new string) {
		require.Equal(t, 1, strings.Count(header, old), old)
		header = strings.Replace(header, old, new, 1)
	}
	replace(`"model.norm.weight"`, `"model.morn.weight"`)
	replace(`"model.layers.1.mlp.up_proj.weight"`, `"model.layers.9.mlp.up_proj.weight"`)
	replace(`"model.layers.0.input_layernorm.weight":{"dtype":"BF16","shape":[64]`, `"model.layers.0.input_layernorm.weight":{"dtype":"BF16","shape":[8,8]`)
	replace(`"model.layers.0.post_attention_layernorm.weight":{"dtype":"BF16","shape":[64]`, `"model.layers.0.post_attention_layernorm.weight":{"dtype":"U8","shape":[128]`)
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	require.NoError(t, os.WriteFile(file, append(append(b, header...), data[8+n:]...), 0o644))

	c := open(t, dir)
	err = c.Require(c.Config.Weights())
	var we *loader.WeightsError
	require.ErrorAs(t, err, &we)
	require.Equal(t, []string{"language_model.model.layers.1.mlp.up_proj.weight", "language_model.model.norm.weight"}, we.Missing)
	require.Equal(t, []string{"language_model.model.layers.9.mlp.up_proj.weight"}, we.Unexpected)
	require.Len(t, we.Misshapen, 2)
	require.Len(t, we.WrongType, 1)
	text := err.Error()
	for _, want := range []string{
		"2 tensors missing, 2 misshapen, 1 of a wrong type, 1 unexpected",
		"shape: language_model.model.layers.0.input_layernorm.weight: want [64], got [8 8] (stored as model.layers.0.input_layernorm.weight)",
		"type: language_model.model.layers.0.post_attention_layernorm.weight: want F32, F16 or BF16, got U8",
		"unexpected: language_model.model.layers.9.mlp.up_proj.weight",
	} {
		require.Contains(t, text, want)
	}
	require.Contains(t, c.Extra(c.Config.Weights()), "model.morn.weight")
	require.NotNil(t, c.Summary().Problems)
}

func TestConfigErrors(t *testing.T) {
	base := map[string]string{}
	for _, layout := range []string{"remote", "hf"} {
		data, err := os.ReadFile(fmt.Sprintf("%s/internvl35-56-%s-bf16/config.json", models, layout))
		require.NoError(t, err)
		base[layout] = string(data)
	}
	data, err := os.ReadFile(models + "/qwen2-tied-bf16/config.json")
	require.NoError(t, err)
	base["text"] = string(data)

	cases := []struct {
		layout, old, new, want string
		unsupported            bool
	}{
		{"remote", `"hidden_size": 64`, `"hidden_size": 1e30`, "vision_config.hidden_size: out of range, got 1e30, limit an integer in [1,1048576]", false},
		{"remote", `"num_hidden_layers": 4`, `"num_hidden_layers": 100000`, "llm_config.num_hidden_layers: out of range, got 100000, limit an integer in [1,1024]", false},
		{"remote", `"num_hidden_layers": 4`, `"num_hidden_layers": "4"`, `llm_config.num_hidden_layers: wrong type, got "4", limit a number`, false},
		{"remote", `"num_key_value_heads": 2`, `"num_key_value_heads": 3`, "llm_config.num_attention_heads: not a multiple of num_key_value_heads, got 8, limit 3", false},
		{"remote", `"head_dim": 32`, `"head_dim": 33`, "llm_config.head_dim: not a positive even number, as rotary embedding needs, got 33", false},
		{"text", `"num_attention_heads": 4`, `"num_attention_heads": 65`, "head_dim: not a positive even number, as rotary embedding needs, got 0", false},
		{"remote", `"select_layer": -1`, `"select_layer": 9`, "select_layer: no such layer, got 9, limit [-4,3]", false},
		{"remote", `"downsample_ratio": 0.5`, `"downsample_ratio": 0.3`, "downsample_ratio: not one over an integer, got 0.3", false},
		{"remote", `"downsample_ratio": 0.5`, `"downsample_ratio": 0`, "downsample_ratio: out of range, got 0", false},
		{"remote", `"patch_size": 14`, `"patch_size": 13`, "vision_config.image_size: not a multiple of the patch size, got 56, limit 13", false},
		{"remote", `"min_dynamic_patch": 1`, `"min_dynamic_patch": 13`, "min_dynamic_patch: exceeds max_dynamic_patch, got 13, limit 12", false},
		{"remote", `"vocab_size": 768`, `"vocab_size": 768, "vocab_size": 769`, `"vocab_size": duplicate key`, false},
		{"remote", `"template": "internvl2_5"`, `"template": "internvl2_5`, "control character", false},
		{"remote", `"force_image_size": 56`, `"force_image_size": 60`, "force_image_size", false},
		{"remote", `"ps_version": "v2"`, `"ps_version": "v3"`, `ps_version "v3" is not supported (have v1, v2)`, true},
		{"remote", `"norm_type": "layer_norm"`, `"norm_type": "group"`, `vision_config.norm_type "group" is not supported (have layer_norm, rms_norm)`, true},
		{"remote", `"hidden_act": "gelu"`, `"hidden_act": "relu"`, `vision_config.hidden_act "relu" is not supported (have gelu)`, true},
		{"remote", `"hidden_act": "silu"`, `"hidden_act": "gelu"`, `llm_config.hidden_act "gelu" is not supported (have silu)`, true},
		{"remote", `"num_channels": 3`, `"num_channels": 4`, "vision_config.num_channels 4 is not supported", true},
		{"remote", `"use_llm_lora": 0`, `"use_llm_lora": 16`, "use_llm_lora 16 is not supported", true},
		{"remote", `"use_llm_lora": 0`, `"flash_mode": true`, "flash_mode true is not supported", true},
		{"remote", `"Qwen3ForCausalLM"`, `"Qwen3MoeForCausalLM"`, "", false}, // the model type still says qwen3
		{"remote", `"model_type": "qwen3"`, `"num_experts": 128`, "llm_config.num_experts 128 is not supported (have dense decoders)", true},
		{"remote", `"sliding_window": null`, `"layer_types": ["full_attention", "sliding_attention"]`, `llm_config.layer_types "sliding_attention" is not supported`, true},
		{"text", `"use_sliding_window": false`, `"use_sliding_window": true`, "", false}, // sliding_window is null
		{"remote", `"rope_scaling": null`, `"rope_scaling": {"type":"longrope","factor":2}`, `rope_scaling.rope_type "longrope" is not supported (have default, linear, dynamic, yarn)`, true},
		{"remote", `"rope_scaling": null`, `"rope_scaling": {"type":"mrope","mrope_section":[1]}`, `"mrope" is not supported`, true},
		{"remote", `"rope_scaling": null`, `"rope_scaling": {"type":"linear"}`, "llm_config.rope_scaling.factor: missing", false},
		{"remote", `"rope_scaling": null`, `"quantization_config": {"quant_method":"bitsandbytes"}`, `llm_config.quantization_config.quant_method "bitsandbytes" is not supported (have awq, gptq, compressed-tensors, fp8)`, true},
		{"hf", `"image_size": [`, `"image_size": [7,`, "too many entries, got 3, limit 2", false},
		{"hf", `"use_mean_pooling": true`, `"use_mean_pooling": false`, "vision_config.use_mean_pooling false is not supported", true},
		{"hf", `"vision_feature_select_strategy": "default"`, `"vision_feature_select_strategy": "full"`, `vision_feature_select_strategy "full" is not supported`, true},
		{"hf", `"vision_feature_layer": -1`, `"vision_feature_layer": [-1, -2]`, "vision_feature_layer as a list is not supported", true},
		{"hf", `"projector_hidden_act": "gelu"`, `"projector_hidden_act": "silu"`, `projector_hidden_act "silu" is not supported`, true},
		{"text", `"Qwen2ForCausalLM"`, `"Qwen2VLForConditionalGeneration"`, `model family "Qwen2VLForConditionalGeneration" is not supported`, true},
		{"text", `"Qwen2ForCausalLM"`, `"Qwen2_5_VLForConditionalGeneration"`, `model family "Qwen2_5_VLForConditionalGeneration" is not supported`, true},
		{"text", `"Qwen2ForCausalLM"`, `"LlamaForCausalLM"`, `model family "LlamaForCausalLM" is not supported (have InternVLChatModel`, true},
	}
	for _, c := range cases {
		t.Run(c.layout+"_"+c.new, func(t *testing.T) {
			require.Contains(t, base[c.layout], c.old)
			_, err := loader.ParseConfig([]byte(strings.Replace(base[c.layout], c.old, c.new, 1)))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "loader: config.json: ")
			require.ErrorContains(t, err, c.want)
			if c.unsupported {
				require.ErrorIs(t, err, loader.ErrUnsupported)
				var ue *loader.UnsupportedError
				require.ErrorAs(t, err, &ue)
			} else {
				require.NotErrorIs(t, err, loader.ErrUnsupported)
			}
		})
	}
	for _, text := range []string{"", "null", "[]", `{"a":1}`, `{"architectures":"x"`, strings.Repeat("[", 1000), `{"a":` + strings.Repeat("[", 40)} {
		_, err := loader.ParseConfig([]byte(text))
		require.Error(t, err, text)
	}
	// Several bad fields are reported together.
	_, err = loader.ParseConfig([]byte(strings.NewReplacer(`"head_dim": 32`, `"head_dim": 0`, `"ps_version": "v2"`, `"ps_version": "v9"`).Replace(base["remote"])))
	require.ErrorContains(t, err, "head_dim")
	require.ErrorContains(t, err, "ps_version")
}
