package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"metacap/loader/internal/format"
	"metacap/loader/internal/mapfile"
)

// Checkpoint is an open model directory: configuration and mapped weights.
// Methods are safe for concurrent use, except Close.
type Checkpoint struct {
	*Tensors
	Path       string // as given to Open
	Config     Config
	Generation Generation
	Processor  Processor

	src   source
	canon map[string]*pieces // canonical name -> stored tensors
}

// Open opens the checkpoint in a directory: it parses the configuration and the
// weight files' headers, and maps the weights without reading them. A checkpoint
// of 17 GB opens in milliseconds.
//
// Errors: ErrNoCheckpoint, *UnsupportedError (a family or feature we lack),
// *FormatError (broken file, value out of limits), joined when there are several
// in one file. Weights are checked against the configuration by Require.
func Open(dir string) (*Checkpoint, error) {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is a file, not a directory", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("loader: open: %w: %w", ErrNoCheckpoint, err)
	}
	return open(dirSource(dir), dir)
}

// OpenFS opens the checkpoint in directory name of a file system ("." for its
// root). Files are used in place if fsys is a [BytesFS], else read into memory.
func OpenFS(fsys fs.FS, name string) (*Checkpoint, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("loader: open %q: %w", name, fs.ErrInvalid)
	}
	return open(fsSource{fsys, name}, name)
}

func splitPath(file string) (dir, base string) {
	dir, base = filepath.Split(file)
	if dir == "" {
		dir = "."
	}
	return dir, base
}

func open(src source, where string) (*Checkpoint, error) {
	c := &Checkpoint{Path: where, src: src}
	if err := c.readConfigs(); err != nil {
		return nil, err
	}
	shards, index, err := shardFiles(src)
	if err != nil {
		return nil, err
	}
	if c.Tensors, err = openShards(src, shards, index); err != nil {
		return nil, err
	}
	if c.canon, err = canonicalise(c.Tensors); err == nil {
		err = c.refine()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readConfigs parses config.json, generation_config.json and preprocessor_config.json.
func (c *Checkpoint) readConfigs() error {
	data, ok, err := readCapped(c.src, configName, format.MaxConfigBytes)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("loader: %s: %w: no %s", c.Path, ErrNoCheckpoint, configName)
	}
	if c.Config, err = ParseConfig(data); err != nil {
		return err
	}
	gen, _, genErr := readCapped(c.src, generationName, format.MaxConfigBytes)
	if genErr == nil {
		c.Generation, genErr = ParseGeneration(gen)
	}
	proc, _, procErr := readCapped(c.src, processorName, format.MaxConfigBytes)
	if procErr == nil && c.Config.HasVision() {
		c.Processor, procErr = ParseProcessor(proc, &c.Config)
	}
	return errors.Join(genErr, procErr)
}

// BytesFS is a file system whose files are already in memory, such as a model
// embedded in the binary. Bytes returns the content of a file without a copy; the
// slice stays valid and unchanged for the life of the process. OpenFS uses it
// where it exists and reads files into memory otherwise.
type BytesFS interface {
	fs.FS
	Bytes(name string) ([]byte, bool)
}

// source is where the files of a checkpoint are: a directory or an fs.FS.
// Names are plain base names.
type source interface {
	size(name string) (int64, error) // fs.ErrNotExist if it is not there
	read(name string) ([]byte, error)
	open(name string) (*mapfile.File, error)
	list() ([]string, error)
}

type dirSource string

// stat refuses everything that is not a regular file before it is opened: opening a pipe would hang.
func (d dirSource) size(name string) (int64, error) {
	st, err := os.Stat(filepath.Join(string(d), name))
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, &FormatError{File: name, Reason: "not a regular file", Value: st.Mode().Type().String()}
	}
	return st.Size(), nil
}

func (d dirSource) read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), name))
}

func (d dirSource) open(name string) (*mapfile.File, error) {
	if _, err := d.size(name); err != nil {
		return nil, err
	}
	return mapfile.Open(filepath.Join(string(d), name))
}

func (d dirSource) list() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	return names(entries), err
}

type fsSource struct {
	fs  fs.FS
	dir string
}

