package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"metacap/tokenizer/internal/jinja"
	"metacap/tokenizer/internal/pretoken"
)

// Style names a way to write a conversation as a prompt.
type Style string

// The styles. StyleOwn is the default; the others are renderers of this package,
// but for StyleTemplate, which interprets the checkpoint's template even if it is
// one that this package knows.
const (
	StyleOwn      Style = "jinja"       // the checkpoint's own template; "" means the same
	StyleTemplate Style = "template"    // the same, always interpreted
	StyleInternVL Style = "internvl"    // InternVL3.5 chat_template.jinja: no default system text
	StyleConv     Style = "conv"        // InternVL chat(): a system block always, with a default text
	StyleQwen3    Style = "qwen3"       // ChatML, reasoning of earlier turns dropped, thinking switch
	StyleQwen25   Style = "qwen2.5"     // ChatML with a default system text
	StyleQwen2VL  Style = "qwen2-vl"    // ChatML with vision tokens and a default system text
	StyleDeepSeek Style = "deepseek-r1" // DeepSeek-R1-Distill-Qwen
	StyleHFNative Style = "internvl-hf" // as StyleInternVL; the template names <IMG_CONTEXT>
)

// Roles of a message.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// Message is one turn of a conversation.
type Message struct {
	Role  string
	Parts []Part
}

// Part is a piece of a message: an image, a video, or else text.
type Part struct {
	Text  string
	Image *Image
	Video *Video
}

// Image stands for a picture in a prompt.
type Image struct {
	Tokens int // feature vectors of the picture: tokens a tile × tiles
}

// Video stands for an ordered list of frames.
type Video struct {
	Frames []int    // tokens of each frame
	Labels []string // replaces "Frame1", "Frame2", …; empty or one a frame
}

// Text is a message of one text part.
func Text(role, text string) Message {
	return Message{Role: role, Parts: []Part{{Text: text}}}
}

// RenderOptions change how a conversation is written. The zero value is the default.
type RenderOptions struct {
	// Thinking sets the thinking switch; nil = the template's default. Qwen3: false
	// writes an empty reasoning block. InternVL: true puts the reasoning protocol
	// in the system block and needs a conversation without a system message; false
	// changes nothing. ErrMessage for templates without a switch.
	Thinking *bool
	// NoGenerationPrompt leaves out the opening of the assistant's turn.
	NoGenerationPrompt bool
	// ParseSpecial recognises added tokens in the texts of all messages, as the
	// reference does. A user can then end the turn and write a system message:
	// for parity tests and trusted texts.
	ParseSpecial bool
}

// Prompt is a conversation as ids.
type Prompt struct {
	IDs    []int32
	Images []Range // in prompt order, one a picture or frame
}

// Range is where the features of a picture go: ids [Start, End), all of them the
// model's image token. Message, Part and Frame say which picture it is.
type Range struct {
	Start, End           int
	Message, Part, Frame int
}

// Chat writes conversations for one tokenizer in one style. It is immutable.
//
// What users type stays text: the template's tokens and the image placeholders
// are put in as ids, not as strings that are parsed again, so that a literal
// <|im_end|>, <image> or <IMG_CONTEXT> in a message is encoded as its characters.
// In system and assistant texts the added tokens that count as text (<think>,
// <tool_call> and their kin, special=false) are recognised, as they are what the
// model was trained on there.
type Chat struct {
	t     *Tokenizer
	style Style
	tmpl  *jinja.Template // StyleTemplate only
}

// NewChat returns the renderer of a style; "" and StyleOwn take the checkpoint's
// template, or, where it ships none, the style that its added tokens suggest.
// ErrTemplate if the template cannot be used or the vocabulary lacks its tokens.
func NewChat(t *Tokenizer, style Style) (*Chat, error) {
	if style == "" || style == StyleOwn {
		style = StyleTemplate
		if t.template == "" {
			style = t.likelyStyle()
		} else if known, ok := knownTemplate(t.template); ok {
			style = known
		}
	}
	c := &Chat{t: t, style: style}
	if style == StyleTemplate {
		if t.template == "" {
			return nil, fmt.Errorf("tokenizer: %w: the checkpoint ships none", ErrTemplate)
		}
		tmpl, err := jinja.Parse(t.template)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: %w: %w", ErrTemplate, err)
		}
		c.tmpl = tmpl
		return c, nil
	}
	needs := []string{"<|im_start|>", "<|im_end|>"}
	switch style {
	case StyleInternVL, StyleHFNative, StyleConv, StyleQwen3, StyleQwen25, StyleQwen2VL:
	case StyleDeepSeek:
		needs = []string{deepSeekUser, deepSeekAssistant, deepSeekEnd}
	default:
		return nil, fmt.Errorf("tokenizer: %w: no style %q", ErrTemplate, style)
	}
	for _, n := range needs {
		if _, ok := t.added[n]; !ok {
			return nil, fmt.Errorf("tokenizer: %w: style %s needs the token %s, which the vocabulary lacks", ErrTemplate, style, n)
		}
	}
	return c, nil
}

