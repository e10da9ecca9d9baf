package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"metacap/engine"
	"metacap/internal/bench"
	"metacap/internal/demo"
	"metacap/internal/randmodel"
)

// benchCmd is metacap bench.
type benchCmd struct {
	Run      benchRunCmd      `cmd:"" default:"withargs" help:"Measure prefill, decode, vision, whole captions, start-up; what bench means without a word after it."`
	Share    benchShareCmd    `cmd:"" help:"Measure several agents on one picture, with and without sharing it."`
	ServeSim benchServeSimCmd `cmd:"" help:"Measure latencies under a simulated load, as serving benchmarks do."`
}

func (*benchCmd) examples() string {
	return `
  metacap bench                                    the embedded model; same as metacap bench run
  metacap bench pp512 tg64 vit13                   these tests; metacap help bench run says which there are
  metacap bench share                              7 agents on one picture, metacap help bench share
  metacap bench serve-sim                          a simulated load, metacap help bench serve-sim
`
}

// benchModel says what is measured.
type benchModel struct {
	RandomWeights string `placeholder:"SHAPE" help:"Measure a shape without a checkpoint: 8b, 1b, 0.6b, tiny, or a config.json."`
	Weights       string `default:"bf16" enum:"bf16,int8,int4" placeholder:"TYPE" help:"Type of the random weights: bf16, int8 or int4 (groups of 128, the head int8)."`

	engineFlags

	stored string // type of most weights, in lower case
}

// benchRunCmd is metacap bench run.
type benchRunCmd struct {
	Tests []string `arg:"" optional:"" name:"test" help:"pp512, pp512@3328, tg64, tg64@512, tg64@512*8, vit13, cap1280x960, startup; default: a set that fits the model."`

	Repetitions int    `short:"r" default:"5" placeholder:"N" help:"Measured runs of each test, after one that is not."`
	Output      string `short:"o" default:"md" enum:"md,csv,json" help:"md, csv, or json (one object a line)."`

	benchModel
}

func (*benchRunCmd) examples() string {
	return `
  metacap bench                                    the embedded model
  metacap bench -m ~/models/MetaCaptioner-8B pp512 tg64 vit13 cap1280x960
  metacap bench --random-weights 0.6b tg64@512 tg64@512*8
  metacap bench -o json --random-weights 8b > bench.jsonl

pp512: prefill of 512 tokens; tg64@512*8: 64 tokens each of 8 sequences after 512;
vit13: the vision encoder on 13 tiles; cap1280x960: JPEG to 64 tokens of caption;
startup: process start to first token, as a new process (files cached or not, as
they are). Rates are means ± standard deviations of the repetitions.
`
}

// benchRecord is a row of the result.
type benchRecord struct {
	benchBase
	Test       string    `json:"test"`
	Unit       string    `json:"unit"`
	Mean       float64   `json:"mean"`
	Deviation  float64   `json:"deviation"`
	Median     float64   `json:"median"`
	Rates      []float64 `json:"rates"`
	FirstToken float64   `json:"first_token_seconds,omitempty"` // median, cap only
}

// benchBase says what was measured where, in every record.
type benchBase struct {
	Model   string `json:"model"`
	Weights int64  `json:"weight_bytes"`
	DType   string `json:"dtype"`       // of the stored weights
	Compute string `json:"activations"` // type computed in
	Backend string `json:"backend"`
	Device  string `json:"device"`
	Threads int    `json:"threads,omitempty"`
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time"`
}

// startupTest is the test that runs a process of its own.
const startupTest = "startup"

