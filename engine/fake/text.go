package fake

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"metacap/engine/internal/parts"
	"metacap/tokenizer"
)

// Ids past the bytes.
const (
	end = 256 + iota
	system
	user
	assistant
	imageStart
	imageEnd
	imageToken
	vocabulary
)

var markup = map[int32]string{
	end: "<end>", system: "<system>", user: "<user>", assistant: "<assistant>", imageStart: "<img>", imageEnd: "</img>", imageToken: "",
}

// text is a tokenizer whose tokens are bytes.
type text struct{}

func (text) Encode(s string) []int32 {
	ids := make([]int32, len(s))
	for i := range len(s) {
		ids[i] = int32(s[i])
	}
	return ids
}

func (text) EOS() []int32 { return []int32{end} }

var single = func() (b [256][1]byte) {
	for i := range b {
		b[i][0] = byte(i)
	}
	return b
}()

func (text) Bytes(id int32) []byte {
	if id < 0 || id >= end {
		return nil
	}
	return single[id][:]
}

func (text) Display(id int32) string {
	if id < end {
		return strings.ToValidUTF8(string([]byte{byte(id)}), "\uFFFD")
	}
	return markup[id]
}

func (t text) Render(m []tokenizer.Message, _ tokenizer.RenderOptions) (*tokenizer.Prompt, error) {
	p, err := t.write(m)
	if err != nil {
		return nil, err
	}
	p.IDs = append(p.IDs, end, assistant)
	return p, nil
}

func (t text) Open(m []tokenizer.Message, _ tokenizer.RenderOptions) (parts.Prefix, error) {
	if len(m) == 0 || m[len(m)-1].Role != tokenizer.RoleUser {
		return nil, fmt.Errorf("the last message must be the user's")
	}
	p, err := t.write(m)
	if err != nil {
		return nil, err
	}
	return &prefix{p}, nil
}

// write renders a conversation with its last turn open.
func (t text) write(messages []tokenizer.Message) (*tokenizer.Prompt, error) {
	p := &tokenizer.Prompt{}
	roles := map[string]int32{tokenizer.RoleSystem: system, tokenizer.RoleUser: user, tokenizer.RoleAssistant: assistant}
	picture := func(n int) {
		p.IDs = append(p.IDs, imageStart)
		start := len(p.IDs)
		for range n {
			p.IDs = append(p.IDs, imageToken)
		}
		p.Images = append(p.Images, tokenizer.Range{Start: start, End: len(p.IDs)})
		p.IDs = append(p.IDs, imageEnd)
	}
	for i, m := range messages {
		role, ok := roles[m.Role]
		if !ok {
			return nil, fmt.Errorf("role %q", m.Role)
		}
		if i > 0 {
			p.IDs = append(p.IDs, end)
		}
		p.IDs = append(p.IDs, role)
		for _, part := range m.Parts {
			p.IDs = append(p.IDs, t.Encode(part.Text)...)
			if part.Image != nil {
				picture(part.Image.Tokens)
			}
			if part.Video != nil {
				for _, n := range part.Video.Frames {
					picture(n)
				}
			}
		}
	}
	return p, nil
}

type prefix struct{ p *tokenizer.Prompt }

func (p *prefix) Prompt() *tokenizer.Prompt { return p.p }

func (p *prefix) Continue(instruction string) []int32 {
	return append(text{}.Encode(instruction), end, assistant)
}

func (text) NewStream() parts.Stream { return &stream{} }

// stream holds incomplete characters back.
type stream struct{ held []byte }

func (s *stream) Next(id int32) string {
	if id >= end {
		return ""
	}
	s.held = append(s.held, byte(id))
	n := 0
	for n < len(s.held) && utf8.FullRune(s.held[n:]) {
		_, size := utf8.DecodeRune(s.held[n:])
		n += size
	}
	out := strings.ToValidUTF8(string(s.held[:n]), "\uFFFD")
	s.held = s.held[n:]
	return out
}

func (s *stream) Flush() string {
	out := strings.ToValidUTF8(string(s.held), "\uFFFD")
	s.held = nil
	return out
}

// words renders ids for Prompt.Text; pictures are one <image> each.
func words(ids []int32) string {
	var b strings.Builder
	for i, id := range ids {
		switch {
		case id < end:
			b.WriteByte(byte(id))
		case id == imageToken:
			if i == 0 || ids[i-1] != imageToken {
				b.WriteString("<image>")
			}
		default:
			b.WriteString(markup[id])
		}
	}
	return b.String()
}
