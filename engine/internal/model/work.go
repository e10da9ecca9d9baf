package model

import "metacap/kernels"

// Work is what computing costs whatever the kernels are: bytes that must be read
// and operations that must be done (a multiplication and an addition are two).
// It is what a measured time is compared with a device's limits by.
type Work struct {
	StepBytes   int64 // weights of the decoder, read once a step, head included
	TokenOps    int64 // products of a token, without the head
	RowOps      int64 // the head, for a row of logits
	PairOps     int64 // attention of a token to one token, all layers
	TileOps     int64 // encoder and projector, a tile
	VisionBytes int64 // weights of encoder and projector, read once a call
}

// Work of the model as it lies on its device.
func (m *Model) Work() Work {
	d := m.Decoder
	var w Work
	token := func(ops *int64, bytes *int64, rows int, list ...kernels.Weight) {
		for _, x := range list {
			n, k := x.Dims()
			*ops += 2 * int64(rows) * int64(n) * int64(k)
			*bytes += x.Bytes()
		}
	}
	for i := range d.layers {
		y := &d.layers[i]
		token(&w.TokenOps, &w.StepBytes, 1, y.qkv, y.out, y.gateUp, y.down)
	}
	token(&w.RowOps, &w.StepBytes, 1, d.head)
	w.PairOps = 4 * int64(d.Dims.Layers) * int64(d.Dims.Heads) * int64(d.Dims.HeadDim)
	if m.Vision == nil {
		return w
	}
	v, dims := m.Vision, m.Vision.Dims
	token(&w.TileOps, &w.VisionBytes, dims.Patches(), v.patch)
	for i := range v.layers {
		y := &v.layers[i]
		token(&w.TileOps, &w.VisionBytes, dims.Rows(), y.qkv, y.out, y.fc1, y.fc2)
		w.TileOps += 4 * int64(dims.Rows()) * int64(dims.Rows()) * int64(dims.Width)
	}
	token(&w.TileOps, &w.VisionBytes, dims.Tokens(), v.proj1, v.proj2)
	return w
}
