package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"metacap/engine"
	"metacap/internal/demo"
)

const deviceHelp = "auto, cpu, cuda, cuda:N, ref (slow, exact), or cpu:SET, the CPU with one of the instruction sets amx, avx512bf16, avx512, avx2, base."

var errNoModel = errors.New("this binary carries no model (built with -tags nodemo): give one with -m DIR")

// bytesize is a size like 800MB, 20GiB or 123456.
type bytesize int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *bytesize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	number := strings.TrimRight(s, "BbiIkKmMgGtT ")
	unit := strings.ToLower(strings.TrimSpace(s[len(number):]))
	factors := map[string]float64{"": 1, "b": 1, "k": 1e3, "kb": 1e3, "kib": 1 << 10, "m": 1e6, "mb": 1e6, "mib": 1 << 20, "g": 1e9, "gb": 1e9, "gib": 1 << 30, "t": 1e12, "tb": 1e12, "tib": 1 << 40}
	v, err := strconv.ParseFloat(number, 64)
	factor, ok := factors[unit]
	if err != nil || !ok || !(v >= 0 && v*factor < 1<<62) {
		return fmt.Errorf("%q is no size; write bytes, or a number with MB, MiB, GB, GiB", s)
	}
	*b = bytesize(v * factor)
	return nil
}

// engineFlags say which model runs where. They are shared by the commands that run one.
type engineFlags struct {
	Model        string   `short:"m" placeholder:"DIR" help:"Directory of a checkpoint; demo or nothing: the small one that the binary carries, which knows only drawn pictures." group:"model"`
	Device       string   `default:"auto" placeholder:"NAME" help:"${device_help}" group:"model"`
	Dtype        string   `default:"auto" enum:"auto,f32,bf16" help:"Type to compute in: auto, f32 or bf16." group:"model"`
	Threads      int      `default:"0" placeholder:"N" help:"CPU threads; 0 = all cores." group:"model"`
	Memory       bytesize `default:"0" placeholder:"SIZE" help:"Most memory to use on the device, as 20GiB; 0 = what fits." group:"model"`
	Context      int      `default:"0" placeholder:"N" help:"Longest prompt and answer together, tokens; 0 = the model's limit." group:"model"`
	PromptStyle  string   `default:"jinja" enum:"jinja,conv" help:"jinja = the checkpoint's own template; conv = the model card's chat(), with its system text." group:"model"`
	ImageRecipe  string   `default:"upright" enum:"upright,exact" help:"upright = EXIF orientation applied, transparency on white; exact = as the reference, neither." group:"model"`
	Verify       bool     `hidden:"" help:"Check the engine's own invariants after each step."`
	MaxSequences int      `hidden:"" help:"Most sequences that run together; 0 = chosen for the device."`
}

// config translates the flags.
func (f *engineFlags) config(a *app) engine.Config {
	c := engine.Config{
		Device: f.Device, Threads: f.Threads, MemoryBytes: int64(f.Memory),
		ContextTokens: f.Context, MaxSequences: f.MaxSequences, Verify: f.Verify,
	}
	if f.Dtype != "auto" {
		c.DType = f.Dtype
	}
	if f.PromptStyle != "jinja" {
		c.PromptStyle = f.PromptStyle
	}
	if f.ImageRecipe == "exact" {
		c.ImageRecipe = "exact"
	}
	level := slog.LevelWarn
	if a.verbose > 1 {
		level = slog.LevelDebug
	}
	if !a.quiet {
		c.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	}
	return c
}

// embedded reports whether the flags choose the model that the binary carries.
func (f *engineFlags) embedded() bool { return f.Model == "" || f.Model == demo.Name }

// name is what records call the model.
func (f *engineFlags) name() string {
	if f.embedded() {
		return demo.Name
	}
	abs, err := filepath.Abs(f.Model)
	if err != nil {
		return f.Model
	}
	return filepath.Base(abs)
}

// open opens the model. If nobody asked for the embedded one, it says once, on
// stderr, what that model knows, unless said is set because records will say it.
func (f *engineFlags) open(ctx context.Context, a *app, said bool) (*engine.Engine, error) {
	if !f.embedded() {
		return f.openDir(ctx, a)
	}
	if !demo.Included() {
		return nil, errNoModel
	}
	if f.Model == "" && !said && !a.quiet {
		fmt.Fprintf(a.stderr, "metacap: %s\n", demo.Notice)
	}
	return engine.OpenFS(ctx, demo.FS(), demo.Name, f.config(a))
}

