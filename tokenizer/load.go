package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"unicode/utf8"
)

// Limits on what Open reads. The largest public vocabularies of this kind have
// 262,144 tokens, 20 MB of tokenizer.json and a few thousand added tokens.
const (
	maxFileBytes     = 64 << 20 // tokenizer.json, vocab.json, merges.txt
	maxConfigBytes   = 8 << 20  // tokenizer_config.json, added_tokens.json
	maxTemplateBytes = 256 << 10
	maxTokens        = 1 << 20 // also bounds the ids
	maxMerges        = 1 << 21
	maxTokenBytes    = 4096
	maxAdded         = 1 << 16
	maxAddedBytes    = 256 // length of an added token
)

// Names of the files.
const (
	fileTokenizer    = "tokenizer.json"
	fileVocab        = "vocab.json"
	fileMerges       = "merges.txt"
	fileConfig       = "tokenizer_config.json"
	fileAdded        = "added_tokens.json"
	fileSpecials     = "special_tokens_map.json"
	fileTemplate     = "chat_template.jinja"
	fileTemplateJSON = "chat_template.json"
)

// Open reads the tokenizer of a checkpoint directory; see OpenFS.
func Open(dir string) (*Tokenizer, error) {
	return OpenFS(os.DirFS(dir))
}

// OpenFS reads tokenizer.json if there is one; otherwise vocab.json, merges.txt
// and the added tokens of tokenizer_config.json (added_tokens_decoder) or of
// added_tokens.json. The chat template comes from chat_template.jinja, else
// chat_template.json, else tokenizer_config.json.
//
// Errors are a *FileError (ErrFormat, ErrUnsupported), ErrNotFound, or those of
// fsys. Memory is bounded by the limits of this package whatever the files hold.
func OpenFS(fsys fs.FS) (*Tokenizer, error) {
	b := &builder{fsys: fsys}
	b.readConfig()
	data, found := b.read(fileTokenizer, maxFileBytes)
	switch {
	case b.err != nil:
	case found:
		b.parseTokenizer(data)
	default:
		b.readVocabMerges()
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.finish()
}

// builder collects what the files say. The first error sticks.
type builder struct {
	fsys   fs.FS
	err    error
	config fileConfigJSON
	arena  arena
	lookup *stringTable
	pairs  *pairTable
	merges int
	added  []addedToken

	plain        bool // the files ask for no NFC
	ignoreMerges bool
	template     string
	left, right  []byte // scratch of merge
	literal      []bool // by id: not spelled in the byte alphabet
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// read returns a whole file of at most limit bytes, or found false if it does not exist.
func (b *builder) read(name string, limit int64) (data []byte, found bool) {
	if b.err != nil {
		return nil, false
	}
	f, err := b.fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		b.fail(fmt.Errorf("tokenizer: open: %w", err))
		return nil, false
	}
	defer func() { b.closed(f.Close()) }()
	size := int64(0)
	if st, err := f.Stat(); err == nil {
		size = st.Size()
	}
	if size <= limit {
		buf := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
		if _, err := buf.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
			b.fail(fmt.Errorf("tokenizer: open: %s: %w", name, err))
			return nil, false
		}
		data, size = buf.Bytes(), int64(buf.Len())
	}
	if size > limit {
		b.fail(malformed(name, "", "%d bytes exceed the limit of %d", size, limit))
		return nil, false
	}
	return data, true
}

func (b *builder) closed(err error) {
	if err != nil {
		b.fail(fmt.Errorf("tokenizer: open: %w", err))
	}
}

// fileConfigJSON is what we use of tokenizer_config.json.
type fileConfigJSON struct {
	BOS      tokenName             `json:"bos_token"`
	EOS      tokenName             `json:"eos_token"`
	Pad      tokenName             `json:"pad_token"`
	Added    map[string]addedToken `json:"added_tokens_decoder"`
	Template json.RawMessage       `json:"chat_template"`
}

// tokenName is a token given as a string or as an object with its content.
type tokenName string

func (n *tokenName) UnmarshalJSON(data []byte) error {
	var s *string
	if err := json.Unmarshal(data, &s); err == nil {
		if s != nil {
			*n = tokenName(*s)
		}
		return nil
	}
	var o struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return err
	}
	*n = tokenName(o.Content)
	return nil
}

// addedToken is an entry of added_tokens or added_tokens_decoder.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

func (b *builder) readConfig() {
	if data, found := b.read(fileConfig, maxConfigBytes); found {
		if err := json.Unmarshal(data, &b.config); err != nil {
			b.fail(malformed(fileConfig, "", "%v", err))
			return
		}
	}
	if b.config.EOS == "" {
		if data, found := b.read(fileSpecials, maxConfigBytes); found {
			var m fileConfigJSON
			if err := json.Unmarshal(data, &m); err != nil {
				b.fail(malformed(fileSpecials, "", "%v", err))
				return
			}
			b.config.EOS, b.config.BOS, b.config.Pad = m.EOS, m.BOS, m.Pad
		}
	}
	b.readTemplate()
}

