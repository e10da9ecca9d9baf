package source

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxText bounds a text member (.json, .txt) of a sample in bytes.
const maxText = 1 << 20

// maxMember bounds a picture inside a compressed shard, which must be read when it is listed.
const maxMember = 256 << 20

// isShard reports the name of a tar file.
func isShard(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasSuffix(lower, ".tar") || strings.HasSuffix(lower, ".tar.gz") || strings.HasSuffix(lower, ".tgz")
}

// openRange reads length bytes from an offset; length < 0 = the rest.
type openRange func(ctx context.Context, offset, length int64) (io.ReadCloser, error)

// opener opens ranges of a file.
func opener(name string) openRange {
	return func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
		f, err := os.Open(name)
		if err != nil || length < 0 && offset == 0 {
			return f, err
		}
		if length < 0 {
			length = math.MaxInt64 - offset
		}
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(f, offset, length), f}, nil
	}
}

// shard lists a tar file in the WebDataset naming of img2dataset: members that
// share a stem are one sample, the picture first or last, .json and .txt beside
// it are its fields. An uncompressed shard is read by offset when the item is
// read; a compressed one is read as it is listed, one sample at a time.
func shard(ctx context.Context, name string, open openRange, opts Options) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		f, err := open(ctx, 0, -1)
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		defer f.Close()
		s := &sampler{name: name, open: open, opts: opts, yield: yield}
		cr := &countReader{r: bufio.NewReaderSize(f, 1<<16)}
		var r io.Reader = cr
		if !strings.HasSuffix(strings.ToLower(name), ".tar") {
			z, err := gzip.NewReader(cr)
			if err != nil {
				yield(Item{}, fmt.Errorf("source: %s: %w", name, err))
				return
			}
			s.compressed, r = true, z
		}
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				// A cut shard: what was listed before stays, the rest is one failed item.
				s.flush()
				s.emit(Item{Key: filepath.ToSlash(name) + "#end", Within: name, Err: fmt.Errorf("source: %s: %w", name, err)})
				return
			}
			if h.Typeflag == tar.TypeReg && !s.member(h, tr, cr.n) {
				return
			}
		}
		s.flush()
	}
}

// countReader knows the offset of the next byte. tar.Reader reads headers in
// full blocks, so after Next the offset is that of the member's data.
type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// sampler gathers the members of one stem.
type sampler struct {
	name       string
	open       openRange
	opts       Options
	compressed bool
	yield      func(Item, error) bool
	stem       string
	items      []Item
	fields     map[string]string
	stopped    bool
}

func (s *sampler) emit(it Item) bool {
	if !s.stopped && !s.yield(it, nil) {
		s.stopped = true
	}
	return !s.stopped
}

func (s *sampler) flush() bool {
	for _, it := range s.items {
		it.Fields = s.fields
		s.emit(it)
	}
	s.items, s.fields = nil, nil
	return !s.stopped
}

// member takes one regular member; false ends the listing.
func (s *sampler) member(h *tar.Header, data io.Reader, off int64) bool {
	name := path.Clean(h.Name)
	ext := strings.ToLower(path.Ext(name))
	stem := strings.TrimSuffix(name, path.Ext(name))
	if stem != s.stem {
		if !s.flush() {
			return false
		}
		s.stem = stem
	}
	key := filepath.ToSlash(s.name) + "/" + name
	switch {
	case ext == ".json" || ext == ".txt" || ext == ".caption":
		text, err := readAll(data, key, h.Size, maxText)
		if err != nil {
			return true // fields are optional context; a broken one costs nothing but itself
		}
		s.addText(ext, text)
	case strings.HasPrefix(path.Base(name), "._"):
		return true // resource forks of macOS archives
	case wanted(name, s.opts):
		s.items = append(s.items, s.pictureItem(h, key, name, data, off))
	}
	return true
}

func (s *sampler) addText(ext string, text []byte) {
	if s.fields == nil {
		s.fields = map[string]string{}
	}
	if ext != ".json" {
		s.fields["caption"] = strings.TrimSpace(string(text))
		return
	}
	if f, err := jsonFields(text); err == nil {
		for k, v := range f {
			s.fields[k] = v
		}
	}
}

func (s *sampler) pictureItem(h *tar.Header, key, name string, data io.Reader, off int64) Item {
	kind, _ := kindOf(name)
	it := Item{Key: key, Kind: kind, Within: s.name, Member: name, Size: h.Size, MTime: h.ModTime.UnixNano()}
	if s.compressed {
		body, err := readAll(data, key, h.Size, maxMember)
		it.Err = err
		it.read = func(_ context.Context, limit int64) ([]byte, error) {
			if int64(len(body)) > limit {
				return nil, &TooLargeError{Key: key, Bytes: int64(len(body)), Limit: limit}
			}
			return body, nil
		}
		return it
	}
	size, open := h.Size, s.open
	it.read = func(ctx context.Context, limit int64) ([]byte, error) {
		if size == 0 {
			return nil, nil // a range of no bytes cannot be asked for
		}
		f, err := open(ctx, off, size)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		body, err := readAll(f, key, size, limit)
		if err == nil && int64(len(body)) < size {
			err = fmt.Errorf("source: %s: the shard ends after %d of %d bytes", key, len(body), size)
		}
		return body, err
	}
	return it
}
