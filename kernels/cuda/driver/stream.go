package driver

import (
	"math"
	"time"
)

// Stream is an in-order queue of work of one context.
type Stream struct {
	c      *Context
	handle uintptr
}

// streamNonBlocking: the stream does not wait for the legacy default stream.
const streamNonBlocking = 1

// NewStream makes a stream. A lower priority number runs first; 0 is the default.
func (c *Context) NewStream(priority int) (*Stream, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
	if err := c.d.call(symStreamCreateWithPriority, f.set(f.outAddr(0), streamNonBlocking, uintptr(int32(priority)))); err != nil {
		return nil, err
	}
	return &Stream{c: c, handle: uintptr(f.out[0])}, nil
}

// Close destroys the stream; work already enqueued still runs. Idempotent.
func (s *Stream) Close() error {
	if s.handle == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuStreamDestroy_v2(CUstream hStream)
	err := s.c.d.call(symStreamDestroy, f.set(s.handle))
	s.handle = 0
	return err
}

// Synchronize waits for all work of the stream and returns its first error.
func (s *Stream) Synchronize() error {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamSynchronize(CUstream hStream)
	return s.c.d.call(symStreamSynchronize, f.set(s.handle))
}

// Idle reports whether all work of the stream is done.
func (s *Stream) Idle() (bool, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamQuery(CUstream hStream)
	switch r := s.c.d.raw(symStreamQuery, f.set(s.handle)); r {
	case codeSuccess:
		return true, nil
	case CodeNotReady:
		return false, nil
	default:
		return false, s.c.d.failure("cuStreamQuery", r)
	}
}

// Wait makes later work of the stream wait for the event.
func (s *Stream) Wait(e *Event) error {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
	return s.c.d.call(symStreamWaitEvent, f.set(s.handle, e.handle, 0))
}

// Event marks a point in a stream.
type Event struct {
	c      *Context
	handle uintptr
}

// eventDisableTiming makes events cheaper to record.
const eventDisableTiming = 2

// NewEvent makes an event; timing allows Since.
func (c *Context) NewEvent(timing bool) (*Event, error) {
	flags := uintptr(eventDisableTiming)
	if timing {
		flags = 0
	}
	f := newFrame()
	defer f.free()
	// CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
	if err := c.d.call(symEventCreate, f.set(f.outAddr(0), flags)); err != nil {
		return nil, err
	}
	return &Event{c: c, handle: uintptr(f.out[0])}, nil
}

// Record puts the event behind the stream's work so far.
func (e *Event) Record(s *Stream) error {
	f := newFrame()
	defer f.free()
	// CUresult cuEventRecord(CUevent hEvent, CUstream hStream)
	return e.c.d.call(symEventRecord, f.set(e.handle, s.handle))
}

// Synchronize waits until the event has been reached.
func (e *Event) Synchronize() error {
	f := newFrame()
	defer f.free()
	// CUresult cuEventSynchronize(CUevent hEvent)
	return e.c.d.call(symEventSynchronize, f.set(e.handle))
}

// Done reports whether the event has been reached.
func (e *Event) Done() (bool, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuEventQuery(CUevent hEvent)
	switch r := e.c.d.raw(symEventQuery, f.set(e.handle)); r {
	case codeSuccess:
		return true, nil
	case CodeNotReady:
		return false, nil
	default:
		return false, e.c.d.failure("cuEventQuery", r)
	}
}

// Since is the device time from start to e; both need timing and must have been reached.
func (e *Event) Since(start *Event) (time.Duration, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
	if err := e.c.d.call(symEventElapsedTime, f.set(f.outAddr(0), start.handle, e.handle)); err != nil {
		return 0, err
	}
	ms := math.Float32frombits(uint32(f.out[0]))
	return time.Duration(float64(ms) * float64(time.Millisecond)), nil
}

// Close destroys the event. Idempotent.
func (e *Event) Close() error {
	if e.handle == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuEventDestroy_v2(CUevent hEvent)
	err := e.c.d.call(symEventDestroy, f.set(e.handle))
	e.handle = 0
	return err
}
