// Package tokenizer turns text into token ids and back for the byte-level BPE
// vocabularies of the Qwen2, Qwen3 and InternVL families, and writes
// conversations as prompts.
//
// # A text becomes ids
//
//	t, err := tokenizer.Open(dir)      // tokenizer.json, or vocab.json + merges.txt
//	ids := t.Encode("A red bicycle.")  // user text: <|im_end|> is nine characters
//	ids = t.EncodeSpecial("<img>…")    // the program's own text: <img> is a token
//
// The text is normalized (NFC), cut into pieces as the family's regular
// expression cuts it (internal/pretoken, Unicode 16.0), and each piece is merged
// from bytes by rank. Recent pieces are remembered. The time is linear in the
// length of ordinary text and O(n log n) in the length of a single huge word.
//
// Special tokens are found by their strings, never by number: <IMG_CONTEXT> is
// 151671 in InternVL3.5 and 151667 in InternVL3.
//
// # Ids become a text
//
// Decode joins the bytes of tokens and replaces what is not UTF-8. Stream does
// the same a token at a time: it holds back up to three bytes of an unfinished
// character, so that a terminal never sees half of one.
//
// # A conversation becomes a prompt
//
//	chat, err := tokenizer.NewChat(t, "")  // the checkpoint's own template
//	p, err := chat.Render([]tokenizer.Message{{Role: "user", Parts: []tokenizer.Part{
//		{Image: &tokenizer.Image{Tokens: 13 * 256}}, // tiles × tokens a tile
//		{Text: "Please describe the image in detail."},
//	}}}, tokenizer.RenderOptions{})
//	// p.IDs, and p.Images[0] says which of them take the picture's features
//
// Prompts are built from pieces (text of the template, text of a message, a run
// of image tokens), not from one string that is parsed again: what a user types
// cannot open a turn or claim a picture. Templates of this family have renderers
// in styles.go; any other Jinja template is interpreted with marks in place of
// the messages (interpret.go, internal/jinja), which keeps the same promise.
//
// Open renders a conversation whose last message is still open, for several
// instructions on one picture: prefix and continuation are exactly the ids of the
// whole conversation.
//
// # Files from outside
//
// Sizes, depths and counts are capped (load.go); a malformed file is a *FileError
// with ErrFormat, a valid file that asks for something else (another expression,
// byte_fallback, …) one with ErrUnsupported: nothing is skipped in silence.
//
// # Where we depart from the reference
//
//   - Text of users is not parsed for added tokens (RenderOptions.ParseSpecial does).
//   - Normalization data is that of x/text (Unicode 15.0), that of tokenizers 0.23 is
//     older: combining marks that Unicode 14.0 and 15.0 added sort among their
//     neighbours here and stay in place there (3 of 6,000 random strings over all of
//     Unicode).
//   - An invalid UTF-8 byte is encoded as the token of that byte.
package tokenizer
