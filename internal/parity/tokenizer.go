package parity

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"metacap/tokenizer"
)

const (
	encodeFile = "encode.jsonl"
	streamFile = "stream.jsonl"
)

// encodeRow is a row of encode.jsonl. Absent fields take the value of the one before.
type encodeRow struct {
	ID          string
	Text        string
	IDs         []int32
	IDsPlain    []int32 `json:"ids_plain"` // no added token recognised; default IDs
	Decoded     *string // default Text
	DecodedSkip *string `json:"decoded_skip"` // without special tokens; default Decoded
}

// streamRow is a row of stream.jsonl.
type streamRow struct {
	ID     string
	IDs    []int32
	Chunks []string
	Tail   string
}

// tally counts differences and remembers the first.
type tally struct {
	rows, bad int
	first     string
}

func (t *tally) compare(same bool, where string) {
	t.rows++
	if same {
		return
	}
	t.bad++
	if t.first == "" {
		t.first = "first: " + where
	}
}

// check turns the tally into a check that allows no difference.
func (t *tally) check(c Check) Check {
	c.Count, c.Measured, c.Detail = t.rows, float64(t.bad), t.first
	return c
}

// tokenizer compares encode, decode and streaming decode.
func (r *runner) tokenizer(ctx context.Context, dir string) error {
	name := filepath.Base(dir)
	if !r.wants(name) {
		return nil
	}
	c := Check{Part: PartTokenizer, Case: name}
	files, cleanup, err := unpack(dir)
	if err != nil {
		return err
	}
	defer cleanup()
	tok, err := tokenizer.Open(files)
	if err != nil {
		c.Stage = "open"
		r.fail(c, err)
		return nil
	}
	if exists(filepath.Join(dir, encodeFile)) {
		rows, err := readLines[encodeRow](filepath.Join(dir, encodeFile))
		if err != nil {
			return err
		}
		r.encode(c, tok, rows)
	}
	if exists(filepath.Join(dir, streamFile)) {
		rows, err := readLines[streamRow](filepath.Join(dir, streamFile))
		if err != nil {
			return err
		}
		r.stream(c, tok, rows)
	}
	return ctx.Err()
}

func (r *runner) encode(c Check, tok *tokenizer.Tokenizer, rows []encodeRow) {
	var special, plain, decoded, skipped tally
	for _, row := range rows {
		wantPlain, wantDecoded := row.IDs, row.Text
		if row.IDsPlain != nil {
			wantPlain = row.IDsPlain
		}
		if row.Decoded != nil {
			wantDecoded = *row.Decoded
		}
		wantSkipped := wantDecoded
		if row.DecodedSkip != nil {
			wantSkipped = *row.DecodedSkip
		}
		special.compare(slices.Equal(tok.EncodeSpecial(row.Text), row.IDs), row.ID)
		plain.compare(slices.Equal(tok.Encode(row.Text), wantPlain), row.ID)
		decoded.compare(tok.Decode(row.IDs, false) == wantDecoded, row.ID)
		skipped.compare(tok.Decode(row.IDs, true) == wantSkipped, row.ID)
	}
	for _, s := range []struct {
		stage string
		t     *tally
	}{{"encode with special tokens", &special}, {"encode plain text", &plain}, {"decode", &decoded}, {"decode without special tokens", &skipped}} {
		c.Stage = s.stage
		r.check(s.t.check(c))
	}
}

func (r *runner) stream(c Check, tok *tokenizer.Tokenizer, rows []streamRow) {
	var t tally
	for _, row := range rows {
		s := tok.NewStream(false)
		where := ""
		if len(row.Chunks) != len(row.IDs) {
			where = fmt.Sprintf("%s: %d chunks for %d ids", row.ID, len(row.Chunks), len(row.IDs))
		}
		for i, id := range row.IDs {
			if got := s.Next(id); where == "" && got != row.Chunks[i] {
				where = fmt.Sprintf("%s token %d: got %q, want %q", row.ID, i, got, row.Chunks[i])
			}
		}
		if got := s.Flush(); got != row.Tail && where == "" {
			where = fmt.Sprintf("%s tail: got %q, want %q", row.ID, got, row.Tail)
		}
		t.compare(where == "", where)
	}
	c.Stage = "streaming decode"
	r.check(t.check(c))
}