// likelyStyle is the style of a checkpoint without a template.
func (t *Tokenizer) likelyStyle() Style {
	has := func(s string) bool { _, ok := t.added[s]; return ok }
	switch {
	case has("<IMG_CONTEXT>"):
		return StyleInternVL
	case has(deepSeekUser):
		return StyleDeepSeek
	case has("<think>"):
		return StyleQwen3
	}
	return StyleQwen25
}

// Style returns the style in use; never "" or StyleOwn.
func (c *Chat) Style() Style { return c.style }

// Render returns the prompt of a conversation.
func (c *Chat) Render(messages []Message, opts RenderOptions) (*Prompt, error) {
	segments, err := c.segments(messages, opts, false)
	if err != nil {
		return nil, err
	}
	p := &Prompt{}
	if held := p.append(c.t, segments, ""); held != "" {
		p.IDs = c.t.AppendEncode(p.IDs, held)
	}
	return p, nil
}

// Prefix is a prompt whose last user message is open at its end, so that several
// instructions can follow it.
//
// Joining ids of two texts is not the same as encoding the joined text: the line
// end after an image merges with line ends that an instruction starts with, and
// an accent composes with the letter before it. So the ids stop at the last point
// that no continuation can change, and the text after it (after an image, one
// line end) is held back and encoded with the instruction. Prompt.IDs followed by
// Continue(s) is therefore equal to the ids of the whole conversation for every s.
type Prefix struct {
	Prompt
	t      *Tokenizer
	held   string
	suffix []segment
	parse  bool
}

// Open renders a conversation that ends in a user message up to where an
// instruction can be added to that message.
func (c *Chat) Open(messages []Message, opts RenderOptions) (*Prefix, error) {
	if len(messages) == 0 || messages[len(messages)-1].Role != RoleUser {
		return nil, fmt.Errorf("tokenizer: open: %w: the last message must be the user's", ErrMessage)
	}
	segments, err := c.segments(messages, opts, true)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(segments, func(s segment) bool { return s.kind == segHole })
	if at < 0 || slices.ContainsFunc(segments[at+1:], func(s segment) bool { return s.kind == segHole || s.kind == segRun }) {
		return nil, fmt.Errorf("tokenizer: open: %w: it does not write the last message once, images first", ErrTemplate)
	}
	p := &Prefix{t: c.t, suffix: segments[at+1:], parse: opts.ParseSpecial}
	text := p.Prompt.append(c.t, segments[:at], "")
	if text != "" {
		normal := c.t.normalize(text)
		k := c.t.settled(normal)
		p.IDs = c.t.encodeTo(p.IDs, normal, k)
		p.held = normal[k:]
	}
	return p, nil
}

// Continue returns the ids that follow the prefix when the open message ends in
// instruction: the rest of the conversation up to and with the opening of the
// assistant's turn.
func (p *Prefix) Continue(instruction string) []int32 {
	var rest Prompt
	var w writer
	w.t, w.parseAll = p.t, p.parse
	w.user(instruction)
	held := rest.append(p.t, append(w.segments, p.suffix...), p.held)
	return p.t.AppendEncode(rest.IDs, held)
}

// settled returns the length of the longest start of normalized text whose ids
// stay the same whatever text follows: whole pieces that the scanner has decided
// on, up to a character that no following one can compose with or reorder.
func (t *Tokenizer) settled(text string) int {
	for i := max(0, len(text)-utf8.UTFMax+1); i < len(text); i++ {
		if utf8.RuneStart(text[i]) && !utf8.FullRuneInString(text[i:]) {
			text = text[:i] // the next text may complete this character
		}
	}
	k := 0
	for i := 0; i < len(text); {
		end, final := pretoken.Next(text, i)
		if !final {
			break
		}
		i = end
		if i < len(text) && (!t.nfc || boundary(text[i:])) {
			k = i
		}
	}
	return k
}

