package loader

import (
	"slices"
	"strings"

	"metacap/internal/dtype"
)

// Part is the share of a checkpoint that belongs to one piece of the model.
type Part struct {
	Name       string // "vision", "projector", "embedding", "layers", "norm", "head", "other"
	Tensors    int
	Parameters int64 // logical weights; quantised ones count as such, their scales do not
	Bytes      int64 // as stored
}

// Summary describes an open checkpoint.
type Summary struct {
	Arch, Layout    string
	Parts           []Part // in the order of Part.Name above, without empty ones
	Total           Part
	DTypes          map[string]int64 // bytes stored by element type
	KVBytesPerToken int64            // keys and values of one token in 16-bit elements, all layers
	TokensPerTile   int              // 0 for a text model
	Problems        *WeightsError    // missing and misshapen tensors; nil if complete
	Extra           []string         // stored tensors that the model does not use
}

var partOrder = []string{"vision", "projector", "embedding", "layers", "norm", "head", "other"}

// Summary counts parameters and bytes by part and checks the tensors against the configuration.
func (c *Checkpoint) Summary() Summary {
	s := Summary{
		Arch: c.Config.Arch, Layout: c.Config.Layout.String(), Total: Part{Name: "total"}, DTypes: map[string]int64{},
		KVBytesPerToken: c.Config.KVBytesPerToken(dtype.BF16.Size()), TokensPerTile: c.Config.TokensPerTile(),
	}
	list := c.Config.Weights()
	if e, ok := c.Require(list).(*WeightsError); ok {
		s.Problems = e
	}
	s.Extra = c.Extra(list)
	parts := map[string]*Part{}
	for _, name := range partOrder {
		parts[name] = &Part{Name: name}
	}
	for _, name := range c.Names() {
		v, _ := c.Tensor(name)
		for _, p := range []*Part{parts[partOf(Canonical(name))], &s.Total} {
			p.Tensors++
			p.Parameters += c.parameters(v)
			p.Bytes += int64(len(v.Data))
		}
		s.DTypes[v.DType.String()] += int64(len(v.Data))
	}
	for _, name := range partOrder {
		if parts[name].Tensors > 0 {
			s.Parts = append(s.Parts, *parts[name])
		}
	}
	return s
}

func partOf(canon string) string {
	prefixes := []struct{ prefix, part string }{
		{"vision_model.", "vision"},
		{"mlp1.", "projector"},
		{"language_model.model.embed_tokens.", "embedding"},
		{"language_model.model.layers.", "layers"},
		{"language_model.model.norm.", "norm"},
		{"language_model.lm_head.", "head"},
	}
	if i := slices.IndexFunc(prefixes, func(p struct{ prefix, part string }) bool { return strings.HasPrefix(canon, p.prefix) }); i >= 0 {
		return prefixes[i].part
	}
	return "other"
}

// parameters is the number of weights that a stored tensor stands for: of a
// quantised matrix the packed values count, scales and zero points do not.
func (c *Checkpoint) parameters(v TensorView) int64 {
	if c.Config.Quant == nil {
		return int64(v.Elements())
	}
	canon := Canonical(v.Name)
	at := strings.LastIndexByte(canon, '.')
	module, suffix := canon[:max(at, 0)], canon[at+1:]
	switch {
	case suffix == "qweight" || suffix == "weight_packed":
		forms, _ := c.quantised(module, func(string, string, string) {})
		for _, f := range forms {
			if f.values.Name == v.Name {
				return int64(f.n) * int64(f.k)
			}
		}
		return 0
	case suffix != "weight" && suffix != "bias" && slices.Contains(suffixes, suffix):
		return 0
	}
	return int64(v.Elements())
}
