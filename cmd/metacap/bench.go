package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"metacap/engine"
	"metacap/internal/bench"
	"metacap/internal/demo"
	"metacap/internal/randmodel"
	"metacap/kernels"
)

// benchCmd is metacap bench.
type benchCmd struct {
	Run      benchRunCmd      `cmd:"" default:"withargs" help:"Measure prefill, decode, vision, whole captions, start-up; what bench means without a word after it."`
	Share    benchShareCmd    `cmd:"" help:"Measure several agents on one picture, with and without sharing it."`
	Capflow  benchFlowCmd     `cmd:"" help:"Measure what a caption takes in each mode of CapFlow."`
	Job      benchJobCmd      `cmd:"" help:"Measure a captioning job against the engine alone."`
	Same     benchSameCmd     `cmd:"" help:"Compare greedy answers of two devices."`
	ServeSim benchServeSimCmd `cmd:"" help:"Measure latencies under a simulated load, as serving benchmarks do."`
}

func (*benchCmd) examples() string {
	return `
  metacap bench                                    the embedded model; same as metacap bench run
  metacap bench pp512 tg64 vit13                   these tests; metacap help bench run says which there are
  metacap bench share                              7 agents on one picture, metacap help bench share
  metacap bench capflow                            all modes of CapFlow, metacap help bench capflow
  metacap bench job                                a folder of pictures, metacap help bench job
  metacap bench serve-sim                          a simulated load, metacap help bench serve-sim
`
}

// benchModel says what is measured.
type benchModel struct {
	RandomWeights string `placeholder:"SHAPE" help:"Measure a shape without a checkpoint: 8b, 1b, 0.6b, tiny, or a config.json."`
	Weights       string `default:"bf16" enum:"bf16,int8,int4" placeholder:"TYPE" help:"Type of the random weights: bf16, int8 or int4 (groups of 128, the head int8)."`

	engineFlags

	stored  string       // type of most weights, in lower case
	measure bool         // the device's limits too
	limits  bench.Limits // if measured
	files   fs.FS        // of random weights
}

// benchRunCmd is metacap bench run.
type benchRunCmd struct {
	Tests []string `arg:"" optional:"" name:"test" help:"pp512, pp512@3328, tg64, tg64@512, tg64@512*8, vit13, cap1280x960, ttft8@256, startup, startup-cold; default: a set that fits the model."`

	Repetitions int    `short:"r" default:"5" placeholder:"N" help:"Measured runs of each test, after one that is not."`
	Output      string `short:"o" default:"md" enum:"md,csv,json,jsonl" help:"md, csv, json (an array) or jsonl (an object a line)."`
	Limits      bool   `default:"true" negatable:"" help:"Measure first how fast the device reads and multiplies, a second or two, and give each result's share of that."`
	Dir         string `placeholder:"DIR" help:"Where startup with --random-weights writes its checkpoint, which it removes; default: the folder for temporary files."`
	Probe       bool   `hidden:"" help:"Open the model, generate a token, say so: what startup runs."`
	Started     int64  `hidden:"" help:"When the process was started, in nanoseconds since 1970."`

	benchModel
}

func (*benchRunCmd) examples() string {
	return `
  metacap bench                                    the embedded model
  metacap bench -m ~/models/MetaCaptioner-8B pp512 tg64 vit13 cap1280x960
  metacap bench --random-weights 0.6b tg64@512 tg64@512*8
  metacap bench -o jsonl --random-weights 8b > bench.jsonl
  metacap bench --random-weights 8b --device cuda tg64@2304 'tg64@2304*8' pp2304 vit8 ttft8@256 startup

pp512: prefill of 512 tokens; tg64@512*8: 64 tokens each of 8 sequences after 512;
vit13: the vision encoder on 13 tiles; cap1280x960: JPEG to 64 tokens of caption;
ttft8@256: a request of 8 tiles and 256 other tokens to its first token;
startup: process start to first token, as a new process, with the files in the page
cache; startup-cold: with the checkpoint put out of it before each run (Linux).
Rates are means ± standard deviations of the repetitions. "of limit" is the least
time that the test can take on this device, by how fast it was measured to read memory
and to multiply matrices, over the time it took.
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
	Start      *startRow `json:"start,omitempty"`               // startup only
	Share      float64   `json:"share_of_limit,omitempty"`      // by the medians
	ReadLimit  float64   `json:"read_bytes_per_second,omitempty"`
	OpsLimit   float64   `json:"ops_per_second,omitempty"`
}

// benchBase says what was measured where, in every record.
type benchBase struct {
	Model   string `json:"model"`
	Weights int64  `json:"weight_bytes"`
	DType   string `json:"dtype"`       // of the stored weights
	Compute string `json:"activations"` // type computed in
	Backend string `json:"backend"`
	Device  string `json:"device"`
	Driver  string `json:"driver,omitempty"`
	Threads int    `json:"threads,omitempty"`
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time"`
}

