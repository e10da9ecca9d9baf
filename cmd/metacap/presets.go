package main

import (
	"fmt"
	"text/tabwriter"

	"metacap/captioner"
)

// presetsCmd is metacap presets.
type presetsCmd struct {
	Name string `arg:"" optional:"" help:"Print the prompt of one preset."`
	JSON bool   `name:"json" help:"One JSON object a line."`
}

func (*presetsCmd) examples() string {
	return `
  metacap presets                                  names and what they are for
  metacap presets alt                              the prompt itself
`
}

// Run is called by kong.
func (c *presetsCmd) Run(a *app) error {
	found := false
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, p := range captioner.Presets() {
		if c.Name != "" && c.Name != p.Name {
			continue
		}
		found = true
		switch {
		case c.JSON:
			if err := writeJSON(a.stdout, map[string]string{"name": p.Name, "about": p.About, "prompt": p.Prompt}); err != nil {
				return err
			}
		case c.Name != "":
			fmt.Fprintln(a.stdout, p.Prompt)
		default:
			fmt.Fprintf(t, "%s\t%s\n", p.Name, p.About)
		}
	}
	if !found {
		return fmt.Errorf("no preset %q (metacap presets lists them)", c.Name)
	}
	return nil
}
