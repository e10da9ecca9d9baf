package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// manifest is bin/MANIFEST.json.
type manifest struct {
	Comment string `json:"comment"`
	// Sources is the SHA-256 of all sources; package cuda's tests compare it.
	Sources  string     `json:"sources"`
	Compiler string     `json:"compiler"`
	Files    []artifact `json:"files"`
}

// artifact is one compiled file.
type artifact struct {
	File    string         `json:"file"` // bin/...
	Hash    string         `json:"hash"` // of source, headers and options
	SHA256  string         `json:"sha256"`
	Kernels []kernelReport `json:"kernels,omitempty"`
}

// kernelReport is what the assembler says of a kernel.
type kernelReport struct {
	Name        string `json:"name"`
	Registers   int    `json:"registers"`
	SpillBytes  int    `json:"spill_bytes"`
	StackBytes  int    `json:"stack_bytes"`
	SharedBytes int    `json:"shared_bytes"` // static
	ParamBytes  int    `json:"param_bytes"`
}

// architectures in the order of the manifest; the last is PTX.
var architectures = []string{"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120", "compute_80"}

// compileOptions of an architecture. No fast-math: results are IEEE except where a
// kernel asks for an approximation by name. define names a macro to define, if any.
func compileOptions(arch, define string) []string {
	options := []string{"--gpu-architecture=" + arch, "--std=c++17", "--device-as-default-execution-space", "--dopt=on"}
	if define != "" {
		options = append(options, "--define-macro="+define)
	}
	return options
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sortedKeys(m map[string]string) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

var (
	compilingLine = regexp.MustCompile(`Compiling entry function '(\w+)'`)
	stackLine     = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	usedLine      = regexp.MustCompile(`Used (\d+) registers`)
	smemLine      = regexp.MustCompile(`(\d+) bytes smem`)
)

// parseReport reads the assembler's verbose log.
func parseReport(log string, kernels []kernel, blocks []block) []kernelReport {
	var out []kernelReport
	number := func(re *regexp.Regexp, line string, group int) int {
		if m := re.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[group]) // digits by the expression
			return n
		}
		return 0
	}
	for _, line := range strings.Split(log, "\n") {
		if m := compilingLine.FindStringSubmatch(line); m != nil {
			r := kernelReport{Name: m[1]}
			for _, k := range kernels {
				for _, b := range blocks {
					if k.name == r.Name && b.name == k.params {
						r.ParamBytes = b.size
					}
				}
			}
			out = append(out, r)
		}
		if len(out) == 0 {
			continue
		}
		last := &out[len(out)-1]
		if stackLine.MatchString(line) {
			last.StackBytes = number(stackLine, line, 1)
			last.SpillBytes = number(stackLine, line, 2) + number(stackLine, line, 3)
		}
		if usedLine.MatchString(line) {
			last.Registers = number(usedLine, line, 1)
			last.SharedBytes = number(smemLine, line, 1)
		}
	}
	slices.SortFunc(out, func(a, b kernelReport) int { return strings.Compare(a.Name, b.Name) })
	return out
}
