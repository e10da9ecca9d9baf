// Package src holds the source text of the CUDA kernels, for cmd/cu2go, the
// simulator and the test that compares the sources with the committed binaries.
package src

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
)

// Files are the kernel sources and their headers.
//
//go:embed *.cu *.cuh
var Files embed.FS

// Texts returns the sources of a folder by file name.
func Texts(dir fs.FS) (map[string]string, error) {
	texts := map[string]string{}
	for _, pattern := range []string{"*.cu", "*.cuh"} {
		names, err := fs.Glob(dir, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			data, err := fs.ReadFile(dir, name)
			if err != nil {
				return nil, err
			}
			texts[name] = string(data)
		}
	}
	return texts, nil
}

// Hash is the SHA-256 of names and texts, in hexadecimal: what bin/MANIFEST.json
// and result files of a device state as their sources.
func Hash(texts map[string]string) string {
	names := make([]string, 0, len(texts))
	for n := range texts {
		names = append(names, n)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%s %d\n%s", n, len(texts[n]), texts[n])
	}
	return hex.EncodeToString(h.Sum(nil))
}
