package trace_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine/trace"
)

// A random checkpoint with the options of InternViT-6B (RMSNorm, normalised q and
// k, no bias of q, k, v), ps_version v1, the last but one layer, and tiles of
// another size than the position table, against the definition in float64.

const (
	vE, vF, vH, vLayers     = 32, 48, 2, 3
	vSize, vPatch, vPosSide = 24, 4, 4 // grid 6, table 4
	vC                      = 16
	vEps                    = 1e-5
)

type tensors map[string]struct {
	shape []int
	data  []float32
}

// writeCheckpoint writes random weights with config.json into dir.
func writeCheckpoint(t *testing.T, dir string) tensors {
	rng := rand.New(rand.NewPCG(11, 12))
	w := tensors{}
	add := func(name string, scale, centre float64, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(centre + scale*rng.NormFloat64())
		}
		w[name] = struct {
			shape []int
			data  []float32
		}{shape, data}
	}
	linear := func(name string, n, k int, bias bool) {
		add(name+".weight", 1.2/math.Sqrt(float64(k)), 0, n, k)
		if bias {
			add(name+".bias", 0.1, 0, n)
		}
	}
	const e = "vision_model.embeddings."
	add(e+"class_embedding", 1, 0, 1, 1, vE)
	add(e+"position_embedding", 1, 0, 1, 1+vPosSide*vPosSide, vE)
	add(e+"patch_embedding.weight", 0.2, 0, vE, 3, vPatch, vPatch)
	add(e+"patch_embedding.bias", 0.1, 0, vE)
	for i := range vLayers {
		l := fmt.Sprintf("vision_model.encoder.layers.%d.", i)
		for _, n := range []string{"norm1", "norm2", "attn.q_norm", "attn.k_norm"} {
			add(l+n+".weight", 0.2, 1, vE)
		}
		linear(l+"attn.qkv", 3*vE, vE, false)
		linear(l+"attn.proj", vE, vE, true)
		linear(l+"mlp.fc1", vF, vE, true)
		linear(l+"mlp.fc2", vE, vF, true)
		add(l+"ls1", 0.2, 0.5, vE)
		add(l+"ls2", 0.2, 0.5, vE)
	}
	add("mlp1.0.weight", 0.2, 1, 4*vE)
	add("mlp1.0.bias", 0.2, 0, 4*vE)
	linear("mlp1.1", vC, 4*vE, true)
	linear("mlp1.3", vC, vC, true)
	const d = "language_model.model."
	add(d+"embed_tokens.weight", 1, 0, 32, vC)
	add(d+"norm.weight", 0.1, 1, vC)
	for _, n := range []string{"input_layernorm", "post_attention_layernorm"} {
		add(d+"layers.0."+n+".weight", 0.1, 1, vC)
	}
	for _, n := range []string{"q_norm", "k_norm"} {
		add(d+"layers.0.self_attn."+n+".weight", 0.1, 1, 8)
	}
	for _, n := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
		linear(d+"layers.0.self_attn."+n, vC, vC, false)
	}
	linear(d+"layers.0.mlp.gate_proj", 24, vC, false)
	linear(d+"layers.0.mlp.up_proj", 24, vC, false)
	linear(d+"layers.0.mlp.down_proj", vC, 24, false)

	header, data := map[string]any{}, []byte{}
	for _, name := range slices.Sorted(maps.Keys(w)) {
		start := len(data)
		for _, x := range w[name].data {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
		header[name] = map[string]any{"dtype": "F32", "shape": w[name].shape, "data_offsets": []int{start, len(data)}}
	}
	h, err := json.Marshal(header)
	require.NoError(t, err)
	for len(h)%8 != 0 {
		h = append(h, ' ')
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), append(file, data...), 0o644))
	config := fmt.Sprintf(`{"architectures":["InternVLChatModel"],"model_type":"internvl_chat","torch_dtype":"float32","downsample_ratio":0.5,
"force_image_size":%d,"ps_version":"v1","select_layer":-2,"use_thumbnail":true,"dynamic_image_size":true,"tie_word_embeddings":true,
"vision_config":{"hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,"num_attention_heads":%d,"image_size":%d,"patch_size":%d,
"norm_type":"rms_norm","qk_normalization":true,"qkv_bias":false,"layer_norm_eps":%g,"hidden_act":"gelu"},
"llm_config":{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_size":%d,"intermediate_size":24,"num_hidden_layers":1,
"num_attention_heads":2,"num_key_value_heads":2,"head_dim":8,"vocab_size":32,"tie_word_embeddings":true,"max_position_embeddings":256,"rms_norm_eps":1e-6,"rope_theta":10000,"hidden_act":"silu"}}`,
		vSize, vE, vF, vLayers, vH, vPosSide*vPatch, vPatch, vEps, vC)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644))
	return w
}

