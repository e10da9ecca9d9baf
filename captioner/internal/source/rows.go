package source

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// maxRow bounds a line of a list or table in bytes; rows may carry a picture as base64.
const maxRow = 64 << 20

// maxListDepth bounds lists that name lists.
const maxListDepth = 3

// pathColumns are the names under which tables give the picture, first match wins.
var pathColumns = []string{"image", "path", "file", "file_name", "filename", "image_path", "uri", "video"}

// list reads paths, one a line (or NUL-separated). Blank lines and lines that
// start with '#' are passed over. Relative paths are relative to the list's
// directory if they exist there, else to the working directory.
func list(ctx context.Context, name string, opts Options, depth int) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if depth >= maxListDepth {
			yield(Item{}, fmt.Errorf("source: %s: lists nested deeper than %d", name, maxListDepth))
			return
		}
		r, base, closer, err := openList(name, opts)
		if err != nil {
			yield(Item{}, err)
			return
		}
		defer closer()
		sc := bufio.NewScanner(r)
		sc.Buffer(make([]byte, 64<<10), 1<<20)
		if opts.NUL {
			sc.Split(splitNUL)
		}
		for sc.Scan() {
			line := strings.TrimSuffix(sc.Text(), "\r")
			if !opts.NUL && (strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#")) {
				continue
			}
			if !IsRemote(line) {
				line = resolve(base, line)
			}
			if !listed(ctx, line, opts, depth, yield) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(Item{}, fmt.Errorf("source: list %s: %w", name, err))
		}
	}
}

func openList(name string, opts Options) (io.Reader, string, func(), error) {
	if name == "-" {
		if opts.Stdin == nil {
			return nil, "", nil, errors.New("source: a list on standard input is not available here")
		}
		return opts.Stdin, "", func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, "", nil, fmt.Errorf("source: %w", err)
	}
	return f, filepath.Dir(name), func() { _ = f.Close() }, nil
}

// listed yields what one line names; a path that does not exist is an item with an error.
func listed(ctx context.Context, path string, opts Options, depth int, yield func(Item, error) bool) bool {
	if _, err := os.Stat(path); err != nil && !hasMeta(path) && !IsRemote(path) {
		return yield(Item{Key: filepath.ToSlash(path), Path: path, Err: fmt.Errorf("source: %w", err)}, nil)
	}
	for it, err := range one(ctx, path, opts, depth+1) {
		if !yield(it, err) || err != nil {
			return false
		}
	}
	return true
}

func splitNUL(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func resolve(base, path string) string {
	if filepath.IsAbs(path) || base == "" {
		return filepath.Clean(path)
	}
	if p := filepath.Join(base, path); exists(p) || !exists(path) {
		return p
	}
	return filepath.Clean(path)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// jsonl reads one JSON object a line; see rowItem for its fields.
func jsonl(ctx context.Context, name string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		defer f.Close()
		sc := bufio.NewScanner(f)
		sc.Buffer(make([]byte, 64<<10), maxRow)
		for n := 1; sc.Scan(); n++ {
			if len(bytes.TrimSpace(sc.Bytes())) == 0 {
				continue
			}
			fields, err := jsonFields(sc.Bytes())
			it := rowItem(name, n, fields)
			if err != nil {
				it.Err = fmt.Errorf("source: %s line %d: %w", name, n, err)
			}
			if !yield(it, nil) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(Item{}, fmt.Errorf("source: %s: %w (longest row: %d bytes)", name, err, maxRow))
		}
	}
}

// jsonFields flattens the top level of an object: strings as they are, other
// values as their JSON text.
func jsonFields(line []byte) (map[string]string, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, err
	}
	fields := make(map[string]string, len(raw))
	for k, v := range raw {
		var s string
		if json.Unmarshal(v, &s) == nil {
			fields[k] = s
		} else {
			fields[k] = string(v)
		}
	}
	return fields, nil
}

// table reads CSV or TSV with a header line.
func table(ctx context.Context, name string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		defer f.Close()
		r := csv.NewReader(bufio.NewReaderSize(f, 1<<16))
		if strings.HasSuffix(strings.ToLower(name), ".tsv") {
			r.Comma, r.LazyQuotes = '\t', true
		}
		r.FieldsPerRecord = -1
		head, err := r.Read()
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %s: header: %w", name, err))
			return
		}
		for n := 2; ; n++ {
			row, err := r.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			fields := make(map[string]string, len(head))
			for i, v := range row {
				if i < len(head) {
					fields[head[i]] = v
				}
			}
			it := rowItem(name, n, fields)
			if err != nil {
				it.Err = fmt.Errorf("source: %s line %d: %w", name, n, err)
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

// rowItem makes the item of one table row. The picture is a path, or bytes as
// "data:image/...;base64,..." in the same column. URLs are not fetched.
func rowItem(within string, line int, fields map[string]string) Item {
	it := Item{Key: fmt.Sprintf("%s#%d", filepath.ToSlash(within), line), Within: within, Fields: fields}
	var value, column string
	for _, c := range pathColumns {
		if v := fields[c]; v != "" {
			value, column = v, c
			break
		}
	}
	switch {
	case value == "":
		it.Err = fmt.Errorf("source: %s line %d: no column of %s holds a path", within, line, strings.Join(pathColumns, ", "))
	case strings.HasPrefix(value, "data:"):
		delete(fields, column)
		it.Member = fmt.Sprintf("line %d", line)
		it.Size = int64(len(value)) * 3 / 4
		it.read = func(_ context.Context, limit int64) ([]byte, error) { return dataURL(it.Key, value, limit) }
	case strings.HasPrefix(value, "http://"), strings.HasPrefix(value, "https://"):
		it.Err = fmt.Errorf("source: %s line %d: %s: nothing is downloaded; fetch the pictures first", within, line, value)
	default:
		path := resolve(filepath.Dir(within), strings.TrimPrefix(value, "file://"))
		it.Path = path
		it.Kind, _ = kindOf(path)
		st, err := os.Stat(path)
		if err != nil {
			it.Err = fmt.Errorf("source: %s line %d: %w", within, line, err)
			break
		}
		f := fileItem(path, st)
		it.Size, it.MTime, it.Err = f.Size, f.MTime, f.Err
	}
	return it
}

func dataURL(key, value string, limit int64) ([]byte, error) {
	head, body, ok := strings.Cut(value, ",")
	if !ok || !strings.HasSuffix(head, ";base64") {
		return nil, fmt.Errorf("source: %s: a data URL must be base64", key)
	}
	if n := int64(base64.StdEncoding.DecodedLen(len(body))); n > limit {
		return nil, &TooLargeError{Key: key, Bytes: n, Limit: limit}
	}
	data, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("source: %s: data URL: %w", key, err)
	}
	return data, nil
}
