package tokenizer

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// marks stand for message texts while a template is interpreted: strings of
// private-use characters, new and random each time, that no template or message
// holds. Position k of the list is the text of mark k.
type marks struct {
	nonce string
	texts []string
	roles []string
	holes map[int]bool // marks after which the instruction goes
}

func newMarks() *marks {
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails: see crypto/rand
	var nonce strings.Builder
	for i := 0; i < len(seed); i += 2 {
		nonce.WriteRune(0xE000 + rune(binary.LittleEndian.Uint16(seed[i:])%0x1000))
	}
	return &marks{nonce: nonce.String(), holes: map[int]bool{}}
}

// add returns the mark of a text.
func (m *marks) add(role, text string, hole bool) string {
	k := len(m.texts)
	m.texts, m.roles = append(m.texts, text), append(m.roles, role)
	m.holes[k] = hole
	return fmt.Sprintf("\uF000%s%d\uF001", m.nonce, k)
}

// placeholders are what templates write for a picture or a video. Those with
// their own tokens around them are replaced inside; <image> and a bare
// <IMG_CONTEXT> get <img> and </img>.
var placeholders = regexp.MustCompile(`<img><IMG_CONTEXT></img>|<image>|<IMG_CONTEXT>|<\|image_pad\|>|<video>|<\|video_pad\|>`)

// interpret writes a conversation by the checkpoint's own template.
//
// The template sees marks in place of the texts, so that what it writes is
// structure and what the marks stand for is text. A template that looks into the
// texts (trims them, cuts reasoning out of an answer) would see only marks: it is
// run a second time with the texts themselves, and if that gives something else,
// the second result counts, provided that it has the same added tokens in the
// same order as the first: otherwise a text has changed the structure, which is
// refused.
func (c *Chat) interpret(messages []Message, opts RenderOptions, open bool) ([]segment, error) {
	m := newMarks()
	marked := make([]any, len(messages))
	plain := make([]any, len(messages))
	var pictures []picture
	for i, msg := range messages {
		hole := open && i == len(messages)-1
		marked[i] = map[string]any{"role": msg.Role, "content": contentOf(msg, func(text string, last bool) string {
			return m.add(msg.Role, text, hole && last)
		}, hole)}
		plain[i] = map[string]any{"role": msg.Role, "content": contentOf(msg, func(text string, _ bool) string { return text }, hole)}
		for j, p := range msg.Parts {
			if p.Image != nil || p.Video != nil {
				pictures = append(pictures, picture{p, Range{Message: i, Part: j}})
			}
		}
	}
	structure, err := c.run(marked, opts)
	if err != nil {
		return nil, err
	}
	w := &writer{t: c.t, style: c.style, parseAll: opts.ParseSpecial, openAt: -1}
	if err := m.expand(w, structure, pictures); err != nil {
		return nil, err
	}
	if w.err != nil {
		return nil, w.err
	}
	direct, err := c.run(plain, opts)
	if err != nil {
		return nil, err
	}
	if direct == m.fill(structure) {
		return w.segments, nil
	}
	if open {
		return nil, fmt.Errorf("tokenizer: open: %w: what it writes depends on the texts, so that none can be left open", ErrTemplate)
	}
	return c.content(structure, direct, m, pictures)
}

// content is the result of a template that depends on the texts.
func (c *Chat) content(structure, direct string, m *marks, pictures []picture) ([]segment, error) {
	tokens := func(s string) (ids []int32) {
		c.t.splitAdded(s, func(int32) bool { return true }, func(plain string, id int32) {
			if plain == "" {
				ids = append(ids, id)
			}
		})
		return ids
	}
	same := slices.Equal(tokens(structure), tokens(direct))
	for _, text := range m.texts {
		same = same && !placeholders.MatchString(text)
	}
	if !same {
		return nil, fmt.Errorf("tokenizer: render: %w: a message text changes what the template writes around it", ErrTemplate)
	}
	w := &writer{t: c.t, style: c.style, openAt: -1}
	if err := newMarks().expand(w, direct, pictures); err != nil {
		return nil, err
	}
	return w.segments, w.err
}

type picture struct {
	part Part
	from Range
}

