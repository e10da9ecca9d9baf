package model

import (
	"fmt"

	"metacap/kernels"
)

// Vision is InternViT with pixel shuffle and projector. Encode computes, for
// every tile by itself,
//
//	x = [class, conv(tile)] + positions
//	x += ls1·attn(norm1(x));  x += ls2·fc2(act(fc1(norm2(x))))     Run blocks
//	y = pixel shuffle of x without its class token
//	features = W3·gelu(W1·LayerNorm(y))
//
// Attention is full inside a tile. With QKNorm the whole q and the whole k
// vector are RMS-normalised before they are cut into heads.
// Source: modeling_intern_vit.py, InternVLChatModel.extract_feature.
type Vision struct {
	Dims   VisionDims
	b      kernels.Backend
	patch  kernels.Weight // [E, 3*p*p]
	patchB kernels.Tensor // [E]
	class  kernels.Tensor // [E]
	pos    kernels.Tensor // [1+P,E]
	lut    kernels.Tensor // [3,256]
	layers []visionLayer
	normW  kernels.Tensor // projector LayerNorm [r²E]
	normB  kernels.Tensor
	proj1  kernels.Weight
	proj1B kernels.Tensor
	proj2  kernels.Weight
	proj2B kernels.Tensor
	scale  float32
	first  bool
	half   bool // attention may round to bf16
}

type visionLayer struct {
	norm1, norm1B kernels.Tensor // [E]; bias none for RMSNorm
	norm2, norm2B kernels.Tensor
	qkv           kernels.Weight // [3E,E]
	qkvB          kernels.Tensor
	qNorm, kNorm  kernels.Tensor // [E], or none
	out           kernels.Weight
	outB          kernels.Tensor
	fc1, fc2      kernels.Weight
	fc1B, fc2B    kernels.Tensor
	ls1, ls2      kernels.Tensor // [E]
}

// Encode computes the features of the n tiles uploaded into s.Tiles(n) and
// returns them as [n*tokens,C], memory of s that the next Encode overwrites.
func (v *Vision) Encode(s *VisionSpace, n int, tap Tap) (kernels.Tensor, error) {
	w := s.Views(n)
	if err := v.embed(w, tap); err != nil {
		return kernels.Tensor{}, err
	}
	for i := range v.Dims.Run {
		if err := v.block(&v.layers[i], w); err != nil {
			return kernels.Tensor{}, fmt.Errorf("model: encoder block %d: %w", i, err)
		}
		if err := tap.call(StageVisionLayer, i, w.Hidden); err != nil {
			return kernels.Tensor{}, err
		}
	}
	if err := tap.call(StageVisionLast, 0, w.Hidden); err != nil {
		return kernels.Tensor{}, err
	}
	if err := v.project(w); err != nil {
		return kernels.Tensor{}, err
	}
	return w.Features, tap.call(StageVision, 0, w.Features)
}

func (v *Vision) embed(w *visionViews, tap Tap) error {
	if err := v.b.Patchify(kernels.PatchifyArgs{Out: w.PatchesPadded, Tiles: w.Tiles, LUT: v.lut, PatchSize: v.Dims.PatchSize}); err != nil {
		return err
	}
	if err := v.b.Linear(kernels.LinearArgs{Out: w.Embedded, X: w.Patches, W: v.patch, Bias: v.patchB}); err != nil {
		return err
	}
	if err := v.b.VisionEmbed(kernels.VisionEmbedArgs{Out: w.Hidden, X: w.Embedded, Class: v.class, Pos: v.pos}); err != nil {
		return err
	}
	return tap.call(StageVisionEmbed, 0, w.Hidden)
}

func (v *Vision) block(l *visionLayer, w *visionViews) error {
	if err := v.norm(w.Normed, w.Flat, l.norm1, l.norm1B); err != nil {
		return err
	}
	if err := v.b.Linear(kernels.LinearArgs{Out: w.QKV, X: w.Normed, W: l.qkv, Bias: l.qkvB}); err != nil {
		return err
	}
	if l.qNorm.Buf != nil {
		for _, x := range []struct{ x, w kernels.Tensor }{{w.QFlat, l.qNorm}, {w.KFlat, l.kNorm}} {
			if err := v.b.RMSNorm(kernels.RMSNormArgs{Out: x.x, X: x.x, Weight: x.w, Eps: v.Dims.Eps, RoundFirst: v.first}); err != nil {
				return err
			}
		}
	}
	err := v.b.SegmentAttention(kernels.SegmentAttentionArgs{
		Out: w.Attn, Q: w.Q, K: w.K, V: w.V, Starts: w.Starts, Scale: v.scale, MaxRows: v.Dims.Rows(), AllowBF16: v.half,
	})
	if err != nil {
		return err
	}
	if err := v.b.Linear(kernels.LinearArgs{Out: w.Flat, X: w.AttnFlat, W: l.out, Bias: l.outB, Residual: w.Flat, Scale: l.ls1}); err != nil {
		return err
	}
	if err := v.norm(w.Normed, w.Flat, l.norm2, l.norm2B); err != nil {
		return err
	}
	if err := v.b.Linear(kernels.LinearArgs{Out: w.FFN, X: w.Normed, W: l.fc1, Bias: l.fc1B, Act: v.Dims.Act}); err != nil {
		return err
	}
	return v.b.Linear(kernels.LinearArgs{Out: w.Flat, X: w.FFN, W: l.fc2, Bias: l.fc2B, Residual: w.Flat, Scale: l.ls2})
}

func (v *Vision) norm(out, x, w, bias kernels.Tensor) error {
	if v.Dims.RMSNorm {
		return v.b.RMSNorm(kernels.RMSNormArgs{Out: out, X: x, Weight: w, Eps: v.Dims.Eps, RoundFirst: v.first})
	}
	return v.b.LayerNorm(kernels.LayerNormArgs{Out: out, X: x, Weight: w, Bias: bias, Eps: v.Dims.Eps})
}

func (v *Vision) project(w *visionViews) error {
	if err := v.b.PixelShuffle(kernels.PixelShuffleArgs{Out: w.Shuffled, X: w.Hidden, Factor: v.Dims.Shuffle, Version: v.Dims.Version}); err != nil {
		return err
	}
	if err := v.b.LayerNorm(kernels.LayerNormArgs{Out: w.ShuffledFlat, X: w.ShuffledFlat, Weight: v.normW, Bias: v.normB, Eps: ProjectorEps}); err != nil {
		return err
	}
	if err := v.b.Linear(kernels.LinearArgs{Out: w.Middle, X: w.ShuffledFlat, W: v.proj1, Bias: v.proj1B, Act: kernels.ActGELU}); err != nil {
		return err
	}
	return v.b.Linear(kernels.LinearArgs{Out: w.Features, X: w.Middle, W: v.proj2, Bias: v.proj2B})
}

// Free gives the encoder's device memory back.
func (v *Vision) Free() {
	freeTensors(v.patchB, v.class, v.pos, v.lut, v.normW, v.normB, v.proj1B, v.proj2B)
	freeWeights(v.patch, v.proj1, v.proj2)
	for i := range v.layers {
		l := &v.layers[i]
		freeTensors(l.norm1, l.norm1B, l.norm2, l.norm2B, l.qkvB, l.qNorm, l.kNorm, l.outB, l.fc1B, l.fc2B, l.ls1, l.ls2)
		freeWeights(l.qkv, l.out, l.fc1, l.fc2)
	}
}