func (f *engineFlags) openDir(ctx context.Context, a *app) (*engine.Engine, error) {
	st, err := os.Stat(f.Model)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("-m %s: no such directory; metacap downloads nothing: fetch the checkpoint's files first", f.Model)
	case err != nil:
		return nil, fmt.Errorf("-m: %w", err)
	case !st.IsDir():
		return nil, fmt.Errorf("-m %s: is a file; give the directory that holds config.json and the safetensors files", f.Model)
	}
	return engine.Open(ctx, f.Model, f.config(a))
}

// samplingFlags say how an answer is generated.
type samplingFlags struct {
	System            *string  `placeholder:"TEXT" help:"System text; an empty one is possible." group:"answer"`
	MaxTokens         int      `default:"0" placeholder:"N" help:"Longest answer, tokens; 0 = 1024, or what a context under 8192 leaves." group:"answer"`
	Stop              []string `sep:"none" placeholder:"TEXT" help:"End the answer before this text; may be repeated." group:"answer"`
	Temperature       float64  `default:"0" placeholder:"T" help:"0 = always the likeliest token (greedy)." group:"answer"`
	TopK              int      `default:"0" placeholder:"K" help:"Sample among the K likeliest; 0 = off." group:"answer"`
	TopP              float64  `default:"0" placeholder:"P" help:"Sample among the likeliest with total probability P; 0 = off." group:"answer"`
	MinP              float64  `default:"0" placeholder:"P" help:"Sample among tokens at least P times as likely as the best; 0 = off." group:"answer"`
	RepetitionPenalty float64  `default:"0" placeholder:"R" help:"Divide scores of tokens seen before by R; 0 or 1 = off." group:"answer"`
	Seed              uint64   `default:"0" placeholder:"N" help:"Seed of the sampling; 0 = chosen, and recorded." group:"answer"`
	LoopGuard         bool     `default:"true" negatable:"" help:"Stop an answer that only repeats itself." group:"answer"`
	Thinking          *bool    `negatable:"" help:"Thinking switch of models that have one." group:"answer"`
}

const (
	// usualTokens is the longest answer unless one is asked for: the model card's max_new_tokens.
	usualTokens = 1024
	// smallContext is a context that leaves no room for usualTokens beside a
	// usual prompt: there the context is the limit.
	smallContext = 8192
)

// request is a generation request with these settings and no messages.
func (f *samplingFlags) request(info engine.Info) engine.Request {
	tokens := f.MaxTokens
	if tokens == 0 && info.ContextTokens >= smallContext {
		tokens = usualTokens
	}
	return engine.Request{
		Sampling: engine.Sampling{
			Temperature: f.Temperature, TopK: f.TopK, TopP: f.TopP, MinP: f.MinP,
			RepetitionPenalty: f.RepetitionPenalty, Seed: f.Seed,
		},
		MaxTokens: tokens, Stop: f.Stop, Thinking: f.Thinking, DisableLoopGuard: !f.LoopGuard,
	}
}

// Validate is called by kong: what no model accepts is wrong usage, not a failed picture.
func (f *samplingFlags) Validate() error {
	r := f.request(engine.Info{})
	if err := r.Validate(); err != nil {
		return errors.New(flagNames.Replace(strings.TrimSuffix(err.Error(), ": "+engine.ErrInvalidRequest.Error())))
	}
	return nil
}

// flagNames turns the engine's names of fields into those of flags.
var flagNames = strings.NewReplacer(
	"Sampling.Temperature", "--temperature", "Sampling.TopK", "--top-k", "Sampling.TopP", "--top-p", "Sampling.MinP", "--min-p",
	"Sampling.RepetitionPenalty", "--repetition-penalty", "MaxTokens", "--max-tokens", "the number of Stop strings", "the number of --stop",
)

// systemMessage is the message of --system, if given.
func (f *samplingFlags) systemMessage() []engine.Message {
	if f.System == nil {
		return nil
	}
	return []engine.Message{{Role: engine.RoleSystem, Parts: []engine.Part{{Text: *f.System}}}}
}