func (w tensors) vec(name string) []float32 { return w[name].data }

// linear is y = W x + b.
func (w tensors) linear(name string, x []float64) []float64 {
	m, b := w[name+".weight"], w[name+".bias"].data
	y := make([]float64, m.shape[0])
	for n := range y {
		for k, v := range x {
			y[n] += v * float64(m.data[n*len(x)+k])
		}
		if b != nil {
			y[n] += float64(b[n])
		}
	}
	return y
}

func rms(x []float64, weight []float32, eps float64) []float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v / math.Sqrt(sum/float64(len(x))+eps) * float64(weight[i])
	}
	return y
}

func gelu(x []float64) []float64 {
	for i, v := range x {
		x[i] = v * 0.5 * (1 + math.Erf(v/math.Sqrt2))
	}
	return x
}

// positions is the position table resized to the tiles' grid: bicubic, a = -0.75.
func (w tensors) positions() [][]float64 {
	table, grid := w.vec("vision_model.embeddings.position_embedding"), vSize/vPatch
	cubic := func(x float64) float64 {
		x = math.Abs(x)
		const a = -0.75
		switch {
		case x <= 1:
			return (a+2)*x*x*x - (a+3)*x*x + 1
		case x < 2:
			return a*x*x*x - 5*a*x*x + 8*a*x - 4*a
		}
		return 0
	}
	out := [][]float64{make([]float64, vE)}
	for c := range vE {
		out[0][c] = float64(table[c])
	}
	for y := range grid {
		for x := range grid {
			row := make([]float64, vE)
			sy := (float64(y)+0.5)*vPosSide/float64(grid) - 0.5
			sx := (float64(x)+0.5)*vPosSide/float64(grid) - 0.5
			for j := -3; j < vPosSide+3; j++ {
				for i := -3; i < vPosSide+3; i++ {
					k := cubic(sy-float64(j)) * cubic(sx-float64(i))
					jj, ii := min(max(j, 0), vPosSide-1), min(max(i, 0), vPosSide-1)
					for c := range vE {
						row[c] += k * float64(table[(1+jj*vPosSide+ii)*vE+c])
					}
				}
			}
			out = append(out, row)
		}
	}
	return out
}

// attention is softmax(q·k/sqrt(D)) v for every head over all rows.
func attention(q, k, v [][]float64) [][]float64 {
	const d = vE / vH
	out := make([][]float64, len(q))
	for i := range q {
		out[i] = make([]float64, vE)
		for h := range vH {
			p, sum := make([]float64, len(k)), 0.0
			for j := range k {
				for c := h * d; c < (h+1)*d; c++ {
					p[j] += q[i][c] * k[j][c]
				}
				p[j] = math.Exp(p[j] / math.Sqrt(d))
				sum += p[j]
			}
			for j := range k {
				for c := h * d; c < (h+1)*d; c++ {
					out[i][c] += p[j] / sum * v[j][c]
				}
			}
		}
	}
	return out
}

