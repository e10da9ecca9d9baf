package randmodel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"metacap/internal/dtype"
	"metacap/internal/memfs"
	"metacap/loader"
)

// headBits is the width of a quantised model's output head.
const headBits = 8

// NewQuantized is New with the decoder's linear layers as random integers of 8
// or 4 bits in groups of group inputs, in the layout that loader.Quantize writes,
// and the head in 8 bits. A model whose head is its embedding gets a head of its
// own, as rounding it needs. The dense weights are never made, so that a large
// shape takes only the memory of the small result.
func NewQuantized(shape string, bits, group int, seed uint64) (*memfs.FS, error) {
	if bits != 8 && bits != 4 {
		return nil, fmt.Errorf("randmodel: weights of %d bits, want 8 or 4", bits)
	}
	config, _, err := read(shape)
	if err != nil {
		return nil, err
	}
	if config, err = quantizedConfig(config, bits, group); err != nil {
		return nil, err
	}
	cfg, err := loader.ParseConfig(config)
	if err != nil {
		return nil, fmt.Errorf("randmodel: shape %q: %w", shape, err)
	}
	var list []loader.Want
	for _, w := range cfg.Weights() {
		b := bitsOf(w, bits)
		if b == 0 {
			list = append(list, w)
			continue
		}
		n, k := w.Shape[0], w.Shape[1]
		if group < 1 || k%group != 0 {
			return nil, fmt.Errorf("randmodel: shape %q: groups of %d do not divide the %d inputs of %s", shape, group, k, w.Name)
		}
		list = append(list,
			loader.Want{Name: w.Name + "_packed", Shape: []int{n, k * b / 32}},
			loader.Want{Name: w.Name + "_scale", Shape: []int{n, k / group}},
			loader.Want{Name: w.Name + "_shape", Shape: []int{n, k}})
	}
	return assemble(config, list, seed)
}

// bitsOf is the width of a weight's integers; 0 = not quantised.
func bitsOf(w loader.Want, bits int) int {
	switch {
	case w.Name == "language_model.lm_head.weight":
		return headBits
	case w.Linear && strings.HasPrefix(w.Name, "language_model.model.layers."):
		return bits
	}
	return 0
}

// quantizedConfig adds a quantization_config to a config.json and unties the head.
func quantizedConfig(config []byte, bits, group int) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(config, &m); err != nil {
		return nil, fmt.Errorf("randmodel: config: %w", err)
	}
	m["tie_word_embeddings"] = false
	for _, key := range []string{"llm_config", "text_config"} {
		if sub, ok := m[key].(map[string]any); ok {
			sub["tie_word_embeddings"] = false
		}
	}
	scheme := func(target string, bits int) map[string]any {
		return map[string]any{"targets": []string{target}, "input_activations": nil, "weights": map[string]any{
			"num_bits": bits, "type": "int", "symmetric": true, "dynamic": false, "strategy": "group", "group_size": group,
		}}
	}
	m["quantization_config"] = map[string]any{
		"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
		"config_groups": map[string]any{"group_0": scheme("Linear", bits), "group_1": scheme("re:.*lm_head", headBits)},
		"ignore":        []string{"re:.*vision.*", "re:.*mlp1.*"},
	}
	return json.Marshal(m)
}

// kind is the stored type of a tensor, by its name.
func kind(name string) dtype.Type {
	switch {
	case strings.HasSuffix(name, ".weight_packed"):
		return dtype.I32
	case strings.HasSuffix(name, ".weight_shape"):
		return dtype.I64
	}
	return dtype.BF16
}

// stored is the shape of a tensor in the file: a weight_shape holds its.
func stored(w loader.Want) []int {
	if kind(w.Name) == dtype.I64 {
		return []int{len(w.Shape)}
	}
	return w.Shape
}

// integers fills what is not floats, and reports whether it did: random bits, or the shape.
func integers(out []byte, w loader.Want, seed uint64) bool {
	switch kind(w.Name) {
	case dtype.I64:
		for i, n := range w.Shape {
			binary.LittleEndian.PutUint64(out[8*i:], uint64(n))
		}
		return true
	case dtype.I32:
		x := seed*0x9e3779b97f4a7c15 + 0x632be59bd9b4e019
		for ; len(out) >= 4; out = out[4:] {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			binary.LittleEndian.PutUint32(out, uint32(x>>16))
		}
		return true
	}
	if !strings.HasSuffix(w.Name, ".weight_scale") {
		return false
	}
	// Uniform integers of b bits have a standard deviation of 2^b/sqrt(12); with
	// groups of about a hundred, 1/sqrt(inputs) is near 1/sqrt(100·groups).
	scale := dtype.ToBF16(float32(1 / (74 * math.Sqrt(100*float64(w.Shape[1])))))
	for ; len(out) >= 2; out = out[2:] {
		binary.LittleEndian.PutUint16(out, scale)
	}
	return true
}

// tokenizerFiles are those that a random model borrows.
func tokenizerFiles(files fs.FS, into map[string][]byte) {
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		if data, err := fs.ReadFile(files, name); err == nil {
			into[name] = data
		}
	}
}
