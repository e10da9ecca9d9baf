package tokenizer

import (
	"slices"
	"strings"
)

// Tokenizer turns text into ids and back. It is immutable after Open and may be
// used by any number of goroutines.
type Tokenizer struct {
	arena  arena
	lookup *stringTable // base vocabulary by bytes
	pairs  *pairTable   // merges
	byteID [256]int32   // id of each single byte
	base   int          // ids below are the base vocabulary

	nfc          bool
	ignoreMerges bool
	special      []uint64         // bitset by id: skipped by skipSpecial
	added        map[string]int32 // content to id
	raw, normal  *matcher         // added tokens found before and after normalization; nil = none
	all          *matcher         // all added tokens, as they are spelled
	words        *wordCache

	template      string // the checkpoint's chat template, "" = none
	bos, eos, pad string
}

// VocabSize returns one more than the largest id. The model's embedding may have more rows.
func (t *Tokenizer) VocabSize() int { return len(t.arena.spans) }

// BaseSize returns the number of ids below the first added one: the byte-level vocabulary.
func (t *Tokenizer) BaseSize() int { return t.base }

// Bytes returns the bytes that a token stands for, possibly a part of a UTF-8
// sequence; nothing for an id that is unused or out of range. The caller must
// not change them.
func (t *Tokenizer) Bytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.arena.spans) {
		return nil
	}
	return t.arena.bytes(id)
}

// Token returns the text of a token for display: Bytes with invalid UTF-8 replaced by U+FFFD.
func (t *Tokenizer) Token(id int32) string {
	return strings.ToValidUTF8(string(t.Bytes(id)), "\uFFFD")
}

// ID returns the id of an added token by its content, or of a base token by its bytes.
func (t *Tokenizer) ID(token string) (id int32, ok bool) {
	if id, ok := t.added[token]; ok {
		return id, true
	}
	return t.lookup.find(&t.arena, []byte(token))
}

// IsSpecial says whether a token is left out of decoded text when special tokens
// are skipped. Some added tokens are not special: <think>, <tool_call> and their kin.
func (t *Tokenizer) IsSpecial(id int32) bool {
	return id >= 0 && int(id)>>6 < len(t.special) && t.special[id>>6]>>(id&63)&1 == 1
}

// IsAdded says whether an id is an added token: one that ordinary text never yields.
func (t *Tokenizer) IsAdded(id int32) bool {
	return int(id) >= t.base && int(id) < len(t.arena.spans) && len(t.arena.bytes(id)) > 0
}

// Template returns the checkpoint's own chat template, "" if it ships none.
func (t *Tokenizer) Template() string { return t.template }

// BOS returns the begin-of-sequence token that templates may name, "" if there is none.
// Encode never adds it.
func (t *Tokenizer) BOS() string { return t.bos }

