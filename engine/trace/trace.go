// Package trace runs a checkpoint teacher-forced and hands out what happens
// inside: every stage from the patch embedding to the logits as float32. It is
// what parity checks are made of. It computes through the same runner, model
// and KV cache as engine.Engine, one call at a time.
package trace

// Options say how to open a model for tracing.
type Options struct {
	// Device and DType mean what they mean in engine.Config.
	Device string
	DType  string
	// Threads is the number of CPU threads; 0 = cores available to the process.
	Threads int
	// ChunkTokens cuts prompts into chunks of this many tokens; 0 = as the engine would.
	ChunkTokens int
}

// Input is one prompt.
type Input struct {
	// IDs is the whole prompt, placeholders of image tokens included.
	IDs []int32
	// Tiles are the 8-bit tiles of all pictures in order, each size*size*3 bytes, interleaved RGB.
	Tiles [][]byte
	// Positions are the prompt positions whose decoder stages and logits are kept; nil = all.
	Positions []int
	// VisionRows are the encoder tokens (0 = class token) kept of tile 0 in the vit stages; nil = all.
	VisionRows []int
}

// Stage is an intermediate result. Names follow the fixtures:
//
//	vit.embeddings            [rows, E]           encoder input of tile 0
//	vit.layer0 … vit.layerN   [rows, E]           output of encoder block N, tile 0
//	vit.last                  [rows, E]           the selected layer's output, tile 0
//	vision                    [tiles, tokens, C]  projector output
//	hidden.embed              [positions, C]      decoder input with image features in place
//	hidden.layer0 … layerN    [positions, C]      output of decoder block N
//	hidden.final_norm         [positions, C]
//	logits                    [positions, V]
type Stage struct {
	Name  string
	Shape []int
	Data  []float32
}

// Output is what Run found.
type Output struct {
	Stages []Stage
}

// Stage returns the stage of that name.
func (o *Output) Stage(name string) (Stage, bool) {
	for _, s := range o.Stages {
		if s.Name == name {
			return s, true
		}
	}
	return Stage{}, false
}

// Step is one greedily chosen token.
type Step struct {
	ID          int32     // argmax, lowest id on ties
	LogProb     float64   // natural logarithm
	TopIDs      []int32   // five best, best first
	TopLogProbs []float64 // of these
	Margin      float64   // best logit minus second best
}
