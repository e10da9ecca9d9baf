package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"metacap/engine"
)

// Served is what became of a request. Times are seconds.
type Served struct {
	Arrival
	Sent         float64   `json:"sent_seconds"`
	First        float64   `json:"first_token_seconds"` // since Sent
	Gaps         []float64 `json:"gaps_seconds"`        // between tokens as the reader gets them
	Total        float64   `json:"total_seconds"`       // since Sent
	Prompt       int       `json:"prompt_tokens"`
	Cached       int       `json:"cached_tokens"`
	TilesEncoded int       `json:"tiles_encoded"`
	Output       int       `json:"output_tokens"`
	Error        string    `json:"error,omitempty"`
}

// PerToken is the mean time a token after the first; ok is false for one token.
func (s *Served) PerToken() (seconds float64, ok bool) {
	if s.Output < 2 {
		return 0, false
	}
	return (s.Total - s.First) / float64(s.Output-1), true
}

// Simulation is a finished run.
type Simulation struct {
	Served  []Served
	Seconds float64 // from the start to the last answer
	Peak    int     // most requests open at once
}

// Simulate sends the planned requests: at their times, or, if concurrency is
// positive, from so many clients in a closed loop. Pictures are drawn before the
// start; each request reads its JPEG, as a server would. A request that fails
// is counted, not fatal; the error is that of ctx, or that a picture could not be drawn.
func Simulate(ctx context.Context, e *engine.Engine, plan []Arrival, concurrency int, speculate bool) (*Simulation, error) {
	pictures, err := drawAll(plan)
	if err != nil {
		return nil, fmt.Errorf("bench: serve-sim: %w", err)
	}
	sim := &simulator{engine: e, plan: plan, pictures: pictures, speculate: speculate, served: make([]Served, len(plan))}
	if err := sim.warm(ctx); err != nil {
		return nil, fmt.Errorf("bench: serve-sim: first request, which is not measured: %w", err)
	}
	sim.start = time.Now()
	if concurrency > 0 {
		sim.closed(ctx, concurrency)
	} else {
		sim.open(ctx)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &Simulation{Served: sim.served, Seconds: time.Since(sim.start).Seconds(), Peak: sim.peak}, nil
}

// drawn names a picture.
type drawn struct{ width, height, number int }

func (a *Arrival) drawn() drawn { return drawn{a.Width, a.Height, a.Picture} }

// drawAll makes the JPEG of every picture of a plan.
func drawAll(plan []Arrival) (map[drawn][]byte, error) {
	list := map[drawn][]byte{}
	for i := range plan {
		a := &plan[i]
		if a.Width == 0 || list[a.drawn()] != nil {
			continue
		}
		data, err := Photo(a.Width, a.Height, a.Picture)
		if err != nil {
			return nil, err
		}
		list[a.drawn()] = data
	}
	return list, nil
}

type simulator struct {
	engine    *engine.Engine
	plan      []Arrival
	pictures  map[drawn][]byte
	speculate bool
	start     time.Time
	served    []Served

	mu         sync.Mutex
	busy, peak int
}

// open sends each request at its time.
func (s *simulator) open(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range s.plan {
		due := s.start.Add(time.Duration(s.plan[i].At * float64(time.Second)))
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(due)):
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() { s.send(ctx, i) })
	}
	wg.Wait()
}

// closed lets n clients work through the plan.
func (s *simulator) closed(ctx context.Context, n int) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for i := range next {
				s.send(ctx, i)
			}
		})
	}
	for i := range s.plan {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
}

func (s *simulator) request(a *Arrival) engine.Request {
	parts := []engine.Part{{Text: a.Text}}
	if a.Width > 0 {
		parts = []engine.Part{{Image: &engine.Image{Data: s.pictures[a.drawn()]}}, parts[0]}
	}
	return engine.Request{
		Messages:  []engine.Message{{Role: engine.RoleUser, Parts: parts}},
		MaxTokens: a.Tokens, IgnoreEOS: true, DisableLoopGuard: true, DisableSpeculation: !s.speculate,
	}
}

// warm runs one request with a picture that is not in the plan.
func (s *simulator) warm(ctx context.Context) error {
	a := s.plan[0]
	a.Tokens, a.Picture = min(a.Tokens, 8), maxPictures-1
	r := s.request(&a)
	if a.Width > 0 {
		data, err := Photo(a.Width, a.Height, a.Picture)
		if err != nil {
			return err
		}
		r.Messages[0].Parts[0].Image.Data = data
	}
	_, err := s.engine.Generate(ctx, r)
	return err
}

// enter counts a request in, or out.
func (s *simulator) enter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy += n
	s.peak = max(s.peak, s.busy)
}

// send runs request i and notes when its tokens came.
func (s *simulator) send(ctx context.Context, i int) {
	out := &s.served[i]
	out.Arrival = s.plan[i]
	s.enter(1)
	defer s.enter(-1)
	sent := time.Now()
	out.Sent = sent.Sub(s.start).Seconds()
	last := sent
	for ev, err := range s.engine.Stream(ctx, s.request(&s.plan[i])) {
		now := time.Now()
		if err != nil {
			out.Error = err.Error()
			break
		}
		if ev.Token != nil {
			if out.Output++; out.Output == 1 {
				out.First = now.Sub(sent).Seconds()
			} else {
				out.Gaps = append(out.Gaps, now.Sub(last).Seconds())
			}
			last = now
		}
		if ev.Result != nil {
			u := ev.Result.Usage
			out.Prompt, out.Cached, out.TilesEncoded = u.PromptTokens, u.CachedTokens, u.TilesEncoded
		}
	}
	out.Total = last.Sub(sent).Seconds()
}
