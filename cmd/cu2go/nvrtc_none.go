//go:build !linux || (!amd64 && !arm64)

package main

import "errors"

// compiler is absent: NVRTC's Python package is used on linux only.
type compiler struct{}

func loadCompiler(string) (*compiler, error) {
	return nil, errors.New("the compiler is used on linux on amd64 or arm64 only")
}

func (*compiler) compile(string, string, map[string]string, string, []string) ([]byte, string, error) {
	return nil, "", errors.New("no compiler")
}
