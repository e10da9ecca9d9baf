// Drawneval answers questions about pictures through the engine, for the
// evaluation of the embedded model (tools/train/evaluate.py --go).
//
// It reads one JSON object a line,
//
//	{"id": 1, "files": ["a.png"], "video": false, "prompt": "…", "most": 200}
//
// and writes one a line, in the order of finishing: {"id": 1, "text": "…",
// "logprob": -0.01}, where logprob is the mean log-probability of the tokens, the
// end of the answer included. No files is a question without a picture; a video
// has one file a frame.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"metacap/engine"
	"metacap/internal/demo"
)

type question struct {
	ID     int      `json:"id"`
	Files  []string `json:"files"`
	Video  bool     `json:"video"`
	Prompt string   `json:"prompt"`
	Most   int      `json:"most"`
}

type answer struct {
	ID      int     `json:"id"`
	Text    string  `json:"text"`
	LogProb float64 `json:"logprob"`
}

func main() {
	dir := flag.String("m", "", "checkpoint directory; default: the embedded model")
	device := flag.String("device", "cpu", "backend")
	dtype := flag.String("dtype", "auto", "f32, bf16 or auto")
	threads := flag.Int("threads", 0, "CPU threads; 0 = all")
	open := flag.Int("open", 32, "questions answered at a time")
	flag.Parse()
	if err := run(*dir, engine.Config{Device: *device, DType: *dtype, Threads: *threads}, *open, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "drawneval:", err)
		os.Exit(1)
	}
}

func run(dir string, c engine.Config, open int, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	var e *engine.Engine
	var err error
	if dir == "" {
		e, err = engine.OpenFS(ctx, demo.FS(), demo.Name, c)
	} else {
		e, err = engine.Open(ctx, dir, c)
	}
	if err != nil {
		return err
	}
	return errors.Join(answerAll(ctx, e, open, in, out), e.Close())
}

// answerAll keeps up to open questions in the engine and writes answers as they finish.
func answerAll(ctx context.Context, e *engine.Engine, open int, in io.Reader, out io.Writer) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, open)
		enc   = json.NewEncoder(out)
		lines = bufio.NewScanner(in)
	)
	enc.SetEscapeHTML(false)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return fmt.Errorf("question %.80q: %w", lines.Text(), err)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			a, err := ask(ctx, e, &q)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = enc.Encode(a)
			}
			if first == nil && err != nil {
				first = fmt.Errorf("question %d: %w", q.ID, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(first, lines.Err())
}

func ask(ctx context.Context, e *engine.Engine, q *question) (answer, error) {
	var parts []engine.Part
	if q.Video {
		v := &engine.Video{}
		for _, f := range q.Files {
			v.Frames = append(v.Frames, engine.Image{Path: f})
		}
		parts = append(parts, engine.Part{Video: v})
	} else {
		for _, f := range q.Files {
			parts = append(parts, engine.Part{Image: &engine.Image{Path: f}})
		}
	}
	parts = append(parts, engine.Part{Text: q.Prompt})
	res, err := e.Generate(ctx, engine.Request{
		Messages:  []engine.Message{{Role: engine.RoleUser, Parts: parts}},
		MaxTokens: q.Most, LogProbs: true,
	})
	if err != nil {
		return answer{}, err
	}
	sum := 0.0
	for _, t := range res.Tokens {
		sum += t.LogProb
	}
	return answer{ID: q.ID, Text: res.Text, LogProb: sum / float64(max(1, len(res.Tokens)))}, nil
}
