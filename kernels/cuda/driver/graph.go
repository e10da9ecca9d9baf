package driver

// captureThreadLocal: other threads may go on calling the driver during a capture.
const captureThreadLocal = 1

// BeginCapture starts to record the stream's work instead of running it.
func (s *Stream) BeginCapture() error {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
	return s.c.d.call(symStreamBeginCapture, f.set(s.handle, captureThreadLocal))
}

// EndCapture ends a capture and makes the recorded work launchable. A capture
// that became invalid (an allocation or a synchronisation inside) is an error
// and leaves the stream usable.
func (s *Stream) EndCapture() (*Graph, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
	if err := s.c.d.call(symStreamEndCapture, f.set(s.handle, f.outAddr(0))); err != nil {
		return nil, err
	}
	recorded := uintptr(f.out[0])
	// CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
	err := s.c.d.call(symGraphInstantiate, f.set(f.outAddr(0), recorded, 0))
	g := &Graph{c: s.c}
	if err == nil {
		g.handle = uintptr(f.out[0])
	}
	// CUresult cuGraphDestroy(CUgraph hGraph)
	if derr := s.c.d.call(symGraphDestroy, f.set(recorded)); err == nil && derr != nil {
		err = derr
	}
	if err != nil {
		_ = g.Close() // the first error is the one to report
		return nil, err
	}
	return g, nil
}

// Graph is recorded work that one call launches. It serves one goroutine.
type Graph struct {
	c      *Context
	handle uintptr
	args   [2]uintptr
}

// Launch enqueues the whole graph on a stream. It allocates nothing.
func (g *Graph) Launch(s *Stream) error {
	g.args[0], g.args[1] = g.handle, s.handle
	// CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
	if r := g.c.d.raw(symGraphLaunch, g.args[:]); r != codeSuccess {
		return g.c.d.failure("cuGraphLaunch", r)
	}
	return nil
}

// Close destroys the graph. Idempotent.
func (g *Graph) Close() error {
	if g.handle == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuGraphExecDestroy(CUgraphExec hGraphExec)
	err := g.c.d.call(symGraphExecDestroy, f.set(g.handle))
	g.handle = 0
	return err
}
