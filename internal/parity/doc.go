// Package parity compares the engine, stage by stage, with recorded outputs
// ("goldens") of the reference implementation: token ids, chat prompts, decoded
// pictures and tiles, ViT, projector and decoder states, logits, greedy ids and
// log-probabilities.
//
// [Run] looks for goldens anywhere under a directory; testdata/README.md
// describes their format, tools/fixtures makes them. It knows nothing of
// particular cases: model shapes, vocabularies, prompts and seeds come from the
// files. Four parts:
//
//   - tokenizer: folders with encode.jsonl or stream.jsonl, beside tokenizer files;
//   - chat: folders with chat.jsonl; the tokenizer is in ../tokenizer;
//   - images: folders with images.json, grid.csv, resize.json or broken.json;
//   - models: folders with NAME.json and NAME.safetensors; checkpoints are in ../models.
//
// Every file may be compressed with gzip (name.gz).
//
// # Tolerances
//
// Ids, tiles, grids and resized pictures must be equal. A float32 run must agree
// to 1e-4·(1+|x|) in ViT, projector and hidden states, and to 2e-4 in logits and
// log-probabilities; reference runs with and without KV cache differ by at most
// 1.4e-5, so a factor of ten is left. Greedy ids must be equal while the
// reference's margin (best logit minus second) exceeds 2e-3; after the first
// difference at a smaller margin the reference's ids are fed. A bfloat16 run must
// stay within twice the difference that the reference's own bfloat16 run has from
// its float32 run, in logits and in the projector's output. Sums of a model of the
// true size are longer, so its golden says how far two float32 runs of the reference
// are apart (key f32 of a prompt); a float32 run may be ten times as far, if that is more.
package parity