// Run is called by kong.
func (c *benchRunCmd) Run(ctx context.Context, a *app) error {
	if c.Repetitions < 1 {
		return fmt.Errorf("--repetitions %d: want at least 1", c.Repetitions)
	}
	var tests []bench.Test
	startup := false
	for _, text := range c.Tests {
		if text == startupTest {
			startup = true
			continue
		}
		t, err := bench.Parse(text)
		if err != nil {
			return err
		}
		tests = append(tests, t)
	}
	if startup && c.RandomWeights != "" {
		return errors.New("startup needs a checkpoint on disk or the embedded one, not --random-weights")
	}
	meter := &bench.Meter{}
	eng, err := c.openBench(ctx, bench.Config(c.config(a), meter))
	if err != nil {
		return err
	}
	defer eng.Close()
	if len(c.Tests) == 0 {
		tests = defaultTests(eng.Info())
		startup = c.RandomWeights == ""
	}
	w := newBenchWriter(a.stdout, c.Output)
	defer w.close()
	for _, t := range tests {
		res, err := bench.Run(ctx, eng, meter, t, c.Repetitions)
		if err != nil {
			return err
		}
		if err := w.row(c.record(eng.Info(), res)); err != nil {
			return err
		}
	}
	if !startup {
		return nil
	}
	info := eng.Info()
	eng.Close() // so that its memory does not stand in the way
	r, err := c.startup(ctx, info)
	if err != nil {
		return err
	}
	return w.row(r)
}

// openBench opens the model, or makes one of random weights.
func (c *benchModel) openBench(ctx context.Context, cfg engine.Config) (*engine.Engine, error) {
	if c.RandomWeights != "" {
		if c.Model != "" {
			return nil, errors.New("-m and --random-weights exclude each other")
		}
		bits, group := map[string]int{"int8": 8, "int4": 4}[c.Weights], 128
		bytes, err := randmodel.Bytes(c.RandomWeights)
		if bits > 0 {
			bytes = bytes * int64(bits) / 16
		}
		if err != nil {
			return nil, err
		}
		if have := memory().Available; have > 0 && bytes > have {
			return nil, fmt.Errorf("--random-weights %s: %s of weights exceed the available memory of %s", c.RandomWeights, size(bytes), size(have))
		}
		make := func() (fs.FS, error) { return randmodel.New(c.RandomWeights, 1) }
		if bits > 0 {
			make = func() (fs.FS, error) { return randmodel.NewQuantized(c.RandomWeights, bits, group, 1) }
		}
		files, err := make()
		if err != nil {
			return nil, err
		}
		c.stored = c.Weights
		return engine.OpenFS(ctx, files, "random "+c.RandomWeights, cfg)
	}
	ck, err := openHeaders(&c.engineFlags)
	if err != nil {
		return nil, err
	}
	c.stored = mainType(ck.Summary().DTypes)
	if err := ck.Close(); err != nil {
		return nil, err
	}
	if c.embedded() {
		return engine.OpenFS(ctx, demo.FS(), demo.Name, cfg)
	}
	return engine.Open(ctx, c.Model, cfg)
}

// mainType is the element type that takes most bytes.
func mainType(bytes map[string]int64) string {
	best := ""
	for name, n := range bytes {
		if n > bytes[best] {
			best = name
		}
	}
	return strings.ToLower(best)
}

// defaultTests is a set that fits the model's context and encoder.
func defaultTests(info engine.Info) []bench.Test {
	texts := []string{"pp512", "tg64", "tg64@512*4"}
	if info.Vision {
		texts = append(texts, "vit1", "cap640x480")
		if info.MaxTiles > 1 {
			texts = append(texts, fmt.Sprintf("vit%d", info.MaxTiles+1))
		}
	}
	var tests []bench.Test
	for _, text := range texts {
		t, err := bench.Parse(text)
		if err != nil {
			panic(err) // the list above is ours
		}
		if t.Tokens+t.Depth < info.ContextTokens {
			tests = append(tests, t)
		}
	}
	return tests
}

// base is a record with the engine's columns.
func (c *benchModel) base(info engine.Info) benchBase {
	b := build()
	name := c.name()
	if c.RandomWeights != "" {
		name = "random " + c.RandomWeights
	}
	return benchBase{
		Model: name, Weights: info.WeightBytes, DType: c.stored, Compute: info.DType, Backend: info.Backend, Device: info.Device,
		Threads: info.Threads, Version: b.Version, Commit: b.Commit, Time: time.Now().UTC().Format(time.RFC3339),
	}
}

