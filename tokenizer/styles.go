package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Texts that belong to the formats.
const (
	// internVLSystem is the default system text of the template "internvl2_5" in
	// the remote code's conversation.py.
	internVLSystem = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
	// internVLThinking is the system text that the InternVL3.5 documentation gives for reasoning.
	internVLThinking = "You are an AI assistant that rigorously follows this response protocol:\n" +
		"1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.\n" +
		"2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the answer from the think section with a newline.\n" +
		"Ensure that the thinking process is thorough but remains focused on the query. The final answer should be standalone and not reference the thinking section."
	qwen25System  = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
	qwen2VLSystem = "You are a helpful assistant."

	deepSeekUser      = "<｜User｜>"
	deepSeekAssistant = "<｜Assistant｜>"
	deepSeekEnd       = "<｜end▁of▁sentence｜>"
	deepSeekBegin     = "<｜begin▁of▁sentence｜>"
)

// knownTemplates are the hashes of templates for which this package has a
// renderer, without white space at the ends: the released template of
// InternVL3.5, its form in the HF-native repositories and an equivalent rewrite.
var knownTemplates = map[string]Style{
	"cabb34545cf3d04f4d256439f6b8e9f6fcf61edaaee3b8cb5c0937a7ea6206d7": StyleInternVL,
	"b11cafbeb9d0e9b1190ec8ad7e37dcd5185cd8f5f3f0ffa21bac00267e950a1c": StyleInternVL,
	"b3e3fa7cdeceec1d3dfe0d17b77724baf3857714e688f3a700261567e96140eb": StyleHFNative,
}

func knownTemplate(template string) (Style, bool) {
	sum := sha256.Sum256([]byte(strings.TrimSpace(template)))
	style, ok := knownTemplates[hex.EncodeToString(sum[:])]
	return style, ok
}

// writer builds the segments of a conversation. The first error sticks.
type writer struct {
	t        *Tokenizer
	style    Style
	segments []segment
	parseAll bool
	openAt   int // index of the message that gets the hole, -1 = none
	err      error
}

func (w *writer) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("tokenizer: render: %w: style %s: "+format, append([]any{ErrMessage, w.style}, args...)...)
	}
}

func (w *writer) text(s string) {
	if s != "" {
		w.segments = append(w.segments, segment{kind: segText, text: s})
	}
}

// parsed adds a text in which the added tokens that keep allows are recognised.
func (w *writer) parsed(s string, keep func(id int32) bool) {
	w.t.splitAdded(s, keep, func(plain string, id int32) {
		if plain == "" {
			w.segments = append(w.segments, segment{kind: segID, id: id})
			return
		}
		w.text(plain)
	})
}

// literal adds text of the template itself.
func (w *writer) literal(s string) { w.parsed(s, func(int32) bool { return true }) }

// user adds what a user typed.
func (w *writer) user(s string) {
	if w.parseAll {
		w.literal(s)
		return
	}
	w.text(s)
}

// trusted adds a system or assistant text.
func (w *writer) trusted(s string) {
	if w.parseAll {
		w.literal(s)
		return
	}
	w.parsed(s, func(id int32) bool { return !w.t.IsSpecial(id) })
}

// content adds a text according to the role that said it.
func (w *writer) content(role, s string) {
	if role == RoleUser {
		w.user(s)
		return
	}
	w.trusted(s)
}

// token adds an added token by name.
func (w *writer) token(name string) {
	id, ok := w.t.added[name]
	if !ok {
		w.fail("the vocabulary lacks the token %s", name)
		return
	}
	w.segments = append(w.segments, segment{kind: segID, id: id})
}

// run adds n image tokens between an opening and a closing token.
func (w *writer) run(open, token, end string, n int, from Range) {
	w.token(open)
	id, ok := w.t.added[token]
	if !ok {
		w.fail("the vocabulary lacks the token %s", token)
		return
	}
	w.segments = append(w.segments, segment{kind: segRun, id: id, n: n, from: from})
	w.token(end)
}

func (w *writer) hole(message int) {
	if message == w.openAt {
		w.segments = append(w.segments, segment{kind: segHole})
	}
}

// internVLImage adds the features of a picture as InternVL has them.
func (w *writer) internVLImage(n int, from Range) { w.run("<img>", "<IMG_CONTEXT>", "</img>", n, from) }

// internVLFrames adds the frames of a video, one a line, without the last line end.
func (w *writer) internVLFrames(v *Video, message, part int) {
	for k, n := range v.Frames {
		label := fmt.Sprintf("Frame%d", k+1)
		if len(v.Labels) > 0 {
			label = v.Labels[k]
		}
		if k > 0 {
			w.text("\n")
		}
		w.user(label)
		w.text(": ")
		w.internVLImage(n, Range{Message: message, Part: part, Frame: k})
	}
}

// qwenImage adds the features of a picture as Qwen2-VL has them.
func (w *writer) qwenImage(n int, from Range) {
	w.run("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", n, from)
}

// qwenVideo adds a video: one run for all frames.
func (w *writer) qwenVideo(v *Video, message, part int) {
	total := 0
	for _, n := range v.Frames {
		total += n
	}
	if len(v.Labels) > 0 {
		w.fail("message %d: videos have no labels", message)
	}
	w.run("<|vision_start|>", "<|video_pad|>", "<|vision_end|>", total, Range{Message: message, Part: part})
}

