package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// field is a member of a parameter block.
type field struct {
	name, ctype string
	count       int // elements; 1 for a scalar
	offset      int
}

// block is a parameter block with the layout that C++ gives it.
type block struct {
	name   string
	fields []field
	size   int
	align  int
}

// kernel is one KERNEL line of a source file.
type kernel struct {
	name, params string
	threads      int
	minBlocks    int
}

// ctypes are the scalar types that parse knows: bytes, alignment, Go type.
var ctypes = map[string]struct {
	size, align int
	goType      string
}{
	"ptr":       {8, 8, "driver.Ptr"},
	"i32":       {4, 4, "int32"},
	"i64":       {8, 8, "int64"},
	"f32":       {4, 4, "float32"},
	"tensormap": {128, 64, "driver.TensorMap"},
}

var (
	structLine  = regexp.MustCompile(`^struct (\w+Params) \{$`)
	fieldLine   = regexp.MustCompile(`^  (\w+) (\w+)(?:\[(\d+)\])?;$`)
	kernelLine  = regexp.MustCompile(`(?m)^(?:CLUSTER_)?KERNEL\((\w+), (\w+), (\d+), (\d+)\)`)
	includeLine = regexp.MustCompile(`(?m)^#include "(\w+\.cuh)"$`)
	archsLine   = regexp.MustCompile(`(?m)^// archs: ([\w ]+)$`)
)

// parseBlocks reads the parameter blocks of params.cuh in order.
func parseBlocks(text string) ([]block, error) {
	var out []block
	byName := map[string]block{}
	var open *block
	for i, line := range strings.Split(text, "\n") {
		switch {
		case structLine.MatchString(line):
			open = &block{name: structLine.FindStringSubmatch(line)[1], align: 1}
		case open != nil && line == "};":
			open.size = roundUp(open.size, open.align)
			out = append(out, *open)
			byName[open.name] = *open
			open = nil
		case open != nil:
			m := fieldLine.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("params.cuh:%d: want \"  TYPE name;\", got %q", i+1, line)
			}
			size, align := ctypes[m[1]].size, ctypes[m[1]].align
			if inner, ok := byName[m[1]]; ok {
				size, align = inner.size, inner.align
			}
			if size == 0 {
				return nil, fmt.Errorf("params.cuh:%d: unknown type %q", i+1, m[1])
			}
			f := field{name: m[2], ctype: m[1], count: 1}
			if m[3] != "" {
				f.count, _ = strconv.Atoi(m[3]) // digits by the expression
			}
			f.offset = roundUp(open.size, align)
			open.size = f.offset + size*f.count
			open.align = max(open.align, align)
			open.fields = append(open.fields, f)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("params.cuh: struct %s does not end", open.name)
	}
	return out, nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// parseKernels reads the kernels of a source file and the architectures it names
// ("// archs: sm_90a"), nil for all.
func parseKernels(text string) (kernels []kernel, archs []string) {
	for _, m := range kernelLine.FindAllStringSubmatch(text, -1) {
		threads, _ := strconv.Atoi(m[3]) // digits by the expression
		minBlocks, _ := strconv.Atoi(m[4])
		kernels = append(kernels, kernel{name: m[1], params: m[2], threads: threads, minBlocks: minBlocks})
	}
	if m := archsLine.FindStringSubmatch(text); m != nil {
		archs = strings.Fields(m[1])
	}
	return kernels, archs
}

// goName turns snake_case into CamelCase.
func goName(s string) string {
	var b strings.Builder
	for _, part := range strings.Split(s, "_") {
		if part == "" {
			continue
		}
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// included lists the headers that a source includes, themselves or through others.
func included(text string, headers map[string]string) []string {
	found := map[string]string{}
	var visit func(string)
	visit = func(text string) {
		for _, m := range includeLine.FindAllStringSubmatch(text, -1) {
			if _, ok := found[m[1]]; !ok {
				found[m[1]] = headers[m[1]]
				visit(headers[m[1]])
			}
		}
	}
	visit(text)
	return sortedKeys(found)
}