// The tests that run a process of their own.
const (
	startupTest = "startup"
	coldTest    = "startup-cold"
)

// Run is called by kong.
func (c *benchRunCmd) Run(ctx context.Context, a *app) error {
	if c.Probe {
		return c.probe(ctx, a)
	}
	if c.Repetitions < 1 {
		return fmt.Errorf("--repetitions %d: want at least 1", c.Repetitions)
	}
	var tests []bench.Test
	var starts []string
	for _, text := range c.Tests {
		if text == startupTest || text == coldTest {
			starts = append(starts, text)
			continue
		}
		t, err := bench.Parse(text)
		if err != nil {
			return err
		}
		tests = append(tests, t)
	}
	if slices.Contains(starts, coldTest) && c.RandomWeights == "" && c.embedded() {
		return errors.New("startup-cold needs a checkpoint on disk: the embedded model is part of the running program")
	}
	meter := &bench.Meter{}
	c.measure = c.Limits
	eng, err := c.openBench(ctx, bench.Config(c.config(a), meter))
	if err != nil {
		return err
	}
	defer eng.Close()
	if len(c.Tests) == 0 {
		tests = defaultTests(eng.Info())
		if c.RandomWeights == "" {
			starts = []string{startupTest}
		}
	}
	w := newBenchWriter(a.stdout, c.Output)
	for _, t := range tests {
		res, err := bench.Run(ctx, eng, meter, t, c.Repetitions)
		if err != nil {
			return errors.Join(err, w.close())
		}
		if err := w.row(c.record(eng.Info(), res)); err != nil {
			return err
		}
	}
	if len(starts) > 0 {
		info := eng.Info()
		token, err := firstToken(ctx, eng)
		if err != nil {
			return errors.Join(err, w.close())
		}
		eng.Close() // so that its memory does not stand in the way
		if err := c.startups(ctx, info, starts, token, w); err != nil {
			return errors.Join(err, w.close())
		}
	}
	return w.close()
}

// openBench measures the device's limits, if they are wanted, and opens the model,
// or makes one of random weights.
func (c *benchModel) openBench(ctx context.Context, cfg engine.Config) (*engine.Engine, error) {
	if c.RandomWeights != "" {
		files, err := c.randomFiles()
		if err != nil {
			return nil, err
		}
		c.stored = c.Weights
		if err := c.measureLimits(); err != nil {
			return nil, err
		}
		c.files = files
		return engine.OpenFS(ctx, files, "random "+c.RandomWeights, cfg)
	}
	ck, err := openHeaders(&c.engineFlags)
	if err != nil {
		return nil, err
	}
	c.stored = mainType(ck.Summary().DTypes)
	if err := errors.Join(ck.Close(), c.measureLimits()); err != nil {
		return nil, err
	}
	if c.embedded() {
		return engine.OpenFS(ctx, demo.FS(), demo.Name, cfg)
	}
	return engine.Open(ctx, c.Model, cfg)
}

// measureLimits opens the device by itself: an engine would leave no memory for it.
func (c *benchModel) measureLimits() (err error) {
	if !c.measure {
		return nil
	}
	b, err := engine.OpenBackend(c.Device, c.Threads)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	o := bench.LimitOptions{Activations: b.Info().Activations, Weights: c.stored}
	if c.Dtype == "f32" || c.stored == "f32" || b.Info().Name == "ref" {
		o.Activations, o.Weights = kernels.F32, "f32"
	}
	c.limits, err = bench.MeasureLimits(b, o)
	return err
}

// randomFiles makes a checkpoint in memory.
func (c *benchModel) randomFiles() (fs.FS, error) {
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
	if bits > 0 {
		return randmodel.NewQuantized(c.RandomWeights, bits, group, 1)
	}
	return randmodel.New(c.RandomWeights, 1)
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
		Model: name, Weights: info.WeightBytes, DType: c.stored, Compute: info.DType, Backend: info.Backend, Device: info.Device, Driver: info.Driver,
		Threads: info.Threads, Version: b.Version, Commit: b.Commit, Time: time.Now().UTC().Format(time.RFC3339),
	}
}