func (c *benchRunCmd) record(info engine.Info, res *bench.Result) benchRecord {
	r := benchRecord{benchBase: c.base(info)}
	r.Test, r.Unit = res.Test.String(), res.Test.Unit()
	r.Mean, r.Deviation, r.Median, r.Rates = res.Mean(), res.Deviation(), res.Median(), res.Rates
	if len(res.First) > 0 {
		r.FirstToken = seconds(res.First[len(res.First)/2])
	}
	return r
}

// startup runs this program anew and takes the time to the first byte of an answer.
func (c *benchRunCmd) startup(ctx context.Context, info engine.Info) (benchRecord, error) {
	self, err := os.Executable()
	if err != nil {
		return benchRecord{}, fmt.Errorf("startup: %w", err)
	}
	args := []string{"chat", "-q", "-p", "Hello", "--max-tokens", "8", "--device", c.Device, "--threads", strconv.Itoa(c.Threads)}
	if !c.embedded() {
		args = append(args, "-m", c.Model)
	}
	res := &bench.Result{}
	for range c.Repetitions {
		cmd := exec.CommandContext(ctx, self, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return benchRecord{}, fmt.Errorf("startup: %w", err)
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return benchRecord{}, fmt.Errorf("startup: %w", err)
		}
		_, err = out.Read(make([]byte, 1))
		took := time.Since(start)
		io.Copy(io.Discard, out)
		if werr := cmd.Wait(); werr != nil || err != nil {
			return benchRecord{}, fmt.Errorf("startup: %s %s: %w", self, strings.Join(args, " "), errors.Join(err, werr))
		}
		res.Rates = append(res.Rates, took.Seconds())
	}
	r := benchRecord{benchBase: c.base(info)}
	r.Test, r.Unit = startupTest, "s"
	r.Mean, r.Deviation, r.Median, r.Rates = res.Mean(), res.Deviation(), res.Median(), res.Rates
	return r, nil
}

// benchWriter writes rows in one of the formats.
type benchWriter struct {
	w      io.Writer
	format string
	tab    *tabwriter.Writer
	csv    *csv.Writer
}

func newBenchWriter(w io.Writer, format string) *benchWriter {
	b := &benchWriter{w: w, format: format}
	switch format {
	case "md":
		b.tab = tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
		fmt.Fprintln(b.tab, "| model\t| weights\t| dtype\t| device\t| test\t| rate\t|")
		fmt.Fprintln(b.tab, "|---\t|---\t|---\t|---\t|---\t|---\t|")
	case "csv":
		b.csv = csv.NewWriter(w)
		b.csv.Write([]string{"model", "weight_bytes", "dtype", "activations", "backend", "device", "test", "unit", "mean", "deviation", "median", "version", "commit", "time"})
	}
	return b
}

func (b *benchWriter) row(r benchRecord) error {
	switch b.format {
	case "md":
		fmt.Fprintf(b.tab, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s ± %s %s\t|\n", r.Model, size(r.Weights), r.DType, r.Device, r.Test, rate(r.Mean), rate(r.Deviation), r.Unit)
		return nil
	case "csv":
		float := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
		b.csv.Write([]string{r.Model, strconv.FormatInt(r.Weights, 10), r.DType, r.Compute, r.Backend, r.Device, r.Test, r.Unit, float(r.Mean), float(r.Deviation), float(r.Median), r.Version, r.Commit, r.Time})
		b.csv.Flush()
		return b.csv.Error()
	}
	return writeJSON(b.w, r)
}

func (b *benchWriter) close() {
	if b.tab != nil {
		b.tab.Flush()
	}
}

// rate writes a rate with at least three digits.
func rate(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