// EOS returns the ids that end a turn: eos_token of the configuration and, where
// they are added tokens of this vocabulary, <|im_end|> and <|endoftext|>. The
// generation configuration of a checkpoint may name more.
func (t *Tokenizer) EOS() []int32 {
	var ids []int32
	for _, name := range []string{t.eos, "<|im_end|>", "<|endoftext|>"} {
		if id, ok := t.added[name]; ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Encode returns the ids of text. Added tokens spelled in the text are ordinary
// text. An invalid UTF-8 byte becomes the token of that byte.
func (t *Tokenizer) Encode(text string) []int32 {
	return t.AppendEncode(nil, text)
}

// AppendEncode appends the ids of text to dst.
func (t *Tokenizer) AppendEncode(dst []int32, text string) []int32 {
	return t.encode(dst, t.normalize(text))
}

// EncodeSpecial returns the ids of text in which added tokens are recognised,
// the longest at each position, as the reference tokenizer does by default. Use
// it for text that the program wrote, not for a user's.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	var ids []int32
	t.raw.split(text, func(plain string, id int32) {
		if plain == "" {
			ids = append(ids, id)
			return
		}
		t.normal.split(t.normalize(plain), func(plain string, id int32) {
			if plain == "" {
				ids = append(ids, id)
				return
			}
			ids = t.encode(ids, plain)
		})
	})
	return ids
}

// add files an added token whose fields are checked.
func (t *Tokenizer) add(a addedToken) error {
	const file = "added tokens"
	id := int32(a.ID)
	if other, dup := t.added[a.Content]; dup {
		if other == id {
			return nil
		}
		return malformed(file, "", "%s has the ids %d and %d", clip(a.Content), other, id)
	}
	if other, ok := t.lookup.find(&t.arena, []byte(a.Content)); ok && other != id {
		return malformed(file, "", "%s is token %d of the vocabulary and added as %d", clip(a.Content), other, id)
	}
	for int(id) >= len(t.arena.spans) {
		t.arena.spans = append(t.arena.spans, span{})
	}
	switch old := t.arena.bytes(id); {
	case len(old) == 0:
		start := len(t.arena.data)
		t.arena.data, _ = appendRaw(t.arena.data, []byte(a.Content))
		t.arena.spans[id] = span{uint32(start), uint32(len(t.arena.data))}
	case string(old) != a.Content:
		return malformed(file, "", "id %d is %s and %s", id, clip(string(old)), clip(a.Content))
	}
	t.added[a.Content] = id
	return nil
}

// flag fills what is looked up by id or matched in text, once all added tokens are in.
func (t *Tokenizer) flag(added []addedToken) {
	t.special = make([]uint64, (len(t.arena.spans)+63)/64)
	t.all = newMatcher()
	for _, a := range added {
		if a.Special {
			t.special[a.ID>>6] |= 1 << (a.ID & 63)
		}
		t.all.add(a.Content, int32(a.ID))
		m := &t.raw
		content := a.Content
		if a.Normalized && t.nfc {
			m, content = &t.normal, t.normalize(a.Content)
		}
		if *m == nil {
			*m = newMatcher()
		}
		(*m).add(content, int32(a.ID))
	}
}

// matcher finds added tokens in text: a trie, walked from each position whose
// byte starts one. The work is bounded by the length cap of added tokens.
type matcher struct {
	first [256]bool
	next  map[matchEdge]int32
	leaf  []int32 // by node: id of the token that ends there, -1 = none
}

type matchEdge struct {
	node int32
	b    byte
}

func newMatcher() *matcher { return &matcher{next: map[matchEdge]int32{}, leaf: []int32{-1}} }

func (m *matcher) add(content string, id int32) {
	m.first[content[0]] = true
	node := int32(0)
	for i := range len(content) {
		e := matchEdge{node, content[i]}
		to, ok := m.next[e]
		if !ok {
			to = int32(len(m.leaf))
			m.next[e] = to
			m.leaf = append(m.leaf, -1)
		}
		node = to
	}
	if m.leaf[node] < 0 {
		m.leaf[node] = id
	}
}

// longest returns the longest token at the start of s.
func (m *matcher) longest(s string) (id int32, n int) {
	node, id := int32(0), int32(-1)
	for i := range len(s) {
		to, ok := m.next[matchEdge{node, s[i]}]
		if !ok {
			break
		}
		if node = to; m.leaf[node] >= 0 {
			id, n = m.leaf[node], i+1
		}
	}
	return id, n
}

// split calls yield for each stretch of plain text and, with plain "", for each
// token between. A nil matcher knows no tokens.
func (m *matcher) split(text string, yield func(plain string, id int32)) {
	start := 0
	if m != nil {
		for i := 0; i < len(text); {
			if m.first[text[i]] {
				if id, n := m.longest(text[i:]); n > 0 {
					if start < i {
						yield(text[start:i], 0)
					}
					yield("", id)
					i += n
					start = i
					continue
				}
			}
			i++
		}
	}
	if start < len(text) {
		yield(text[start:], 0)
	}
}

// splitAdded cuts text at the added tokens for which keep holds, the longest at
// each position; all else, other added tokens too, is plain text.
func (t *Tokenizer) splitAdded(text string, keep func(id int32) bool, yield func(plain string, id int32)) {
	start := 0
	for i := 0; i < len(text); {
		if !t.all.first[text[i]] {
			i++
			continue
		}
		id, n := t.all.longest(text[i:])
		if n == 0 {
			i++
			continue
		}
		if keep(id) {
			if start < i {
				yield(text[start:i], 0)
			}
			yield("", id)
			start = i + n
		}
		i += n
	}
	if start < len(text) {
		yield(text[start:], 0)
	}
}
