// Package kernels defines what a compute backend must do for a transformer:
// a small set of operations over device tensors, a packed weight format that
// each backend chooses for itself, and a paged key/value cache.
//
// The package knows nothing of models. It holds
//
//   - [Tensor] and [Buffer]: device memory with a dtype and a row-major shape;
//   - [Backend]: about twenty operations, each with an argument struct that
//     states formula, shapes, dtypes, accumulation and aliasing;
//   - the shape rules in check.go, shared by every backend, so that a wrong
//     argument is the same [ArgError] everywhere;
//   - optional one-method interfaces for fused operations, with a composed
//     fallback in fused.go.
//
// Implementations: kernels/ref (plain Go, float64 accumulation, the executable
// specification), kernels/cpu (C with run-time dispatch, pure Go without cgo)
// and kernels/cuda. All of them pass the same suite, kernels/kerneltest.
//
// # Order of execution
//
// Operations enqueue. A backend may run an operation at once (ref), append it
// to a command list (cpu) or enqueue it on a stream (cuda). Operations take
// effect in the order of their calls. Upload, Download and Sync are part of that
// order: an Upload is seen by later operations only, and a Download sees every
// earlier operation. Argument errors are returned by the call; errors of the
// device are returned by Download or Sync.
//
// # Batch invariance
//
// The result for a row (a token, a sequence, a tile) must not depend on its
// neighbours, on the number of rows in the call, or on how a prompt was cut
// into chunks: bit for bit. A backend therefore fixes the order of every
// reduction independent of the number of rows.
//
// # Goroutines
//
// A Backend is used by one goroutine at a time, except PackLinear and Upload
// into buffers of the caller, which may be called concurrently while a model is
// being loaded and before the first operation.
//
// Shape letters: B sequences, T tokens of the step (ragged, concatenated),
// S context length of a sequence, C model width, F FFN width, V vocabulary,
// Hq query heads, Hkv key/value heads, D head size; I tiles, P patches a tile,
// E width of the vision encoder; N, K outputs and inputs of a linear layer.
package kernels
