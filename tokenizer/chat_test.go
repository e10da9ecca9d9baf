package tokenizer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"metacap/tokenizer"
)

const tokensPerTile = 256

type chatRow struct {
	ID       string  `json:"id"`
	Style    string  `json:"style"`
	System   *string `json:"system"`
	Messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Tiles []int      `json:"image_tiles"`
	IDs   [][2]int32 `json:"ids_rle"`
}

// messages turns a golden's conversation into ours.
func (r *chatRow) messages(t *testing.T) []tokenizer.Message {
	var out []tokenizer.Message
	if r.System != nil {
		out = append(out, tokenizer.Text(tokenizer.RoleSystem, *r.System))
	}
	for _, m := range r.Messages {
		var text string
		if json.Unmarshal(m.Content, &text) == nil {
			out = append(out, tokenizer.Text(m.Role, text))
			continue
		}
		var parts []struct {
			Type, Text    string
			Tiles, Frames int
		}
		require.NoError(t, json.Unmarshal(m.Content, &parts))
		msg := tokenizer.Message{Role: m.Role}
		for _, p := range parts {
			switch p.Type {
			case "image":
				msg.Parts = append(msg.Parts, tokenizer.Part{Image: &tokenizer.Image{Tokens: p.Tiles * tokensPerTile}})
			case "video":
				frames := make([]int, p.Frames)
				for i := range frames {
					frames[i] = tokensPerTile
				}
				msg.Parts = append(msg.Parts, tokenizer.Part{Video: &tokenizer.Video{Frames: frames}})
			default:
				msg.Parts = append(msg.Parts, tokenizer.Part{Text: p.Text})
			}
		}
		out = append(out, msg)
	}
	return out
}

func (r *chatRow) ids() (ids []int32) {
	for _, run := range r.IDs {
		for range run[1] {
			ids = append(ids, run[0])
		}
	}
	return ids
}

// TestChatGoldens renders the reference's conversations in our Go renderers and
// through the interpreted template. The reference parses what users type; rows
// whose user text has special tokens differ by default, on purpose.
func TestChatGoldens(t *testing.T) {
	tok := real()
	list := rows[chatRow](t, chatFile)
	require.Len(t, list, 160)
	image, ok := tok.ID("<IMG_CONTEXT>")
	require.True(t, ok)
	differ := 0
	for _, r := range list {
		styles := []tokenizer.Style{tokenizer.Style(r.Style)}
		if r.Style == "jinja" {
			styles = append(styles, tokenizer.StyleTemplate)
		}
		for _, style := range styles {
			chat, err := tokenizer.NewChat(tok, style)
			require.NoError(t, err)
			msgs, want := r.messages(t), r.ids()
			got, err := chat.Render(msgs, tokenizer.RenderOptions{ParseSpecial: true})
			require.NoError(t, err)
			equalIDs(t, want, got.IDs, r.ID)
			checkRanges(t, got, image, r.Tiles)
			safe, err := chat.Render(msgs, tokenizer.RenderOptions{})
			require.NoError(t, err)
			if strings.Contains(r.ID, "injection") {
				require.NotEqual(t, want, safe.IDs)
				require.Equal(t, count(chatText(t, chat, msgs), tok), count(safe.IDs, tok), "a user's text added special tokens")
				differ++
				continue
			}
			equalIDs(t, want, safe.IDs, r.ID)
			require.Equal(t, got.Images, safe.Images)
		}
	}
	require.Equal(t, 15, differ, "rows with special tokens in a user's text")
}

// chatText renders the conversation with harmless texts of the user.
func chatText(t *testing.T, chat *tokenizer.Chat, msgs []tokenizer.Message) []int32 {
	var clean []tokenizer.Message
	for _, m := range msgs {
		if m.Role == tokenizer.RoleUser {
			m = tokenizer.Text(m.Role, "hello")
		}
		clean = append(clean, m)
	}
	p, err := chat.Render(clean, tokenizer.RenderOptions{})
	require.NoError(t, err)
	return p.IDs
}

