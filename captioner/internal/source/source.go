// Package source finds the inputs of a captioning job: files, directories, lists,
// tables and tar shards, in a stable natural order, one at a time, without
// holding the whole listing in memory.
//
// A problem of one input (unreadable, a directory named like a picture, a row
// without a path) is an Item with Err set, so that the job can record it and go
// on; the error of the iterator itself ends the listing.
package source

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// Kind says how an item is read.
type Kind uint8

// Kinds of items.
const (
	Image  Kind = iota // one encoded picture
	Video              // a file that ffmpeg reads, or an animation
	Frames             // a directory whose pictures are the frames of one video
)

func (k Kind) String() string { return [...]string{"image", "video", "frames"}[k] }

// Item is one input. It holds no pixels: Read fetches the bytes.
type Item struct {
	N      int64             // place in the input order, from 0
	Key    string            // unique within the job: the path, or container and member
	Kind   Kind              //
	Path   string            // the file on disk; empty for a member of a container
	Member string            // name inside Container
	Within string            // path of the tar shard or table that names the item; empty for plain files
	Size   int64             // bytes, 0 when unknown
	MTime  int64             // nanoseconds since 1970, 0 when unknown
	Fields map[string]string // columns of the row, or text members of the same sample
	Err    error             // why the item cannot be read; the job records it
	read   func(ctx context.Context, limit int64) ([]byte, error)
}

// TooLargeError says that an input has more bytes than the job reads.
type TooLargeError struct {
	Key          string
	Bytes, Limit int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("source: %s: %d bytes exceed the limit of %d", e.Key, e.Bytes, e.Limit)
}

// Read returns the encoded bytes, at most limit of them, else *TooLargeError.
func (it *Item) Read(ctx context.Context, limit int64) ([]byte, error) {
	if it.Err != nil {
		return nil, it.Err
	}
	if it.Size > limit {
		return nil, &TooLargeError{Key: it.Key, Bytes: it.Size, Limit: limit}
	}
	if it.read != nil {
		return it.read(ctx, limit)
	}
	f, err := os.Open(it.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, it.Key, it.Size, limit)
}

// readAll reads r up to limit bytes; hint sizes the first allocation.
func readAll(r io.Reader, key string, hint, limit int64) ([]byte, error) {
	buf := make([]byte, 0, min(max(hint, 512), limit)+1)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, &TooLargeError{Key: key, Bytes: int64(len(buf)), Limit: limit}
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, fmt.Errorf("source: read %s: %w", key, err)
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// Options select among what the inputs hold.
type Options struct {
	NoRecurse bool     // only the top of each directory
	Include   []string // glob patterns on the base name or the path; empty = all known types
	Exclude   []string // glob patterns; win over Include
	Hidden    bool     // also names that start with a dot
	FrameDirs bool     // a directory that holds only pictures is one video
	NUL       bool     // lists are NUL-separated instead of by line
	Stdin     io.Reader
	Remote    Remote // of inputs that start with s3://; nil = there are none
	Shard     Shard
	Sample    int   // keep this many, chosen uniformly by SampleSeed; 0 = all
	Seed      int64 // of Sample
	Limit     int64 // stop after this many; 0 = all
}

// Shard is part Index of Count equal parts; the zero value is the whole.
// Every key belongs to exactly one part, whatever else is listed.
type Shard struct{ Index, Count int }

// Has reports whether key belongs to the part.
func (s Shard) Has(key string) bool {
	return s.Count <= 1 || int(hashKey(key, 0)%uint64(s.Count)) == s.Index
}

func hashKey(key string, seed int64) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d:%s", seed, key)
	x := h.Sum64()
	// Finish with a mix: FNV's low bits alone follow the last byte.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// List yields the items of inputs in order. Inputs are files, directories, glob
// patterns, "-" (a list on Options.Stdin), lists (.txt, .lst), tables (.jsonl,
// .csv, .tsv), tar shards (.tar, .tar.gz, .tgz) and, of an object store, pictures,
// shards and prefixes ("s3://bucket/prefix").
func List(ctx context.Context, inputs []string, opts Options) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		threshold := ^uint64(0)
		if opts.Sample > 0 {
			var err error
			if threshold, err = sampleThreshold(ctx, inputs, opts); err != nil {
				yield(Item{}, err)
				return
			}
		}
		var n, kept int64
		for it, err := range all(ctx, inputs, opts) {
			if err != nil {
				yield(Item{}, err)
				return
			}
			it.N = n
			n++
			if !opts.Shard.Has(it.Key) || (opts.Sample > 0 && hashKey(it.Key, opts.Seed+1) > threshold) {
				continue
			}
			if !yield(it, nil) {
				return
			}
			if kept++; opts.Limit > 0 && kept >= opts.Limit {
				return
			}
		}
	}
}

