package tokenizer

import (
	"encoding/json"
	"slices"
)

// qwenPattern is the split expression that package pretoken implements.
const qwenPattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// component is the union of the fields that normalizers, pre-tokenizers,
// post-processors and decoders have in tokenizer.json.
type component struct {
	Type           string      `json:"type"`
	Normalizers    []component `json:"normalizers"`
	Pretokenizers  []component `json:"pretokenizers"`
	Processors     []component `json:"processors"`
	Decoders       []component `json:"decoders"`
	Behavior       string      `json:"behavior"`
	Invert         bool        `json:"invert"`
	AddPrefixSpace *bool       `json:"add_prefix_space"`
	UseRegex       *bool       `json:"use_regex"`
	Pattern        struct {
		Regex  *string `json:"Regex"`
		String *string `json:"String"`
	} `json:"pattern"`
}

// parseTokenizer reads tokenizer.json. truncation and padding are settings of a
// training or batching caller and are not part of encoding: they are ignored.
func (b *builder) parseTokenizer(data []byte) {
	s := &scanner{file: fileTokenizer, data: data}
	raw := map[string][]byte{}
	seen := map[string]bool{}
	first := true
	if s.expect('{') {
		for s.next(&first, '}') {
			key := string(s.str())
			s.expect(':')
			if seen[key] {
				s.fail("second field %s", clip(key))
			}
			seen[key] = true
			switch key {
			case "model":
				b.parseModel(s)
			case "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder":
				raw[key] = s.skip()
			default:
				s.skip()
			}
		}
	}
	s.end()
	if s.err != nil {
		b.fail(s.err)
	}
	if b.err != nil {
		return
	}
	if b.lookup == nil || b.pairs == nil {
		b.fail(malformed(fileTokenizer, "model", "no vocab or no merges"))
		return
	}
	b.parseAdded(raw["added_tokens"])
	b.checkNormalizer(b.component(raw, "normalizer"))
	b.checkPretokenizer(b.component(raw, "pre_tokenizer"))
	b.checkPostProcessor("post_processor", b.component(raw, "post_processor"))
	b.checkDecoder("decoder", b.component(raw, "decoder"))
}

// parseModel reads the object "model": vocabulary and merges as they come (merges
// wait for the vocabulary), the scalar settings by name.
func (b *builder) parseModel(s *scanner) {
	scalars := map[string][]byte{}
	pending := -1
	first := true
	if !s.expect('{') {
		return
	}
	for s.next(&first, '}') {
		key := string(s.str())
		s.expect(':')
		switch key {
		case "vocab":
			b.parseVocab(s)
		case "merges":
			switch {
			case b.pairs != nil || pending >= 0:
				s.fail("second merges")
			case b.lookup != nil:
				b.parseMerges(s)
			default:
				pending = s.pos
				s.skip()
			}
		default:
			if _, dup := scalars[key]; dup {
				s.fail("second field model.%s", clip(key))
			}
			scalars[key] = s.skip()
		}
	}
	if s.err != nil {
		return
	}
	if pending >= 0 && b.lookup != nil {
		again := &scanner{file: s.file, data: s.data, pos: pending}
		b.parseMerges(again)
		s.err = again.err
	}
	b.checkModel(scalars)
}

// parseMerges reads an array of "left right" strings or of ["left", "right"] pairs.
func (b *builder) parseMerges(s *scanner) {
	b.pairs = newPairTable(min(len(b.arena.spans), maxMerges))
	used := 0
	var left []byte
	first := true
	if !s.expect('[') {
		return
	}
	for s.next(&first, ']') {
		var right []byte
		if s.peek() == '[' {
			s.pos++
			left = append(left[:0], s.str()...)
			s.expect(',')
			right = s.str()
			s.expect(']')
		} else {
			pair := s.str()
			i := slices.Index(pair, ' ')
			if s.err == nil && (i < 0 || slices.Contains(pair[i+1:], ' ')) {
				s.fail("merge %s is not two tokens", clip(string(pair)))
				return
			}
			if s.err == nil {
				left = append(left[:0], pair[:i]...)
				right = pair[i+1:]
			}
		}
		if s.err != nil {
			return
		}
		if used++; 2*used > len(b.pairs.entries) {
			b.pairs = b.pairs.grow()
		}
		if err := b.merge(left, right); err != nil {
			s.fail("%v", err)
			return
		}
	}
}

