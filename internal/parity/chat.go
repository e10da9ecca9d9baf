package parity

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"metacap/tokenizer"
)

const (
	chatFile = "chat.jsonl"
	// tileTokens is the number of placeholders a tile in chat goldens.
	tileTokens = 256
)

// chatRow is a row of chat.jsonl.
type chatRow struct {
	ID         string
	Style      string // "conv" or "jinja"
	System     *string
	Messages   []chatMessage
	ImageTiles []int `json:"image_tiles"`
	Prompt     string
	IDs        [][2]int32 `json:"ids_rle"` // id, count
}

// chatMessage is a turn; its content is a string or a list of parts.
type chatMessage struct {
	Role    string
	Content json.RawMessage
}

// chatPart is a part of a message in the style of the OpenAI API.
type chatPart struct {
	Type   string // "text", "image" or "video"
	Text   string
	Tiles  int // of an image
	Frames int // of a video, one tile each
}

// ids undoes the run-length coding.
func (row *chatRow) ids() []int32 {
	var out []int32
	for _, run := range row.IDs {
		for range run[1] {
			out = append(out, run[0])
		}
	}
	return out
}

// messages are the row's messages for the renderer.
func (row *chatRow) messages() ([]tokenizer.Message, error) {
	var out []tokenizer.Message
	if row.System != nil {
		out = append(out, tokenizer.Text(tokenizer.RoleSystem, *row.System))
	}
	for _, m := range row.Messages {
		var text string
		if json.Unmarshal(m.Content, &text) == nil {
			out = append(out, tokenizer.Text(m.Role, text))
			continue
		}
		var parts []chatPart
		if err := json.Unmarshal(m.Content, &parts); err != nil {
			return nil, fmt.Errorf("%s: content: %w", row.ID, err)
		}
		msg := tokenizer.Message{Role: m.Role}
		for _, p := range parts {
			switch p.Type {
			case "text":
				msg.Parts = append(msg.Parts, tokenizer.Part{Text: p.Text})
			case "image":
				msg.Parts = append(msg.Parts, tokenizer.Part{Image: &tokenizer.Image{Tokens: tileTokens * p.Tiles}})
			case "video":
				v := &tokenizer.Video{Frames: make([]int, p.Frames)}
				for i := range v.Frames {
					v.Frames[i] = tileTokens
				}
				msg.Parts = append(msg.Parts, tokenizer.Part{Video: v})
			default:
				return nil, fmt.Errorf("%s: content of type %q", row.ID, p.Type)
			}
		}
		out = append(out, msg)
	}
	return out, nil
}

// chat compares rendered prompts and their ids.
func (r *runner) chat(ctx context.Context, dir string) error {
	name := filepath.Base(dir)
	if !r.wants(name) {
		return nil
	}
	rows, err := readLines[chatRow](filepath.Join(dir, chatFile))
	if err != nil {
		return err
	}
	c := Check{Part: PartChat, Case: name}
	files, cleanup, err := unpack(filepath.Join(dir, "..", "tokenizer"))
	if err != nil {
		c.Stage = "open"
		r.fail(c, err)
		return nil
	}
	defer cleanup()
	tok, err := tokenizer.Open(files)
	if err != nil {
		c.Stage = "open"
		r.fail(c, err)
		return nil
	}
	var plain tally
	for _, row := range rows {
		plain.compare(slices.Equal(tok.EncodeSpecial(expand(row.Prompt, row.ImageTiles)), row.ids()), row.ID)
	}
	c.Stage = "ids of the reference's prompt"
	r.check(plain.check(c))
	for _, p := range []struct {
		golden string
		style  tokenizer.Style
		stage  string
	}{
		{"conv", tokenizer.StyleConv, "conv"},
		{"jinja", tokenizer.StyleOwn, "own template"},
		{"jinja", tokenizer.StyleTemplate, "own template, interpreted"},
	} {
		if err := r.style(c, tok, rows, p.golden, p.style, p.stage); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// style renders the rows of one style. The reference recognises added tokens
// that a user spells; the renderer is told to do the same, and rendered once more
// without, where such text must stay text.
func (r *runner) style(c Check, tok *tokenizer.Tokenizer, rows []chatRow, golden string, style tokenizer.Style, stage string) error {
	chat, err := tokenizer.NewChat(tok, style)
	if err != nil {
		c.Stage = stage
		r.fail(c, err)
		return nil
	}
	var exact, safe tally
	for _, row := range rows {
		if row.Style != golden {
			continue
		}
		messages, err := row.messages()
		if err != nil {
			return err
		}
		got, err := chat.Render(messages, tokenizer.RenderOptions{ParseSpecial: true})
		if err != nil {
			exact.compare(false, row.ID+": "+err.Error())
			continue
		}
		exact.compare(slices.Equal(got.IDs, row.ids()), row.ID+": "+difference(got.IDs, row.ids()))
		kept, err := chat.Render(messages, tokenizer.RenderOptions{})
		if err != nil {
			safe.compare(false, row.ID+": "+err.Error())
			continue
		}
		// The text is the same, and no token is parsed out of what a user typed.
		sameText := tok.Decode(kept.IDs, false) == tok.Decode(row.ids(), false)
		safe.compare(sameText && added(tok, kept.IDs) <= added(tok, row.ids()), row.ID)
	}
	c.Stage = stage
	r.check(exact.check(c))
	c.Stage = stage + ", user text kept as text"
	r.check(safe.check(c))
	return nil
}

// added counts the added tokens among ids.
func added(tok *tokenizer.Tokenizer, ids []int32) int {
	n := 0
	for _, id := range ids {
		if tok.IsAdded(id) {
			n++
		}
	}
	return n
}

// expand replaces each <image> by the placeholders of its tiles.
func expand(prompt string, tiles []int) string {
	var b strings.Builder
	for i, part := range strings.SplitAfter(prompt, "<image>") {
		if head, ok := strings.CutSuffix(part, "<image>"); ok && i < len(tiles) {
			b.WriteString(head + "<img>" + strings.Repeat("<IMG_CONTEXT>", tileTokens*tiles[i]) + "</img>")
		} else {
			b.WriteString(part)
		}
	}
	return b.String()
}