func count(ids []int32, tok *tokenizer.Tokenizer) (n int) {
	for _, id := range ids {
		if tok.IsSpecial(id) {
			n++
		}
	}
	return n
}

func checkRanges(t *testing.T, p *tokenizer.Prompt, image int32, tiles []int) {
	require.Len(t, p.Images, len(tiles))
	inside := 0
	for i, r := range p.Images {
		require.Equal(t, tiles[i]*tokensPerTile, r.End-r.Start)
		for _, id := range p.IDs[r.Start:r.End] {
			require.Equal(t, image, id)
		}
		inside += r.End - r.Start
	}
	total := 0
	for _, id := range p.IDs {
		if id == image {
			total++
		}
	}
	require.Equal(t, inside, total, "image tokens outside the ranges")
}

// TestPlaceholdersTypedByUsers: the strings that stand for pictures upstream are text.
func TestPlaceholdersTypedByUsers(t *testing.T) {
	tok := real()
	image, _ := tok.ID("<IMG_CONTEXT>")
	typed := "is <image> or <IMG_CONTEXT> or <video> or <|image_pad|> a token? <|im_end|>"
	for _, style := range []tokenizer.Style{"jinja", "conv", "template", "internvl-hf"} {
		chat, err := tokenizer.NewChat(tok, style)
		require.NoError(t, err)
		p, err := chat.Render([]tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{
			{Text: typed}, {Image: &tokenizer.Image{Tokens: 64}}, {Text: typed},
		}}}, tokenizer.RenderOptions{})
		require.NoError(t, err)
		require.Len(t, p.Images, 1)
		n := 0
		for _, id := range p.IDs {
			if id == image {
				n++
			}
		}
		require.Equal(t, 64, n)
		require.Equal(t, 2, strings.Count(tok.Decode(p.IDs, true), typed))
	}
}

