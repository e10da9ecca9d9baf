// Package model writes the supported families once, over kernels.Backend.
//
//   - [Decoder]: the Qwen2 and Qwen3 decoder, from ids to logits (decoder.go);
//   - [Vision]: InternViT with pixel shuffle and projector, from 8-bit tiles to
//     the vectors that replace image tokens (internvit.go, projector.go);
//   - dims.go takes every dimension from the checkpoint's config and checks it
//     against the shapes of the tensors; names.go is the table of tensor names.
//
// A forward pass enqueues operations and returns; nothing here waits for the
// device. Request state is in the arguments, never in the model. [Space] holds
// the working memory and the views of it, so that a step of a known size
// allocates nothing.
//
// Room for other families: positions may be [3,T] (M-RoPE, RopeArgs.Sections),
// SegmentAttention takes any segments (windows), and Vision is one encoder
// beside which another can stand.
package model
