package captioner

import (
	"sync"
	"time"
)

// Stages of an item, as Counts.Busy names them.
const (
	StageRead    = "read"    // bytes from disk, and their hash
	StagePrepare = "prepare" // decode and tile
	StageQueue   = "queue"   // waiting for the engine
	StageVision  = "vision"
	StagePrefill = "prefill"
	StageDecode  = "decode"
	StageWrite   = "write" // sidecars and journal
)

// Counts is the state of a job at a moment.
type Counts struct {
	Listed     int  // inputs found so far
	ListingEnd bool // all of them
	Done       int  // captioned in this run
	Before     int  // finished by an earlier run
	Skipped    int  // sidecar existed
	Duplicates int  // of Done, captioned by way of an equal picture
	Failed     int  // in this run
	FailedOld  int  // failed in an earlier run and left so
	Flagged    int
	Retries    int
	InFlight   int
	TokensIn   int64
	TokensOut  int64
	Tiles      int64
	Bytes      int64
	Elapsed    time.Duration
	EngineBusy time.Duration            // time with at least one request in an engine
	Busy       map[string]time.Duration // by stage, summed over workers
	Workers    int
	Last       string // last finished key
}

// Rate is the inputs finished per second by this run.
func (c *Counts) Rate() float64 {
	if c.Elapsed <= 0 {
		return 0
	}
	return float64(c.Done+c.Failed) / c.Elapsed.Seconds()
}

// Left is the number of listed inputs that are not finished.
func (c *Counts) Left() int {
	return max(0, c.Listed-c.Done-c.Before-c.Skipped-c.Failed-c.FailedOld)
}

// Progress gathers counts. The zero value is ready; one Progress serves one Run.
type Progress struct {
	mu     sync.Mutex
	c      Counts
	start  time.Time
	end    time.Time
	closed time.Duration // of intervals folded away
	spans  []span        // disjoint, ascending times at which an engine had work
}

type span struct{ from, to time.Time }

// maxSpans bounds the idle gaps remembered; older ones are final anyway.
const maxSpans = 1024

func (p *Progress) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c = Counts{Busy: map[string]time.Duration{}}
	p.start, p.end, p.closed, p.spans = time.Now(), time.Time{}, 0, nil
}

func (p *Progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = time.Now()
}

func (p *Progress) update(f func(*Counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.c)
}

// busy adds time of a stage.
func (p *Progress) busy(stage string, d time.Duration) {
	p.update(func(c *Counts) { c.Busy[stage] += max(d, 0) })
}

// engaged says that an engine worked on a request from a time until now. Calls
// come in the order of their ends, nearly; a span inside known ones adds nothing.
func (p *Progress) engaged(from time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := span{from, time.Now()}
	for n := len(p.spans); n > 0 && !p.spans[n-1].to.Before(s.from); n-- {
		if p.spans[n-1].from.Before(s.from) {
			s.from = p.spans[n-1].from
		}
		p.spans = p.spans[:n-1]
	}
	p.spans = append(p.spans, s)
	if len(p.spans) > maxSpans {
		p.closed += p.spans[0].to.Sub(p.spans[0].from)
		p.spans = p.spans[1:]
	}
}

// Counts returns the present state.
func (p *Progress) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.c
	c.Busy = make(map[string]time.Duration, len(p.c.Busy))
	for k, v := range p.c.Busy {
		c.Busy[k] = v
	}
	c.EngineBusy = p.closed
	for _, s := range p.spans {
		c.EngineBusy += s.to.Sub(s.from)
	}
	switch {
	case p.start.IsZero():
	case p.end.IsZero():
		c.Elapsed = time.Since(p.start)
	default:
		c.Elapsed = p.end.Sub(p.start)
	}
	return c
}

// Bottleneck names the stage that the job waited for, and says why.
func (c *Counts) Bottleneck() (stage string, share float64) {
	if c.Elapsed <= 0 || c.Done+c.Failed == 0 {
		return "", 0
	}
	share = c.EngineBusy.Seconds() / c.Elapsed.Seconds()
	stages := []string{StageRead, StagePrepare, StageWrite}
	if share >= 0.8 {
		stages = []string{StageVision, StagePrefill, StageDecode}
	} else {
		share = 1 - share
	}
	for _, s := range stages {
		if stage == "" || c.Busy[s] > c.Busy[stage] {
			stage = s
		}
	}
	return stage, share
}
