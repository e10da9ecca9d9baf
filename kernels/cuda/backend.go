package cuda

import (
	"fmt"
	"sync"
	"unsafe"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// Options say which device to open. The zero value is the first device.
type Options struct {
	// Device is the ordinal of the device.
	Device int
	// Library is the driver library; empty = libcuda.so.1 in the usual places.
	Library string
	// Portable uses only the kernels that every architecture has.
	Portable bool
}

// minMajor is the oldest compute capability that the kernels run on: 8.0 (Ampere).
const minMajor = 8

// Backend is an open device.
type Backend struct {
	opt       Options
	info      kernels.Info
	driver    *driver.Driver
	ctx       *driver.Context
	stream    *driver.Stream
	launch    *driver.Launcher
	mods      modules
	sms       int  // multiprocessors
	ctaShared int  // bytes of shared memory that a cta may have
	hopper    bool // compute capability 9.0: dependent launch, tensor maps, wgmma
	closed    bool

	rowMaps     map[rowsMap]driver.TensorMap // of activations, keys and values
	forceTile   int                          // tests and benchmarks: index in tileKernels plus 1; -1 = none of them
	forceStream int                          // tests: index in streamKernels plus 1
	walk        int                          // tests: partitions that a cta of split attention takes; 0 = chosen

	mu        sync.Mutex // guards what concurrent PackLinear and Upload share
	live      map[*buffer]struct{}
	deferred  error    // of a Free, for the next Sync
	slots     slotPool // staging memory of the loader
	slotList  []*slot
	work      [numWorkspaces]workspace
	capturing bool
	recorded  bool // a graph exists: workspaces it may use must stay
	graphs    map[*graph]struct{}
	hosts     map[*hostBuffer]struct{} // and marks: what Close frees
	marks     map[*mark]struct{}
}

var _ kernels.Backend = (*Backend)(nil)

// Open opens a device. The error wraps kernels.ErrUnavailable if this machine or
// build cannot run the backend: no driver, no such device, or one older than
// compute capability 8.0.
func Open(opt Options) (*Backend, error) {
	drv, err := driver.Open(driver.Options{Library: opt.Library})
	if err != nil {
		return nil, fmt.Errorf("cuda: open: %w", err)
	}
	b := &Backend{opt: opt, driver: drv, live: map[*buffer]struct{}{}, graphs: map[*graph]struct{}{}, slots: newSlotPool(), hosts: map[*hostBuffer]struct{}{}, marks: map[*mark]struct{}{}}
	if err := locked(b.open); err != nil {
		_ = b.Close() // the first error is the one to report
		return nil, fmt.Errorf("cuda: open device %d: %w", opt.Device, err)
	}
	return b, nil
}

// open runs on a locked thread.
func (b *Backend) open() error {
	var err error
	if b.ctx, err = b.driver.OpenContext(b.opt.Device); err != nil {
		return err
	}
	name, err := b.ctx.Name()
	if err != nil {
		return err
	}
	var major, minor int
	for _, a := range []struct {
		attr driver.Attribute
		to   *int
	}{{driver.AttrComputeCapabilityMajor, &major}, {driver.AttrComputeCapabilityMinor, &minor}, {driver.AttrMultiprocessors, &b.sms}, {driver.AttrMaxSharedMemoryPerBlockOptin, &b.ctaShared}} {
		if *a.to, err = b.ctx.Attribute(a.attr); err != nil {
			return err
		}
	}
	if major < minMajor {
		return fmt.Errorf("%s has compute capability %d.%d, want at least %d.0: %w", name, major, minor, minMajor, kernels.ErrUnavailable)
	}
	b.hopper = major == 9 && !b.opt.Portable && b.driver.Has("cuLaunchKernelEx")
	if b.stream, err = b.ctx.NewStream(0); err != nil {
		return err
	}
	b.launch = b.stream.NewLauncher()
	if err := b.mods.load(b.ctx, major, minor); err != nil {
		return err
	}
	if err := b.allowShared(); err != nil {
		return err
	}
	free, total, err := b.ctx.Memory()
	if err != nil {
		return err
	}
	b.info = kernels.Info{
		Name: "cuda", Device: fmt.Sprintf("%s (sm_%d%d)", name, major, minor),
		Driver:      fmt.Sprintf("CUDA %d.%d", b.driver.Version()/1000, b.driver.Version()%1000/10),
		Activations: kernels.BF16, TruncatesSums: true, MemoryBytes: total, FreeBytes: free,
	}
	return nil
}

// Info describes the device.
func (b *Backend) Info() kernels.Info { return b.info }

// Close frees everything: buffers, weights, caches and graphs of the backend too.
// Idempotent. It returns the first error of the driver.
func (b *Backend) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	if b.ctx == nil {
		return nil
	}
	return locked(func() error {
		first := b.takeDeferred()
		keep := func(err error) {
			if err != nil && first == nil {
				first = err
			}
		}
		keep(b.ctx.SetCurrent())
		if b.stream != nil {
			keep(b.stream.Synchronize())
		}
		for g := range b.graphs {
			keep(g.exec.Close())
		}
		for m := range b.marks {
			keep(m.event.Close())
		}
		for h := range b.hosts {
			keep(h.mem.Free())
		}
		for f := range b.live {
			keep(b.ctx.Free(f.ptr))
			f.ptr = 0
		}
		b.live = nil
		for _, s := range b.slotList {
			keep(s.close())
		}
		keep(b.mods.close())
		if b.stream != nil {
			keep(b.stream.Close())
		}
		keep(b.ctx.Close())
		return first
	})
}

