package loader_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/loader"
)

func parse(t *testing.T, text string) loader.Config {
	t.Helper()
	c, err := loader.ParseConfig([]byte(text))
	require.NoError(t, err)
	return c
}

// TestClassDefaults checks what a missing key means in each layout.
func TestClassDefaults(t *testing.T) {
	remote := parse(t, `{"architectures":["InternVLChatModel"],"vision_config":{},"llm_config":{"model_type":"qwen3"}}`)
	require.Equal(t, loader.VisionConfig{
		Hidden: 3200, Layers: 48, Heads: 25, HeadDim: 128, Intermediate: 12800, ImageSize: 224, PatchSize: 14,
		Norm: "rms_norm", Eps: 1e-6, QKVBias: false, QKNorm: true,
	}, remote.Vision)
	require.Equal(t, 1, remote.PSVersion)
	require.Equal(t, 6, remote.MaxTiles)
	require.False(t, remote.UseThumbnail)
	require.False(t, remote.DynamicImageSize)
	require.Equal(t, 224, remote.ImageSize)
	require.Equal(t, 128, remote.Text.HeadDim)
	require.Equal(t, 32, remote.Text.KVHeads)
	require.Equal(t, 1e4, remote.Text.Rope.Theta)
	require.Equal(t, 22016, remote.Text.Intermediate)
	require.False(t, remote.Text.QKVBias)

	hf := parse(t, `{"architectures":["InternVLForConditionalGeneration"],"vision_config":{},"text_config":{"model_type":"qwen2","hidden_size":896,"num_attention_heads":14},"tie_word_embeddings":true}`)
	require.Equal(t, "layer_norm", hf.Vision.Norm)
	require.Equal(t, 24, hf.Vision.Layers)
	require.False(t, hf.Vision.QKVBias)
	require.False(t, hf.Vision.QKNorm)
	require.Equal(t, 2, hf.PSVersion)
	require.Equal(t, 12, hf.MaxTiles)
	require.Equal(t, 448, hf.ImageSize)
	require.Equal(t, 256, hf.TokensPerTile())
	require.Equal(t, 64, hf.Text.HeadDim)
	require.Equal(t, 14, hf.Text.KVHeads)
	require.True(t, hf.Text.QKVBias)
	require.True(t, hf.Text.TiedEmbedding)

	// The architecture may be left out; a top-level tie means nothing to the remote code.
	byType := parse(t, `{"model_type":"internvl_chat","vision_config":{},"llm_config":{"architectures":["Qwen2ForCausalLM"]},"tie_word_embeddings":true}`)
	require.Equal(t, "InternVLChatModel", byType.Arch)
	require.False(t, byType.Text.TiedEmbedding)
}

func TestRopeScaling(t *testing.T) {
	text := func(rope string) loader.Rope {
		return parse(t, `{"architectures":["Qwen3ForCausalLM"],"max_position_embeddings":40960,"rope_theta":1e6,`+rope+`}`).Text.Rope
	}
	require.Equal(t, loader.Rope{Theta: 1e6, Kind: "default", Factor: 1, OriginalPositions: 40960}, text(`"rope_scaling":null`))
	require.Equal(t, loader.Rope{Theta: 1e6, Kind: "linear", Factor: 2, OriginalPositions: 40960}, text(`"rope_scaling":{"type":"linear","factor":2.0}`))
	require.Equal(t, loader.Rope{Theta: 1e6, Kind: "dynamic", Factor: 2, OriginalPositions: 40960}, text(`"rope_scaling":{"rope_type":"dynamic","type":"linear","factor":2}`))
	yarn := loader.Rope{Theta: 1e6, Kind: "yarn", Factor: 4, OriginalPositions: 32768, BetaFast: 32, BetaSlow: 1}
	require.Equal(t, yarn, text(`"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}`))
	yarn.Theta, yarn.BetaFast, yarn.AttentionFactor = 5e6, 16, 1.25
	require.Equal(t, yarn, text(`"rope_parameters":{"rope_type":"yarn","rope_theta":5e6,"factor":4.0,"original_max_position_embeddings":32768,"beta_fast":16,"attention_factor":1.25}`))
}

// TestShapesDecide leaves head size and vocabulary to the tensors.
func TestShapesDecide(t *testing.T) {
	dir := copyModel(t, "internvl35-56-remote-bf16")
	edit(t, dir, "config.json", func(m map[string]any) {
		llm := m["llm_config"].(map[string]any)
		delete(llm, "head_dim")
		delete(llm, "vocab_size")
	})
	c := open(t, dir)
	require.Equal(t, 32, c.Config.Text.HeadDim)
	require.Equal(t, 768, c.Config.Text.Vocab)
	require.NoError(t, c.Require(c.Config.Weights()))
}

