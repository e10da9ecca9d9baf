// Drawneval answers questions about pictures through the engine, for the
// evaluation of the embedded model (tools/train/evaluate.py --go).
//
// It reads one JSON object a line,
//
//	{"id": 1, "files": ["a.png"], "video": false, "prompt": "…", "most": 200, "top": 0}
//
// and writes one a line, in the order of finishing: {"id": 1, "text": "…",
// "logprob": -0.01}, where logprob is the mean log-probability of the tokens, the
// end of the answer included. With "top": n the answer has "first" too: the n
// likeliest first tokens with their log-probabilities. With -ids it has "ids" and
// "logprobs": its tokens. No files is a question without a picture; a video has
// one file a frame.
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
	Top    int      `json:"top"`
}

type answer struct {
	ID      int                `json:"id"`
	Text    string             `json:"text"`
	LogProb float64            `json:"logprob"`
	First   map[string]float64 `json:"first,omitempty"`
	IDs     []int32            `json:"ids,omitempty"`
	Logs    []float64          `json:"logprobs,omitempty"`
}

func main() {
	dir := flag.String("m", "", "checkpoint directory; default: the embedded model")
	device := flag.String("device", "cpu", "backend")
	dtype := flag.String("dtype", "auto", "f32, bf16 or auto")
	threads := flag.Int("threads", 0, "CPU threads; 0 = all")
	open := flag.Int("open", 32, "questions answered at a time")
	ids := flag.Bool("ids", false, "write the tokens of the answers")
	flag.Parse()
	s := session{open: *open, ids: *ids}
	if err := s.run(*dir, engine.Config{Device: *device, DType: *dtype, Threads: *threads}, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "drawneval:", err)
		os.Exit(1)
	}
}

// session is how questions are answered: how many at a time, and with their tokens or not.
type session struct {
	open int
	ids  bool
}

func (s session) run(dir string, c engine.Config, in io.Reader, out io.Writer) error {
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
	return errors.Join(s.answerAll(ctx, e, in, out), e.Close())
}

// answerAll keeps up to s.open questions in the engine and writes answers as they finish.
func (s session) answerAll(ctx context.Context, e *engine.Engine, in io.Reader, out io.Writer) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, s.open)
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
			a, err := ask(ctx, e, &q, s.ids)
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

func ask(ctx context.Context, e *engine.Engine, q *question, ids bool) (answer, error) {
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
		MaxTokens: q.Most, LogProbs: true, TopLogProbs: q.Top,
	})
	if err != nil {
		return answer{}, err
	}
	return answerOf(q, res, ids), nil
}

func answerOf(q *question, res *engine.Result, ids bool) answer {
	a, sum := answer{ID: q.ID, Text: res.Text}, 0.0
	for _, t := range res.Tokens {
		sum += t.LogProb
		if ids {
			a.IDs, a.Logs = append(a.IDs, t.ID), append(a.Logs, t.LogProb)
		}
	}
	a.LogProb = sum / float64(max(1, len(res.Tokens)))
	if q.Top > 0 && len(res.Tokens) > 0 {
		a.First = map[string]float64{}
		for _, t := range res.Tokens[0].Top {
			a.First[t.Text] = t.LogProb
		}
	}
	return a
}
