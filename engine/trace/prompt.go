package trace

import (
	"context"
	"fmt"
	"slices"

	"metacap/engine"
	"metacap/engine/internal/adapt"
	"metacap/engine/internal/parts"
	"metacap/tokenizer"
)

// Prompt makes the input for one picture and a question, as the engine would:
// upright, cut by the model's recipe (maxTiles > 0 lowers its limit), in the
// checkpoint's own template. An empty path means no picture.
func (m *Model) Prompt(ctx context.Context, path, question string, maxTiles int) (Input, error) {
	if err := m.openText(); err != nil {
		return Input{}, fmt.Errorf("trace: prompt: %w", err)
	}
	var in Input
	msg := tokenizer.Message{Role: "user"}
	if path != "" {
		if m.parts.Model.Vision == nil {
			return Input{}, fmt.Errorf("trace: prompt: %w", engine.ErrNoVision)
		}
		pic, err := adapt.NewImages(m.ck, false).Prepare(ctx, parts.ImageSource{Path: path, MaxTiles: maxTiles})
		if err != nil {
			return Input{}, fmt.Errorf("trace: prompt: %w", err)
		}
		for _, t := range pic.Tiles {
			in.Tiles = append(in.Tiles, t.Pixels)
		}
		msg.Parts = append(msg.Parts, tokenizer.Part{Image: &tokenizer.Image{Tokens: len(pic.Tiles) * m.parts.Sched.TileTokens}})
	}
	msg.Parts = append(msg.Parts, tokenizer.Part{Text: question})
	p, err := m.text.Render([]tokenizer.Message{msg}, tokenizer.RenderOptions{})
	if err != nil {
		return Input{}, fmt.Errorf("trace: prompt: %w", err)
	}
	in.IDs = p.IDs
	return in, nil
}

// Answer cuts the greedy steps at the first end-of-turn token, which it keeps,
// and returns the ids and the text before it. Prompt must have been called.
func (m *Model) Answer(steps []Step) (ids []int32, text string) {
	stream := m.text.NewStream()
	for _, s := range steps {
		ids = append(ids, s.ID)
		if slices.Contains(m.text.EOS(), s.ID) {
			break
		}
		text += stream.Next(s.ID)
	}
	return ids, text + stream.Flush()
}

// openText opens the tokenizer once.
func (m *Model) openText() (err error) {
	if m.text == nil {
		m.text, err = adapt.OpenText(m.ck, m.files, m.dir, "")
	}
	return err
}
