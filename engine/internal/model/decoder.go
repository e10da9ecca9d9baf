package model

import (
	"metacap/kernels"
)

// Decoder is the Qwen2/Qwen3 decoder. Forward computes
//
//	h = embed[ids], image positions replaced by features
//	h += Wo·attn(rope(norm(Wq·a)), rope(norm(Wk·a)), Wv·a)   a = RMSNorm(h)
//	h += Wdown·(silu(Wgate·b) * (Wup·b))                     b = RMSNorm(h)
//
// and Logits the final norm and head of the rows that need them.
// Source: transformers models/qwen3/modeling_qwen3.py, models/qwen2.
type Decoder struct {
	Dims   DecoderDims
	b      kernels.Backend
	embed  kernels.Tensor // [V,C] as stored
	layers []decoderLayer
	norm   kernels.Tensor // [C]
	head   kernels.Weight
	inv    kernels.Tensor // [D/2]
	factor float32
	scale  float32 // of attention scores, D^-1/2
	first  bool    // RoundFirst of RMSNorm
}

type decoderLayer struct {
	norm1, norm2 kernels.Tensor // [C]
	qkv          kernels.Weight // [(Hq+2Hkv)*D, C]
	qkvBias      kernels.Tensor // [(Hq+2Hkv)*D], or none
	qNorm, kNorm kernels.Tensor // [D], or none
	out          kernels.Weight // [C, Hq*D]
	outBias      kernels.Tensor
	gateUp       kernels.Weight // [2F, C]
	down         kernels.Weight // [C, F]
}

// Tap is told of intermediate results while a forward pass is being enqueued.
// It may download them. nil in production.
type Tap func(stage string, layer int, t kernels.Tensor) error

func (tap Tap) call(stage string, layer int, t kernels.Tensor) error {
	if tap == nil {
		return nil
	}
	return tap(stage, layer, t)
}

// Stages that taps are told of; layer is 0 for those that are not a block.
const (
	StageVisionEmbed = "vit.embeddings"
	StageVisionLayer = "vit.layer"
	StageVisionLast  = "vit.last"
	StageVision      = "vision"
	StageEmbed       = "hidden.embed"
	StageLayer       = "hidden.layer"
	StageFinalNorm   = "hidden.final_norm"
	StageLogits      = "logits"
)

// Step is the device arrays of a step and its working memory.
type Step struct {
	Views     *DecoderViews
	IDs       kernels.Tensor // [T] i32
	Positions kernels.Tensor // [T] i32
	Slots     kernels.Tensor // [T] i32
	Starts    kernels.Tensor // [B+1] i32
	Lens      kernels.Tensor // [B] i32
	Tables    kernels.Tensor // [B,W] i32
	Shared    kernels.Tensor // [B,2] i32: see kernels.PagedAttentionArgs; no Buf: nothing is known
	Settled   bool           // see kernels.PagedAttentionArgs
	KV        kernels.KV
	MaxRows   int
	MaxLen    int
	// Image features: Places[n] names the row of feature Index[n] of Features. No Buf: none.
	Features kernels.Tensor // [slots*tokens,C]
	Index    kernels.Tensor // [n] i32
	Places   kernels.Tensor // [n] i32
	Picked   kernels.Tensor // [n,C] working memory
	Tap      Tap
}

// Forward computes the hidden states of the step's tokens, before the final
// norm, into s.Views.Hidden, and stores their keys and values.
func (d *Decoder) Forward(s *Step) error {
	v := s.Views
	if err := d.b.Embed(kernels.EmbedArgs{Out: v.Hidden, Table: d.embed, IDs: s.IDs}); err != nil {
		return err
	}
	if s.Places.Buf != nil {
		if err := d.b.GatherRows(kernels.GatherRowsArgs{Out: s.Picked, X: s.Features, Index: s.Index}); err != nil {
			return err
		}
		if err := d.b.ScatterRows(kernels.ScatterRowsArgs{Out: v.Hidden, X: s.Picked, Index: s.Places}); err != nil {
			return err
		}
	}
	if err := s.Tap.call(StageEmbed, 0, v.Hidden); err != nil {
		return err
	}
	for i := range d.layers {
		if err := d.attention(i, s); err != nil {
			return err
		}
		if err := d.ffn(i, v); err != nil {
			return err
		}
		if err := s.Tap.call(StageLayer, i, v.Hidden); err != nil {
			return err
		}
	}
	return nil
}

