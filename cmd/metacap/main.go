// Command metacap captions pictures with MetaCaptioner-8B and models of its
// family, on the CPU or a GPU, from one binary.
//
// Exit codes: 0 all went well; 1 the command was wrong or could not start; 2 it
// finished but some inputs failed; 3 there was nothing to do; 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK          = 0
	exitFatal       = 1
	exitSomeFailed  = 2
	exitNothing     = 3
	exitInterrupted = 130
)

// exitError carries an exit code other than exitFatal. A nil Err prints nothing.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

func (e *exitError) Unwrap() error { return e.Err }

// cli is the command tree. Each command is in the file of its name.
type cli struct {
	Quiet       bool `short:"q" help:"Say nothing on stderr but errors."`
	Verbose     int  `short:"v" type:"counter" help:"Say more on stderr: -v tiles, tokens and times; -vv engine messages."`
	PrintConfig bool `help:"Print every setting of the command with its value and source, and stop."`

	Caption    captionCmd    `cmd:"" help:"Caption pictures, or the frames of a video."`
	Chat       chatCmd       `cmd:"" help:"Ask about pictures, or just talk; interactive on a terminal."`
	Review     reviewCmd     `cmd:"" help:"Look through captions in a browser and mend them."`
	Presets    presetsCmd    `cmd:"" help:"List the ready prompts of caption --preset."`
	Capflow    capflowCmd    `cmd:"" help:"Caption by a workflow: router, agents, summary, checks; with records and resume."`
	Eval       evalCmd       `cmd:"" help:"Measure flows on pictures whose facts are known."`
	Model      modelCmd      `cmd:"" help:"Look into a checkpoint, quantise, compare, verify it."`
	Parity     parityCmd     `cmd:"" help:"Compare with recorded outputs of the reference implementation."`
	Bench      benchCmd      `cmd:"" help:"Measure speed: prefill, decode, vision, whole captions, start-up."`
	Doctor     doctorCmd     `cmd:"" help:"Say what this machine can run, and why not more."`
	Version    versionCmd    `cmd:"" help:"Print version and build."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
}

// app is what commands run with.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) (string, bool)
	kong           *kong.Kong
	quiet          bool
	verbose        int

	interrupt atomic.Pointer[func()] // what Ctrl-C does instead of ending the program
}

// onInterrupt makes Ctrl-C call f; nil restores its usual meaning.
func (a *app) onInterrupt(f func()) {
	if f == nil {
		a.interrupt.Store(nil)
		return
	}
	a.interrupt.Store(&f)
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go handleSignals(signals, a, cancel)
	code := run(ctx, os.Args[1:], a)
	cancel()
	os.Exit(code)
}

// handleSignals lets the first signal end the work in hand and the second the
// process. It runs until the process ends.
func handleSignals(signals <-chan os.Signal, a *app, cancel func()) {
	for cancelled := false; ; {
		s := <-signals
		if f := a.interrupt.Load(); f != nil && s == os.Interrupt {
			(*f)()
			continue
		}
		if cancelled {
			os.Exit(exitInterrupted)
		}
		cancelled = true
		cancel()
	}
}

const description = `Captions for pictures, by MetaCaptioner-8B and its family, from one binary.

A bare path means caption: metacap a.jpg

Every flag can be set by an environment variable: --max-tiles by METACAP_MAX_TILES.
Exit codes: 0 all went well, 1 wrong usage or fatal, 2 some inputs failed, 3 nothing to do, 130 interrupted.`

// run parses args, runs the command and returns the exit code.
func run(ctx context.Context, args []string, a *app) int {
	var c cli
	settings := &environment{lookup: a.env, used: map[string]string{}}
	exited := -1
	k, err := kong.New(&c,
		kong.Name("metacap"), kong.Description(description),
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Help(help),
		kong.Resolvers(settings),
		kong.Vars{"device_help": deviceHelp, "image_prompt": imagePrompt},
	)
	if err != nil {
		return fatal(a, err)
	}
	a.kong = k
	args, err = expandArgs(k, args)
	if err != nil {
		return fatal(a, err)
	}
	kctx, err := k.Parse(args)
	if exited >= 0 { // --help has printed
		return exited
	}
	if err != nil {
		var parse *kong.ParseError
		if errors.As(err, &parse) && parse.Context != nil && parse.Context.Command() != "" {
			err = fmt.Errorf("%w (metacap help %s)", err, commandWords(parse.Context))
		}
		return fatal(a, err)
	}
	a.quiet, a.verbose = c.Quiet, c.Verbose
	if c.PrintConfig {
		printConfig(a.stdout, kctx, settings)
		return exitOK
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(a)
	err = kctx.Run()
	switch {
	case ctx.Err() != nil:
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(a.stderr, "metacap: %v\n", err)
		}
		return exitInterrupted
	case err == nil:
		return exitOK
	}
	var coded *exitError
	if errors.As(err, &coded) {
		if coded.Err != nil {
			fmt.Fprintf(a.stderr, "metacap: %v\n", coded.Err)
		}
		return coded.Code
	}
	return fatal(a, err)
}

func fatal(a *app, err error) int {
	fmt.Fprintf(a.stderr, "metacap: %v\n", err)
	return exitFatal
}

// commandWords is the command of a parse, without placeholders of arguments.
func commandWords(c *kong.Context) string {
	var words []string
	for _, w := range strings.Fields(c.Command()) {
		if !strings.HasPrefix(w, "<") {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// expandArgs turns the short forms into full ones: nothing and "help CMD" into
// --help, a bare path or flag into caption.
func expandArgs(k *kong.Kong, args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{"--help"}, nil
	}
	if args[0] == "help" {
		return append(slices.Clone(args[1:]), "--help"), nil
	}
	first := 0 // skip global switches
	for first < len(args) && slices.Contains([]string{"-q", "--quiet", "-v", "-vv", "--verbose", "--print-config"}, args[first]) {
		first++
	}
	if first == len(args) {
		return args, nil
	}
	word := args[first]
	var names []string
	for _, child := range k.Model.Children {
		names = append(names, child.Name)
	}
	switch {
	case word == "-h" || word == "--help" || slices.Contains(names, word):
		return args, nil
	case word == "--version":
		return []string{"version"}, nil
	case strings.HasPrefix(word, "-") || strings.ContainsAny(word, "./\\"):
	default:
		if _, err := os.Stat(word); err != nil {
			return nil, fmt.Errorf("%q is neither a command nor a file; the commands are %s (metacap --help)", word, strings.Join(names, ", "))
		}
	}
	return slices.Insert(slices.Clone(args), first, "caption"), nil
}