// TestConfigDisagrees expects tensors that the configuration rules out to be named.
func TestConfigDisagrees(t *testing.T) {
	dir := copyModel(t, "internvl35-56-remote-bf16")
	edit(t, dir, "config.json", func(m map[string]any) {
		delete(m["vision_config"].(map[string]any), "norm_type") // class default: rms_norm, no bias
		m["llm_config"].(map[string]any)["vocab_size"] = 700
		m["llm_config"].(map[string]any)["num_hidden_layers"] = 3
	})
	c := open(t, dir)
	err := c.Require(c.Config.Weights())
	require.ErrorContains(t, err, "unexpected: vision_model.encoder.layers.2.norm2.bias")
	require.ErrorContains(t, err, "unexpected: language_model.model.layers.3.mlp.up_proj.weight")
	require.ErrorContains(t, err, "shape: language_model.model.embed_tokens.weight: want [700 128], got [768 128]")
}

// TestPrefixVariants rewrites an HF checkpoint's names to the spellings of
// transformers' memory and of other converters.
func TestPrefixVariants(t *testing.T) {
	variants := map[string]*strings.Replacer{
		"in_memory": strings.NewReplacer(`"vision_tower.`, `"model.vision_tower.`, `"multi_modal_projector.`, `"model.multi_modal_projector.`,
			`"language_model.model.`, `"model.language_model.`, `"language_model.lm_head.`, `"lm_head.`),
		"all_prefixed": strings.NewReplacer(`"vision_tower.`, `"model.vision_tower.`, `"multi_modal_projector.`, `"model.multi_modal_projector.`,
			`"language_model.`, `"model.language_model.`),
	}
	want := open(t, models+"/internvl3-qwen25-hf-bf16")
	for name, r := range variants {
		dir := copyModel(t, "internvl3-qwen25-hf-bf16")
		files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		require.NoError(t, err)
		for _, f := range files {
			data, err := os.ReadFile(f)
			require.NoError(t, err)
			n := int(data[0]) | int(data[1])<<8 | int(data[2])<<16
			header := r.Replace(string(data[8 : 8+n]))
			out := safetensors(header, 0)
			require.NoError(t, os.WriteFile(f, append(out, data[8+n:]...), 0o644))
		}
		index := filepath.Join(dir, "model.safetensors.index.json")
		data, err := os.ReadFile(index)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(index, []byte(r.Replace(string(data))), 0o644))

		c := open(t, dir)
		require.NoError(t, c.Require(c.Config.Weights()), name)
		for _, w := range c.Config.Weights() {
			a, err := want.Vector(w.Name)
			require.NoError(t, err)
			b, err := c.Vector(w.Name)
			require.NoError(t, err)
			require.Equal(t, a, b, w.Name)
		}
	}
}

func TestProcessor(t *testing.T) {
	hf := parse(t, `{"architectures":["InternVLForConditionalGeneration"],"vision_config":{},"text_config":{"model_type":"qwen3"}}`)
	p, err := loader.ParseProcessor([]byte(`{"size":{"height":448,"width":448},"max_patches":7,"min_patches":2}`), &hf)
	require.NoError(t, err)
	require.Equal(t, float32(0.48145466), p.Mean[0], "the class default is CLIP's")
	require.Equal(t, []int{2, 7}, []int{hf.MinTiles, hf.MaxTiles})
	p, err = loader.ParseProcessor(nil, &hf)
	require.NoError(t, err)
	require.Equal(t, [3]float32{0.229, 0.224, 0.225}, p.Std)
	require.Equal(t, 448, p.Size)
	_, err = loader.ParseProcessor([]byte(`{"size":{"shortest_edge":224}}`), &hf)
	require.ErrorContains(t, err, "preprocessor_config.json: size: differs from the model's image size, got 224, limit 448")
	_, err = loader.ParseProcessor([]byte(`{"image_mean":[1,2]}`), &hf)
	require.ErrorContains(t, err, "image_mean: not three numbers, got [1 2]")
	_, err = loader.ParseProcessor([]byte(`{"rescale_factor":1}`), &hf)
	require.ErrorContains(t, err, "rescale_factor 1 is not supported (have 1/255)")
}

func TestGeneration(t *testing.T) {
	g, err := loader.ParseGeneration([]byte(`{"_from_model_config":true,"transformers_version":"4.52.1"}`))
	require.NoError(t, err)
	require.Empty(t, g.EOS)
	require.Nil(t, g.Temperature)
	g, err = loader.ParseGeneration([]byte(`{"eos_token_id":[151645,151643],"do_sample":true,"temperature":0.6,"top_k":20,"top_p":0.95,"pad_token_id":151643}`))
	require.NoError(t, err)
	require.Equal(t, []int{151645, 151643}, g.EOS)
	require.True(t, *g.DoSample)
	require.Equal(t, 0.6, *g.Temperature)
	require.Equal(t, 20, *g.TopK)
	require.Equal(t, []int{151643}, g.Pad)
	require.Nil(t, g.MinP)
}
