// Package adapt makes the parts of an engine from the packages that read
// checkpoints and pictures.
package adapt

import (
	"io/fs"
	"os"

	"metacap/engine/internal/parts"
	"metacap/loader"
	"metacap/tokenizer"
)

// Text is a checkpoint's tokenizer with its way of writing conversations.
type Text struct {
	tok  *tokenizer.Tokenizer
	chat *tokenizer.Chat
	eos  []int32
}

// OpenText reads the tokenizer beside a checkpoint: from dir, or from fsys if that is not nil.
func OpenText(ck *loader.Checkpoint, fsys fs.FS, dir, style string) (*Text, error) {
	if fsys == nil {
		fsys = os.DirFS(dir)
	}
	tok, err := tokenizer.OpenFS(fsys)
	if err != nil {
		return nil, err
	}
	chat, err := tokenizer.NewChat(tok, tokenizer.Style(style))
	if err != nil {
		return nil, err
	}
	t := &Text{tok: tok, chat: chat, eos: tok.EOS()}
	known := map[int32]bool{}
	for _, id := range t.eos {
		known[id] = true
	}
	for _, list := range [][]int{ck.Generation.EOS} {
		for _, id := range list {
			if !known[int32(id)] {
				known[int32(id)] = true
				t.eos = append(t.eos, int32(id))
			}
		}
	}
	return t, nil
}

// Tokenizer is the tokenizer itself.
func (t *Text) Tokenizer() *tokenizer.Tokenizer { return t.tok }

// Encode returns the ids of text; special tokens in it are text.
func (t *Text) Encode(text string) []int32 { return t.tok.Encode(text) }

// Render writes a conversation up to the opening of the assistant's turn.
func (t *Text) Render(m []tokenizer.Message, o tokenizer.RenderOptions) (*tokenizer.Prompt, error) {
	return t.chat.Render(m, o)
}

// Open writes a conversation whose last user message stays open.
func (t *Text) Open(m []tokenizer.Message, o tokenizer.RenderOptions) (parts.Prefix, error) {
	p, err := t.chat.Open(m, o)
	if err != nil {
		return nil, err
	}
	return prefix{p}, nil
}

type prefix struct{ p *tokenizer.Prefix }

func (p prefix) Prompt() *tokenizer.Prompt           { return &p.p.Prompt }
func (p prefix) Continue(instruction string) []int32 { return p.p.Continue(instruction) }

// NewStream decodes an answer; special tokens are left out.
func (t *Text) NewStream() parts.Stream { return t.tok.NewStream(false) }

// Display is the text of one token by itself.
func (t *Text) Display(id int32) string { return t.tok.Token(id) }

// EOS are the ids that end an answer: those of the tokenizer and of generation_config.json.
func (t *Text) EOS() []int32 { return t.eos }

// Bytes are the bytes of an ordinary token, nothing for added ones.
func (t *Text) Bytes(id int32) []byte {
	if t.tok.IsAdded(id) {
		return nil
	}
	return t.tok.Bytes(id)
}
