// Package loader opens model checkpoints: a directory of safetensors files and
// JSON configurations as Hugging Face and ModelScope publish them.
//
//	c, err := loader.Open("MetaCaptioner-8B")
//	defer c.Close()
//	if err := c.Require(c.Config.Weights()); err != nil { … } // all findings at once
//	qkv, err := c.Linear("language_model.model.layers.0.self_attn.q_proj", …k_proj, …v_proj)
//	norm, err := c.Vector("language_model.model.norm.weight")
//
// # What is read
//
//   - config.json of three layouts into one [Config]: InternVLChatModel (remote
//     code), InternVLForConditionalGeneration (transformers) and bare Qwen2 or
//     Qwen3. Keys that are missing take that layout's class defaults. A feature
//     we lack is an [UnsupportedError] that names it; it is never skipped.
//   - generation_config.json into [Generation], preprocessor_config.json into [Processor].
//   - model.safetensors, or the shards named by model.safetensors.index.json.
//     Pickled weights are never read.
//
// # Names
//
// Weights have one canonical name whatever the layout: the remote code's
// (names.go). [Config.Weights] is the table of all of them with their shapes,
// [Checkpoint.Require] compares it with the files, [Checkpoint.Find],
// [Checkpoint.Vector] and [Checkpoint.Linear] fetch.
//
// # Memory
//
// Weight files are mapped, not read: opening 17 GB takes milliseconds and a few
// megabytes. A [TensorView] aliases the mapping until Close. After a backend has
// packed a weight, [Tensors.Drop] gives its pages back. On systems without mmap
// files are read whole. [OpenFS] uses bytes of an embedded model in place.
//
// # Quantised weights
//
// [Checkpoint.Linear] returns a layer stored as AWQ, GPTQ, compressed-tensors or
// FP8 in one integer form ([Quant]) where that holds it exactly, and dense
// otherwise. [Quantize] writes such a checkpoint. Formats: docs/models.md.
//
// # Untrusted input
//
// Files are hostile: every length, count, nesting depth and range is capped and
// checked before use, a [FormatError] names file, field, value and limit, and
// the parsers are fuzzed. The one thing that cannot be caught is another process
// that shortens a mapped file while it is in use: the system then stops the process.
package loader
