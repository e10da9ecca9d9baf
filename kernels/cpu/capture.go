//go:build cgo

package cpu

// #include <stdlib.h>
// #include "mc.h"
import "C"

import (
	"fmt"
	"unsafe"

	"metacap/kernels"
)

var _ kernels.Capturer = (*backend)(nil)

// graph is a recorded command list: the commands, checked once, in memory of their own.
type graph struct {
	b    *backend
	cmds []C.mc_cmd // C memory
}

// BeginCapture starts to record operations: see kernels.Capturer. What waits runs first,
// so that the list holds the recording alone.
func (b *backend) BeginCapture() error {
	if err := b.notCapturing("capture"); err != nil {
		return err
	}
	b.flush()
	b.capturing = true
	return nil
}

// EndCapture ends the recording.
func (b *backend) EndCapture() (kernels.Graph, error) {
	if !b.capturing {
		return nil, fmt.Errorf("cpu: capture: not capturing")
	}
	b.capturing = false
	g := &graph{b: b}
	if n := b.n; n > 0 {
		p := (*C.mc_cmd)(C.malloc(C.size_t(n) * C.sizeof_mc_cmd))
		if p == nil {
			return nil, fmt.Errorf("cpu: capture: %d operations: %w", n, kernels.ErrOutOfMemory)
		}
		g.cmds = unsafe.Slice(p, n)
		copy(g.cmds, unsafe.Slice(b.cmds, n))
	}
	b.clear()
	b.graphs[g] = true
	return g, nil
}

// Launch appends the recorded operations to the command list.
func (g *graph) Launch() error {
	b := g.b
	if !b.graphs[g] {
		return fmt.Errorf("cpu: launch: the recording was freed")
	}
	if err := b.notCapturing("launch"); err != nil {
		return err
	}
	if b.n+len(g.cmds) > maxCommands {
		b.flush()
	}
	b.grow(b.n + len(g.cmds))
	copy(unsafe.Slice(b.cmds, b.size)[b.n:], g.cmds)
	b.n += len(g.cmds)
	return nil
}

// Free gives the recording's memory back. Idempotent.
func (g *graph) Free() {
	if !g.b.graphs[g] {
		return
	}
	delete(g.b.graphs, g)
	C.free(unsafe.Pointer(unsafe.SliceData(g.cmds)))
	g.cmds = nil
}

// notCapturing refuses what a recording cannot hold.
func (b *backend) notCapturing(op string) error {
	if b.capturing {
		return fmt.Errorf("cpu: %s: not possible while operations are being recorded", op)
	}
	return nil
}
