package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"metacap/engine"
	"metacap/internal/demo"
)

const (
	imagePrompt = "Please describe the image in detail."
	videoPrompt = "Please describe the video in detail."
)

// captionCmd is metacap caption.
type captionCmd struct {
	Images []string `arg:"" name:"image" help:"Pictures (- reads one from standard input), or what makes a job: directories, globs, lists (.txt), tables (.jsonl, .csv, .parquet), tar shards; s3://BUCKET/PREFIX in builds with -tags s3."`

	Prompt   *string `short:"p" placeholder:"TEXT" help:"What to ask, instead of \"${image_prompt}\"" group:"answer"`
	Video    bool    `help:"The pictures are the frames of one video, in order." group:"picture"`
	MaxTiles int     `default:"0" placeholder:"N" help:"Most tiles a picture is cut into; 0 = the model's own limit, 1 = fastest." group:"picture"`
	Flow     string  `default:"direct" enum:"direct,capflow" help:"direct = one question; capflow = router, agents, summary and checks (metacap help capflow run)." group:"answer"`
	JSON     bool    `name:"json" help:"One JSON record a line: caption, tiles, tokens, times, seed, or the error." group:"output"`
	Parallel int     `default:"0" placeholder:"N" help:"Pictures worked on together; 0 = 1 on a terminal, else 4. Captions do not depend on it." group:"output"`

	engineFlags
	samplingFlags
	jobFlags
}

func (*captionCmd) examples() string {
	return `
  metacap a.jpg                                    one picture, by the embedded model
  metacap caption -m ~/models/MetaCaptioner-8B *.jpg
  metacap caption --json -m DIR *.jpg > captions.jsonl
  metacap caption -p "Read all text in the image verbatim." page.png
  metacap caption --max-tiles 1 a.jpg              fast: the whole picture as one tile
  metacap caption --video frame1.png frame2.png    one caption for both frames
  curl -s URL | metacap caption -                  a picture from standard input
  metacap caption --temperature 1 --top-p 0.9 --seed 7 a.jpg

A directory, a list, a table or a shard is a job: captions go to files, one bad
file stops nothing, and the same command resumes what was interrupted:

  metacap caption photos/                          photos/*.txt and photos/captions.jsonl
  metacap caption photos/ --captions long,short,tags --write json,xmp
  metacap caption 'shards/*.tar' --write tar,parquet --shard 3/16
  find . -name '*.jpg' -print0 | metacap caption -0 - --filelist --out captions
`
}

// captionItem is one caption to be made.
type captionItem struct {
	paths  []string
	images []engine.Image
	chunks chan string
	result *engine.Result
	err    error
}

func (it *captionItem) name() string { return strings.Join(it.paths, " ") }

// Run is called by kong.
func (c *captionCmd) Run(ctx context.Context, a *app) error {
	if c.Prompt != nil && strings.TrimSpace(*c.Prompt) == "" {
		return errors.New("--prompt is empty; leave it out for the usual question")
	}
	if c.Flow == "capflow" {
		return c.captionByFlow(ctx, a)
	}
	if c.job() {
		return c.runJob(ctx, a)
	}
	items, err := c.items(a)
	if err != nil {
		return err
	}
	eng, err := c.open(ctx, a, c.JSON)
	if err != nil {
		return err
	}
	defer eng.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go c.feed(ctx, eng, a, items)
	failed := 0
	for _, it := range items {
		if err := c.print(ctx, a, eng, it, len(items)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if it.err != nil {
			failed++
		}
	}
	if failed > 0 {
		var summary error
		if len(items) > 1 {
			summary = fmt.Errorf("%d of %d failed", failed, len(items))
		}
		return &exitError{Code: exitSomeFailed, Err: summary}
	}
	return nil
}

// items groups the arguments: one item a picture, or one for a video.
func (c *captionCmd) items(a *app) ([]*captionItem, error) {
	var all []*captionItem
	stdin := false
	for _, path := range c.Images {
		im := engine.Image{Path: path, MaxTiles: c.MaxTiles}
		if path == "-" {
			if stdin {
				return nil, errors.New("- given twice: standard input holds one picture")
			}
			stdin = true
			data, err := io.ReadAll(io.LimitReader(a.stdin, 1<<30))
			if err != nil {
				return nil, fmt.Errorf("standard input: %w", err)
			}
			im.Path, im.Data = "", data
			if len(data) == 0 {
				im.Data = []byte{}
			}
		} else if st, err := os.Stat(path); err == nil && st.IsDir() {
			return nil, fmt.Errorf("%s is a directory; --video takes the frames by name, as %s, or a directory with --frame-dirs", path, strings.TrimSuffix(path, "/")+"/*.jpg")
		}
		if c.Video && len(all) == 1 {
			all[0].paths, all[0].images = append(all[0].paths, path), append(all[0].images, im)
			continue
		}
		all = append(all, &captionItem{paths: []string{path}, images: []engine.Image{im}, chunks: make(chan string, 16)})
	}
	return all, nil
}

// prompt is what is asked.
func (c *captionCmd) prompt() string {
	switch {
	case c.Prompt != nil:
		return *c.Prompt
	case c.Video:
		return videoPrompt
	}
	return imagePrompt
}

// request is the engine's request for an item.
func (c *captionCmd) request(it *captionItem, info engine.Info) engine.Request {
	r := c.samplingFlags.request(info)
	var parts []engine.Part
	if c.Video {
		parts = append(parts, engine.Part{Video: &engine.Video{Frames: it.images}})
	} else {
		parts = append(parts, engine.Part{Image: &it.images[0]})
	}
	parts = append(parts, engine.Part{Text: c.prompt()})
	r.Messages = append(c.systemMessage(), engine.Message{Role: engine.RoleUser, Parts: parts})
	r.LogProbs = c.judged()
	return r
}

// judged reports whether captions come under the embedded model's rule of what
// is a guess. It was measured on greedy answers to the usual question.
func (c *captionCmd) judged() bool {
	return c.embedded() && c.Temperature == 0 && c.System == nil && (c.Prompt == nil || *c.Prompt == imagePrompt || *c.Prompt == videoPrompt)
}

// feed starts the items in order, no more than c.Parallel at a time. It ends
// when all are started; each item's goroutine ends with its stream. When ctx is
// done, the streams end and so does it.
func (c *captionCmd) feed(ctx context.Context, eng *engine.Engine, a *app, items []*captionItem) {
	parallel := c.Parallel
	if parallel < 1 {
		parallel = 4
		if terminal(a.stdout) && !c.JSON {
			parallel = 1
		}
	}
	slots := make(chan struct{}, parallel)
	for _, it := range items {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer close(it.chunks)
			for ev, err := range eng.Stream(ctx, c.request(it, eng.Info())) {
				if err != nil {
					it.err = err
				}
				if ev.Result != nil {
					it.result = ev.Result
				}
				if ev.Text != "" {
					it.chunks <- ev.Text
				}
			}
		}()
	}
}

