// Package endpoint puts a server with OpenAI's chat protocol (vLLM, LMDeploy, a
// hosted model) behind a role of a captioning flow.
//
// What such a server cannot do is emulated or off, and the record says so: a
// closed question is answered by one greedy token, whose probability is taken
// from top_logprobs where the server gives them and is 1 where it does not;
// given text is not scored; nothing is shared between questions, so that every
// question sends the picture again.
//
// A request is tried again after a timeout, a broken connection, 429 and 5xx,
// with growing pauses. An answer that is no valid completion is an error at once.
package endpoint

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"metacap/capflow"
	"metacap/engine"
)

// Options of an endpoint. URL and Model are needed.
type Options struct {
	URL      string // as "http://host:8000/v1"
	Model    string
	APIKey   string
	Timeout  time.Duration // of one try; 0 = 2 minutes
	Tries    int           // 0 = 4
	Pause    time.Duration // before the second try, doubled for each further; 0 = 500 ms
	Parallel int           // requests at a time; 0 = 8
	// Prices in dollars a million tokens; 0 = none.
	PriceIn, PriceOut float64
	Client            *http.Client // nil = one of its own
}

// maxAnswerBytes bounds an answer.
const maxAnswerBytes = 16 << 20

// StatusError is an answer of the server that is no success.
type StatusError struct {
	Status int
	Body   string // its start
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Body) }

