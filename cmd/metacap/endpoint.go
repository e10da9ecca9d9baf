package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"metacap/capflow"
	"metacap/capflow/endpoint"
	"metacap/internal/demo"
)

// endpointFlags put servers behind roles of a flow.
type endpointFlags struct {
	Endpoint         []string      `sep:"none" placeholder:"ROLE=URL#MODEL" help:"Let a server with OpenAI's protocol play a role: router, agent, summarizer, verifier, judge or all. May be repeated." group:"endpoint"`
	APIKey           string        `name:"api-key" placeholder:"KEY" help:"Key for --endpoint; better as METACAP_API_KEY." group:"endpoint"`
	EndpointTimeout  time.Duration `default:"2m" placeholder:"TIME" help:"Longest wait for one answer." group:"endpoint"`
	EndpointTries    int           `default:"4" placeholder:"N" help:"Tries of a request." group:"endpoint"`
	EndpointParallel int           `default:"8" placeholder:"N" help:"Requests at a time, each endpoint." group:"endpoint"`
	PriceIn          float64       `default:"0" placeholder:"USD" help:"Price of a million prompt tokens." group:"endpoint"`
	PriceOut         float64       `default:"0" placeholder:"USD" help:"Price of a million answer tokens." group:"endpoint"`
}

// roles opens the endpoints.
func (f *endpointFlags) roles() (map[capflow.Role]capflow.Model, error) {
	out := map[capflow.Role]capflow.Model{}
	for _, s := range f.Endpoint {
		role, rest, ok := strings.Cut(s, "=")
		address, name, named := strings.Cut(rest, "#")
		if !ok || !named {
			return nil, fmt.Errorf("--endpoint %q, want ROLE=URL#MODEL, as judge=http://host:8000/v1#name", s)
		}
		if err := checkRole(role); err != nil {
			return nil, err
		}
		m, err := endpoint.New(endpoint.Options{
			URL: address, Model: name, APIKey: f.APIKey, Timeout: f.EndpointTimeout, Tries: f.EndpointTries, Parallel: f.EndpointParallel,
			PriceIn: f.PriceIn, PriceOut: f.PriceOut,
		})
		if err != nil {
			return nil, err
		}
		for _, r := range capflow.Roles() {
			if role == "all" || role == string(r) {
				out[r] = m
			}
		}
	}
	return out, nil
}

// headBytes is what modelInfo reads of each weight file: safetensors begin with
// the names, shapes and places of all tensors.
const headBytes = 1 << 20

// modelInfo identifies a checkpoint: digests of its config, and of the names,
// sizes and first MiB of its weight files.
func modelInfo(f *engineFlags) (capflow.ModelInfo, error) {
	b := build()
	info := capflow.ModelInfo{Name: f.name(), Engine: strings.TrimSpace(b.Version + " " + b.Commit)}
	fsys := fs.FS(demo.FS())
	if !f.embedded() {
		fsys = os.DirFS(f.Model)
	}
	names, err := fs.Glob(fsys, "*.safetensors")
	if err != nil {
		return info, err
	}
	slices.Sort(names)
	weights := sha256.New()
	for _, name := range names {
		file, err := fsys.Open(name)
		if err != nil {
			return info, err
		}
		st, err := file.Stat()
		if err == nil {
			fmt.Fprintf(weights, "%s %d\n", filepath.Base(name), st.Size())
			_, err = io.Copy(weights, io.LimitReader(file, headBytes))
		}
		file.Close()
		if err != nil {
			return info, err
		}
	}
	info.Weights = hex.EncodeToString(weights.Sum(nil))
	config, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return info, err
	}
	sum := sha256.Sum256(config)
	info.Config = hex.EncodeToString(sum[:])
	return info, nil
}