// turn adds a message in ChatML.
func (w *writer) turn(i int, m Message) {
	w.literal("<|im_start|>" + m.Role + "\n")
	for j, p := range m.Parts {
		from := Range{Message: i, Part: j}
		switch {
		case p.Image == nil && p.Video == nil:
			w.content(m.Role, p.Text)
		case w.style == StyleQwen2VL && p.Image != nil:
			w.qwenImage(p.Image.Tokens, from)
		case w.style == StyleQwen2VL:
			w.qwenVideo(p.Video, i, j)
		case w.style == StyleQwen25 || w.style == StyleQwen3:
			w.fail("message %d: a text model cannot see pictures", i)
		case p.Image != nil:
			w.internVLImage(p.Image.Tokens, from)
			w.text("\n")
		default:
			w.internVLFrames(p.Video, i, j)
			w.text("\n")
		}
	}
	w.hole(i)
	w.literal("<|im_end|>\n")
}

func (w *writer) generation(opts RenderOptions, s string) {
	if !opts.NoGenerationPrompt {
		w.literal(s)
	}
}

// internVL is ChatML without a default system text, or with one in StyleConv,
// where the system block is always there and only the first message can fill it.
func (w *writer) internVL(messages []Message, opts RenderOptions) {
	first := 0
	system := messages[0].Role == RoleSystem
	if opts.Thinking != nil && *opts.Thinking {
		if system {
			w.fail("the reasoning protocol is a system text and the conversation already has one")
			return
		}
		w.literal("<|im_start|>system\n" + internVLThinking + "<|im_end|>\n")
	} else if w.style == StyleConv {
		w.literal("<|im_start|>system\n")
		if system {
			w.trusted(plainText(messages[0]))
			first = 1
		} else {
			w.text(internVLSystem)
		}
		w.literal("<|im_end|>\n")
	}
	for i, m := range messages[first:] {
		if i += first; w.style == StyleConv && m.Role == RoleSystem {
			w.fail("message %d: only the first message can be a system message", i)
		}
		w.turn(i, m)
	}
	w.generation(opts, "<|im_start|>assistant\n")
}

// qwen2 is ChatML with a default system text: Qwen2.5 and Qwen2-VL.
func (w *writer) qwen2(messages []Message, opts RenderOptions) {
	if opts.Thinking != nil {
		w.fail("there is no thinking switch")
	}
	if messages[0].Role != RoleSystem {
		system := qwen25System
		if w.style == StyleQwen2VL {
			system = qwen2VLSystem
		}
		w.literal("<|im_start|>system\n" + system + "<|im_end|>\n")
	}
	for i, m := range messages {
		w.turn(i, m)
	}
	w.generation(opts, "<|im_start|>assistant\n")
}

// qwen3 drops the reasoning of assistant turns before the last question of the
// user and keeps it after; thinking off writes an empty reasoning block.
func (w *writer) qwen3(messages []Message, opts RenderOptions) {
	last := len(messages) - 1
	for i, m := range messages {
		text := plainText(m)
		toolResult := strings.HasPrefix(text, "<tool_response>") && strings.HasSuffix(text, "</tool_response>")
		if m.Role == RoleUser && !toolResult {
			last = i
		}
	}
	for i, m := range messages {
		if m.Role != RoleAssistant {
			w.turn(i, m)
			continue
		}
		reasoning, answer := splitReasoning(plainText(m))
		w.literal("<|im_start|>assistant\n")
		if i > last && (i == len(messages)-1 || reasoning != "") {
			w.literal("<think>\n")
			w.trusted(strings.Trim(reasoning, "\n"))
			w.literal("\n</think>\n\n")
			answer = strings.TrimLeft(answer, "\n")
		}
		w.trusted(answer)
		w.literal("<|im_end|>\n")
	}
	w.generation(opts, "<|im_start|>assistant\n")
	if opts.Thinking != nil && !*opts.Thinking {
		w.generation(opts, "<think>\n\n</think>\n\n")
	}
}

// splitReasoning cuts an assistant's text at its reasoning block.
func splitReasoning(text string) (reasoning, answer string) {
	const end = "</think>"
	i, j := strings.Index(text, end), strings.LastIndex(text, end)
	if i < 0 {
		return "", text
	}
	reasoning = strings.TrimRight(text[:i], "\n")
	if k := strings.LastIndex(reasoning, "<think>"); k >= 0 {
		reasoning = reasoning[k+len("<think>"):]
	}
	return strings.TrimLeft(reasoning, "\n"), strings.TrimLeft(text[j+len(end):], "\n")
}

// deepSeek is the format of DeepSeek-R1-Distill-Qwen: the last system text first,
// no line ends, reasoning of earlier turns dropped, always thinking.
func (w *writer) deepSeek(messages []Message, opts RenderOptions) {
	if opts.Thinking != nil && !*opts.Thinking {
		w.fail("the model always thinks")
	}
	bos := w.t.bos
	if bos == "" {
		bos = deepSeekBegin
	}
	w.literal(bos)
	for i := len(messages) - 1; i >= 0; i-- {
		if messages[i].Role == RoleSystem {
			w.trusted(plainText(messages[i]))
			break
		}
	}
	for i, m := range messages {
		if hasPictures(m) {
			w.fail("message %d: a text model cannot see pictures", i)
		}
		switch text := plainText(m); m.Role {
		case RoleUser:
			w.literal(deepSeekUser)
			w.user(text)
			w.hole(i)
		case RoleAssistant:
			if k := strings.LastIndex(text, "</think>"); k >= 0 {
				text = text[k+len("</think>"):]
			}
			w.literal(deepSeekAssistant)
			w.trusted(text)
			w.literal(deepSeekEnd)
		}
	}
	w.generation(opts, deepSeekAssistant+"<think>\n")
}
