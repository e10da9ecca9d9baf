package trace

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"metacap/engine/internal/model"
	"metacap/engine/internal/sched"
	"metacap/kernels"
)

// collector gathers the stages of a run that may be cut into several steps.
type collector struct {
	m      *Model
	in     Input
	stages []Stage
	index  map[string]int
	from   int // first position of the step
	base   int // first position of the step that has a row of logits
	rows   int // logits rows of the step received so far
	slots  []sched.Encode
	keep   map[int]int // position -> row of the kept stages
}

func newCollector(m *Model, in Input) *collector {
	c := &collector{m: m, in: in, index: map[string]int{}, keep: map[int]int{}}
	if in.Positions == nil {
		for i := range in.IDs {
			in.Positions = append(in.Positions, i)
		}
		c.in = in
	}
	for row, pos := range in.Positions {
		c.keep[pos] = row
	}
	return c
}

// start begins a step at position from. Positions before first have no logits.
func (c *collector) start(b *sched.Batch, from, first int) {
	c.from, c.base, c.rows, c.slots = from, max(from, first), 0, b.Encodes
}

// stage returns a stage of rows×width, made on first use.
func (c *collector) stage(name string, shape ...int) *Stage {
	i, ok := c.index[name]
	if !ok {
		n := 1
		for _, d := range shape {
			n *= d
		}
		i = len(c.stages)
		c.index[name] = i
		c.stages = append(c.stages, Stage{Name: name, Shape: shape, Data: make([]float32, n)})
	}
	return &c.stages[i]
}

// tap receives the stages of a step.
func (c *collector) tap(stage string, layer int, t kernels.Tensor) error {
	switch stage {
	case model.StageVisionEmbed, model.StageVisionLast:
		return c.encoder(stage, t)
	case model.StageVisionLayer:
		return c.encoder(fmt.Sprintf("%s%d", stage, layer), t)
	case model.StageVision:
		return c.features(t)
	case model.StageLayer:
		return c.decoder(fmt.Sprintf("%s%d", stage, layer), t, c.from)
	case model.StageEmbed:
		return c.decoder(stage, t, c.from)
	case model.StageFinalNorm:
		return c.decoder(stage, t, c.base+c.rows)
	}
	return nil // logits come through the Sink
}

// encoder keeps the wanted rows of tile 0, [tiles,1+P,E].
func (c *collector) encoder(name string, t kernels.Tensor) error {
	first := slices.IndexFunc(c.slots, func(e sched.Encode) bool { return &e.Pixels[0] == &c.in.Tiles[0][0] })
	if first < 0 {
		return nil
	}
	data, err := c.download(t.Slice(first, first+1))
	if err != nil {
		return err
	}
	width := t.Shape[2]
	rows := c.in.VisionRows
	if rows == nil {
		for i := range t.Shape[1] {
			rows = append(rows, i)
		}
	}
	s := c.stage(name, len(rows), width)
	for i, r := range rows {
		if r < 0 || r >= t.Shape[1] {
			return fmt.Errorf("trace: vision row %d of %d", r, t.Shape[1])
		}
		copy(s.Data[i*width:], data[r*width:(r+1)*width])
	}
	return nil
}

// features keeps the projector's output of every tile. Equal tiles are encoded once.
func (c *collector) features(t kernels.Tensor) error {
	data, err := c.download(t)
	if err != nil {
		return err
	}
	tokens := c.m.parts.Sched.TileTokens
	size := tokens * t.Shape[1]
	s := c.stage(model.StageVision, len(c.in.Tiles), tokens, t.Shape[1])
	for i, e := range c.slots {
		for j, px := range c.in.Tiles {
			if slices.Equal(px, e.Pixels) {
				copy(s.Data[j*size:], data[i*size:(i+1)*size])
			}
		}
	}
	return nil
}

// decoder keeps the wanted rows of a stage of the step's tokens.
func (c *collector) decoder(name string, t kernels.Tensor, from int) error {
	data, err := c.download(t)
	if err != nil {
		return err
	}
	width := t.Shape[1]
	s := c.stage(name, len(c.in.Positions), width)
	for i := range t.Shape[0] {
		if row, ok := c.keep[from+i]; ok {
			copy(s.Data[row*width:], data[i*width:(i+1)*width])
		}
	}
	return nil
}

func (c *collector) ArgMax(int, []int32, []float32) error { return nil }

// Logits receives rows [lo,lo+n) of the step, one a position from base on.
func (c *collector) Logits(lo, n int, logits []float32) error {
	vocab := len(logits) / n
	s := c.stage(model.StageLogits, len(c.in.Positions), vocab)
	for i := range n {
		if row, ok := c.keep[c.base+lo+i]; ok {
			copy(s.Data[row*vocab:], logits[i*vocab:(i+1)*vocab])
		}
	}
	c.rows = lo + n
	return nil
}

func (c *collector) output() *Output { return &Output{Stages: c.stages} }

// download reads a tensor as float32.
func (c *collector) download(t kernels.Tensor) ([]float32, error) {
	raw := make([]byte, t.Elements()*int64(t.DType.Size()))
	if err := c.m.backend.Download(raw, t); err != nil {
		return nil, err
	}
	out := make([]float32, t.Elements())
	for i := range out {
		if t.DType == kernels.BF16 {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		} else {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	}
	return out, nil
}