func (d *Decoder) attention(i int, s *Step) error {
	l, v := &d.layers[i], s.Views
	err := kernels.NormLinear(d.b, d.norming(v.Normed, v.Hidden, l.norm1), kernels.LinearArgs{Out: v.QKV, X: v.Normed, W: l.qkv, Bias: l.qkvBias})
	if err != nil {
		return err
	}
	err = kernels.QKNormRopeStore(d.b, kernels.QKNormRopeStoreArgs{
		QKV: v.QKV, QNorm: l.qNorm, KNorm: l.kNorm, Eps: d.Dims.Eps, RoundFirst: d.first,
		Positions: s.Positions, InvFreq: d.inv, Factor: d.factor, KV: s.KV, Layer: i, Slots: s.Slots,
	})
	if err != nil {
		return err
	}
	err = d.b.PagedAttention(kernels.PagedAttentionArgs{
		Out: v.Attn, Q: v.Q, KV: s.KV, Layer: i, Starts: s.Starts, Lens: s.Lens, Tables: s.Tables, Shared: s.Shared, Settled: s.Settled,
		Scale: d.scale, MaxRows: s.MaxRows, MaxLen: s.MaxLen,
	})
	if err != nil {
		return err
	}
	return d.b.Linear(kernels.LinearArgs{Out: v.Hidden, X: v.AttnFlat, W: l.out, Bias: l.outBias, Residual: v.Hidden})
}

func (d *Decoder) ffn(i int, v *DecoderViews) error {
	l := &d.layers[i]
	if err := kernels.NormSwiGLU(d.b, d.norming(v.Normed, v.Hidden, l.norm2), kernels.SwiGLUArgs{Out: v.Act, X: v.Normed, W: l.gateUp, Scratch: v.GateUp}); err != nil {
		return err
	}
	return d.b.Linear(kernels.LinearArgs{Out: v.Hidden, X: v.Act, W: l.down, Residual: v.Hidden})
}

func (d *Decoder) norming(out, x, w kernels.Tensor) kernels.RMSNormArgs {
	return kernels.RMSNormArgs{Out: out, X: x, Weight: w, Eps: d.Dims.Eps, RoundFirst: d.first}
}

// Logits computes the float32 logits of the rows of the last Forward that rows
// names, into r.Logits. r is a view for exactly that many rows.
func (d *Decoder) Logits(v *DecoderViews, rows kernels.Tensor, r *RowViews, tap Tap) error {
	if err := d.b.GatherRows(kernels.GatherRowsArgs{Out: r.Rows, X: v.Hidden, Index: rows}); err != nil {
		return err
	}
	if err := d.b.RMSNorm(d.norming(r.Rows, r.Rows, d.norm)); err != nil {
		return err
	}
	if err := tap.call(StageFinalNorm, 0, r.Rows); err != nil {
		return err
	}
	if err := d.b.Linear(kernels.LinearArgs{Out: r.Logits, X: r.Rows, W: d.head}); err != nil {
		return err
	}
	return tap.call(StageLogits, 0, r.Logits)
}

// Free gives the decoder's device memory back.
func (d *Decoder) Free() {
	freeTensors(d.embed, d.norm, d.inv)
	freeWeights(d.head)
	for i := range d.layers {
		l := &d.layers[i]
		freeTensors(l.norm1, l.norm2, l.qkvBias, l.qNorm, l.kNorm, l.outBias)
		freeWeights(l.qkv, l.out, l.gateUp, l.down)
	}
}

func freeTensors(ts ...kernels.Tensor) {
	for _, t := range ts {
		if t.Buf != nil {
			t.Buf.Free()
		}
	}
}

func freeWeights(ws ...kernels.Weight) {
	for _, w := range ws {
		if w != nil {
			w.Free()
		}
	}
}
