package loader_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/loader"
)

const models = "../testdata/models"

func open(t *testing.T, dir string) *loader.Checkpoint {
	t.Helper()
	c, err := loader.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func fixtures(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(models, "*"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(dirs), 7)
	return dirs
}

func TestOpenFixtures(t *testing.T) {
	for _, dir := range fixtures(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := open(t, dir)
			require.NoError(t, c.Require(c.Config.Weights()))
			require.Empty(t, c.Extra(c.Config.Weights()))
			require.Equal(t, []int{702, 700}, c.Generation.EOS)
			require.Equal(t, []int{702}, c.Config.EOS)
			require.Equal(t, 768, c.Config.Text.Vocab)
			s := c.Summary()
			require.Nil(t, s.Problems)
			var bytes, tensors int64
			for _, p := range s.Parts {
				require.Positive(t, p.Parameters, p.Name)
				require.NotEqual(t, "other", p.Name)
				bytes += p.Bytes
				tensors += int64(p.Tensors)
			}
			require.Equal(t, c.Bytes(), bytes)
			require.Equal(t, int64(len(c.Names())), tensors)
			require.True(t, slices.IsSorted(c.Names()))
		})
	}
}

func TestConfigOfFixtures(t *testing.T) {
	remote := open(t, models+"/internvl35-56-remote-bf16").Config
	require.Equal(t, loader.VisionConfig{
		Hidden: 64, Layers: 3, Heads: 4, HeadDim: 16, Intermediate: 160, ImageSize: 56, PatchSize: 14,
		Norm: "layer_norm", Eps: 1e-6, QKVBias: true,
	}, remote.Vision)
	require.Equal(t, loader.TextConfig{
		Family: "qwen3", Hidden: 128, Layers: 4, Heads: 8, KVHeads: 2, HeadDim: 32, Intermediate: 256, Vocab: 768,
		MaxPositions: 40960, Eps: 1e-6, QKNorm: true,
		Rope: loader.Rope{Theta: 1e6, Kind: "default", Factor: 1, OriginalPositions: 40960},
	}, remote.Text)
	require.Equal(t, loader.LayoutRemote, remote.Layout)
	require.Equal(t, "internvl2_5", remote.Template)
	require.Equal(t, 4, remote.TokensPerTile())
	require.Equal(t, int64(2*4*2*32*2), remote.KVBytesPerToken(2))

	hf := open(t, models+"/internvl35-56-hf-bf16").Config
	require.Equal(t, loader.LayoutHF, hf.Layout)
	require.Equal(t, 728, hf.ImageTokenID)
	require.Equal(t, remote.Vision, hf.Vision)
	require.Equal(t, remote.Text, hf.Text)
	require.Equal(t, []any{remote.PSVersion, remote.MaxTiles, remote.UseThumbnail, remote.SelectLayer}, []any{hf.PSVersion, hf.MaxTiles, hf.UseThumbnail, hf.SelectLayer})

	qwen25 := open(t, models+"/internvl3-qwen25-remote-bf16").Config
	require.Equal(t, "qwen2", qwen25.Text.Family)
	require.True(t, qwen25.Text.QKVBias)
	require.False(t, qwen25.Text.QKNorm)
	require.Equal(t, 1e-4, qwen25.Text.Eps)
	require.Equal(t, 1e-3, qwen25.Vision.Eps)
	require.Equal(t, 16, qwen25.Text.HeadDim)

	tied := open(t, models+"/qwen3-tied-bf16")
	require.Equal(t, loader.LayoutText, tied.Config.Layout)
	require.True(t, tied.Config.Text.TiedEmbedding)
	require.False(t, tied.Config.HasVision())
	head, ok := tied.Find("language_model.lm_head.weight")
	require.True(t, ok)
	require.Equal(t, "model.embed_tokens.weight", head[0].Name)
}

// TestLayoutsAgree fetches every weight by canonical name from both layouts.
func TestLayoutsAgree(t *testing.T) {
	for _, pair := range [][2]string{
		{"internvl35-56-remote-bf16", "internvl35-56-hf-bf16"},
		{"internvl3-qwen25-remote-bf16", "internvl3-qwen25-hf-bf16"},
	} {
		a, b := open(t, filepath.Join(models, pair[0])), open(t, filepath.Join(models, pair[1]))
		split := 0
		for _, w := range a.Config.Weights() {
			x, ok := a.Find(w.Name)
			require.True(t, ok, w.Name)
			y, ok := b.Find(w.Name)
			require.True(t, ok, w.Name)
			require.Len(t, x, 1)
			if len(y) == 3 {
				split++
			}
			var stacked []byte
			for _, v := range y {
				stacked = append(stacked, v.Data...)
			}
			require.True(t, bytes.Equal(x[0].Data, stacked), w.Name)
		}
		require.Equal(t, 2*a.Config.Vision.Layers, split, "qkv weight and bias of every vision layer are split")
	}
}

