package loader

import (
	"fmt"
	"slices"
	"strings"

	"metacap/internal/dtype"
)

// Want is a tensor that a model needs.
type Want struct {
	Name   string // canonical
	Shape  []int
	Linear bool // the weight of a linear layer: may be stored quantised
}

// Weights lists every tensor that the configured model has, by canonical name
// and shape: the visible table of a checkpoint's content.
func (c *Config) Weights() []Want {
	var w wants
	if c.HasVision() {
		w.vision(c)
	}
	w.text(c.Text)
	return w
}

type wants []Want

func (w *wants) vec(name string, n int) { *w = append(*w, Want{Name: name, Shape: []int{n}}) }

// linear adds a matrix [n,k], and a bias [n].
func (w *wants) linear(module string, n, k int, bias bool) {
	*w = append(*w, Want{Name: module + ".weight", Shape: []int{n, k}, Linear: true})
	if bias {
		w.vec(module+".bias", n)
	}
}

func (w *wants) vision(c *Config) {
	v := c.Vision
	e, p := v.Hidden, v.PatchSize
	const root = "vision_model.embeddings."
	*w = append(*w,
		Want{Name: root + "class_embedding", Shape: []int{1, 1, e}},
		Want{Name: root + "position_embedding", Shape: []int{1, v.Patches() + 1, e}},
		Want{Name: root + "patch_embedding.weight", Shape: []int{e, 3, p, p}})
	w.vec(root+"patch_embedding.bias", e)
	for i := range v.Layers {
		l := fmt.Sprintf("vision_model.encoder.layers.%d.", i)
		for _, norm := range []string{"norm1", "norm2"} {
			w.vec(l+norm+".weight", e)
			if v.Norm == "layer_norm" {
				w.vec(l+norm+".bias", e)
			}
		}
		w.linear(l+"attn.qkv", 3*e, e, v.QKVBias)
		if v.QKNorm {
			w.vec(l+"attn.q_norm.weight", e)
			w.vec(l+"attn.k_norm.weight", e)
		}
		w.linear(l+"attn.proj", e, e, true)
		w.linear(l+"mlp.fc1", v.Intermediate, e, true)
		w.linear(l+"mlp.fc2", e, v.Intermediate, true)
		w.vec(l+"ls1", e)
		w.vec(l+"ls2", e)
	}
	r := c.ShuffleFactor()
	in := e * r * r
	w.vec("mlp1.0.weight", in)
	w.vec("mlp1.0.bias", in)
	w.linear("mlp1.1", c.Text.Hidden, in, true)
	w.linear("mlp1.3", c.Text.Hidden, c.Text.Hidden, true)
}

func (w *wants) text(t TextConfig) {
	const root = "language_model.model."
	*w = append(*w, Want{Name: embedName, Shape: []int{t.Vocab, t.Hidden}})
	q, kv := t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	for i := range t.Layers {
		l := fmt.Sprintf("%slayers.%d.", root, i)
		w.vec(l+"input_layernorm.weight", t.Hidden)
		w.linear(l+"self_attn.q_proj", q, t.Hidden, t.QKVBias)
		w.linear(l+"self_attn.k_proj", kv, t.Hidden, t.QKVBias)
		w.linear(l+"self_attn.v_proj", kv, t.Hidden, t.QKVBias)
		if t.QKNorm {
			w.vec(l+"self_attn.q_norm.weight", t.HeadDim)
			w.vec(l+"self_attn.k_norm.weight", t.HeadDim)
		}
		w.linear(l+"self_attn.o_proj", t.Hidden, q, t.OutputBias)
		w.vec(l+"post_attention_layernorm.weight", t.Hidden)
		w.linear(l+"mlp.gate_proj", t.Intermediate, t.Hidden, false)
		w.linear(l+"mlp.up_proj", t.Intermediate, t.Hidden, false)
		w.linear(l+"mlp.down_proj", t.Hidden, t.Intermediate, false)
	}
	w.vec(root+"norm.weight", t.Hidden)
	if !t.TiedEmbedding {
		w.linear("language_model.lm_head", t.Vocab, t.Hidden, false)
	}
}

// refine fills in what config.json leaves to the tensors: head size and vocabulary.
func (c *Checkpoint) refine() error {
	t := &c.Config.Text
	if v, ok := c.Find(embedName); ok && !c.Config.vocabGiven && len(v[0].Shape) == 2 && v[0].Shape[0] > 0 {
		t.Vocab = v[0].Shape[0]
	}
	if c.Config.headDimGiven {
		return nil
	}
	const layer = "language_model.model.layers.0.self_attn."
	if v, ok := c.Find(layer + "q_norm.weight"); ok && t.QKNorm && v[0].Elements() > 0 {
		t.HeadDim = v[0].Elements()
	} else if v, ok := c.Find(layer + "q_proj.weight"); ok && v[0].Rows() >= t.Heads && v[0].Rows()%t.Heads == 0 {
		t.HeadDim = v[0].Rows() / t.Heads
	}
	if t.HeadDim%2 != 0 || t.HeadDim > 4096 {
		return &FormatError{File: configName, Field: "head_dim", Reason: "not given, and the tensors' is odd or too large", Value: fmt.Sprint(t.HeadDim), Limit: "4096"}
	}
	return nil
}

