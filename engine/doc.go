// Package engine runs vision-language models of the InternVL family, and the
// Qwen decoders inside them, on the CPU or a GPU.
package engine