func (c *benchRunCmd) record(info engine.Info, res *bench.Result) benchRecord {
	r := benchRecord{benchBase: c.base(info)}
	r.Test, r.Unit = res.Test.String(), res.Test.Unit()
	r.Mean, r.Deviation, r.Median, r.Rates = res.Mean(), res.Deviation(), res.Median(), res.Rates
	r.Share, r.ReadLimit, r.OpsLimit = c.limits.Share(res, info.Work), c.limits.ReadBytes, c.limits.Ops
	if len(res.First) > 0 {
		r.FirstToken = seconds(res.First[len(res.First)/2])
	}
	return r
}

// startRow is where the time of a start went, in seconds: what the process says of
// itself in the run whose time is the median.
type startRow struct {
	Main      float64 `json:"main"`      // from the start to the first line of the program
	Files     float64 `json:"files"`     // configuration and headers
	Device    float64 `json:"device"`    // driver and kernels
	Text      float64 `json:"text"`      // tokenizer, beside the device
	Weights   float64 `json:"weights"`   // reading and placing them
	Workspace float64 `json:"workspace"` // other memory
	Open      float64 `json:"open"`      // all of opening
	First     float64 `json:"first"`     // the first token after that
	Bytes     int64   `json:"bytes"`     // of weights on the device
	Token     int32   `json:"token"`     // the first token of probeText
}

func (r *startRow) String() string {
	return fmt.Sprintf("main %.3f s, files %.3f, device %.3f beside tokenizer %.3f, weights %.3f (%s at %.1f GB/s), workspace %.3f, first token %.3f",
		r.Main, r.Files, r.Device, r.Text, r.Weights, size(r.Bytes), float64(r.Bytes)/1e9/r.Weights, r.Workspace, r.First)
}

// startups measures how long this program takes, started anew, to a first token,
// which must be want.
func (c *benchRunCmd) startups(ctx context.Context, info engine.Info, tests []string, want int32, w *benchWriter) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("startup: %w", err)
	}
	dir := c.Model
	if c.files != nil {
		if dir, err = os.MkdirTemp(c.Dir, "metacap-bench-"); err != nil {
			return fmt.Errorf("startup: %w", err)
		}
		defer os.RemoveAll(dir)
		if err := bench.WriteFiles(dir, c.files, slices.Contains(tests, coldTest)); err != nil {
			return fmt.Errorf("startup: write the random checkpoint: %w", err)
		}
	}
	args := []string{"bench", "run", "--probe", "--device", c.Device, "--threads", strconv.Itoa(c.Threads), "--dtype", c.Dtype, "--memory", strconv.FormatInt(int64(c.Memory), 10)}
	if c.files != nil || !c.embedded() {
		args = append(args, "-m", dir)
	}
	for _, name := range tests {
		s := bench.Startup{Program: self, Args: args, Started: "--started", Repetitions: c.Repetitions}
		if name == coldTest {
			if s.Cold, err = bench.CheckpointFiles(dir); err != nil {
				return fmt.Errorf("startup: %w", err)
			}
		}
		runs, err := s.Run(ctx)
		if err != nil {
			return err
		}
		r, err := startRecord(runs, want)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.benchBase, r.Test, r.Unit = c.base(info), name, "s"
		if err := w.row(r); err != nil {
			return err
		}
	}
	return nil
}

// startRecord sums starts up and checks that each had the weights: its token must be want.
func startRecord(runs []bench.StartupRun, want int32) (r benchRecord, err error) {
	rows := make([]startRow, len(runs))
	res := &bench.Result{}
	for i, run := range runs {
		if err := json.Unmarshal([]byte(run.Output), &rows[i]); err != nil {
			return r, fmt.Errorf("the new process said %q: %w", run.Output, err)
		}
		if rows[i].Token != want {
			return r, fmt.Errorf("the new process chose token %d, this one %d", rows[i].Token, want)
		}
		res.Rates = append(res.Rates, run.Seconds)
	}
	r.Mean, r.Deviation, r.Median, r.Rates = res.Mean(), res.Deviation(), res.Median(), res.Rates
	best := 0
	for i, run := range runs {
		if math.Abs(run.Seconds-r.Median) < math.Abs(runs[best].Seconds-r.Median) {
			best = i
		}
	}
	r.Start = &rows[best]
	return r, nil
}