// Require checks that every wanted tensor is there with its shape and a
// floating-point type (or a quantised form that fits), and that no other tensor
// lies inside the model's layers. The error is a *WeightsError with all findings.
func (c *Checkpoint) Require(list []Want) error {
	e := &WeightsError{Checkpoint: c.Path}
	known := map[string]bool{}
	for _, w := range list {
		known[w.Name] = true
		if !w.Linear || !c.requireQuant(w, e, known) {
			c.require(w, e)
		}
	}
	for canon := range c.canon {
		if !known[canon] && inLayers(canon) && !ignored(canon) {
			e.Unexpected = append(e.Unexpected, canon)
		}
	}
	if e.empty() {
		return nil
	}
	e.sort()
	return e
}

func (c *Checkpoint) require(w Want, e *WeightsError) {
	views, ok := c.Find(w.Name)
	if !ok {
		name := w.Name
		if p := c.canon[name]; p != nil {
			name += fmt.Sprintf(" (one of q, k, v; only %s)", strings.Join(strings.Fields(strings.Join(p.stored[:], " ")), ", "))
		}
		e.Missing = append(e.Missing, name)
		return
	}
	for _, v := range views {
		want := slices.Clone(w.Shape)
		want[0] /= len(views)
		if !slices.Equal(v.Shape, want) {
			e.Misshapen = append(e.Misshapen, Mismatch{w.Name, v.Name, fmt.Sprint(want), fmt.Sprint(v.Shape)})
		}
		if v.DType != dtype.F32 && v.DType != dtype.F16 && v.DType != dtype.BF16 {
			e.WrongType = append(e.WrongType, Mismatch{w.Name, v.Name, "F32, F16 or BF16", v.DType.String()})
		}
	}
}

// requireQuant checks the quantised form of a linear layer, ok if it has one, and
// marks its tensors as known.
func (c *Checkpoint) requireQuant(w Want, e *WeightsError, known map[string]bool) bool {
	module := strings.TrimSuffix(w.Name, ".weight")
	forms, ok := c.quantised(module, func(name, want, got string) {
		e.Misshapen = append(e.Misshapen, Mismatch{name, name, want, got})
	})
	if !ok {
		return false
	}
	for _, s := range suffixes {
		known[module+"."+s] = true
	}
	if b, err := c.Vector(module + ".bias"); err == nil && !slices.ContainsFunc(b, func(x float32) bool { return x != 0 }) {
		known[module+".bias"] = true // some GPTQ exporters add a bias of zeros to every layer
	}
	for _, f := range forms {
		n := w.Shape[0] / len(forms)
		if f.values.Data != nil && f.n*f.k > 0 && (f.n != n || f.k != w.Shape[1]) {
			e.Misshapen = append(e.Misshapen, Mismatch{w.Name, f.values.Name, fmt.Sprintf("[%d %d]", n, w.Shape[1]), fmt.Sprintf("[%d %d] quantised", f.n, f.k)})
		}
	}
	return true
}

// inLayers reports whether a tensor takes part in the forward pass if it exists,
// so that not using it would change results.
func inLayers(canon string) bool {
	for _, p := range []string{"vision_model.encoder.layers.", "mlp1.", "mlp2.", "pooling_before_gating.", "gating.", "language_model.model.layers."} {
		if strings.HasPrefix(canon, p) {
			return true
		}
	}
	return false
}

// ignored are tensors that old checkpoints store although they follow from the configuration.
func ignored(canon string) bool { return strings.HasSuffix(canon, ".rotary_emb.inv_freq") }

// Extra lists stored tensors that the model does not use, without those that are
// expected to be redundant (inv_freq, the head of tied embeddings).
func (c *Checkpoint) Extra(list []Want) []string {
	known := map[string]bool{}
	for _, w := range list {
		known[w.Name] = true
		if w.Linear {
			c.requireQuant(w, &WeightsError{}, known)
		}
	}
	var extra []string
	for canon, p := range c.canon {
		if !known[canon] && !ignored(canon) && !(canon == headName && c.Config.Text.TiedEmbedding) {
			extra = append(extra, strings.Fields(strings.Join(p.stored[:], " "))...)
		}
	}
	slices.Sort(extra)
	return extra
}