// families are tokenizers made of the real one with other added tokens.
func family(t *testing.T, template string, added map[string]int) *tokenizer.Tokenizer {
	fsys := goldenFS(t, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
	if added != nil {
		data, err := json.Marshal(added)
		require.NoError(t, err)
		fsys["added_tokens.json"] = &fstest.MapFile{Data: data}
	}
	if template != "" {
		fsys["chat_template.jinja"] = &fstest.MapFile{Data: []byte(template)}
	}
	tok, err := tokenizer.OpenFS(fsys)
	require.NoError(t, err)
	return tok
}

var deepSeekTokens = map[string]int{
	"<｜end▁of▁sentence｜>": 151643, "<｜User｜>": 151644, "<｜Assistant｜>": 151645,
	"<｜begin▁of▁sentence｜>": 151646, "<think>": 151648, "</think>": 151649,
}

// TestStyles compares each renderer with what its format says, written out, and
// with a Jinja template of that format.
func TestStyles(t *testing.T) {
	no, yes := false, true
	turns := []tokenizer.Message{
		tokenizer.Text("user", "Hi"),
		tokenizer.Text("assistant", "<think>\nhm\n</think>\n\nHello"),
		tokenizer.Text("user", "Bye  "),
	}
	withSystem := append([]tokenizer.Message{tokenizer.Text("system", "Be brief.")}, turns...)
	picture := []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Image: &tokenizer.Image{Tokens: 3}}, {Text: "What?"}}}}
	clip := []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{
		{Video: &tokenizer.Video{Frames: []int{2, 1}, Labels: []string{"0 s", "5 s"}}}, {Text: "What?"},
	}}}
	pads := func(n int) string { return strings.Repeat("<|image_pad|>", n) }
	ctx := func(n int) string { return "<img>" + strings.Repeat("<IMG_CONTEXT>", n) + "</img>" }
	protocol := "<|im_start|>system\nYou are an AI assistant that rigorously follows"
	for _, c := range []struct {
		name     string
		style    tokenizer.Style
		added    map[string]int
		template string
		msgs     []tokenizer.Message
		opts     tokenizer.RenderOptions
		want     string
		prefix   bool
	}{
		{
			name: "qwen3", style: "qwen3", template: qwen3Template, msgs: turns,
			want: "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye  <|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "qwen3 no thinking", style: "qwen3", template: qwen3Template, msgs: withSystem, opts: tokenizer.RenderOptions{Thinking: &no},
			want: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye  <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
		},
		{
			name: "qwen3 thinking", style: "qwen3", template: qwen3Template, msgs: turns[:1], opts: tokenizer.RenderOptions{Thinking: &yes},
			want: "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "qwen3 last answer", style: "qwen3", msgs: turns[:2], opts: tokenizer.RenderOptions{NoGenerationPrompt: true},
			want: "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\nHello<|im_end|>\n",
		},
		{
			name: "qwen2.5", style: "qwen2.5", template: qwen25Template, msgs: turns[:1],
			want: "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "qwen2.5 system", style: "qwen2.5", template: qwen25Template, msgs: withSystem[:2],
			want: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "qwen2-vl", style: "qwen2-vl", template: qwen2VLTemplate, msgs: picture,
			want: "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>" + pads(3) + "<|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "deepseek", style: "deepseek-r1", added: deepSeekTokens, template: deepSeekTemplate, msgs: withSystem,
			want: "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>\n\nHello<｜end▁of▁sentence｜><｜User｜>Bye  <｜Assistant｜><think>\n",
		},
		{
			name: "native", style: "internvl-hf", msgs: picture,
			want: "<|im_start|>user\n" + ctx(3) + "\nWhat?<|im_end|>\n<|im_start|>assistant\n",
		},
		{
			name: "labelled video", style: "internvl", msgs: clip,
			want: "<|im_start|>user\n0 s: " + ctx(2) + "\n5 s: " + ctx(1) + "\nWhat?<|im_end|>\n<|im_start|>assistant\n",
		},
		{name: "reasoning protocol", style: "conv", msgs: picture, opts: tokenizer.RenderOptions{Thinking: &yes}, want: protocol, prefix: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := real()
			if c.added != nil {
				tok = family(t, "", c.added)
			}
			chat, err := tokenizer.NewChat(tok, c.style)
			require.NoError(t, err)
			p, err := chat.Render(c.msgs, c.opts)
			require.NoError(t, err)
			got := tok.Decode(p.IDs, false)
			if c.prefix {
				require.Equal(t, c.want, got[:len(c.want)])
				return
			}
			require.Equal(t, c.want, got)
			equalIDs(t, tok.EncodeSpecial(c.want), p.IDs, c.name)
			if c.template == "" {
				return
			}
			added := c.added
			tok = family(t, c.template, added)
			chat, err = tokenizer.NewChat(tok, "")
			require.NoError(t, err)
			require.Equal(t, tokenizer.StyleTemplate, chat.Style())
			q, err := chat.Render(c.msgs, c.opts)
			require.NoError(t, err)
			require.Equal(t, c.want, strings.TrimPrefix(tok.Decode(q.IDs, false), "\n"))
			require.Equal(t, p.Images, q.Images)
		})
	}
}

