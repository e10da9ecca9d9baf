package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"metacap/engine"
)

// benchSameCmd is metacap bench same.
type benchSameCmd struct {
	Pictures []string `arg:"" name:"picture" help:"Pictures, or directories of PNG and JPEG files."`
	Against  string   `default:"cpu" placeholder:"NAME" help:"The other device."`
	Prompt   string   `default:"Please describe the image in detail." help:"What is asked."`
	Tokens   int      `default:"200" placeholder:"N" help:"Longest answer."`
	Tie      float64  `default:"0.1" placeholder:"NATS" help:"Where answers part, the best two tokens may differ by so much on either device; more is a failure."`

	engineFlags
}

func (*benchSameCmd) examples() string {
	return `
  metacap bench same --device cuda testdata/drawn  the embedded model on a GPU against the CPU

Greedy answers of two devices, token by token. Devices add in different orders, so
where two tokens are nearly as likely either may be chosen: each such place is listed
with the difference in log-probability of the best two on both devices. The exit code
is 2 if answers part anywhere else.
`
}

// answerOf is a greedy answer with the margin at each token.
type answerOf struct {
	ids     []int32
	texts   []string
	margins []float64 // nats between the best two
}

// Run is called by kong.
func (c *benchSameCmd) Run(ctx context.Context, a *app) error {
	var files []string
	for _, in := range c.Pictures {
		err := filepath.WalkDir(in, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.Contains([]string{".png", ".jpg", ".jpeg"}, strings.ToLower(filepath.Ext(path))) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return &exitError{Code: exitNothing, Err: errors.New("bench same: no pictures")}
	}
	var answers [2][]answerOf
	for i, device := range []string{c.Device, c.Against} {
		var err error
		if answers[i], err = c.answers(ctx, a, device, files, i > 0); err != nil {
			return fmt.Errorf("bench same: %s: %w", device, err)
		}
	}
	same, ties, wrong, tokens := 0, 0, 0, 0
	for i, file := range files {
		x, y := &answers[0][i], &answers[1][i]
		at := 0
		for at < min(len(x.ids), len(y.ids)) && x.ids[at] == y.ids[at] {
			at++
		}
		tokens += at
		if at == len(x.ids) && at == len(y.ids) {
			same++
			continue
		}
		what := "parts"
		margin := min(x.marginAt(at), y.marginAt(at))
		if margin <= c.Tie {
			what = "near tie"
			ties++
		} else {
			wrong++
		}
		fmt.Fprintf(a.stdout, "%s: %s at token %d: %q by %.4f, %q by %.4f\n", file, what, at, x.textAt(at), x.marginAt(at), y.textAt(at), y.marginAt(at))
	}
	fmt.Fprintf(a.stdout, "%d pictures, %d tokens alike: %d answers equal, %d part at a near tie, %d elsewhere\n", len(files), tokens, same, ties, wrong)
	if wrong > 0 {
		return &exitError{Code: exitSomeFailed}
	}
	return nil
}

func (x *answerOf) marginAt(i int) float64 {
	if i < len(x.margins) {
		return x.margins[i]
	}
	return 0 // it ended: the choice of the end is not among its tokens
}

func (x *answerOf) textAt(i int) string {
	if i < len(x.texts) {
		return x.texts[i]
	}
	return "(end)"
}

// answers asks a device about every picture.
func (c *benchSameCmd) answers(ctx context.Context, a *app, device string, files []string, again bool) ([]answerOf, error) {
	flags := c.engineFlags
	flags.Device = device
	eng, err := flags.open(ctx, a, again)
	if err != nil {
		return nil, err
	}
	defer eng.Close()
	out, errs := make([]answerOf, len(files)), make([]error, len(files))
	var wg sync.WaitGroup
	for i, file := range files {
		wg.Go(func() {
			res, err := eng.Generate(ctx, engine.Request{
				Messages:  []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Path: file}}, {Text: c.Prompt}}}},
				MaxTokens: c.Tokens, LogProbs: true, TopLogProbs: 2,
			})
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", file, err)
				return
			}
			for _, t := range res.Tokens {
				out[i].ids = append(out[i].ids, t.ID)
				out[i].texts = append(out[i].texts, t.Text)
				out[i].margins = append(out[i].margins, t.Top[0].LogProb-t.Top[1].LogProb)
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}