// do runs fn on a locked thread with the context current.
func (b *Backend) do(fn func() error) error {
	if b.closed {
		return fmt.Errorf("cuda: backend is closed: %w", kernels.ErrUnavailable)
	}
	return b.ctx.Do(fn)
}

// run launches a kernel whose parameter block is *params. It must run inside do.
func run[P any](b *Backend, id kernelID, grid driver.Dim, threads, shared int, params *P) error {
	fn := b.mods.functions[id]
	if fn == nil {
		return fmt.Errorf("cuda: kernel %s is not compiled for this device: %w", kernelTable[id].name, kernels.ErrUnsupported)
	}
	return b.launch.Launch(fn, grid, threads, shared, unsafe.Pointer(params), unsafe.Sizeof(*params), b.hopper)
}

// at is the device address of a tensor's first element; 0 for an absent operand.
func at(t kernels.Tensor) driver.Ptr {
	if t.Buf == nil {
		return 0
	}
	return t.Buf.(*buffer).ptr + driver.Ptr(t.Offset)
}

// own requires that the operands given live in memory of this backend.
func (b *Backend) own(op string, ts ...kernels.Tensor) error {
	for _, t := range ts {
		if t.Buf == nil {
			continue
		}
		if f, ok := t.Buf.(*buffer); !ok || f.owner != b || f.ptr == 0 {
			return &kernels.ArgError{Op: op, Arg: "operand", Want: "memory of this backend that is not freed", Got: fmt.Sprintf("%T", t.Buf)}
		}
	}
	return nil
}

// Element types of the parameter blocks.
const (
	dtF32 = iota
	dtBF16
	dtF16
	dtQ8
	dtQ4
)

func code(d kernels.DType) int32 {
	switch d {
	case kernels.BF16:
		return dtBF16
	case kernels.F16:
		return dtF16
	}
	return dtF32
}

// aligned reports whether every row of t begins on 16 bytes and has a multiple of 8 columns.
func aligned(t kernels.Tensor) bool {
	size := t.DType.Size()
	last := t.Shape[len(t.Shape)-1]
	return t.Offset%16 == 0 && last%8 == 0 && t.RowStride()*size%16 == 0
}

func flag(ok bool) int32 {
	if ok {
		return 1
	}
	return 0
}

// blocks is the grid of an elementwise kernel: a cta a 256 items, at most 16 a multiprocessor.
func (b *Backend) blocks(items int64) driver.Dim {
	n := (items + 255) / 256
	return driver.Dim{X: int(max(1, min(n, int64(b.sms)*16))), Y: 1, Z: 1}
}

// launchOn launches an elementwise kernel on a slot's stream.
func launchOn[P any](b *Backend, l *driver.Launcher, id kernelID, grid driver.Dim, params *P) error {
	return l.Launch(b.mods.functions[id], grid, kernelTable[id].threads, 0, unsafe.Pointer(params), unsafe.Sizeof(*params), false)
}

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
