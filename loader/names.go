package loader

import (
	"fmt"
	"strings"
)

// Canonical names are the remote-code names of InternVLChatModel:
//
//	vision_model.embeddings.{class_embedding,position_embedding,patch_embedding.{weight,bias}}
//	vision_model.encoder.layers.N.{attn.{qkv,proj,q_norm,k_norm},mlp.{fc1,fc2},norm1,norm2,ls1,ls2}
//	mlp1.{0,1,3}.{weight,bias}
//	language_model.model.{embed_tokens,layers.N.…,norm}.weight, language_model.lm_head.weight
//
// They are used for every layout: a bare language model's model.norm.weight is
// language_model.model.norm.weight here. canonicalise translates each stored name
// once; where the HF layout has q_proj, k_proj and v_proj for the vision encoder's
// qkv, the canonical tensor has three pieces, stacked along the rows.

// pieces are the stored names of one canonical tensor, in stacking order.
type pieces struct {
	stored [3]string
	n      int // 1 or 3
}

func (p *pieces) complete() bool {
	for _, name := range p.stored[:p.n] {
		if name == "" {
			return false
		}
	}
	return true
}

// canonicalise maps canonical names to stored ones. Two stored names with one
// meaning, and names of LoRA wrappers, are errors.
func canonicalise(t *Tensors) (map[string]*pieces, error) {
	out := make(map[string]*pieces, len(t.sorted))
	for _, name := range t.sorted {
		if isLoRA(name) {
			return nil, &FormatError{
				File: t.shards[t.byName[name].shard].name, Field: "tensor " + name,
				Reason: "the checkpoint is wrapped in LoRA modules; merge them into the base weights and save again",
			}
		}
		canon, part, n := canonicalName(name)
		p := out[canon]
		if p == nil {
			p = &pieces{n: n}
			out[canon] = p
		}
		if p.n != n || p.stored[part] != "" {
			return nil, &FormatError{
				File: t.shards[t.byName[name].shard].name, Field: "tensor " + name,
				Reason: fmt.Sprintf("duplicate: %q means the same (%s)", strings.Join(p.stored[:], ""), canon),
			}
		}
		p.stored[part] = name
	}
	return out, nil
}

func isLoRA(name string) bool {
	if strings.HasPrefix(name, "base_model.model.") {
		return true
	}
	for _, mark := range []string{".lora_A", ".lora_B", ".lora_embedding_", ".lora_magnitude", ".base_layer."} {
		if strings.Contains(name, mark) {
			return true
		}
	}
	return false
}

// roots are the first components that follow an optional leading "model.".
var roots = []string{"vision_model.", "vision_tower.", "mlp1.", "multi_modal_projector.", "language_model.", "lm_head.", "model."}

// projector maps the HF projector's modules.
var projector = map[string]string{"layer_norm": "0", "linear_1": "1", "linear_2": "3"}

// canonicalName translates a stored name. part of n says which piece of the
// canonical tensor it is. A name that fits no rule stays as it is.
func canonicalName(name string) (canon string, part, n int) {
	name = stripModel(name)
	switch root, rest, _ := strings.Cut(name, "."); root {
	case "vision_tower", "vision_model":
		canon, part, n = canonicalVision(rest)
		return "vision_model." + canon, part, n
	case "multi_modal_projector":
		module, suffix, _ := strings.Cut(rest, ".")
		if number, ok := projector[module]; ok {
			return "mlp1." + number + "." + suffix, 0, 1
		}
	case "language_model":
		if !strings.HasPrefix(rest, "model.") && !strings.HasPrefix(rest, "lm_head.") {
			rest = "model." + rest
		}
		return "language_model." + rest, 0, 1
	case "model", "lm_head":
		return "language_model." + name, 0, 1
	}
	return name, 0, 1
}

// stripModel removes the wrapper component "model." that some converters put in front of another root.
func stripModel(name string) string {
	rest, ok := strings.CutPrefix(name, "model.")
	if !ok {
		return name
	}
	for _, r := range roots {
		if strings.HasPrefix(rest, r) {
			return rest
		}
	}
	return name
}

// canonicalVision translates what follows vision_tower. or vision_model.
func canonicalVision(rest string) (canon string, part, n int) {
	if inner, ok := strings.CutPrefix(rest, "embeddings."); ok {
		switch {
		case inner == "cls_token":
			inner = "class_embedding"
		case inner == "position_embeddings":
			inner = "position_embedding"
		case strings.HasPrefix(inner, "patch_embeddings.projection."):
			inner = "patch_embedding." + strings.TrimPrefix(inner, "patch_embeddings.projection.")
		}
		return "embeddings." + inner, 0, 1
	}
	layer, ok := strings.CutPrefix(rest, "encoder.layer.")
	if !ok {
		return rest, 0, 1
	}
	number, inner, _ := strings.Cut(layer, ".")
	inner, part, n = canonicalBlock(inner)
	return "encoder.layers." + number + "." + inner, part, n
}

// canonicalBlock translates the part of a name inside a vision block.
func canonicalBlock(inner string) (canon string, part, n int) {
	module, suffix, dotted := strings.Cut(inner, ".")
	switch module {
	case "attention":
		sub, suffix, _ := strings.Cut(suffix, ".")
		switch sub {
		case "q_proj", "k_proj", "v_proj":
			return "attn.qkv." + suffix, strings.Index("qkv", sub[:1]), 3
		case "projection_layer":
			sub = "proj"
		}
		return "attn." + sub + "." + suffix, 0, 1
	case "layernorm_before":
		module = "norm1"
	case "layernorm_after":
		module = "norm2"
	case "lambda_1":
		module = "ls1"
	case "lambda_2":
		module = "ls2"
	}
	if dotted {
		module += "." + suffix
	}
	return module, 0, 1
}

const (
	embedName = "language_model.model.embed_tokens.weight"
	headName  = "language_model.lm_head.weight"
)

// Find returns the stored tensors of a canonical name, in stacking order: one, or
// three for a vision qkv that is stored as q, k, v. The head of a model with tied
// embeddings is its embedding. !ok if it is missing or incomplete.
func (c *Checkpoint) Find(canonical string) ([]TensorView, bool) {
	if canonical == headName && c.Config.Text.TiedEmbedding {
		canonical = embedName
	}
	p, ok := c.canon[canonical]
	if !ok || !p.complete() {
		return nil, false
	}
	views := make([]TensorView, p.n)
	for i, name := range p.stored[:p.n] {
		if views[i], ok = c.Tensor(name); !ok {
			return nil, false
		}
	}
	return views, true
}

// Canonical returns the canonical name of a stored tensor.
func Canonical(stored string) string {
	canon, _, _ := canonicalName(stored)
	return canon
}
