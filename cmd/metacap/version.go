package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"metacap/internal/demo"
)

// version is set by the linker; the build information is used without it.
var version string

// versionCmd is metacap version.
type versionCmd struct {
	JSON bool `name:"json" help:"As one JSON object."`
}

func (*versionCmd) examples() string {
	return `
  metacap version
  metacap version --json
`
}

// buildRecord describes the binary.
type buildRecord struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	System  string `json:"system"`
	Cgo     bool   `json:"cgo"` // C kernels compiled in
	Model   bool   `json:"embedded_model"`
}

// build reads the build information of this binary.
func build() buildRecord {
	r := buildRecord{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Model: demo.Included()}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if r.Version == "" {
			r.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				r.Commit = s.Value
			case "CGO_ENABLED":
				r.Cgo = s.Value == "1"
			}
		}
	}
	if r.Version == "" {
		r.Version = "unknown"
	}
	return r
}

// Run is called by kong.
func (c *versionCmd) Run(a *app) error {
	r := build()
	if c.JSON {
		return writeJSON(a.stdout, r)
	}
	kernels := "C kernels"
	if !r.Cgo {
		kernels = "pure Go kernels (built without cgo)"
	}
	model := "with the demo model"
	if !r.Model {
		model = "without a model"
	}
	_, err := fmt.Fprintf(a.stdout, "metacap %s, %s, %s, %s, %s\n", r.Version, r.Go, r.System, kernels, model)
	return err
}
