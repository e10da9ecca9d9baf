package loader

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"metacap/internal/dtype"
	"metacap/loader/internal/format"
)

// digestSample is the number of bytes of each tensor that enter the digest.
const digestSample = 256

// Digest identifies a checkpoint quickly: the hex SHA-256 over config.json, and
// for every weight file in name order its name, its size, its whole header, and
// 256 bytes from the middle of each tensor. It reads a few hundred kilobytes of a
// 17 GB checkpoint. Two fine-tunes of one model differ in it, since training
// changes nearly every weight; a change of single bytes elsewhere in the weights
// does not show. Verify reads everything.
func (c *Checkpoint) Digest() (string, error) {
	if c.stopped {
		return "", fmt.Errorf("loader: digest: %w", ErrClosed)
	}
	h := sha256.New()
	item := func(b []byte) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	config, _, err := readCapped(c.src, configName, format.MaxConfigBytes)
	if err != nil {
		return "", err
	}
	item([]byte("metacap checkpoint 1"))
	item(config)
	var buf [digestSample]byte
	for _, s := range c.shards {
		item([]byte(s.name))
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(s.file.Data)))
		item(n[:])
		item(s.header.Bytes)
		for _, e := range s.header.Entries {
			size := e.End - e.Start
			from := e.Start + max(0, (size-digestSample)/2)
			b := buf[:min(size, digestSample)]
			if _, err := s.file.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
				return "", fmt.Errorf("loader: digest: %s: tensor %s: %w", s.name, e.Name, err)
			}
			item(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// FileSum is the checksum of one file of a checkpoint.
type FileSum struct {
	Name   string
	Bytes  int64
	SHA256 string // hex
}

// Progress is told how many bytes of how many are done.
type Progress func(done, total int64)

// Sums computes the SHA-256 of every file that takes part in running the model,
// configuration and tokenizer files included, in name order. It reads past the
// mapping, so the memory of the process does not grow. progress may be nil.
func (c *Checkpoint) Sums(ctx context.Context, progress Progress) ([]FileSum, error) {
	if c.stopped {
		return nil, fmt.Errorf("loader: verify: %w", ErrClosed)
	}
	var total, done int64
	for _, s := range c.shards {
		total += int64(len(s.file.Data))
	}
	var sums []FileSum
	for _, name := range []string{
		"added_tokens.json", "chat_template.jinja", configName, generationName, "merges.txt", indexName,
		processorName, "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
	} {
		data, ok, err := readCapped(c.src, name, format.MaxIndexBytes)
		if err != nil {
			return nil, err
		}
		if ok {
			sum := sha256.Sum256(data)
			sums = append(sums, FileSum{name, int64(len(data)), hex.EncodeToString(sum[:])})
		}
	}
	buf := make([]byte, 1<<20)
	for _, s := range c.shards {
		h := sha256.New()
		size := int64(len(s.file.Data))
		for off := int64(0); off < size; {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("loader: verify: %s: %w", s.name, err)
			}
			n := min(int64(len(buf)), size-off)
			if _, err := s.file.ReadAt(buf[:n], off); err != nil {
				return nil, fmt.Errorf("loader: verify: %s at byte %d: %w", s.name, off, err)
			}
			h.Write(buf[:n])
			off += n
			if done += n; progress != nil {
				progress(done, total)
			}
		}
		sums = append(sums, FileSum{s.name, size, hex.EncodeToString(h.Sum(nil))})
	}
	return sums, nil
}

// Verify recomputes every file's SHA-256 and compares it with want (name to hex).
// The error lists every file that differs, is missing, or is not in want.
func (c *Checkpoint) Verify(ctx context.Context, want map[string]string, progress Progress) error {
	sums, err := c.Sums(ctx, progress)
	if err != nil {
		return err
	}
	return CompareSums(sums, want)
}

// CompareSums compares checksums with want (name to hex), as Verify does.
func CompareSums(sums []FileSum, want map[string]string) error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range sums {
		seen[s.Name] = true
		switch w, ok := want[s.Name]; {
		case !ok:
			errs = append(errs, &FormatError{File: s.Name, Field: "sha256", Reason: "file is not in the list of checksums", Value: s.SHA256})
		case w != s.SHA256:
			errs = append(errs, &FormatError{File: s.Name, Field: "sha256", Reason: "differs", Value: s.SHA256, Limit: w})
		}
	}
	for name := range want {
		if !seen[name] {
			errs = append(errs, &FormatError{File: name, Field: "sha256", Reason: "file is missing", Limit: want[name]})
		}
	}
	return errors.Join(errs...)
}

// CheckValues reads every tensor that the model needs and refuses what is not
// finite and what does not dequantise, by name. It is what loading a checkpoint
// would find, and dense weights that loading does not look into. Require must
// have succeeded. progress may be nil.
func (c *Checkpoint) CheckValues(ctx context.Context, progress Progress) error {
	var done int64
	for _, w := range c.Config.Weights() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("loader: verify: %s: %w", w.Name, err)
		}
		views, ok := c.Find(w.Name)
		if !ok { // stored in a quantised form
			l, err := c.Linear(strings.TrimSuffix(w.Name, ".weight"))
			if err != nil {
				return err
			}
			views = l.Views
		}
		for _, v := range views {
			if err := finite(v); err != nil {
				return err
			}
			c.Drop(v)
			if done += int64(len(v.Data)); progress != nil {
				progress(min(done, c.Bytes()), c.Bytes())
			}
		}
	}
	return nil
}

// finite refuses a tensor of floats that holds something else than finite numbers.
func finite(v TensorView) error {
	if t := v.DType; t != dtype.F32 && t != dtype.F16 && t != dtype.BF16 {
		return nil
	}
	const block = 1 << 16
	buf := make([]float32, min(block, v.Elements()))
	size := v.DType.Size()
	for at := 0; at < v.Elements(); at += block {
		n := min(block, v.Elements()-at)
		if err := dtype.Decode(buf[:n], v.Data[at*size:(at+n)*size], v.DType); err != nil {
			return fmt.Errorf("loader: verify: %s: %w", v.Name, err)
		}
		for i, f := range buf[:n] {
			if !(math.Abs(float64(f)) <= math.MaxFloat32) {
				return &FormatError{File: v.Name, Reason: "weight is not finite", Value: fmt.Sprintf("%g at element %d", f, at+i)}
			}
		}
	}
	return nil
}