func (s fsSource) size(name string) (int64, error) {
	if b, ok := s.bytes(name); ok {
		return int64(len(b)), nil
	}
	st, err := fs.Stat(s.fs, path.Join(s.dir, name))
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, &FormatError{File: name, Reason: "not a regular file", Value: st.Mode().Type().String()}
	}
	return st.Size(), nil
}

func (s fsSource) bytes(name string) ([]byte, bool) {
	if m, ok := s.fs.(BytesFS); ok {
		return m.Bytes(path.Join(s.dir, name))
	}
	return nil, false
}

func (s fsSource) read(name string) ([]byte, error) {
	if b, ok := s.bytes(name); ok {
		return b, nil
	}
	return fs.ReadFile(s.fs, path.Join(s.dir, name))
}

func (s fsSource) open(name string) (*mapfile.File, error) {
	b, err := s.read(name)
	if err != nil {
		return nil, err
	}
	return mapfile.Memory(b), nil
}

func (s fsSource) list() ([]string, error) {
	entries, err := fs.ReadDir(s.fs, s.dir)
	return names(entries), err
}

func names(entries []fs.DirEntry) []string {
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

// readCapped reads a small file after checking its size. ok is false if it is not there.
func readCapped(src source, name string, limit int64) (data []byte, ok bool, err error) {
	size, err := src.size(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("loader: read %s: %w", name, err)
	}
	if size > limit {
		return nil, false, &FormatError{File: name, Field: "file size", Reason: "too large", Value: fmt.Sprintf("%d bytes", size), Limit: fmt.Sprintf("%d bytes", limit)}
	}
	if data, err = src.read(name); err != nil {
		return nil, false, fmt.Errorf("loader: read %s: %w", name, err)
	}
	return data, true, nil
}

const (
	indexName  = "model.safetensors.index.json"
	singleName = "model.safetensors"
)

// shardFiles returns the weight files of a checkpoint and, for an index, the
// shard of each tensor. A single model.safetensors wins over an index, as in transformers.
func shardFiles(src source) (shards []string, index map[string]string, err error) {
	if _, err := src.size(singleName); err == nil {
		return []string{singleName}, nil, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("loader: open %s: %w", singleName, err)
	}
	data, ok, err := readCapped(src, indexName, format.MaxIndexBytes)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, noWeights(src)
	}
	if index, err = format.ParseIndex(indexName, data); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for _, shard := range index {
		if !seen[shard] {
			seen[shard] = true
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards, index, nil
}

// noWeights explains what a directory without safetensors holds instead.
func noWeights(src source) error {
	files, err := src.list()
	if err != nil {
		return fmt.Errorf("loader: list checkpoint: %w", err)
	}
	for _, f := range files {
		hint := ""
		switch ext := path.Ext(f); {
		case ext == ".bin" || ext == ".pt" || ext == ".pth" || ext == ".ckpt" || ext == ".pkl":
			hint = "pickled weights can run code and are never read; convert them to safetensors"
		case ext == ".gguf":
			hint = "GGUF weights are not read; use the safetensors checkpoint"
		case strings.HasPrefix(f, "adapter_model"):
			hint = "this is a LoRA adapter; merge it into its base model first"
		}
		if hint != "" {
			return fmt.Errorf("loader: %w: neither %s nor %s, only %s: %s", ErrNoCheckpoint, singleName, indexName, f, hint)
		}
	}
	return fmt.Errorf("loader: %w: neither %s nor %s", ErrNoCheckpoint, singleName, indexName)
}

// plainName reports whether name is a base name that cannot leave its directory.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\\:\x00")
}

// ReadFile reads another file of the checkpoint (tokenizer.json,
// chat_template.jinja, …) of at most limit bytes. The error wraps
// fs.ErrNotExist if there is none. The bytes must not be changed.
func (c *Checkpoint) ReadFile(name string, limit int64) ([]byte, error) {
	if !plainName(name) {
		return nil, fmt.Errorf("loader: read %q: not a plain file name: %w", name, fs.ErrInvalid)
	}
	data, ok, err := readCapped(c.src, name, min(limit, math.MaxInt-1))
	if err == nil && !ok {
		err = fmt.Errorf("loader: read %s: %w", name, fs.ErrNotExist)
	}
	return data, err
}

// Files are the base names of all files beside the checkpoint's config.json.
func (c *Checkpoint) Files() ([]string, error) { return c.src.list() }
