package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"metacap/engine"
)

// Result is what a test gave.
type Result struct {
	Test    Test
	Rates   []float64       // one a repetition, in Test.Unit
	Seconds []float64       // of a repetition; for cap the time of one caption
	First   []time.Duration // cap: request to first token
	Prompt  int             // tokens computed of the prompt of one sequence
	Tiles   int             // encoded, of one sequence
}

// Mean is the mean rate.
func (r *Result) Mean() float64 { return mean(r.Rates) }

// Deviation is the standard deviation of the rates, of a sample; 0 for one.
func (r *Result) Deviation() float64 {
	if len(r.Rates) < 2 {
		return 0
	}
	m, sum := r.Mean(), 0.0
	for _, v := range r.Rates {
		sum += (v - m) * (v - m)
	}
	return math.Sqrt(sum / float64(len(r.Rates)-1))
}

// Median is the median rate.
func (r *Result) Median() float64 { return Quantile(r.Rates, 0.5) }

// Quantile is the value below which a share q of values lies, interpolated
// linearly as NumPy does; NaN for none.
func Quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if len(s) == 0 {
		return math.NaN()
	}
	at := q * float64(len(s)-1)
	lo := int(at)
	hi := min(lo+1, len(s)-1)
	return s[lo] + (at-float64(lo))*(s[hi]-s[lo])
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Meter is an engine.Observer that adds up pure decode steps. It must be the
// Observer of the engine that Run measures.
type Meter struct {
	mu        sync.Mutex
	sequences int // only steps with this many sequences count
	steps     int // and of them only so many
	tokens    int
	time      time.Duration
}

// Step implements engine.Observer.
func (m *Meter) Step(s engine.StepStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.PrefillTokens == 0 && s.DecodeTokens == m.sequences && m.tokens < m.steps*m.sequences {
		m.tokens += s.DecodeTokens
		m.time += s.Duration
	}
}

// Request implements engine.Observer.
func (m *Meter) Request(engine.Usage, engine.FinishReason, error) {}

// reset starts counting steps of n sequences, the first so many.
func (m *Meter) reset(n, steps int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sequences, m.steps, m.tokens, m.time = n, steps, 0, 0
}

func (m *Meter) read() (tokens int, spent time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens, m.time
}

// Config turns off what would make a repeated measurement faster than the first.
func Config(c engine.Config, m *Meter) engine.Config {
	c.DisablePrefixCache, c.EncoderCacheBytes, c.Observer = true, -1, m
	return c
}

// Run measures a test: one warm-up and the repetitions. The engine must have
// been opened with Config.
func Run(ctx context.Context, e *engine.Engine, m *Meter, t Test, repetitions int) (*Result, error) {
	if t.Kind == Prefill && t.Depth > 0 {
		return runDeep(ctx, e, t, repetitions)
	}
	out := &Result{Test: t}
	// All are made before the first is run: a device that waits meanwhile slows its clocks.
	rounds := make([][]engine.Request, repetitions+1)
	for i := range rounds {
		for k := range t.Batch { // pictures of their own, so that none is known already
			r, err := request(ctx, e, t, i*t.Batch+k)
			if err != nil {
				return nil, fmt.Errorf("bench: %s: %w", t, err)
			}
			rounds[i] = append(rounds[i], r)
		}
	}
	for i, requests := range rounds {
		err := out.round(ctx, e, m, requests, i > 0)
		// The first may be done before the last was submitted: then they get more to do.
		for more := 64; errors.Is(err, errApart) && more <= maxHeadStart; more *= 4 {
			for k := range requests {
				requests[k].MaxTokens += more
			}
			err = out.round(ctx, e, m, requests, i > 0)
		}
		if err != nil {
			return nil, fmt.Errorf("bench: %s: %w", t, err)
		}
	}
	return out, nil
}

// errApart occurs when the sequences of a decode test did not decode together for long enough.
var errApart = errors.New("sequences did not decode together")

// maxHeadStart bounds the tokens that are added at a time so that they do.
const maxHeadStart = 4096

// round runs requests once and, if it counts, adds what that gave.
func (r *Result) round(ctx context.Context, e *engine.Engine, m *Meter, requests []engine.Request, counts bool) error {
	m.reset(r.Test.Batch, r.Test.Tokens)
	start := time.Now()
	results, err := together(ctx, e, requests)
	if err != nil || !counts {
		return err
	}
	return r.add(r.Test, m, results, time.Since(start))
}

