package loader_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/loader"
	"metacap/loader/internal/format"
)

// config8B is a configuration with the values of InternVL3.5-8B.
const config8B = `{
 "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "torch_dtype": "bfloat16",
 "downsample_ratio": 0.5, "dynamic_image_size": true, "force_image_size": 448, "min_dynamic_patch": 1, "max_dynamic_patch": 12,
 "use_thumbnail": true, "ps_version": "v2", "select_layer": -1, "template": "internvl2_5", "use_backbone_lora": 0, "use_llm_lora": 0,
 "vision_config": {"architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": 1024, "num_hidden_layers": 24,
  "num_attention_heads": 16, "intermediate_size": 4096, "hidden_act": "gelu", "image_size": 448, "patch_size": 14, "num_channels": 3,
  "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "qkv_bias": true, "qk_normalization": false},
 "llm_config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "hidden_act": "silu",
  "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": null, "attention_bias": false,
  "tie_word_embeddings": false, "max_position_embeddings": 40960, "max_window_layers": 36, "sliding_window": null, "use_sliding_window": false,
  "bos_token_id": 151643, "eos_token_id": 151645}}`

// write8B writes a checkpoint of the true shape, 17 GB of holes in four shards.
func write8B(tb testing.TB, dir string) {
	c, err := loader.ParseConfig([]byte(config8B))
	require.NoError(tb, err)
	const shards = 4
	var lists [shards][]format.Entry
	index := map[string]string{}
	for i, w := range c.Weights() {
		n := i % shards
		lists[n] = append(lists[n], format.Entry{Name: w.Name, DType: dtype.BF16, Shape: w.Shape})
		index[w.Name] = fmt.Sprintf("model-%05d-of-%05d.safetensors", n+1, shards)
	}
	require.Len(tb, index, 745)
	for n, entries := range lists {
		head, placed, err := format.EncodeHeader(entries, map[string]string{"format": "pt"})
		require.NoError(tb, err)
		file := filepath.Join(dir, fmt.Sprintf("model-%05d-of-%05d.safetensors", n+1, shards))
		require.NoError(tb, os.WriteFile(file, head, 0o644))
		if err := os.Truncate(file, placed[len(placed)-1].End); err != nil {
			tb.Skipf("no sparse files here: %v", err)
		}
	}
	data, err := json.Marshal(map[string]any{"weight_map": index})
	require.NoError(tb, err)
	require.NoError(tb, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), data, 0o644))
	require.NoError(tb, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config8B), 0o644))
}

// resident is the memory of this process in bytes; !ok where /proc is not there.
func resident() (int64, bool) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}

// TestOpen8B opens a checkpoint of the true shape: nothing is read but headers.
// The limits are those of the acceptance, 0.5 s and 100 MB.
func TestOpen8B(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("needs a 64-bit address space")
	}
	dir := t.TempDir()
	write8B(t, dir)
	runtime.GC()
	before, measured := resident()
	start := time.Now()
	c := open(t, dir)
	require.NoError(t, c.Require(c.Config.Weights()))
	digest, err := c.Digest()
	require.NoError(t, err)
	require.Len(t, digest, 64)
	s := c.Summary()
	elapsed := time.Since(start)
	after, _ := resident()
	t.Logf("open, check, digest and summary: %v; resident memory %.1f MB, grown by %.1f MB", elapsed, float64(after)/1e6, float64(after-before)/1e6)
	require.Less(t, elapsed, 500*time.Millisecond)
	if measured {
		require.Less(t, after, int64(100e6))
	}

	require.Equal(t, int64(17_056_636_928), c.Bytes())
	require.Equal(t, int64(8_528_318_464), s.Total.Parameters)
	want := map[string]int64{
		"vision": 304_012_288, "projector": 33_570_816, "embedding": 622_329_856,
		"layers": 36 * 192_946_432, "norm": 4096, "head": 622_329_856,
	}
	require.Len(t, s.Parts, len(want))
	for _, p := range s.Parts {
		require.Equal(t, want[p.Name], p.Parameters, p.Name)
		require.Equal(t, 2*p.Parameters, p.Bytes, p.Name)
	}
	require.Equal(t, int64(147_456), s.KVBytesPerToken)
	require.Equal(t, 256, s.TokensPerTile)
	require.Nil(t, s.Problems)
	require.Empty(t, s.Extra)
}

func BenchmarkOpen8B(b *testing.B) {
	dir := b.TempDir()
	write8B(b, dir)
	for b.Loop() {
		c, err := loader.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