// contentOf is the content of a message as templates get it: a string if there
// are no pictures, else a list of parts. An open message ends in a text.
func contentOf(m Message, text func(s string, last bool) string, open bool) any {
	if !hasPictures(m) {
		return text(plainText(m), true)
	}
	var list []any
	add := func(kind, key, value string) {
		part := map[string]any{"type": kind}
		if key != "" {
			part[key] = value
		}
		list = append(list, part)
	}
	for _, p := range m.Parts {
		switch {
		case p.Image != nil:
			add("image", "", "")
		case p.Video != nil:
			add("video", "", "")
		default:
			add("text", "text", text(p.Text, false))
		}
	}
	if open {
		add("text", "text", text("", true))
	}
	return list
}

// run renders the template with the variables that Hugging Face gives it.
func (c *Chat) run(messages []any, opts RenderOptions) (string, error) {
	vars := map[string]any{
		"messages": messages, "add_generation_prompt": !opts.NoGenerationPrompt,
		"bos_token": c.t.bos, "eos_token": c.t.eos, "pad_token": c.t.pad, "tools": nil, "documents": nil,
	}
	if opts.Thinking != nil {
		vars["enable_thinking"] = *opts.Thinking
		if !strings.Contains(c.t.template, "enable_thinking") {
			return "", fmt.Errorf("tokenizer: render: %w: the template has no thinking switch", ErrMessage)
		}
	}
	out, err := c.tmpl.Render(vars)
	if err != nil {
		return "", fmt.Errorf("tokenizer: render: %w: %w", ErrTemplate, err)
	}
	return out, nil
}

// pattern matches a mark.
func (m *marks) pattern() *regexp.Regexp {
	return regexp.MustCompile("\uF000" + m.nonce + "([0-9]{1,9})\uF001")
}

// number returns the index that a match of pattern holds.
func (m *marks) number(match string) int {
	k := 0
	for _, c := range match[len("\uF000"+m.nonce) : len(match)-len("\uF001")] {
		k = k*10 + int(c-'0')
	}
	return k
}

// fill replaces the marks by their texts.
func (m *marks) fill(structure string) string {
	return m.pattern().ReplaceAllStringFunc(structure, func(s string) string {
		if k := m.number(s); k < len(m.texts) {
			return m.texts[k]
		}
		return s
	})
}

// expand turns a rendered template into segments: marks into texts, placeholders
// into runs of image tokens, all else into text of the template.
func (m *marks) expand(w *writer, structure string, pictures []picture) error {
	next := 0
	at := 0
	for _, loc := range m.pattern().FindAllStringIndex(structure, -1) {
		next = w.placeholders(structure[at:loc[0]], pictures, next)
		k := m.number(structure[loc[0]:loc[1]])
		if k >= len(m.texts) {
			return fmt.Errorf("tokenizer: render: %w: it writes a text that is in no message", ErrTemplate)
		}
		w.content(m.roles[k], m.texts[k])
		if m.holes[k] {
			w.segments = append(w.segments, segment{kind: segHole})
		}
		at = loc[1]
	}
	next = w.placeholders(structure[at:], pictures, next)
	if next != len(pictures) {
		return fmt.Errorf("tokenizer: render: %w: it writes %d placeholders for %d pictures", ErrTemplate, next, len(pictures))
	}
	return nil
}

// placeholders adds text of the template with pictures from number next on; it
// returns the number after the last placeholder.
func (w *writer) placeholders(s string, pictures []picture, next int) int {
	at := 0
	for _, loc := range placeholders.FindAllStringIndex(s, -1) {
		w.literal(s[at:loc[0]])
		at = loc[1]
		if next < len(pictures) {
			w.picture(s[loc[0]:loc[1]], pictures[next])
		}
		next++
	}
	w.literal(s[at:])
	return next
}

// picture adds the features that a placeholder stands for.
func (w *writer) picture(placeholder string, p picture) {
	video := placeholder == "<video>" || placeholder == "<|video_pad|>"
	if video != (p.part.Video != nil) {
		w.fail("the template writes %s for another kind of part", placeholder)
		return
	}
	run := func(token string, n int) {
		id, ok := w.t.added[token]
		if !ok {
			w.fail("the vocabulary lacks the token %s", token)
		}
		w.segments = append(w.segments, segment{kind: segRun, id: id, n: n, from: p.from})
	}
	switch placeholder {
	case "<|image_pad|>":
		run(placeholder, p.part.Image.Tokens)
	case "<|video_pad|>":
		total := 0
		for _, n := range p.part.Video.Frames {
			total += n
		}
		run(placeholder, total)
	case "<video>":
		w.internVLFrames(p.part.Video, p.from.Message, p.from.Part)
	default:
		w.internVLImage(p.part.Image.Tokens, p.from)
	}
}