// runDeep measures the prefill of tokens that follow a computed prefix: each
// repetition is a fork of one session.
func runDeep(ctx context.Context, e *engine.Engine, t Test, repetitions int) (*Result, error) {
	prefix := []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Text: strings.Repeat("a ", t.Depth)}}}}
	s, err := e.NewSession(ctx, prefix, engine.SessionOptions{})
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", t, err)
	}
	defer s.Close()
	out := &Result{Test: t}
	for i := range repetitions + 1 {
		r := engine.Request{MaxTokens: 1, IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: true}
		// The closing of the template counts too, so a few words less.
		res, err := s.Generate(ctx, strings.Repeat("a ", max(t.Tokens-deepClosing, 1)), r)
		if err != nil {
			return nil, fmt.Errorf("bench: %s: %w", t, err)
		}
		if i == 0 {
			continue
		}
		count := float64(res.Usage.PromptTokens - res.Usage.CachedTokens)
		out.Prompt = int(count)
		out.Rates = append(out.Rates, count/res.Usage.PrefillTime.Seconds())
		out.Seconds = append(out.Seconds, res.Usage.PrefillTime.Seconds())
	}
	return out, nil
}

// deepClosing is about what closing a message and opening the answer takes. The
// rate counts the tokens that there were.
const deepClosing = 6

// add computes a repetition's rate.
func (r *Result) add(t Test, m *Meter, results []*engine.Result, wall time.Duration) error {
	var count float64
	spent := wall
	r.Prompt, r.Tiles = results[0].Usage.PromptTokens, results[0].Usage.TilesEncoded
	switch t.Kind {
	case First:
		var worst time.Duration
		for _, res := range results {
			worst = max(worst, res.Usage.FirstToken)
		}
		r.Rates = append(r.Rates, worst.Seconds()*1e3)
		r.Seconds = append(r.Seconds, worst.Seconds())
		return nil
	case Prefill:
		for _, res := range results {
			count += float64(res.Usage.PromptTokens)
		}
		if t.Batch == 1 {
			spent = results[0].Usage.PrefillTime
		}
	case Decode:
		tokens, time := m.read()
		if want := t.Tokens * t.Batch; tokens < want {
			return fmt.Errorf("%w: %d of %d tokens of %d sequences", errApart, tokens, want, t.Batch)
		}
		count, spent = float64(tokens), time
	case Vision:
		for _, res := range results {
			count += float64(res.Usage.TilesEncoded)
		}
		if t.Batch == 1 {
			spent = results[0].Usage.VisionTime
		}
	case Caption:
		count = float64(len(results))
		for _, res := range results {
			r.First = append(r.First, res.Usage.FirstToken)
		}
	}
	r.Rates = append(r.Rates, count/spent.Seconds())
	r.Seconds = append(r.Seconds, spent.Seconds())
	return nil
}

// together runs requests at once.
func together(ctx context.Context, e *engine.Engine, requests []engine.Request) ([]*engine.Result, error) {
	results, errs := make([]*engine.Result, len(requests)), make([]error, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() { results[i], errs[i] = e.Generate(ctx, r) })
	}
	wg.Wait()
	return results, errors.Join(errs...)
}

// request is a test's request; requests of different seeds show different pictures.
func request(ctx context.Context, e *engine.Engine, t Test, seed int) (engine.Request, error) {
	r := engine.Request{IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: true}
	var err error
	switch t.Kind {
	case Prefill:
		r.MaxTokens = 1
		r.Messages, err = prompt(ctx, e, t.Tokens)
	case Decode:
		r.MaxTokens = t.Tokens + 1 + headStart(t, e.Info().StepTokens) // the first comes from the prefill
		r.Messages, err = prompt(ctx, e, t.Depth)
	case Vision:
		r.MaxTokens = 1
		r.Messages, err = tiles(e, t.Tiles, seed)
	case First:
		r.MaxTokens = 1
		r.Messages, err = tilesAndText(ctx, e, t.Tiles, t.Depth, seed)
	case Caption:
		r.MaxTokens = captionTokens
		r.Messages, err = picture(t.Width, t.Height, seed)
	}
	return r, err
}

