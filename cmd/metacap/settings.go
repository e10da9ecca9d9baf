package main

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// environment resolves flags from METACAP_* variables. It is the only place
// that reads the environment.
type environment struct {
	lookup func(string) (string, bool)
	used   map[string]string // flag name -> variable that gave its value
}

// variable is the name of a flag's variable: max-tiles -> METACAP_MAX_TILES.
func variable(flag string) string {
	return "METACAP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Validate implements kong.Resolver.
func (e *environment) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. kong asks only for flags not on the command line.
func (e *environment) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if flag.Name == "help" {
		return nil, nil
	}
	value, ok := e.lookup(variable(flag.Name))
	if !ok || value == "" {
		return nil, nil
	}
	e.used[flag.Name] = variable(flag.Name)
	if flag.IsSlice() && flag.Tag.Sep == -1 { // one value, unsplit
		return []any{value}, nil
	}
	return value, nil
}

// printConfig lists each flag of the command with value and source.
func printConfig(w io.Writer, ctx *kong.Context, env *environment) {
	given := map[string]bool{}
	for _, p := range ctx.Path {
		if p.Flag != nil && !p.Resolved {
			given[p.Flag.Name] = true
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, flag := range ctx.Flags() {
		if flag.Name == "help" || flag.Name == "print-config" {
			continue
		}
		source := "default"
		if given[flag.Name] {
			source = "flag"
		} else if v, ok := env.used[flag.Name]; ok {
			source = v
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", flag.Name, settingText(flag.Target), source)
	}
}

// settingText writes a value so that an empty one is visible.
func settingText(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.String:
		return fmt.Sprintf("%q", v.String())
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return "[]"
	case v.Kind() == reflect.Slice:
		return fmt.Sprintf("%q", v.Interface())
	case v.Kind() == reflect.Pointer && v.IsNil():
		return "unset"
	case v.Kind() == reflect.Pointer:
		return fmt.Sprint(v.Elem().Interface())
	}
	return fmt.Sprint(v.Interface())
}

// help prints a command's help, then its examples.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	node := ctx.Selected()
	if node == nil {
		fmt.Fprint(ctx.Stdout, mainExamples)
		return nil
	}
	if e, ok := node.Target.Addr().Interface().(interface{ examples() string }); ok {
		fmt.Fprintf(ctx.Stdout, "\nExamples:\n%s\n", strings.Trim(e.examples(), "\n"))
	}
	return nil
}

const mainExamples = `
Examples:
  metacap a.jpg                                    a caption, by the model that the binary carries
  metacap caption -m ~/models/MetaCaptioner-8B a.jpg b.png
  metacap chat a.jpg                               ask about a picture
  metacap doctor                                   what this machine can run
  metacap help caption                             flags and examples of a command
`
