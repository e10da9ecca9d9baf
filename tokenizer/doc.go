// Package tokenizer turns text into token ids and back for the byte-level BPE
// vocabularies of the Qwen2, Qwen3 and InternVL families, and writes
// conversations as prompts.
package tokenizer