func TestLinear(t *testing.T) {
	a, b := open(t, models+"/internvl35-56-remote-bf16"), open(t, models+"/internvl35-56-hf-bf16")
	const attn = "language_model.model.layers.1.self_attn."
	l, err := a.Linear(attn+"q_proj", attn+"k_proj", attn+"v_proj")
	require.NoError(t, err)
	require.Equal(t, 8*32+2*2*32, l.N())
	require.Equal(t, 128, l.K)
	require.Nil(t, l.Bias)
	require.Len(t, l.Parts, 3)
	require.Len(t, l.Parts[1].Data, 2*32*128*2)

	const qkv = "vision_model.encoder.layers.2.attn.qkv"
	x, err := a.Linear(qkv)
	require.NoError(t, err)
	y, err := b.Linear(qkv)
	require.NoError(t, err)
	require.Len(t, y.Parts, 3)
	require.Equal(t, x.N(), y.N())
	require.Equal(t, x.Bias, y.Bias)
	require.Len(t, x.Bias, 3*64)

	patch, err := a.Linear("vision_model.embeddings.patch_embedding")
	require.NoError(t, err)
	require.Equal(t, 3*14*14, patch.K)

	_, err = a.Linear("language_model.model.layers.9.mlp.up_proj")
	var we *loader.WeightsError
	require.ErrorAs(t, err, &we)
	require.Equal(t, []string{"language_model.model.layers.9.mlp.up_proj.weight"}, we.Missing)
	_, err = a.Linear(attn+"q_proj", "language_model.model.layers.1.mlp.down_proj")
	require.ErrorContains(t, err, "want [N,128], got [128 256]")

	norm, err := a.Vector("language_model.model.norm.weight")
	require.NoError(t, err)
	require.Len(t, norm, 128)
	require.Greater(t, norm[0], float32(0.1))
}

type memFS struct {
	fstest.MapFS
}

func (m memFS) Bytes(name string) ([]byte, bool) {
	f, ok := m.MapFS[name]
	if !ok {
		return nil, false
	}
	return f.Data, true
}

func TestOpenFS(t *testing.T) {
	dir := models + "/qwen2-tied-bf16"
	disk := open(t, dir)
	want, err := disk.Digest()
	require.NoError(t, err)

	mem := memFS{fstest.MapFS{}}
	files, err := disk.Files()
	require.NoError(t, err)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f))
		require.NoError(t, err)
		mem.MapFS["demo/"+f] = &fstest.MapFile{Data: data}
	}
	for name, fsys := range map[string]fs.FS{"copying": mem.MapFS, "in_place": mem} {
		c, err := loader.OpenFS(fsys, "demo")
		require.NoError(t, err, name)
		require.NoError(t, c.Require(c.Config.Weights()))
		got, err := c.Digest()
		require.NoError(t, err)
		require.Equal(t, want, got)
		v, ok := c.Tensor("model.norm.weight")
		require.True(t, ok)
		file := mem.MapFS["demo/model.safetensors"].Data
		start, p := uintptr(unsafe.Pointer(&file[0])), uintptr(unsafe.Pointer(&v.Data[0]))
		require.Equal(t, name == "in_place", p >= start && p < start+uintptr(len(file)))
		tok, err := c.ReadFile("tokenizer.json", 1<<20)
		require.NoError(t, err)
		require.NotEmpty(t, tok)
		require.NoError(t, c.Close())
	}
	_, err = loader.OpenFS(mem, "../x")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

func TestReadFile(t *testing.T) {
	c := open(t, models+"/qwen2-tied-bf16")
	_, err := c.ReadFile("tokenizer.json", 100)
	require.ErrorContains(t, err, "tokenizer.json: file size: too large, got 17042 bytes, limit 100 bytes")
	_, err = c.ReadFile("nothing.json", 100)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, name := range []string{"../config.json", "a/b", "", "..", `a\b`, "a\x00"} {
		_, err = c.ReadFile(name, 100)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
}

func TestDigestAndVerify(t *testing.T) {
	dir := copyModel(t, "qwen3-tied-bf16")
	c := open(t, dir)
	first, err := c.Digest()
	require.NoError(t, err)
	other, err := open(t, models+"/qwen2-tied-bf16").Digest()
	require.NoError(t, err)
	require.NotEqual(t, first, other)

	// The manifest of the test data has the same sums.
	want := map[string]string{}
	manifest, err := os.ReadFile("../testdata/MANIFEST.sha256")
	require.NoError(t, err)
	for line := range strings.Lines(string(manifest)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if f, ok := strings.CutPrefix(name, "./models/qwen3-tied-bf16/"); ok {
			want[f] = sum
		}
	}
	var done, total int64
	require.NoError(t, c.Verify(context.Background(), want, func(d, all int64) {
		require.GreaterOrEqual(t, d, done)
		done, total = d, all
	}))
	require.Equal(t, total, done)
	require.Positive(t, total)

	// A changed weight in the middle of a tensor shows in both.
	v, _ := c.Tensor("model.norm.weight")
	file := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	at := bytes.Index(data, v.Data)
	require.NoError(t, c.Close())
	data[at+len(v.Data)/2] ^= 1
	require.NoError(t, os.WriteFile(file, data, 0o644))
	d := open(t, dir)
	second, err := d.Digest()
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.ErrorContains(t, d.Verify(context.Background(), want, nil), "model.safetensors: sha256: differs")
	delete(want, "vocab.json")
	want["gone.json"] = "00"
	err = d.Verify(context.Background(), want, nil)
	require.ErrorContains(t, err, "vocab.json: sha256: file is not in the list")
	require.ErrorContains(t, err, "gone.json: sha256: file is missing")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, d.Verify(ctx, want, nil), context.Canceled)
}