// encode computes the projector's output of a tile.
func (w tensors) encode(tile []byte) (out []float64) {
	grid := vSize / vPatch
	mean, std := []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	x := w.positions()
	for c := range vE {
		x[0][c] += float64(w.vec("vision_model.embeddings.class_embedding")[c])
	}
	conv := tensors{"p.weight": w["vision_model.embeddings.patch_embedding.weight"], "p.bias": w["vision_model.embeddings.patch_embedding.bias"]}
	for p := range grid * grid {
		in := make([]float64, 3*vPatch*vPatch)
		for c := range 3 {
			for ky := range vPatch {
				for kx := range vPatch {
					px := tile[((p/grid*vPatch+ky)*vSize+p%grid*vPatch+kx)*3+c]
					in[(c*vPatch+ky)*vPatch+kx] = (float64(px)/255 - mean[c]) / std[c]
				}
			}
		}
		for c, v := range conv.linear("p", in) {
			x[1+p][c] += v
		}
	}
	for i := range vLayers - 1 { // select_layer -2
		w.block(fmt.Sprintf("vision_model.encoder.layers.%d.", i), x)
	}
	q := grid / 2
	for t := range q * q {
		px, py := t/q, t%q // v1: the grid transposed
		var in []float64
		for d := range 4 {
			in = append(in, x[1+(2*py+d/2)*grid+2*px+d%2]...)
		}
		out = append(out, w.linear("mlp1.3", gelu(w.linear("mlp1.1", w.layerNorm(in))))...)
	}
	return out
}

func (w tensors) block(l string, x [][]float64) {
	var q, k, v [][]float64
	for _, row := range x {
		y := w.linear(l+"attn.qkv", rms(row, w.vec(l+"norm1.weight"), vEps))
		q = append(q, rms(y[:vE], w.vec(l+"attn.q_norm.weight"), vEps))
		k = append(k, rms(y[vE:2*vE], w.vec(l+"attn.k_norm.weight"), vEps))
		v = append(v, y[2*vE:])
	}
	for i, a := range attention(q, k, v) {
		for c, y := range w.linear(l+"attn.proj", a) {
			x[i][c] += float64(w.vec(l + "ls1")[c]) * y
		}
		f := gelu(w.linear(l+"mlp.fc1", rms(x[i], w.vec(l+"norm2.weight"), vEps)))
		for c, y := range w.linear(l+"mlp.fc2", f) {
			x[i][c] += float64(w.vec(l + "ls2")[c]) * y
		}
	}
}

func (w tensors) layerNorm(x []float64) []float64 {
	mean, v := 0.0, 0.0
	for _, f := range x {
		mean += f / float64(len(x))
	}
	for _, f := range x {
		v += (f - mean) * (f - mean) / float64(len(x))
	}
	y := make([]float64, len(x))
	for i, f := range x {
		y[i] = (f-mean)/math.Sqrt(v+1e-5)*float64(w.vec("mlp1.0.weight")[i]) + float64(w.vec("mlp1.0.bias")[i])
	}
	return y
}

func TestVision6B(t *testing.T) {
	dir := t.TempDir()
	w := writeCheckpoint(t, dir)
	rng := rand.New(rand.NewPCG(1, 1))
	tile := make([]byte, vSize*vSize*3)
	for i := range tile {
		tile[i] = byte(rng.IntN(256))
	}
	want := w.encode(tile)
	for _, device := range devices() {
		m, err := trace.Open(t.Context(), dir, trace.Options{Device: device, DType: "f32"})
		require.NoError(t, err)
		in := trace.Input{IDs: []int32{1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 2}, Tiles: [][]byte{tile}}
		out, err := m.Run(t.Context(), in)
		require.NoError(t, err)
		st, ok := out.Stage("vision")
		require.True(t, ok)
		require.Equal(t, []int{1, 9, vC}, st.Shape)
		for i, x := range want {
			// The tolerance of float32 stages, testdata/README.md.
			if diff := math.Abs(float64(st.Data[i]) - x); !(diff <= 1e-4*(1+math.Abs(x))) {
				t.Fatalf("%s: feature %d: got %g, want %g", device, i, st.Data[i], x)
			}
		}
		require.NoError(t, m.Close())
	}
}