// headStart is how many tokens the first sequence of a decode test may get before the
// last one's prompt is computed. So many more are asked for, and those at the end left
// out, so that all decode together for as long as the test says.
func headStart(t Test, step int) int {
	if t.Batch == 1 {
		return 0
	}
	return t.Batch*t.Depth/max(step-t.Batch, 1) + t.Batch + 2
}

// prompt is a conversation of exactly n tokens.
func prompt(ctx context.Context, e *engine.Engine, n int) ([]engine.Message, error) {
	return exactly(ctx, e, n, []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{}}}})
}

// tilesAndText is a conversation with a picture of the given tiles and text so
// that there are the given tokens, the template's included, beside the picture's.
func tilesAndText(ctx context.Context, e *engine.Engine, count, text, seed int) ([]engine.Message, error) {
	messages, err := tiles(e, count, seed)
	if err != nil {
		return nil, err
	}
	return exactly(ctx, e, count*e.Info().TileTokens+text, messages)
}

// exactly fills the last part of the only message with words until the prompt has n tokens.
func exactly(ctx context.Context, e *engine.Engine, n int, messages []engine.Message) ([]engine.Message, error) {
	parts := messages[0].Parts
	words := 1
	for range 8 { // a word is one token, so the second turn fits
		parts[len(parts)-1] = engine.Part{Text: "a" + strings.Repeat(" a", words-1)}
		est, err := e.Estimate(ctx, engine.Request{Messages: messages})
		if err != nil {
			return nil, err
		}
		if est.PromptTokens == n {
			return messages, nil
		}
		words += n - est.PromptTokens
		if words < 1 {
			return nil, fmt.Errorf("a prompt of %d tokens is shorter than the chat template", n)
		}
	}
	return nil, fmt.Errorf("no prompt of exactly %d tokens", n)
}

// tiles is a conversation with a picture that becomes n tiles.
func tiles(e *engine.Engine, n, seed int) ([]engine.Message, error) {
	im, err := Strip(e, n, seed)
	if err != nil {
		return nil, err
	}
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: im}, {Text: "a"}}}}, nil
}

// Strip is a picture that becomes n tiles: a row of n-1 and the thumbnail.
// Pictures of different seeds have no tile in common.
func Strip(e *engine.Engine, n, seed int) (*engine.Image, error) {
	size := e.Info().TileSize
	if size == 0 {
		return nil, engine.ErrNoVision
	}
	if n < 2 {
		return &engine.Image{Decoded: drawing(size, size, seed), ThumbnailOnly: true}, nil
	}
	got, _, err := e.ImageTokens((n-1)*size, size, n-1)
	if err != nil {
		return nil, err
	}
	if got != n {
		return nil, fmt.Errorf("this model makes no pictures of %d tiles (nearest: %d)", n, got)
	}
	return &engine.Image{Decoded: drawing((n-1)*size, size, seed), MaxTiles: n - 1}, nil
}

// picture is a conversation with a JPEG of the given size.
func picture(width, height, seed int) ([]engine.Message, error) {
	data, err := Photo(width, height, seed)
	if err != nil {
		return nil, err
	}
	im := engine.Image{Data: data}
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &im}, {Text: "Please describe the image in detail."}}}}, nil
}

// Photo is the JPEG of a drawing. Drawings of seeds below 1<<14 differ in every pixel.
func Photo(width, height, seed int) ([]byte, error) {
	var data bytes.Buffer
	if err := jpeg.Encode(&data, drawing(width, height, seed), &jpeg.Options{Quality: 90}); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

// Tinted is a picture like a JPEG, but for a little of one colour in every pixel.
func Tinted(data []byte, tint int) (image.Image, error) {
	src, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out := image.NewRGBA(src.Bounds())
	draw.Draw(out, out.Bounds(), src, src.Bounds().Min, draw.Src)
	for i := 0; i < len(out.Pix); i += 4 {
		out.Pix[i+1] += byte(tint)
		out.Pix[i+2] += byte(tint >> 8)
	}
	return out, nil
}

// drawing is a picture with smooth and busy regions. Drawings of seeds below
// 1<<14 differ in every pixel.
func drawing(width, height, seed int) image.Image {
	im := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			noise := uint8((x*7919 + y*104729) >> 3 & 31)
			im.SetRGBA(x, y, color.RGBA{uint8(x*255/width + seed>>6), uint8(y * 255 / height), 96 + noise + uint8(seed&63), 255})
		}
	}
	return im
}
