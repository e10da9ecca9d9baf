package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"metacap/captioner"
	"metacap/engine"
	"metacap/internal/bench"
)

// benchJobCmd is metacap bench job.
type benchJobCmd struct {
	Pictures    int    `default:"160" placeholder:"N" help:"Pictures of 1280x960 in the folder."`
	Tokens      int    `default:"64" placeholder:"N" help:"Tokens of a caption."`
	Repetitions int    `short:"r" default:"1" placeholder:"N" help:"Rounds of both."`
	Output      string `short:"o" default:"md" enum:"md,json" help:"md, or json (one object)."`
	Dir         string `placeholder:"DIR" help:"Where the folder is made, which is removed; default: the folder for temporary files."`

	benchModel
}

func (*benchJobCmd) examples() string {
	return `
  metacap bench job                                a folder of 160 JPEGs, the embedded model
  metacap bench job --random-weights 8b --device cuda -o json

Does the engine wait for files, decoding or journals? A captioning job over a folder
of JPEGs, as metacap caption runs it, against the same engine that is given as many
pictures of as many tiles, already decoded and of the tiles' size, with the same prompt
and as many requests under way. Captions have a fixed length, whatever the model says.
`
}

// jobRow is the result.
type jobRow struct {
	benchBase
	Test       string    `json:"test"`
	Pictures   int       `json:"pictures"`
	Tiles      int       `json:"tiles_a_picture"`
	Tokens     int       `json:"tokens_a_caption"`
	Workers    int       `json:"workers"`
	Job        []float64 `json:"job_pictures_per_second"`
	Alone      []float64 `json:"engine_pictures_per_second"`
	Share      float64   `json:"share"`       // of the medians
	EngineBusy float64   `json:"engine_busy"` // of the last job's time
	Bottleneck string    `json:"bottleneck"`
}

// fixedLength is an engine whose answers have a fixed length and pass every filter.
type fixedLength struct {
	*engine.Engine
	tokens int
}

func (f *fixedLength) Generate(ctx context.Context, r engine.Request) (*engine.Result, error) {
	r.MaxTokens, r.IgnoreEOS, r.DisableLoopGuard, r.DisableSpeculation = f.tokens, true, true, true
	res, err := f.Engine.Generate(ctx, r)
	if err == nil {
		prescribe(res)
	}
	return res, err
}

// Run is called by kong.
func (c *benchJobCmd) Run(ctx context.Context, a *app) error {
	if c.Pictures < 1 || c.Tokens < 1 || c.Repetitions < 1 {
		return fmt.Errorf("bench job: --pictures %d, --tokens %d, --repetitions %d: want at least 1", c.Pictures, c.Tokens, c.Repetitions)
	}
	eng, err := c.openBench(ctx, c.config(a))
	if err != nil {
		return err
	}
	defer eng.Close()
	info := eng.Info()
	if !info.Vision {
		return fmt.Errorf("bench job: %s has no vision encoder", c.name())
	}
	fixed := &fixedLength{eng, c.Tokens}
	row := jobRow{benchBase: c.base(info), Test: "job", Pictures: c.Pictures, Tokens: c.Tokens, Workers: runtime.GOMAXPROCS(0) + info.MaxSequences*3/2}
	if row.Tiles, _, err = eng.ImageTokens(1280, 960, 0); err != nil {
		return err
	}
	for round := range c.Repetitions {
		first := 2 * round * (c.Pictures + 1)
		rate, err := c.alone(ctx, fixed, &row, first)
		if err != nil {
			return fmt.Errorf("bench job: the engine alone: %w", err)
		}
		row.Alone = append(row.Alone, rate)
		rep, err := c.job(ctx, fixed, &row, first+c.Pictures+1)
		if err != nil {
			return fmt.Errorf("bench job: %w", err)
		}
		row.Job = append(row.Job, rep.Rate)
		row.EngineBusy, row.Bottleneck = rep.EngineBusy, rep.Bottleneck
	}
	row.Share = bench.Quantile(row.Job, 0.5) / bench.Quantile(row.Alone, 0.5)
	if c.Output == "json" {
		return writeJSON(a.stdout, row)
	}
	_, err = fmt.Fprintf(a.stdout, "%s, %s: %d pictures of %d tiles, captions of %d tokens: a job makes %s pictures/s, the engine alone %s: %.1f %%.\nThe engine was busy %.1f %% of the job; its slowest stage is %s.\n",
		row.Model, row.Device, row.Pictures, row.Tiles, row.Tokens, rate(bench.Quantile(row.Job, 0.5)), rate(bench.Quantile(row.Alone, 0.5)), 100*row.Share, 100*row.EngineBusy, row.Bottleneck)
	return err
}

// alone gives the engine pictures that need no work, and one before them to warm up.
func (c *benchJobCmd) alone(ctx context.Context, eng *fixedLength, row *jobRow, seed int) (float64, error) {
	requests := make([]engine.Request, c.Pictures+1)
	var prepared sync.WaitGroup
	errs := make([]error, len(requests))
	for i := range requests {
		prepared.Go(func() {
			im, err := bench.Strip(eng.Engine, row.Tiles, seed+i)
			requests[i], errs[i] = engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: im}, {Text: jobPrompt()}}}}}, err
		})
	}
	prepared.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	if _, err := eng.Generate(ctx, requests[0]); err != nil {
		return 0, err
	}
	start := time.Now()
	slots := make(chan struct{}, row.Workers)
	var wg sync.WaitGroup
	for i, r := range requests[1:] {
		slots <- struct{}{}
		wg.Go(func() {
			_, errs[i] = eng.Generate(ctx, r)
			<-slots
		})
	}
	wg.Wait()
	took := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(c.Pictures) / took.Seconds(), nil
}

// jobPrompt is what a job without a recipe asks.
func jobPrompt() string {
	for _, p := range captioner.Presets() {
		if p.Name == captioner.DefaultPreset {
			return p.Prompt
		}
	}
	return ""
}

// job captions a folder of JPEGs.
func (c *benchJobCmd) job(ctx context.Context, eng *fixedLength, row *jobRow, seed int) (*captioner.Report, error) {
	dir, err := os.MkdirTemp(c.Dir, "metacap-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	errs := make([]error, c.Pictures)
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range c.Pictures {
		slots <- struct{}{}
		wg.Go(func() {
			data, err := bench.Photo(1280, 960, seed+i)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.jpg", i)), data, 0o644)
			}
			errs[i] = err
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	rep, err := captioner.Run(ctx, []captioner.Engine{eng}, captioner.Job{
		Inputs: []string{dir}, Model: c.name(), Digest: "bench", Write: []string{"jsonl"}, InFlight: row.Workers,
		Recipe: captioner.Recipe{MaxTokens: c.Tokens, Filters: captioner.Filters{Duplicates: -1}},
	})
	if err == nil && rep.Done != c.Pictures {
		err = fmt.Errorf("%d of %d pictures were captioned", rep.Done, c.Pictures)
	}
	return rep, err
}