// Templates of the formats, for the interpreter.
const (
	qwen25Template = `{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if not (loop.first and m.role == "system") %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
`
	qwen3Template = `{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, question=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and m.role == "user" and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.question = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- elif m.role == "assistant" %}
        {%- set answer = m.content %}
        {%- set reasoning = '' %}
        {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
            {%- set reasoning = m.reasoning_content %}
        {%- elif '</think>' in m.content %}
            {%- set answer = m.content.split('</think>')[-1].lstrip('\n') %}
            {%- set reasoning = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.question %}
            {%- if loop.last or reasoning %}
                {{- '<|im_start|>' + m.role + '\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + answer.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + m.role + '\n' + answer }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + m.role + '\n' + answer }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
`
	qwen2VLTemplate = `{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ m['role'] }}
{% if m['content'] is string %}{{ m['content'] }}<|im_end|>
{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
	deepSeekTemplate = `{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}{% endif %}{% endfor %}<｜begin▁of▁sentence｜>{{ ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}{% if m['role'] == 'assistant' and m['content'] is not none %}{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}`
)

// TestOpenPrefix: prefix and continuation are the ids of the whole conversation,
// for texts that end and begin in everything that can merge.
func TestOpenPrefix(t *testing.T) {
	tok := real()
	ends := []string{"", "Look: ", "Look:", "a", "e", "it'", "x ", "x\n", "\n\n", "x  \n ", "9", "가", "\u1100", "e\u0323", "abc\u0301\u0302", " \t0", "ok.\n\nEvidence:\n- a dog\n"}
	begins := []string{"", "Describe.", " Describe", "\n\nDescribe", "  \n x", "\u0301x", "s fine", "re", "'s", "\u1161", "\u11a8", "\r\n", " ", "123", "!", "\u0323\u0301", "<|im_end|>", "\U0001F468\u200d"}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, style := range []tokenizer.Style{"internvl", "conv", "template", "qwen3", "qwen2-vl"} {
		chat, err := tokenizer.NewChat(tok, style)
		require.NoError(t, err)
		for _, end := range ends {
			for _, begin := range begins {
				images := 0
				if style != "qwen3" {
					images = rng.IntN(3)
				}
				msgs := []tokenizer.Message{tokenizer.Text("system", "Be exact."), tokenizer.Text("user", "Hi"), tokenizer.Text("assistant", "Hello")}
				last := tokenizer.Message{Role: "user"}
				for range images {
					last.Parts = append(last.Parts, tokenizer.Part{Image: &tokenizer.Image{Tokens: 1 + rng.IntN(5)}})
				}
				if end != "" {
					last.Parts = append(last.Parts, tokenizer.Part{Text: end})
				}
				prefix, err := chat.Open(append(msgs[:3:3], last), tokenizer.RenderOptions{})
				require.NoError(t, err)
				last.Parts = append(last.Parts[:len(last.Parts):len(last.Parts)], tokenizer.Part{Text: begin})
				whole, err := chat.Render(append(msgs[:3:3], last), tokenizer.RenderOptions{})
				require.NoError(t, err)
				got := append(append([]int32{}, prefix.IDs...), prefix.Continue(begin)...)
				equalIDs(t, whole.IDs, got, fmt.Sprintf("%s: %q + %q", style, end, begin))
				require.Equal(t, whole.Images, prefix.Images)
				if end == "" && images > 0 {
					require.LessOrEqual(t, len(whole.IDs)-len(prefix.IDs)-len(tok.Encode(begin)), 8, "the prefix ends too early")
				}
			}
		}
	}
}

// TestChatErrors: what a template cannot say is an error that names it.
func TestChatErrors(t *testing.T) {
	tok := real()
	yes := true
	image := tokenizer.Part{Image: &tokenizer.Image{Tokens: 4}}
	for _, c := range []struct {
		name  string
		style tokenizer.Style
		msgs  []tokenizer.Message
		opts  tokenizer.RenderOptions
		want  string
	}{
		{"empty", "jinja", nil, tokenizer.RenderOptions{}, "no messages"},
		{"role", "jinja", []tokenizer.Message{tokenizer.Text("tool", "x")}, tokenizer.RenderOptions{}, `role "tool"`},
		{"picture in text model", "qwen3", []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{image}}}, tokenizer.RenderOptions{}, "text model"},
		{"picture of the assistant", "jinja", []tokenizer.Message{{Role: "assistant", Parts: []tokenizer.Part{image}}}, tokenizer.RenderOptions{}, "pictures in the role"},
		{"no tokens", "jinja", []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Image: &tokenizer.Image{}}}}}, tokenizer.RenderOptions{}, "0 tokens"},
		{"no frames", "jinja", []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Video: &tokenizer.Video{}}}}}, tokenizer.RenderOptions{}, "without frames"},
		{"labels", "jinja", []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Video: &tokenizer.Video{Frames: []int{1, 1}, Labels: []string{"a"}}}}}}, tokenizer.RenderOptions{}, "1 labels for 2"},
		{"two kinds", "jinja", []tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Text: "x", Image: &tokenizer.Image{Tokens: 1}}}}}, tokenizer.RenderOptions{}, "more than one"},
		{"thinking", "qwen2.5", []tokenizer.Message{tokenizer.Text("user", "x")}, tokenizer.RenderOptions{Thinking: &yes}, "thinking switch"},
		{"thinking, interpreted", "template", []tokenizer.Message{tokenizer.Text("user", "x")}, tokenizer.RenderOptions{Thinking: &yes}, "thinking switch"},
		{"second system", "conv", []tokenizer.Message{tokenizer.Text("user", "x"), tokenizer.Text("system", "y")}, tokenizer.RenderOptions{}, "first message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chat, err := tokenizer.NewChat(tok, c.style)
			require.NoError(t, err)
			_, err = chat.Render(c.msgs, c.opts)
			require.ErrorIs(t, err, tokenizer.ErrMessage)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := tokenizer.NewChat(tok, "deepseek-r1")
	require.ErrorIs(t, err, tokenizer.ErrTemplate)
	_, err = tokenizer.NewChat(tok, "nope")
	require.ErrorIs(t, err, tokenizer.ErrTemplate)
	chat, err := tokenizer.NewChat(tok, "jinja")
	require.NoError(t, err)
	_, err = chat.Open([]tokenizer.Message{tokenizer.Text("assistant", "x")}, tokenizer.RenderOptions{})
	require.ErrorIs(t, err, tokenizer.ErrMessage)
}

// TestTemplateThatReadsTexts: what a template does with texts is done; what would
// let a text write structure is refused.
func TestTemplateThatReadsTexts(t *testing.T) {
	trim := `{% for m in messages %}<|im_start|>{{ m.content | trim }}<|im_end|>{% endfor %}`
	chat, err := tokenizer.NewChat(family(t, trim, nil), "")
	require.NoError(t, err)
	p, err := chat.Render([]tokenizer.Message{tokenizer.Text("user", "  x y ")}, tokenizer.RenderOptions{})
	require.NoError(t, err)
	require.Equal(t, "<|im_start|>x y<|im_end|>", real().Decode(p.IDs, false))
	_, err = chat.Render([]tokenizer.Message{tokenizer.Text("user", "  x <|im_end|> ")}, tokenizer.RenderOptions{})
	require.ErrorIs(t, err, tokenizer.ErrTemplate)
	lost := `{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}`
	chat, err = tokenizer.NewChat(family(t, lost, nil), "")
	require.NoError(t, err)
	_, err = chat.Render([]tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{{Image: &tokenizer.Image{Tokens: 1}}}}}, tokenizer.RenderOptions{})
	require.ErrorContains(t, err, "0 placeholders for 1 pictures")
}

// TestThinkingText: the reasoning protocol is the documented text.
func TestThinkingText(t *testing.T) {
	tok := real()
	chat, err := tokenizer.NewChat(tok, "conv")
	require.NoError(t, err)
	yes := true
	p, err := chat.Render([]tokenizer.Message{tokenizer.Text("user", "x")}, tokenizer.RenderOptions{Thinking: &yes})
	require.NoError(t, err)
	text := tok.Decode(p.IDs, false)
	text = strings.TrimPrefix(text[:strings.Index(text, "<|im_end|>")], "<|im_start|>system\n")
	sum := sha256.Sum256([]byte(text))
	require.Equal(t, "46c86b719cafdbeb262b1aa6087718b3f2f72440e9f8bb6112ad40db7f6f71f9", hex.EncodeToString(sum[:]))
	require.Len(t, tok.EncodeSpecial(text), 115)
}

// TestShippedTemplates: the tiny checkpoints open, and their templates are known.
func TestShippedTemplates(t *testing.T) {
	dirs, err := os.ReadDir("../testdata/models")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		tok, err := tokenizer.Open("../testdata/models/" + d.Name())
		require.NoError(t, err)
		chat, err := tokenizer.NewChat(tok, "")
		require.NoError(t, err)
		require.Equal(t, tokenizer.StyleInternVL, chat.Style())
	}
}