// TestClose checks that a closed checkpoint gives nothing instead of stale memory.
func TestClose(t *testing.T) {
	c, err := loader.Open(models + "/qwen2-tied-bf16")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, ok := c.Tensor("model.norm.weight")
	require.False(t, ok)
	_, ok = c.Find("language_model.model.norm.weight")
	require.False(t, ok)
	_, err = c.Digest()
	require.ErrorIs(t, err, loader.ErrClosed)
}

func TestDropKeepsContent(t *testing.T) {
	c := open(t, models+"/qwen3-tied-bf16")
	v, ok := c.Tensor("model.embed_tokens.weight")
	require.True(t, ok)
	before := bytes.Clone(v.Data)
	c.Drop(v)
	require.True(t, bytes.Equal(before, v.Data))
}

func TestOpenTensors(t *testing.T) {
	g, err := loader.OpenTensors("../testdata/goldens/qwen2-tied-bf16.safetensors")
	require.NoError(t, err)
	defer g.Close()
	v, ok := g.Tensor("text.logits")
	require.True(t, ok, "%v", g.Names()[:3])
	require.Equal(t, dtype.F32, v.DType)
	require.Equal(t, 768, v.Shape[1])
	f, err := v.Float32s()
	require.NoError(t, err)
	require.Len(t, f, v.Elements())
}

func TestCanonical(t *testing.T) {
	const layer = "vision_model.encoder.layers.7."
	for stored, want := range map[string]string{
		"vision_tower.embeddings.cls_token":                                "vision_model.embeddings.class_embedding",
		"model.vision_tower.embeddings.position_embeddings":                "vision_model.embeddings.position_embedding",
		"model.vision_tower.embeddings.patch_embeddings.projection.weight": "vision_model.embeddings.patch_embedding.weight",
		"vision_tower.encoder.layer.7.attention.q_proj.weight":             layer + "attn.qkv.weight",
		"model.vision_tower.encoder.layer.7.attention.v_proj.bias":         layer + "attn.qkv.bias",
		"vision_tower.encoder.layer.7.attention.projection_layer.bias":     layer + "attn.proj.bias",
		"vision_tower.encoder.layer.7.attention.k_norm.weight":             layer + "attn.k_norm.weight",
		"vision_tower.encoder.layer.7.layernorm_before.weight":             layer + "norm1.weight",
		"vision_tower.encoder.layer.7.layernorm_after.bias":                layer + "norm2.bias",
		"vision_tower.encoder.layer.7.lambda_1":                            layer + "ls1",
		"vision_tower.encoder.layer.7.lambda_2":                            layer + "ls2",
		"vision_tower.encoder.layer.7.mlp.fc2.weight":                      layer + "mlp.fc2.weight",
		"model.vision_model.encoder.layers.7.ls1":                          layer + "ls1",
		"multi_modal_projector.layer_norm.weight":                          "mlp1.0.weight",
		"model.multi_modal_projector.linear_1.bias":                        "mlp1.1.bias",
		"multi_modal_projector.linear_2.weight":                            "mlp1.3.weight",
		"model.mlp1.3.weight":                                              "mlp1.3.weight",
		"model.language_model.layers.0.mlp.up_proj.weight":                 "language_model.model.layers.0.mlp.up_proj.weight",
		"language_model.model.layers.0.mlp.up_proj.weight":                 "language_model.model.layers.0.mlp.up_proj.weight",
		"model.language_model.model.layers.0.mlp.up_proj.weight":           "language_model.model.layers.0.mlp.up_proj.weight",
		"model.language_model.norm.weight":                                 "language_model.model.norm.weight",
		"model.norm.weight":                                                "language_model.model.norm.weight",
		"lm_head.weight":                                                   "language_model.lm_head.weight",
		"model.lm_head.weight":                                             "language_model.lm_head.weight",
		"language_model.lm_head.weight":                                    "language_model.lm_head.weight",
		"model.language_model.lm_head.weight":                              "language_model.lm_head.weight",
		"model.layers.3.self_attn.rotary_emb.inv_freq":                     "language_model.model.layers.3.self_attn.rotary_emb.inv_freq",
		"model.language_model.layers.0.self_attn.q_proj.qweight":           "language_model.model.layers.0.self_attn.q_proj.qweight",
		"something.else": "something.else",
	} {
		require.Equal(t, want, loader.Canonical(stored), stored)
	}
}
