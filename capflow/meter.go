package capflow

import (
	"sync"
	"time"
)

// Meter says what captions take of a machine.
type Meter struct {
	// Read is the time that the machine has worked so far: processor time of this
	// process, or wall time of a GPU that works for nobody else. nil = not measured.
	Read func() time.Duration
	Unit string // "cpu" or "gpu"
	// Lanes is how many seconds of Unit the machine has in a second: its processors, or 1 GPU; 0 = 1.
	Lanes int
	// PricePerHour is the price of the machine, in US dollars, stated by the user; 0 = none.
	PricePerHour float64
}

// shares divides the meter's time among the captions in work: what passes while
// n are in work counts one n-th for each. The shares add up to the meter's time.
type shares struct {
	mu   sync.Mutex
	last time.Duration
	live map[*run]time.Duration
}

// enter starts a caption's share.
func (s *shares) enter(m *Meter, r *run) {
	if m.Read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(m)
	if s.live == nil {
		s.live = map[*run]time.Duration{}
	}
	s.live[r] = 0
}

// leave ends it and returns it.
func (s *shares) leave(m *Meter, r *run) time.Duration {
	if m.Read == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(m)
	d := s.live[r]
	delete(s.live, r)
	return d
}

func (s *shares) advance(m *Meter) {
	now := m.Read()
	for r := range s.live {
		s.live[r] += (now - s.last) / time.Duration(len(s.live))
	}
	s.last = now
}