// checkModel refuses the settings of the BPE model that we do not do.
func (b *builder) checkModel(scalars map[string][]byte) {
	var m struct {
		Type         string   `json:"type"`
		Dropout      *float64 `json:"dropout"`
		Prefix       string   `json:"continuing_subword_prefix"`
		Suffix       string   `json:"end_of_word_suffix"`
		ByteFallback bool     `json:"byte_fallback"`
		IgnoreMerges bool     `json:"ignore_merges"`
	}
	for name, into := range map[string]any{
		"type": &m.Type, "dropout": &m.Dropout, "continuing_subword_prefix": &m.Prefix,
		"end_of_word_suffix": &m.Suffix, "byte_fallback": &m.ByteFallback, "ignore_merges": &m.IgnoreMerges,
	} {
		if raw, ok := scalars[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				b.fail(malformed(fileTokenizer, "model."+name, "%v", err))
				return
			}
		}
	}
	refuse := func(field string, bad bool, value any) {
		if bad {
			b.fail(unsupported(fileTokenizer, "model."+field, "%v", value))
		}
	}
	refuse("type", m.Type != "BPE" && m.Type != "", m.Type)
	refuse("dropout", m.Dropout != nil && *m.Dropout != 0, "a random tokenizer")
	refuse("continuing_subword_prefix", m.Prefix != "", clip(m.Prefix))
	refuse("end_of_word_suffix", m.Suffix != "", clip(m.Suffix))
	refuse("byte_fallback", m.ByteFallback, true)
	b.ignoreMerges = m.IgnoreMerges
}

func (b *builder) parseAdded(raw []byte) {
	var list []addedToken
	if raw == nil {
		return
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		b.fail(malformed(fileTokenizer, "added_tokens", "%v", err))
		return
	}
	for _, a := range list {
		b.addToken(fileTokenizer, "added_tokens", a)
	}
}

// component decodes a named part; nil when absent or null.
func (b *builder) component(raw map[string][]byte, name string) *component {
	var c *component
	if data := raw[name]; data != nil {
		if err := json.Unmarshal(data, &c); err != nil {
			b.fail(malformed(fileTokenizer, name, "%v", err))
			return nil
		}
	}
	return c
}

// checkNormalizer accepts NFC or nothing.
func (b *builder) checkNormalizer(c *component) {
	switch {
	case c == nil:
		b.plain = true
	case c.Type == "NFC":
	case c.Type == "Sequence" && len(c.Normalizers) == 0:
		b.plain = true
	case c.Type == "Sequence" && len(c.Normalizers) == 1:
		b.checkNormalizer(&c.Normalizers[0])
	default:
		b.fail(unsupported(fileTokenizer, "normalizer", "type %s, want NFC or none", clip(c.Type)))
	}
}

// checkPretokenizer accepts Split by the Qwen2 expression followed by ByteLevel.
func (b *builder) checkPretokenizer(c *component) {
	const field = "pre_tokenizer"
	if c == nil {
		b.fail(unsupported(fileTokenizer, field, "none, want Split and ByteLevel"))
		return
	}
	if c.Type != "Sequence" || len(c.Pretokenizers) != 2 {
		b.fail(unsupported(fileTokenizer, field, "type %s of %d parts, want a Sequence of Split and ByteLevel", clip(c.Type), len(c.Pretokenizers)))
		return
	}
	split, level := &c.Pretokenizers[0], &c.Pretokenizers[1]
	switch {
	case split.Type != "Split" || split.Pattern.Regex == nil:
		b.fail(unsupported(fileTokenizer, field, "first part %s, want Split by a Regex", clip(split.Type)))
	case *split.Pattern.Regex != qwenPattern:
		b.fail(unsupported(fileTokenizer, field, "expression %s is not that of Qwen2", clip(*split.Pattern.Regex)))
	case split.Behavior != "Isolated" || split.Invert:
		b.fail(unsupported(fileTokenizer, field, "behavior %s, invert %v, want Isolated, false", clip(split.Behavior), split.Invert))
	case level.Type != "ByteLevel":
		b.fail(unsupported(fileTokenizer, field, "second part %s, want ByteLevel", clip(level.Type)))
	case level.AddPrefixSpace == nil || *level.AddPrefixSpace:
		b.fail(unsupported(fileTokenizer, field, "add_prefix_space true"))
	case level.UseRegex == nil || *level.UseRegex:
		b.fail(unsupported(fileTokenizer, field, "use_regex true"))
	}
}

// checkPostProcessor accepts what only adds tokens around a text or moves offsets:
// Encode adds no tokens, chat templates write them.
func (b *builder) checkPostProcessor(field string, c *component) {
	if c == nil {
		return
	}
	switch c.Type {
	case "ByteLevel", "TemplateProcessing":
	case "Sequence":
		for i := range c.Processors {
			b.checkPostProcessor(field, &c.Processors[i])
		}
	default:
		b.fail(unsupported(fileTokenizer, field, "type %s", clip(c.Type)))
	}
}

// checkDecoder accepts ByteLevel.
func (b *builder) checkDecoder(field string, c *component) {
	switch {
	case c != nil && c.Type == "ByteLevel":
	case c != nil && c.Type == "Sequence" && len(c.Decoders) == 1:
		b.checkDecoder(field, &c.Decoders[0])
	case c == nil:
		b.fail(unsupported(fileTokenizer, field, "none, want ByteLevel"))
	default:
		b.fail(unsupported(fileTokenizer, field, "type %s, want ByteLevel", clip(c.Type)))
	}
}
