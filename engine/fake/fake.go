// Package fake opens engines without a model, for tests of programs that use
// package engine. Everything but the arithmetic is real: the scheduler, the KV
// block tables, the caches, sessions, scoring, streaming and cancellation.
//
// Text is bytes: every byte is a token. What the engine answers is said by
// Options.Answer; without it the answer is noise that depends on every token and
// picture of the prompt, the same on every run and in any company:
//
//	e, err := fake.Open(fake.Options{Answer: func(p fake.Prompt) string {
//		if strings.Contains(p.Text, "domain") {
//			return "natural"
//		}
//		return "A cat on a mat."
//	}})
//
// Label scores follow the answer: the label that the answer starts with wins.
// Pictures are not decoded: any file or bytes will do, and two pictures differ
// if their bytes do. Bytes that start with "broken" fail to decode.
package fake

import (
	"errors"
	"fmt"
	"time"

	"metacap/engine"
	"metacap/engine/internal/parts"
	"metacap/engine/internal/sched"
)

// Options describe a fake model. The zero value is sane.
type Options struct {
	// Engine configures the engine; Device, DType, Threads and MemoryBytes mean nothing.
	Engine engine.Config
	// Answer returns the whole answer to a prompt; nil = noise. It is called on
	// the engine's goroutine, once a step and sequence, and must be deterministic.
	Answer func(Prompt) string
	// TextOnly leaves the vision encoder out.
	TextOnly bool
	// TileTokens is the number of tokens a tile; 0 = 4.
	TileTokens int
	// Tiles is the number of tiles a picture has unless the request asks for fewer; 0 = 3.
	Tiles int
	// StepTime makes every step last so long, to test deadlines and cancellation.
	StepTime time.Duration
	// Ahead makes the engine plan as for a GPU that begins the next step early.
	Ahead bool
	// FailStep makes the step of that number, from 1, fail as a device would; 0 = never.
	FailStep int
}

// Prompt is what Options.Answer sees.
type Prompt struct {
	// Text is the prompt with its markup: "<user>…<end><assistant>".
	Text string
	// Images holds the bytes of the pictures in order; of a decoded picture only its size, "WxH".
	// What is cropped ends in " crop WxH+X+Y".
	Images []string
}

// ErrStep is the device error of Options.FailStep.
var ErrStep = errors.New("fake device failed")

// BlockTokens is the number of tokens a KV block of a fake engine.
const BlockTokens = 8

// Open opens an engine on a fake model.
func Open(o Options) (*engine.Engine, error) {
	pick := func(v, def int) int {
		if v > 0 {
			return v
		}
		return def
	}
	c := o.Engine
	context := pick(c.ContextTokens, 2048)
	sequences := pick(c.MaxSequences, 8)
	blocks := pick(c.KVBlocks, sequences*(context+BlockTokens-1)/BlockTokens)
	context = min(context, blocks*BlockTokens)
	step := max(pick(c.StepTokens, 64), sequences)
	p := parts.Parts{
		Text: text{}, KVBlocks: blocks, Block: BlockTokens, Context: context,
		Sched: sched.Config{StepTokens: step, MaxSequences: sequences, MaxRows: step, AgeSteps: 64, Ahead: o.Ahead},
		Close: func() error { return nil },
	}
	r := &runner{opt: o, kv: make([]cell, blocks*BlockTokens)}
	if !o.TextOnly {
		s := &p.Sched
		s.TileTokens = pick(o.TileTokens, 4)
		s.MaxTiles = 4
		s.TileSlots = max(s.MaxTiles, 32)
		if n := c.EncoderCacheBytes; n > 0 {
			s.TileSlots = max(s.MaxTiles, int(n/tileBytes))
		}
		s.KeepTiles = c.EncoderCacheBytes >= 0
		r.tileTokens = s.TileTokens
		r.arena = make([]uint64, s.TileSlots*s.TileTokens)
		p.Images = &images{tiles: pick(o.Tiles, 3)}
	}
	p.Runner = r
	e, err := engine.OpenParts(c, p)
	if err != nil {
		return nil, fmt.Errorf("fake: %w", err)
	}
	return e, nil
}