// boundary says whether a character starts s that never combines with what is before it.
func boundary(s string) bool {
	if s[0] < utf8.RuneSelf {
		return true
	}
	p := norm.NFC.PropertiesString(s)
	return p.Size() > 0 && p.BoundaryBefore()
}

// segment is a piece of a rendered conversation.
type segment struct {
	kind int
	text string
	id   int32
	n    int   // segRun: length
	from Range // segRun: which picture
}

const (
	segText = iota // plain text
	segID          // one added token
	segRun         // n times the image token
	segHole        // where an instruction goes
)

// append adds the ids of segments, after the text held. It returns the text at
// the end, not yet encoded: adjacent texts are encoded as one.
func (p *Prompt) append(t *Tokenizer, segments []segment, held string) string {
	text := held
	for _, s := range segments {
		if s.kind == segText {
			text += s.text
			continue
		}
		if text != "" {
			p.IDs = t.AppendEncode(p.IDs, text)
			text = ""
		}
		if s.kind == segID {
			p.IDs = append(p.IDs, s.id)
			continue
		}
		r := s.from
		r.Start, r.End = len(p.IDs), len(p.IDs)+s.n
		p.IDs = slices.Grow(p.IDs, s.n)
		for range s.n {
			p.IDs = append(p.IDs, s.id)
		}
		p.Images = append(p.Images, r)
	}
	return text
}

// maxImageTokens bounds the tokens of one picture: 512 tiles of 2,048 tokens.
const maxImageTokens = 1 << 20

// check refuses conversations that no template can express.
func check(messages []Message) error {
	if len(messages) == 0 {
		return fmt.Errorf("tokenizer: render: %w: no messages", ErrMessage)
	}
	for i, m := range messages {
		switch m.Role {
		case RoleSystem, RoleUser, RoleAssistant:
		default:
			return fmt.Errorf("tokenizer: render: %w: message %d has the role %s, want system, user or assistant", ErrMessage, i, clip(m.Role))
		}
		for j, p := range m.Parts {
			if err := p.check(); err != nil {
				return fmt.Errorf("tokenizer: render: %w: message %d, part %d: %w", ErrMessage, i, j, err)
			}
			if m.Role != RoleUser && (p.Image != nil || p.Video != nil) {
				return fmt.Errorf("tokenizer: render: %w: message %d: pictures in the role %s", ErrMessage, i, m.Role)
			}
		}
	}
	return nil
}

func (p *Part) check() error {
	kinds := 0
	for _, set := range []bool{p.Text != "", p.Image != nil, p.Video != nil} {
		if set {
			kinds++
		}
	}
	if kinds > 1 {
		return fmt.Errorf("more than one of text, image and video")
	}
	counts := []int{}
	if p.Image != nil {
		counts = append(counts, p.Image.Tokens)
	}
	if p.Video != nil {
		if counts = p.Video.Frames; len(counts) == 0 {
			return fmt.Errorf("a video without frames")
		}
		if n := len(p.Video.Labels); n != 0 && n != len(counts) {
			return fmt.Errorf("%d labels for %d frames", n, len(counts))
		}
	}
	for _, n := range counts {
		if n < 1 || n > maxImageTokens {
			return fmt.Errorf("%d tokens of a picture, want 1…%d", n, maxImageTokens)
		}
	}
	return nil
}

// segments writes the conversation; open puts a hole at the end of the last message.
func (c *Chat) segments(messages []Message, opts RenderOptions, open bool) ([]segment, error) {
	if err := check(messages); err != nil {
		return nil, err
	}
	if c.style == StyleTemplate {
		return c.interpret(messages, opts, open)
	}
	w := &writer{t: c.t, parseAll: opts.ParseSpecial, style: c.style}
	if open {
		w.openAt = len(messages) - 1
	} else {
		w.openAt = -1
	}
	switch c.style {
	case StyleInternVL, StyleHFNative, StyleConv:
		w.internVL(messages, opts)
	case StyleQwen3:
		w.qwen3(messages, opts)
	case StyleDeepSeek:
		w.deepSeek(messages, opts)
	default:
		w.qwen2(messages, opts)
	}
	return w.segments, w.err
}

// plainText joins the texts of a message.
func plainText(m Message) string {
	if len(m.Parts) == 1 {
		return m.Parts[0].Text
	}
	var b strings.Builder
	for _, p := range m.Parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

func hasPictures(m Message) bool {
	return slices.ContainsFunc(m.Parts, func(p Part) bool { return p.Image != nil || p.Video != nil })
}