func (b *builder) readTemplate() {
	raw, file := b.config.Template, fileConfig
	if data, found := b.read(fileTemplate, maxTemplateBytes); found {
		b.setTemplate(fileTemplate, string(data))
		return
	}
	if data, found := b.read(fileTemplateJSON, maxConfigBytes); found {
		var m struct {
			Template json.RawMessage `json:"chat_template"`
		}
		if err := json.Unmarshal(data, &m); err != nil {
			b.fail(malformed(fileTemplateJSON, "", "%v", err))
			return
		}
		raw, file = m.Template, fileTemplateJSON
	}
	if len(raw) == 0 || string(raw) == "null" {
		return
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		b.setTemplate(file, text)
		return
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		b.fail(malformed(file, "chat_template", "neither a string nor a list of named templates"))
		return
	}
	for _, n := range named {
		if n.Name == "default" {
			b.setTemplate(file, n.Template)
			return
		}
	}
	b.fail(malformed(file, "chat_template", "%d named templates, none is \"default\"", len(named)))
}

func (b *builder) setTemplate(file, text string) {
	switch {
	case len(text) > maxTemplateBytes:
		b.fail(malformed(file, "chat_template", "%d bytes exceed the limit of %d", len(text), maxTemplateBytes))
	case !utf8.ValidString(text):
		b.fail(malformed(file, "chat_template", "not UTF-8"))
	default:
		b.template = text
	}
}

// readVocabMerges is the layout without tokenizer.json.
func (b *builder) readVocabMerges() {
	vocab, found := b.read(fileVocab, maxFileBytes)
	if !found {
		b.fail(fmt.Errorf("tokenizer: open: %w: neither %s nor %s", ErrNotFound, fileTokenizer, fileVocab))
		return
	}
	merges, found := b.read(fileMerges, maxFileBytes)
	if !found {
		b.fail(fmt.Errorf("tokenizer: open: %w: %s without %s", ErrNotFound, fileVocab, fileMerges))
		return
	}
	s := &scanner{file: fileVocab, data: vocab}
	b.parseVocab(s)
	s.end()
	if s.err != nil {
		b.fail(s.err)
	}
	b.parseMergesText(merges)
	switch {
	case b.err != nil:
	case len(b.config.Added) > 0:
		b.addedDecoder()
	default:
		b.addedFile()
	}
}

// addedDecoder takes the added tokens of tokenizer_config.json.
func (b *builder) addedDecoder() {
	for key, a := range b.config.Added {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			b.fail(malformed(fileConfig, "added_tokens_decoder", "key %s is not a token id", clip(key)))
			return
		}
		a.ID = id
		b.addToken(fileConfig, "added_tokens_decoder", a)
	}
}

// addedFile takes the added tokens of added_tokens.json. The file has no flags:
// the tokens that the models of this family keep in decoded text are not special.
func (b *builder) addedFile() {
	data, found := b.read(fileAdded, maxConfigBytes)
	if !found {
		return
	}
	var m map[string]int64
	if err := json.Unmarshal(data, &m); err != nil {
		b.fail(malformed(fileAdded, "", "%v", err))
		return
	}
	for content, id := range m {
		b.addToken(fileAdded, "", addedToken{ID: id, Content: content, Special: !keptInText[content]})
	}
}

// keptInText are the added tokens with special=false in the released
// tokenizer_config.json files of Qwen2.5, Qwen3 and InternVL3.5.
var keptInText = map[string]bool{
	"<tool_call>": true, "</tool_call>": true, "<tool_response>": true, "</tool_response>": true,
	"<think>": true, "</think>": true, "<|fim_prefix|>": true, "<|fim_middle|>": true,
	"<|fim_suffix|>": true, "<|fim_pad|>": true, "<|repo_name|>": true, "<|file_sep|>": true,
}

// addToken checks and records an added token.
func (b *builder) addToken(file, field string, a addedToken) {
	where := fmt.Sprintf("%s[%d]", field, a.ID)
	switch {
	case a.ID < 0 || a.ID >= maxTokens:
		b.fail(malformed(file, where, "id outside 0…%d", maxTokens-1))
	case a.Content == "":
		b.fail(malformed(file, where, "empty content"))
	case len(a.Content) > maxAddedBytes:
		b.fail(malformed(file, where, "content of %d bytes exceeds %d", len(a.Content), maxAddedBytes))
	case a.SingleWord || a.LStrip || a.RStrip:
		b.fail(unsupported(file, where, "single_word, lstrip or rstrip of %s", clip(a.Content)))
	case len(b.added) == maxAdded:
		b.fail(malformed(file, field, "more than %d added tokens", maxAdded))
	default:
		b.added = append(b.added, a)
	}
}

