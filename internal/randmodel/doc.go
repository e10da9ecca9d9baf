// Package randmodel makes a checkpoint in memory from a shape alone: random
// weights in the published formats, for benchmarks of models that are not at
// hand. Results are noise; speed does not depend on the weights.
//
// A shape is a config.json of any supported layout, or a preset: 8b is
// MetaCaptioner-8B's (17 GB), 1b has the same vision encoder with a Qwen3-0.6B
// decoder, 0.6b is that decoder alone, tiny takes a moment to make. The tokenizer is
// the embedded model's: ids beyond it exist in the weights but not in text.
package randmodel