// Vector returns a tensor as float32, whatever its stored type and pieces:
// norms, biases, layer scales, embeddings of the vision encoder.
func (c *Checkpoint) Vector(canonical string) ([]float32, error) {
	views, ok := c.Find(canonical)
	if !ok {
		return nil, &WeightsError{Checkpoint: c.Path, Missing: []string{canonical}}
	}
	var out []float32
	for _, v := range views {
		f, err := v.Float32s()
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	return out, nil
}

// Linear is a linear layer of the model as it lies in the checkpoint: one or more
// matrices [N_i,K], row-major, stacked along their rows.
type Linear struct {
	Name  string // the modules, joined by +, for errors
	K     int    // inputs
	Parts []Matrix
	Bias  []float32    // [N]; nil if no module has one
	Views []TensorView // everything stored that was used, for Drop
}

// Matrix is one stored matrix [N,K]. Without Quant, Data holds N*K elements of
// DType (F32, BF16 or F16); with it, see Quant.
type Matrix struct {
	N     int
	DType dtype.Type
	Data  []byte
	Quant *Quant
}

// Quant describes a quantised matrix W[n,k] = (q[n,k] - Zero)*scale[n,k/Group].
// The matrix's Data then holds q: int8 values one a byte, or unsigned 4-bit
// values two a byte (even k in the low nibble), row-major [N,K]. The fields are
// those of kernels.QuantPart.
type Quant struct {
	Bits   int     // 8 (signed int8) or 4 (unsigned)
	Group  int     // inputs that share a scale; a divisor of K; K = per channel
	Scales []byte  // float32 little endian [N,K/Group]
	Zeros  []uint8 // nil: 0 for 8 bits, 8 for 4 bits; else [N,K/Group]
}

// N is the number of outputs.
func (l *Linear) N() int {
	n := 0
	for _, p := range l.Parts {
		n += p.N
	}
	return n
}

// Linear finds the modules ("language_model.model.layers.0.self_attn.q_proj", …;
// no ".weight") and stacks them along the rows, in the given order. Weights alias
// the mapping, or are converted where a stored format has no packed form. A
// module without bias among others that have one contributes zeros.
func (c *Checkpoint) Linear(modules ...string) (*Linear, error) {
	l := &Linear{Name: strings.Join(modules, "+")}
	biased := false
	for _, m := range modules {
		before := l.N()
		if err := c.addModule(l, m); err != nil {
			return nil, err
		}
		bias := make([]float32, l.N()-before)
		if _, ok := c.canon[m+".bias"]; ok {
			biased = true
			stored, err := c.Vector(m + ".bias")
			if err != nil {
				return nil, err
			}
			if len(stored) != len(bias) {
				return nil, &WeightsError{Checkpoint: c.Path, Misshapen: []Mismatch{{m + ".bias", m + ".bias", fmt.Sprintf("[%d]", len(bias)), fmt.Sprintf("[%d]", len(stored))}}}
			}
			copy(bias, stored)
		}
		l.Bias = append(l.Bias, bias...)
	}
	if !biased {
		l.Bias = nil
	}
	return l, nil
}

// addModule appends the matrices of one module.
func (c *Checkpoint) addModule(l *Linear, module string) error {
	e := &WeightsError{Checkpoint: c.Path}
	forms, ok := c.quantised(module, func(name, want, got string) {
		e.Misshapen = append(e.Misshapen, Mismatch{name, name, want, got})
	})
	if !e.empty() {
		return e
	}
	if ok {
		return c.addQuantised(l, module, forms)
	}
	name := module + ".weight"
	views, ok := c.Find(name)
	if !ok {
		return &WeightsError{Checkpoint: c.Path, Missing: []string{name}}
	}
	for _, v := range views {
		k := l.K
		if k == 0 && len(v.Shape) >= 2 {
			k = v.Elements() / max(v.Rows(), 1)
		}
		if len(v.Shape) < 2 || v.Elements() != v.Rows()*k || k == 0 {
			return &WeightsError{Checkpoint: c.Path, Misshapen: []Mismatch{{name, v.Name, fmt.Sprintf("[N,%d]", k), fmt.Sprint(v.Shape)}}}
		}
		if v.DType != dtype.F32 && v.DType != dtype.F16 && v.DType != dtype.BF16 {
			return &WeightsError{Checkpoint: c.Path, WrongType: []Mismatch{{name, v.Name, "F32, F16 or BF16", v.DType.String()}}}
		}
		l.K = k
		l.Parts = append(l.Parts, Matrix{N: v.Rows(), DType: v.DType, Data: v.Data})
		l.Views = append(l.Views, v)
	}
	return nil
}

func (c *Checkpoint) addQuantised(l *Linear, module string, forms []quantised) error {
	for i := range forms {
		q := &forms[i]
		if l.K == 0 {
			l.K = q.k
		}
		if q.k != l.K {
			return &WeightsError{Checkpoint: c.Path, Misshapen: []Mismatch{{module, q.values.Name, fmt.Sprintf("[N,%d]", l.K), fmt.Sprintf("[%d,%d]", q.n, q.k)}}}
		}
		m, err := q.matrix()
		if err != nil {
			return err
		}
		l.Parts = append(l.Parts, m)
		l.Views = append(l.Views, q.values, q.scales)
	}
	return nil
}