// parseVocab reads an object {"token": id, …} into the arena and the lookup table.
func (b *builder) parseVocab(s *scanner) {
	if b.lookup != nil {
		s.fail("second vocabulary")
		return
	}
	b.arena.data = make([]byte, 0, min(len(s.data)-s.pos, maxFileBytes)/2)
	var ids []int32
	var spans []span
	var literal []bool
	largest := int32(-1)
	first := true
	if !s.expect('{') {
		return
	}
	for s.next(&first, '}') {
		key := s.str()
		start := len(b.arena.data)
		var mapped bool
		b.arena.data, mapped = appendRaw(b.arena.data, key)
		s.expect(':')
		id := s.id()
		switch {
		case s.err != nil:
			return
		case len(key) == 0 || len(b.arena.data)-start > maxTokenBytes:
			s.fail("token of %d bytes, want 1…%d", len(b.arena.data)-start, maxTokenBytes)
		case id >= maxTokens:
			s.fail("token id %d exceeds %d", id, maxTokens-1)
		case len(ids) == maxTokens:
			s.fail("more than %d tokens", maxTokens)
		}
		largest = max(largest, id)
		ids = append(ids, id)
		spans = append(spans, span{uint32(start), uint32(len(b.arena.data))})
		literal = append(literal, !mapped)
	}
	if s.err != nil {
		return
	}
	b.index(s, ids, spans, literal, int(largest)+1)
}

// index files the spans by id and fills the lookup table.
func (b *builder) index(s *scanner, ids []int32, spans []span, literal []bool, size int) {
	b.arena.spans = make([]span, size)
	b.literal = make([]bool, size)
	b.lookup = newStringTable(len(ids))
	for i, id := range ids {
		if b.arena.spans[id].end != 0 {
			s.fail("token id %d twice", id)
			return
		}
		b.arena.spans[id], b.literal[id] = spans[i], literal[i]
		if literal[i] {
			continue
		}
		if other, clash := b.lookup.insert(&b.arena, id); clash {
			s.fail("ids %d and %d have the same token %s", other, id, clip(string(b.arena.bytes(id))))
			return
		}
	}
}

// merge records that left and right, spelled in the byte alphabet, merge with the next rank.
func (b *builder) merge(left, right []byte) error {
	var okL, okR bool
	b.left, okL = appendRaw(b.left[:0], left)
	b.right, okR = appendRaw(b.right[:0], right)
	l, foundL := b.lookup.find(&b.arena, b.left)
	r, foundR := b.lookup.find(&b.arena, b.right)
	if !okL || !foundL {
		return fmt.Errorf("merge %d: %s is not in the vocabulary", b.merges, clip(string(left)))
	}
	if !okR || !foundR {
		return fmt.Errorf("merge %d: %s is not in the vocabulary", b.merges, clip(string(right)))
	}
	b.left = append(b.left, b.right...)
	id, found := b.lookup.find(&b.arena, b.left)
	if !found {
		return fmt.Errorf("merge %d: the result %s is not in the vocabulary", b.merges, clip(string(b.left)))
	}
	if b.merges == maxMerges {
		return fmt.Errorf("more than %d merges", maxMerges)
	}
	b.pairs.insert(l, r, uint32(b.merges), id)
	b.merges++
	return nil
}

// parseMergesText reads merges.txt: a version line, then "left right" lines.
func (b *builder) parseMergesText(data []byte) {
	if b.err != nil {
		return
	}
	b.pairs = newPairTable(min(bytes.Count(data, []byte{'\n'})+1, maxMerges))
	for line := 1; len(data) > 0; line++ {
		var text []byte
		text, data, _ = bytes.Cut(data, []byte{'\n'})
		text = bytes.TrimSuffix(text, []byte{'\r'})
		if len(text) == 0 || bytes.HasPrefix(text, []byte("#version")) {
			continue
		}
		left, right, ok := bytes.Cut(text, []byte{' '})
		if !ok || bytes.IndexByte(right, ' ') >= 0 {
			b.fail(malformed(fileMerges, "", "line %d: %s is not two tokens", line, clip(string(text))))
			return
		}
		if err := b.merge(left, right); err != nil {
			b.fail(malformed(fileMerges, "", "line %d: %v", line, err))
			return
		}
	}
}

// finish checks the whole and builds the tokenizer.
func (b *builder) finish() (*Tokenizer, error) {
	t := &Tokenizer{
		arena: b.arena, lookup: b.lookup, pairs: b.pairs, nfc: !b.plain, ignoreMerges: b.ignoreMerges,
		added: make(map[string]int32, len(b.added)), template: b.template,
		bos: string(b.config.BOS), eos: string(b.config.EOS), pad: string(b.config.Pad),
	}
	for i := range t.byteID {
		id, ok := b.lookup.find(&b.arena, []byte{byte(i)})
		if !ok {
			return nil, unsupported("vocabulary", "", "byte %#02x has no token: not a byte-level vocabulary", i)
		}
		t.byteID[i] = id
	}
	t.base = len(t.arena.spans)
	for _, a := range b.added {
		if err := t.add(a); err != nil {
			return nil, err
		}
	}
	t.flag(b.added)
	t.words = newWordCache()
	if len(t.arena.data) > math.MaxInt32 {
		return nil, malformed("vocabulary", "", "%d bytes of tokens", len(t.arena.data))
	}
	return t, nil
}
