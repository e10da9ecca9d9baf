package parity

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"metacap/loader"
	"metacap/vision"
)

// maxFileBytes bounds an uncompressed golden file.
const maxFileBytes = 2 << 30

// readFile returns the content of a file, or of its compressed form name.gz.
func readFile(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	packed, zerr := os.Open(name + ".gz")
	if zerr != nil {
		return nil, err // of the plain name
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, fmt.Errorf("%s.gz: %w", name, err)
	}
	data, err = io.ReadAll(io.LimitReader(z, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s.gz: %w", name, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s.gz: more than %d bytes", name, maxFileBytes)
	}
	return data, nil
}

// exists reports whether a file or its compressed form is there.
func exists(name string) bool {
	for _, n := range []string{name, name + ".gz"} {
		if _, err := os.Stat(n); err == nil {
			return true
		}
	}
	return false
}

// readJSON decodes a JSON file, compressed or not.
func readJSON(name string, v any) error {
	data, err := readFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readLines decodes a file with one JSON object a line, compressed or not.
func readLines[T any](name string) ([]T, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var rows []T
	in := bufio.NewScanner(bytes.NewReader(data))
	in.Buffer(nil, len(data)+1)
	for in.Scan() {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var row T
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", name, len(rows)+1, err)
		}
		rows = append(rows, row)
	}
	return rows, in.Err()
}

// openTensors opens a safetensors file, compressed or not. The cleanup must be called.
func openTensors(name string) (t *loader.Tensors, cleanup func(), err error) {
	if _, err := os.Stat(name); err == nil {
		t, err := loader.OpenTensors(name)
		if err != nil {
			return nil, nil, err
		}
		return t, func() { t.Close() }, nil
	}
	data, err := readFile(name)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "metacap-parity")
	if err != nil {
		return nil, nil, err
	}
	plain := filepath.Join(dir, filepath.Base(name))
	if err = os.WriteFile(plain, data, 0o600); err == nil {
		t, err = loader.OpenTensors(plain)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return t, func() { t.Close(); os.RemoveAll(dir) }, nil
}

// unpack copies a folder's files to a temporary folder, name.gz as name, without
// the goldens of the tokenizer part. The cleanup must be called.
func unpack(dir string) (plain string, cleanup func(), err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, err
	}
	plain, err = os.MkdirTemp("", "metacap-parity")
	if err != nil {
		return "", nil, err
	}
	cleanup = func() { os.RemoveAll(plain) }
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".gz")
		if e.IsDir() || name == encodeFile || name == streamFile {
			continue
		}
		data, err := readFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(plain, name), data, 0o600)
		}
		if err != nil {
			cleanup()
			return "", nil, err
		}
	}
	return plain, cleanup, nil
}

// readRGB reads a stored lossless picture.
func readRGB(name string) (*vision.Picture, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return vision.FromImage(img, vision.Options{Exact: true, Name: name})
}
