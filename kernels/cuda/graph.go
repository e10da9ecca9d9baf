package cuda

import (
	"fmt"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

var _ kernels.Capturer = (*Backend)(nil)

// graph is a recorded step.
type graph struct {
	b    *Backend
	exec *driver.Graph
}

// BeginCapture starts to record operations: see kernels.Capturer. Every operation
// must have run once with the same shapes, so that its workspace exists.
func (b *Backend) BeginCapture() error {
	if b.capturing {
		return fmt.Errorf("cuda: capture: already capturing")
	}
	err := b.do(b.stream.BeginCapture)
	b.capturing = err == nil
	return err
}

// EndCapture ends the recording and returns it. After an operation that failed
// during the capture, call EndCapture all the same and drop its result.
func (b *Backend) EndCapture() (kernels.Graph, error) {
	if !b.capturing {
		return nil, fmt.Errorf("cuda: capture: not capturing")
	}
	b.capturing = false
	g := &graph{b: b}
	err := b.do(func() error {
		var err error
		g.exec, err = b.stream.EndCapture()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: capture: %w", err)
	}
	b.recorded = true
	b.graphs[g] = struct{}{}
	return g, nil
}

// Launch enqueues the recorded operations.
func (g *graph) Launch() error {
	return g.b.do(func() error { return g.exec.Launch(g.b.stream) })
}

// Free destroys the recording. Idempotent.
func (g *graph) Free() {
	if _, ok := g.b.graphs[g]; !ok || g.b.closed {
		return
	}
	delete(g.b.graphs, g)
	g.b.later(g.b.do(g.exec.Close))
}

// notCapturing refuses an operation that a recording cannot hold.
func (b *Backend) notCapturing(op string) error {
	if b.capturing {
		return fmt.Errorf("cuda: %s: not possible while operations are being recorded", op)
	}
	return nil
}
