// Package metacap is the root of a native inference engine for the visual
// captioner MetaCaptioner-8B and its family (InternVL 2.5, 3 and 3.5 with Qwen
// decoders). It holds no code: the API is in
//
//   - [metacap/engine]: open a checkpoint, generate, stream, close;
//   - [metacap/loader], [metacap/vision], [metacap/tokenizer]: files to
//     weights, image bytes to tiles, text to ids;
//   - [metacap/kernels]: the operations and their backends;
//   - cmd/metacap: the command.
//
// The tests of this package check the layout of the whole module: which package
// may import which, how long files are, and that every exported name is documented.
package metacap