// sampleThreshold returns the hash of the Sample-th smallest key, so that a
// second pass can choose the same keys without storing them.
func sampleThreshold(ctx context.Context, inputs []string, opts Options) (uint64, error) {
	if opts.Stdin != nil {
		for _, in := range inputs {
			if in == "-" {
				return 0, fmt.Errorf("source: --sample needs two passes over the inputs and cannot read them from standard input; write the list to a file")
			}
		}
	}
	var h maxHeap
	for it, err := range all(ctx, inputs, opts) {
		if err != nil {
			return 0, err
		}
		if opts.Shard.Has(it.Key) {
			h.offer(hashKey(it.Key, opts.Seed+1), opts.Sample)
		}
	}
	if len(h) < opts.Sample {
		return ^uint64(0), nil
	}
	return h[0], nil
}

// all chains the inputs and refuses to name a key twice: the second is skipped.
func all(ctx context.Context, inputs []string, opts Options) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for _, in := range inputs {
			for it, err := range one(ctx, in, opts, 0) {
				if cerr := ctx.Err(); cerr != nil && err == nil {
					err = cerr
				}
				if !yield(it, err) || err != nil {
					return
				}
			}
		}
	}
}

// one lists a single input. depth guards lists that name lists.
func one(ctx context.Context, in string, opts Options, depth int) iter.Seq2[Item, error] {
	if in == "-" {
		return list(ctx, "-", opts, depth)
	}
	if IsRemote(in) {
		return remote(ctx, in, opts)
	}
	st, err := os.Stat(in)
	switch {
	case err != nil && hasMeta(in):
		return glob(ctx, in, opts, depth)
	case err != nil:
		return fail(fmt.Errorf("source: %w", err))
	case st.IsDir():
		return dir(ctx, filepath.Clean(in), opts)
	}
	switch lower := strings.ToLower(in); {
	case isShard(in):
		return shard(ctx, in, opener(in), opts)
	case strings.HasSuffix(lower, ".jsonl"), strings.HasSuffix(lower, ".ndjson"):
		return jsonl(ctx, in)
	case strings.HasSuffix(lower, ".csv"), strings.HasSuffix(lower, ".tsv"):
		return table(ctx, in)
	case strings.HasSuffix(lower, ".parquet"):
		return parquetRows(ctx, in)
	case strings.HasSuffix(lower, ".txt"), strings.HasSuffix(lower, ".lst"):
		return list(ctx, in, opts, depth)
	}
	// A file named by hand is an input whatever its name.
	return func(yield func(Item, error) bool) { yield(fileItem(filepath.Clean(in), st), nil) }
}

func fail(err error) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) { yield(Item{}, err) }
}

func hasMeta(s string) bool { return strings.ContainsAny(s, "*?[") }

func glob(ctx context.Context, pattern string, opts Options, depth int) iter.Seq2[Item, error] {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return fail(fmt.Errorf("source: pattern %q: %w", pattern, err))
	}
	if len(names) == 0 {
		return fail(fmt.Errorf("source: no file matches %q", pattern))
	}
	sortNatural(names)
	return func(yield func(Item, error) bool) {
		for _, name := range names {
			for it, err := range one(ctx, name, opts, depth) {
				if !yield(it, err) || err != nil {
					return
				}
			}
		}
	}
}

// maxHeap keeps the smallest values offered, the largest of them first.
type maxHeap []uint64

func (h *maxHeap) offer(v uint64, keep int) {
	s := *h
	if len(s) < keep {
		s = append(s, v)
		for i := len(s) - 1; i > 0 && s[i] > s[(i-1)/2]; i = (i - 1) / 2 {
			s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
		}
		*h = s
		return
	}
	if v >= s[0] {
		return
	}
	s[0] = v
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(s) {
			return
		}
		if c+1 < len(s) && s[c+1] > s[c] {
			c++
		}
		if s[i] >= s[c] {
			return
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
}
