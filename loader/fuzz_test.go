package loader_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"metacap/loader"
)

// seeds adds every fixture's file of a name, and extra texts.
func seeds(f *testing.F, name string, extra ...string) {
	files, err := filepath.Glob(filepath.Join(models, "*", name))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, e := range extra {
		f.Add([]byte(e))
	}
}

// FuzzConfig parses a configuration of any layout. What is accepted must give a
// consistent table of weights.
func FuzzConfig(f *testing.F) {
	seeds(f, "config.json", config8B,
		`{"model_type":"internvl","vision_config":{"image_size":[56,56]},"text_config":{"model_type":"qwen2","rope_parameters":{"rope_type":"yarn","factor":4}}}`,
		`{"architectures":["Qwen2ForCausalLM"],"quantization_config":{"quant_method":"awq","bits":4,"group_size":128,"version":"gemm"}}`,
		`{"architectures":["Qwen3ForCausalLM"],"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":4,"type":"int","group_size":128}}},"ignore":["lm_head"]}}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := loader.ParseConfig(data)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("empty error")
			}
			return
		}
		if c.Text.Heads%c.Text.KVHeads != 0 || c.Text.HeadDim%2 != 0 || !(c.Text.Rope.Theta > 1) || !(c.Text.Rope.Factor >= 1) {
			t.Fatalf("inconsistent decoder: %+v", c.Text)
		}
		if c.HasVision() && (c.TokensPerTile() <= 0 || c.Vision.HeadDim*c.Vision.Heads != c.Vision.Hidden) {
			t.Fatalf("inconsistent vision: %+v", c.Vision)
		}
		if c.KVBytesPerToken(2) <= 0 {
			t.Fatalf("KV bytes: %+v", c.Text)
		}
		for _, w := range c.Weights() {
			for _, d := range w.Shape {
				if d <= 0 {
					t.Fatalf("%+v", w)
				}
			}
		}
	})
}

func FuzzGeneration(f *testing.F) {
	seeds(f, "generation_config.json", `{"temperature":0.6,"top_k":20,"top_p":0.95,"min_p":0,"repetition_penalty":1.05,"do_sample":true,"max_new_tokens":9}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := loader.ParseGeneration(data)
		if err == nil && g.Temperature != nil && !(*g.Temperature >= 0 && *g.Temperature <= 100) {
			t.Fatalf("temperature %v", *g.Temperature)
		}
	})
}

func FuzzProcessor(f *testing.F) {
	seeds(f, "preprocessor_config.json", `{"size":{"height":56,"width":56},"max_patches":12,"image_std":[1,1,1],"rescale_factor":0.00392156862745098}`)
	base, err := os.ReadFile(filepath.Join(models, "internvl35-56-hf-bf16", "config.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := loader.ParseConfig(base)
		if err != nil {
			t.Fatal(err)
		}
		p, err := loader.ParseProcessor(data, &c)
		var fe *loader.FormatError
		if err != nil && !errors.As(err, &fe) && !errors.Is(err, loader.ErrUnsupported) {
			t.Fatalf("untyped error %v", err)
		}
		if err == nil && (!(p.Std[0] > 0) || !(p.Std[1] > 0) || !(p.Std[2] > 0) || c.MinTiles > c.MaxTiles || p.Size != 56) {
			t.Fatalf("%+v %+v", p, c)
		}
	})
}

// FuzzCheckpoint opens a checkpoint whose configuration and weight header are
// arbitrary, and uses all of it: whatever passes the checks must not panic.
func FuzzCheckpoint(f *testing.F) {
	dirs, err := filepath.Glob(filepath.Join(quantDir, "*"))
	if err != nil {
		f.Fatal(err)
	}
	for _, dir := range append(dirs, filepath.Join(models, "qwen2-tied-bf16")) {
		config, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		weights, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			f.Fatal(err)
		}
		n := int(weights[0]) | int(weights[1])<<8 | int(weights[2])<<16
		f.Add(config, weights[8:8+n], len(weights)-8-n, byte(1))
	}
	f.Fuzz(func(t *testing.T, config, header []byte, size int, fill byte) {
		if size < 0 || size > 1<<20 {
			return
		}
		file := safetensors(string(header), size)
		for i := len(file) - size; i < len(file); i++ {
			file[i] = fill
		}
		c, err := loader.OpenFS(memFS{fstest.MapFS{"config.json": {Data: config}, "model.safetensors": {Data: file}}}, ".")
		if err != nil {
			return
		}
		defer c.Close()
		list := c.Config.Weights()
		if len(list) > 1000 {
			return
		}
		complete := c.Require(list) == nil
		c.Summary()
		for _, w := range list {
			if !w.Linear {
				c.Vector(w.Name)
				continue
			}
			l, err := c.Linear(strings.TrimSuffix(w.Name, ".weight"))
			if err != nil {
				continue
			}
			if complete && (l.N() != w.Shape[0] || l.K != w.Shape[1]) {
				t.Fatalf("%s: got [%d,%d], want %v", w.Name, l.N(), l.K, w.Shape)
			}
			for _, p := range l.Parts {
				want := p.N * l.K * p.DType.Size()
				if q := p.Quant; q != nil {
					want = p.N * l.K * q.Bits / 8
					if l.K%q.Group != 0 || len(q.Scales) != 4*p.N*(l.K/q.Group) || q.Zeros != nil && len(q.Zeros) != p.N*(l.K/q.Group) {
						t.Fatalf("%s: %+v", w.Name, q)
					}
				}
				if len(p.Data) != want {
					t.Fatalf("%s: %d bytes, want %d", w.Name, len(p.Data), want)
				}
			}
		}
	})
}