// probeText is the prompt of the start-up test.
const probeText = "Hello"

func firstToken(ctx context.Context, eng *engine.Engine) (int32, error) {
	res, err := eng.Generate(ctx, engine.Request{
		Messages:  []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Text: probeText}}}},
		MaxTokens: 1, IgnoreEOS: true, DisableLoopGuard: true,
	})
	if err != nil {
		return 0, err
	}
	return res.Tokens[0].ID, nil
}

// probe generates a token and says how long everything took: the process that startups times.
func (c *benchRunCmd) probe(ctx context.Context, a *app) error {
	start := time.Now()
	var row startRow
	if c.Started > 0 {
		row.Main = start.Sub(time.Unix(0, c.Started)).Seconds()
	}
	eng, err := c.open(ctx, a, true)
	if err != nil {
		return err
	}
	defer eng.Close()
	o := eng.Info().Opening
	row.Files, row.Device, row.Text = o.Files.Seconds(), o.Device.Seconds(), o.Text.Seconds()
	row.Weights, row.Workspace, row.Bytes = o.Weights.Seconds(), o.Workspace.Seconds(), eng.Info().WeightBytes
	row.Open = time.Since(start).Seconds()
	if row.Token, err = firstToken(ctx, eng); err != nil {
		return err
	}
	row.First = time.Since(start).Seconds() - row.Open
	return writeJSON(a.stdout, row)
}

// benchWriter writes rows in one of the formats.
type benchWriter struct {
	w      io.Writer
	format string
	tab    *tabwriter.Writer
	csv    *csv.Writer
	rows   []benchRecord // of json; of md one with the limits
	notes  []string      // of md, below the table
}

func newBenchWriter(w io.Writer, format string) *benchWriter {
	b := &benchWriter{w: w, format: format}
	switch format {
	case "md":
		b.tab = tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
		fmt.Fprintln(b.tab, "| model\t| weights\t| dtype\t| device\t| test\t| rate\t| of limit\t|")
		fmt.Fprintln(b.tab, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	case "csv":
		b.csv = csv.NewWriter(w)
		b.csv.Write([]string{
			"model", "weight_bytes", "dtype", "activations", "backend", "device", "driver", "test", "unit", "mean", "deviation", "median",
			"share_of_limit", "read_bytes_per_second", "ops_per_second", "version", "commit", "time",
		})
	}
	return b
}

func (b *benchWriter) row(r benchRecord) error {
	switch b.format {
	case "md":
		share := ""
		if r.Share > 0 {
			share = fmt.Sprintf("%.0f %%", 100*r.Share)
		}
		fmt.Fprintf(b.tab, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s ± %s %s\t| %s\t|\n", r.Model, size(r.Weights), r.DType, r.Device, r.Test, rate(r.Mean), rate(r.Deviation), r.Unit, share)
		if r.ReadLimit > 0 { // for the line below the table
			b.rows = append(b.rows[:0], r)
		}
		if r.Start != nil {
			b.notes = append(b.notes, r.Test+": "+r.Start.String())
		}
		return nil
	case "csv":
		float := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
		b.csv.Write([]string{
			r.Model, strconv.FormatInt(r.Weights, 10), r.DType, r.Compute, r.Backend, r.Device, r.Driver, r.Test, r.Unit, float(r.Mean), float(r.Deviation), float(r.Median),
			float(r.Share), float(r.ReadLimit), float(r.OpsLimit), r.Version, r.Commit, r.Time,
		})
		b.csv.Flush()
		return b.csv.Error()
	case "json":
		b.rows = append(b.rows, r)
		return nil
	}
	return writeJSON(b.w, r)
}

// close writes what only the end can tell.
func (b *benchWriter) close() error {
	switch b.format {
	case "md":
		if err := b.tab.Flush(); err != nil {
			return err
		}
		if len(b.rows) == 1 {
			r := b.rows[0]
			_, err := fmt.Fprintf(b.w, "\nThe device was measured to read %s GB/s and to multiply matrices at %s GFLOP/s.\n", rate(r.ReadLimit/1e9), rate(r.OpsLimit/1e9))
			if err != nil {
				return err
			}
		}
		for _, n := range b.notes {
			if _, err := fmt.Fprintf(b.w, "\n%s.\n", n); err != nil {
				return err
			}
		}
	case "json":
		return writeJSON(b.w, b.rows)
	}
	return nil
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
