package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"metacap/kernels/cuda/src"
)

// sourceFile is a .cu file.
type sourceFile struct {
	name, text string
	kernels    []kernel
	archs      []string
}

func (f sourceFile) stem() string { return strings.TrimSuffix(f.name, ".cu") }

func main() {
	dir := flag.String("dir", "kernels/cuda", "folder of package cuda")
	nvrtc := flag.String("nvrtc", "build/nvrtc", "folder that holds libnvrtc.so.12")
	all := flag.Bool("all", false, "recompile everything")
	jobs := flag.Int("j", 2, "compilations at a time")
	define := flag.String("define", "", "macro to define (MC_BOUNDED_WAIT: barriers trap after two seconds)")
	flag.Parse()
	if err := run(*dir, *nvrtc, *define, *all, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "cu2go:", err)
		os.Exit(1)
	}
}

func run(dir, nvrtc, define string, all bool, jobs int) error {
	texts, err := src.Texts(os.DirFS(filepath.Join(dir, "src")))
	if err != nil {
		return err
	}
	blocks, err := parseBlocks(texts["params.cuh"])
	if err != nil {
		return err
	}
	texts["layout_gen.cuh"] = layoutHeader(blocks)
	headers := map[string]string{}
	var files []sourceFile
	for _, name := range sortedKeys(texts) {
		if strings.HasSuffix(name, ".cuh") {
			headers[name] = texts[name]
			continue
		}
		f := sourceFile{name: name, text: texts[name]}
		if f.kernels, f.archs = parseKernels(f.text); f.archs == nil {
			f.archs = architectures
		}
		files = append(files, f)
	}
	mirror, err := goFile(blocks, files)
	if err != nil {
		return err
	}
	if err := writeIfChanged(filepath.Join(dir, "src", "layout_gen.cuh"), []byte(texts["layout_gen.cuh"])); err != nil {
		return err
	}
	if err := writeIfChanged(filepath.Join(dir, "kernels_gen.go"), mirror); err != nil {
		return err
	}
	b := &builder{bin: filepath.Join(dir, "bin"), nvrtc: nvrtc, define: define, headers: headers, blocks: blocks, all: all, old: map[string]artifact{}}
	return b.build(files, src.Hash(texts), jobs)
}

func writeIfChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(path, data, 0o644)
}

// builder compiles files that changed.
type builder struct {
	bin, nvrtc string
	define     string
	headers    map[string]string
	blocks     []block
	all        bool
	old        map[string]artifact

	load     sync.Once
	compiler *compiler
	loadErr  error
}

func (b *builder) build(files []sourceFile, sources string, jobs int) error {
	if err := os.MkdirAll(b.bin, 0o755); err != nil {
		return err
	}
	manifestPath := filepath.Join(b.bin, "MANIFEST.json")
	if data, err := os.ReadFile(manifestPath); err == nil {
		var m manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return fmt.Errorf("%s: %w", manifestPath, err)
		}
		for _, a := range m.Files {
			b.old[a.File] = a
		}
	}
	type task struct {
		f    sourceFile
		arch string
	}
	var tasks []task
	for _, f := range files {
		for _, arch := range f.archs {
			tasks = append(tasks, task{f, arch})
		}
	}
	out := make([]artifact, len(tasks))
	errs := make([]error, len(tasks))
	limit := make(chan struct{}, max(1, jobs))
	var wg sync.WaitGroup
	for i, t := range tasks {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			out[i], errs[i] = b.one(t.f, t.arch)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if err := b.removeStale(out); err != nil {
		return err
	}
	slices.SortFunc(out, func(x, y artifact) int { return strings.Compare(x.File, y.File) })
	m := manifest{Comment: header, Sources: sources, Compiler: "NVRTC 12.9", Files: out}
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return writeIfChanged(manifestPath, append(data, '\n'))
}

// removeStale deletes compiled files that no source makes any more.
func (b *builder) removeStale(made []artifact) error {
	entries, err := os.ReadDir(b.bin)
	if err != nil {
		return err
	}
	for _, e := range entries {
		known := slices.ContainsFunc(made, func(a artifact) bool { return a.File == e.Name() })
		if strings.HasSuffix(e.Name(), ".gz") && !known {
			if err := os.Remove(filepath.Join(b.bin, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// one compiles a file for an architecture unless the result is up to date.
func (b *builder) one(f sourceFile, arch string) (artifact, error) {
	ext := "cubin"
	if strings.HasPrefix(arch, "compute_") {
		ext = "ptx"
	}
	a := artifact{File: fmt.Sprintf("%s.%s.%s.gz", f.stem(), arch, ext)}
	options := compileOptions(arch, b.define)
	parts := append(slices.Clip(options), f.text)
	for _, n := range included(f.text, b.headers) {
		parts = append(parts, n, b.headers[n])
	}
	a.Hash = hash(parts...)
	path := filepath.Join(b.bin, a.File)
	if old := b.old[a.File]; !b.all && old.Hash == a.Hash {
		if data, err := os.ReadFile(path); err == nil && digest(data) == old.SHA256 {
			return old, nil
		}
	}
	b.load.Do(func() { b.compiler, b.loadErr = loadCompiler(b.nvrtc) })
	if b.loadErr != nil {
		return a, b.loadErr
	}
	code, log, err := b.compiler.compile(f.name, f.text, b.headers, arch, options)
	if err != nil {
		return a, err
	}
	for _, line := range strings.Split(log, "\n") {
		if l := strings.ToLower(line); strings.Contains(l, "warning") || strings.Contains(l, "performance") {
			fmt.Println(line)
		}
	}
	a.Kernels = parseReport(log, f.kernels, b.blocks)
	if ext == "cubin" && len(a.Kernels) != len(f.kernels) {
		return a, fmt.Errorf("%s for %s: the compiler reports %d kernels, the source has %d", f.name, arch, len(a.Kernels), len(f.kernels))
	}
	data, err := compress(code)
	if err != nil {
		return a, err
	}
	a.SHA256 = digest(data)
	fmt.Printf("%-40s %6d bytes\n", a.File, len(data))
	return a, os.WriteFile(path, data, 0o644)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// compress makes a gzip file without a time stamp.
func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
