// Package runner turns a planned step into device work: it uploads the step's
// arrays in one piece, encodes the tiles that the step needs, runs the decoder
// and hands out logits rows.
//
// It owns all device memory of an engine: weights, workspaces, encoded tiles and
// the KV cache, sized by [Plan] from shapes before anything is allocated. The
// [Budget] is that plan. A step of known sizes allocates nothing on the host.
package runner