// print writes an item's caption as it comes, or its record when it is whole.
func (c *captionCmd) print(ctx context.Context, a *app, eng *engine.Engine, it *captionItem, total int) error {
	if c.JSON {
		for range it.chunks {
		}
		if ctx.Err() != nil {
			return nil
		}
		return writeJSON(a.stdout, c.record(it, eng))
	}
	st := a.style(a.stdout)
	started := false
	for text := range it.chunks {
		if !started && total > 1 {
			fmt.Fprint(a.stdout, st.bold(it.name()+":")+" ")
		}
		started = true
		if terminal(a.stdout) {
			text = printable(text)
		}
		if _, err := io.WriteString(a.stdout, text); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
	}
	if started {
		fmt.Fprintln(a.stdout)
	}
	if ctx.Err() != nil {
		return nil
	}
	if it.err == nil && !a.quiet {
		if guess, mean := c.guess(it.result); guess && it.result.Text != demo.Unknown {
			fmt.Fprintf(a.stderr, "metacap: %s: this description is a guess: the embedded model was unsure of its words (mean log-probability %.3f, sure from %.3f, end %q); it knows only drawn pictures like testdata/drawn\n",
				it.name(), mean, demo.GuessBelow, it.result.Finish)
		}
	}
	if it.err != nil {
		fmt.Fprintf(a.stderr, "metacap: %v\n", plain(it.name(), it.err))
	} else if a.verbose > 0 && !a.quiet {
		fmt.Fprintln(a.stderr, a.style(a.stderr).dim("  "+summary(it.result)))
	}
	return nil
}

// record is an item's line of JSON.
func (c *captionCmd) record(it *captionItem, eng *engine.Engine) *record {
	r := &record{
		Model: c.name(), Note: noteFor(&c.engineFlags), Device: eng.Info().Device,
		Prompt: c.prompt(), System: c.System,
	}
	if c.Video {
		r.Frames = it.paths
	} else {
		r.Image = it.paths[0]
	}
	if s := c.samplingFlags; s.Temperature > 0 {
		r.Sampling = &samplingRecord{Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, RepetitionPenalty: s.RepetitionPenalty}
	}
	if it.err != nil {
		r.Error = plain(it.name(), it.err)
		return r
	}
	r.fill(it.result)
	if c.judged() {
		guess, mean := c.guess(it.result)
		r.Guess, r.MeanLogProb = guess, &mean
	}
	return r
}

// guess says whether a caption is one by the embedded model's rule, and the mean
// log-probability of its tokens. What never came to its end is one too, unless
// the user cut it short.
func (c *captionCmd) guess(res *engine.Result) (guess bool, mean float64) {
	if !c.judged() {
		return false, 0
	}
	return guessed(res, c.MaxTokens > 0)
}

// guessed applies the rule to an answer; short says that the user limits its length.
func guessed(res *engine.Result, short bool) (guess bool, mean float64) {
	for _, t := range res.Tokens {
		mean += t.LogProb / float64(len(res.Tokens))
	}
	cut := res.Finish == engine.FinishLength && short
	return demo.Guess(res.Text, mean) || res.Finish != engine.FinishStop && !cut, mean
}