// New checks options and returns the endpoint as a model. Nothing is sent yet.
func New(o Options) (capflow.Model, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("endpoint: new: URL %q, want http://host/v1 or https://host/v1", o.URL)
	}
	if o.Model == "" {
		return nil, errors.New("endpoint: new: no model name")
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Tries <= 0 {
		o.Tries = 4
	}
	if o.Pause <= 0 {
		o.Pause = 500 * time.Millisecond
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.Client == nil {
		o.Client = &http.Client{}
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	return &model{o, make(chan struct{}, o.Parallel)}, nil
}

type model struct {
	o     Options
	slots chan struct{}
}

func (m *model) Info() capflow.ModelInfo {
	return capflow.ModelInfo{Name: m.o.Model, Backend: "endpoint", Device: m.o.URL, Capabilities: capflow.Capabilities{Labels: true}}
}

// Tokens estimates: four bytes a token.
func (m *model) Tokens(text string) int { return 1 + len(text)/4 }

// Open prepares the pictures as data URLs. ThumbnailOnly, MaxTiles and Crop
// mean nothing to a server, except that a crop is refused.
func (m *model) Open(_ context.Context, p capflow.Prefix) (capflow.Conversation, error) {
	c := &conversation{m: m}
	if p.System != "" {
		c.system = p.System
	}
	for i := range p.Images {
		u, err := dataURL(&p.Images[i])
		if err != nil {
			return nil, fmt.Errorf("endpoint: open: %w", err)
		}
		c.parts = append(c.parts, part{Type: "image_url", ImageURL: &imageURL{URL: u}})
	}
	return c, nil
}

// dataURL encodes a picture. Bytes that are no picture are refused here, so that
// a corrupt file costs no request.
func dataURL(im *engine.Image) (string, error) {
	if !im.Crop.Empty() {
		return "", fmt.Errorf("crop %v: %w", im.Crop, capflow.ErrCapability)
	}
	data := im.Data
	switch {
	case im.Path != "":
		var err error
		if data, err = os.ReadFile(im.Path); err != nil {
			return "", err
		}
	case im.Decoded != nil:
		var b bytes.Buffer
		if err := png.Encode(&b, im.Decoded); err != nil {
			return "", err
		}
		data = b.Bytes()
	}
	kind := http.DetectContentType(data)
	if !strings.HasPrefix(kind, "image/") {
		return "", fmt.Errorf("%s: %s is no picture", im.Path, kind)
	}
	return "data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(data), nil
}

// conversation sends the picture with every question.
type conversation struct {
	m      *model
	system string
	parts  []part

	mu      sync.Mutex
	usage   engine.Usage // of closed questions
	dollars float64
}

type imageURL struct {
	URL string `json:"url"`
}

type part struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	ImageURL *imageURL `json:"image_url,omitempty"`
}

type message struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

type chatRequest struct {
	Model       string    `json:"model"`
	Messages    []message `json:"messages"`
	MaxTokens   int       `json:"max_tokens,omitempty"`
	Temperature float64   `json:"temperature"`
	TopP        float64   `json:"top_p,omitempty"`
	Seed        *uint64   `json:"seed,omitempty"`
	Stop        []string  `json:"stop,omitempty"`
	LogProbs    bool      `json:"logprobs,omitempty"`
	TopLogProbs int       `json:"top_logprobs,omitempty"`
}

type chatResponse struct {
	Choices []struct {
		Message struct {
			Content *string `json:"content"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
		LogProbs     *struct {
			Content []struct {
				Token       string  `json:"token"`
				LogProb     float64 `json:"logprob"`
				TopLogProbs []struct {
					Token   string  `json:"token"`
					LogProb float64 `json:"logprob"`
				} `json:"top_logprobs"`
			} `json:"content"`
		} `json:"logprobs"`
	} `json:"choices"`
	Usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		Details          struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

func (c *conversation) request(instruction string) *chatRequest {
	r := &chatRequest{Model: c.m.o.Model}
	if c.system != "" {
		r.Messages = append(r.Messages, message{"system", c.system})
	}
	r.Messages = append(r.Messages, message{"user", append(append([]part{}, c.parts...), part{Type: "text", Text: instruction})})
	return r
}

// Generate answers an instruction.
func (c *conversation) Generate(ctx context.Context, instruction string, q engine.Request) (*engine.Result, error) {
	r := c.request(instruction)
	r.MaxTokens, r.Temperature, r.TopP, r.Stop = q.MaxTokens, q.Sampling.Temperature, q.Sampling.TopP, q.Stop
	if s := q.Sampling.Seed; s != 0 {
		r.Seed = &s
	}
	start := time.Now()
	got, err := c.m.send(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("endpoint: generate: %w", err)
	}
	ch := got.Choices[0]
	res := &engine.Result{Text: *ch.Message.Content, Finish: engine.FinishStop, Seed: q.Sampling.Seed}
	if ch.FinishReason == "length" {
		res.Finish = engine.FinishLength
	}
	res.Usage = engine.Usage{
		PromptTokens: got.Usage.PromptTokens, CachedTokens: got.Usage.Details.Cached, OutputTokens: got.Usage.CompletionTokens, Total: time.Since(start),
	}
	c.charge(got)
	return res, nil
}

func (c *conversation) charge(got *chatResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dollars += (float64(got.Usage.PromptTokens)*c.m.o.PriceIn + float64(got.Usage.CompletionTokens)*c.m.o.PriceOut) / 1e6
}

// labelFloor is the log-probability of a label that the server did not list.
var labelFloor = math.Log(1e-4)

// ScoreLabels asks for one token a question.
func (c *conversation) ScoreLabels(ctx context.Context, queries []engine.LabelQuery) ([][]float64, error) {
	out := make([][]float64, len(queries))
	errs := make([]error, len(queries))
	var wg sync.WaitGroup
	for i, q := range queries {
		wg.Go(func() { out[i], errs[i] = c.scoreLabels(ctx, q) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("endpoint: score labels: %w", err)
	}
	return out, nil
}

func (c *conversation) scoreLabels(ctx context.Context, q engine.LabelQuery) ([]float64, error) {
	r := c.request(q.Instruction)
	r.MaxTokens, r.LogProbs, r.TopLogProbs = 1, true, 20
	got, err := c.m.send(ctx, r)
	if err != nil {
		return nil, err
	}
	c.charge(got)
	c.mu.Lock()
	c.usage.PromptTokens += got.Usage.PromptTokens
	c.usage.CachedTokens += got.Usage.Details.Cached
	c.mu.Unlock()
	out := make([]float64, len(q.Labels))
	answer := strings.TrimSpace(*got.Choices[0].Message.Content)
	known := false
	for i, label := range q.Labels {
		out[i] = labelFloor
		if answer == label {
			out[i], known = 0, true
		}
	}
	if lp := got.Choices[0].LogProbs; lp != nil && len(lp.Content) > 0 {
		for _, t := range lp.Content[0].TopLogProbs {
			for i, label := range q.Labels {
				if strings.TrimSpace(t.Token) == label && !math.IsNaN(t.LogProb) && t.LogProb <= 0 && (out[i] == labelFloor || out[i] == 0 || t.LogProb > out[i]) {
					out[i], known = t.LogProb, true
				}
			}
		}
	}
	if !known {
		return nil, fmt.Errorf("answer %.40q is none of %v", answer, q.Labels)
	}
	return out, nil
}

// ScoreText is not possible over this protocol.
func (c *conversation) ScoreText(context.Context, string, string) ([]engine.Token, error) {
	return nil, capflow.ErrCapability
}

func (c *conversation) PrefixTokens() int            { return 0 }
func (c *conversation) Images() []engine.ImageReport { return nil }
func (c *conversation) Close() error                 { return nil }

// Usage is what closed questions have cost.
func (c *conversation) Usage() engine.Usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usage
}

// Dollars is what the conversation has cost.
func (c *conversation) Dollars() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dollars
}

// send asks the server, again if that may help.
func (m *model) send(ctx context.Context, r *chatRequest) (*chatResponse, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	pause := m.o.Pause
	for try := 1; ; try++ {
		got, wait, err := m.try(ctx, body)
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if try == m.o.Tries || wait < 0 {
			return nil, fmt.Errorf("%s, try %d of %d: %w", m.o.URL, try, m.o.Tries, err)
		}
		select {
		case <-time.After(max(pause, wait)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		pause *= 2
	}
}

// maxRetryAfter bounds the pause that a server may ask for.
const maxRetryAfter = time.Minute

// try asks once. wait < 0 means that another try cannot help; wait > 0 is a
// pause that the server asked for.
func (m *model) try(ctx context.Context, body []byte) (got *chatResponse, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.o.URL+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, -1, err
	}
	req.Header.Set("Content-Type", "application/json")
	if m.o.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+m.o.APIKey)
	}
	resp, err := m.o.Client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read the answer: %w", err)
	case len(data) > maxAnswerBytes:
		return nil, -1, fmt.Errorf("answer exceeds %d bytes", maxAnswerBytes)
	case resp.StatusCode != http.StatusOK:
		err := &StatusError{resp.StatusCode, strings.TrimSpace(string(data[:min(len(data), 200)]))}
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
			s, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			return nil, min(time.Duration(max(0, s))*time.Second, maxRetryAfter), err
		}
		return nil, -1, err
	}
	got = &chatResponse{}
	if err := json.Unmarshal(data, got); err != nil {
		return nil, -1, fmt.Errorf("answer is no JSON: %w", err)
	}
	if len(got.Choices) == 0 || got.Choices[0].Message.Content == nil {
		return nil, -1, errors.New("answer has no choice with content")
	}
	return got, 0, nil
}
