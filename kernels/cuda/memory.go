package cuda

import (
	"fmt"
	"runtime"
	"time"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// locked runs fn with the goroutine locked to its OS thread.
func locked(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return fn()
}

// buffer is device memory.
type buffer struct {
	owner *Backend
	ptr   driver.Ptr
	bytes int64
}

func (f *buffer) Bytes() int64 { return f.bytes }

// Free frees the memory; operations enqueued before still see it, because the
// driver waits for them.
func (f *buffer) Free() {
	b := f.owner
	b.mu.Lock()
	_, ok := b.live[f]
	delete(b.live, f)
	b.mu.Unlock()
	if !ok || b.closed {
		return
	}
	ptr := f.ptr
	f.ptr = 0
	b.later(b.do(func() error { return b.ctx.Free(ptr) }))
}

// later keeps the first error of a call that cannot return one, for Sync and Close.
func (b *Backend) later(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deferred == nil {
		b.deferred = err
	}
}

// takeDeferred returns and forgets the error kept by later.
func (b *Backend) takeDeferred() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.deferred
	b.deferred = nil
	return err
}

// allocRaw allocates undefined memory. It must run inside do.
func (b *Backend) allocRaw(bytes int64) (*buffer, error) {
	ptr, err := b.ctx.Alloc(bytes)
	if err != nil {
		return nil, err
	}
	f := &buffer{owner: b, ptr: ptr, bytes: bytes}
	b.mu.Lock()
	b.live[f] = struct{}{}
	b.mu.Unlock()
	return f, nil
}

// Alloc returns zeroed memory, aligned to 256 bytes.
func (b *Backend) Alloc(bytes int64) (kernels.Buffer, error) {
	if err := b.notCapturing("alloc"); err != nil {
		return nil, err
	}
	if bytes <= 0 || bytes > 1<<46 {
		return nil, &kernels.ArgError{Op: "Alloc", Arg: "bytes", Want: "a positive size", Got: fmt.Sprint(bytes)}
	}
	var f *buffer
	err := b.do(func() error {
		var err error
		if f, err = b.allocRaw(bytes); err != nil {
			return fmt.Errorf("cuda: %w", err)
		}
		return b.stream.Fill(f.ptr, 0, bytes)
	})
	if err != nil {
		if f != nil {
			f.Free()
		}
		return nil, err
	}
	return f, nil
}

// Upload copies src to dst. Small copies are staged by the driver; large ones go
// through the loader's page-locked memory.
func (b *Backend) Upload(dst kernels.Tensor, src []byte) error {
	if err := b.notCapturing("upload"); err != nil {
		return err
	}
	if err := kernels.CheckTransfer("Upload", dst, len(src)); err != nil {
		return err
	}
	if err := b.own("Upload", dst); err != nil {
		return err
	}
	if len(src) > largeUpload {
		return b.uploadStaged(at(dst), src)
	}
	return b.do(func() error { return b.stream.CopyToDevice(at(dst), src) })
}

// largeUpload is the size in bytes from which an upload goes through page-locked memory.
const largeUpload = 4 << 20

// Download waits for earlier operations and copies src to dst.
func (b *Backend) Download(dst []byte, src kernels.Tensor) error {
	if err := b.notCapturing("download"); err != nil {
		return err
	}
	if err := kernels.CheckTransfer("Download", src, len(dst)); err != nil {
		return err
	}
	if err := b.own("Download", src); err != nil {
		return err
	}
	return b.do(func() error {
		if err := b.stream.CopyToHost(dst, at(src)); err != nil {
			return err
		}
		return b.stream.Synchronize()
	})
}

// Sync waits for all earlier operations.
func (b *Backend) Sync() error {
	if err := b.notCapturing("sync"); err != nil {
		return err
	}
	err := b.do(b.stream.Synchronize)
	if kept := b.takeDeferred(); err == nil {
		err = kept
	}
	return err
}

// Workspaces are scratch memory that operations share; the stream orders their use.
const (
	workRows      = iota // activations staged for the tiled kernels
	workAttention        // partial results of split attention
	workArgMax           // partial results of ArgMax
	workPairs            // block pairs of KVCopy
	numWorkspaces
)

type workspace struct{ buf *buffer }

// scratch returns workspace memory of at least bytes. It must run inside do. During
// a capture it must already be large enough: run the step once before capturing.
func (b *Backend) scratch(which int, bytes int64) (driver.Ptr, error) {
	return b.scratchOf(which, bytes, roundWork(bytes+bytes/4))
}

// scratchOf is scratch with the size to allocate if there is less than bytes.
func (b *Backend) scratchOf(which int, bytes, size int64) (driver.Ptr, error) {
	w := &b.work[which]
	if w.buf != nil && w.buf.bytes >= bytes {
		return w.buf.ptr, nil
	}
	if b.capturing {
		return 0, fmt.Errorf("cuda: capture: an operation needs %d bytes of workspace: run the step once with the same shapes before capturing it", bytes)
	}
	f, err := b.allocRaw(size)
	if err != nil {
		return 0, fmt.Errorf("cuda: workspace: %w", err)
	}
	// A recorded graph may hold the old address: such memory stays until Close.
	if old := w.buf; old != nil && !b.recorded {
		b.mu.Lock()
		delete(b.live, old)
		b.mu.Unlock()
		if err := b.ctx.Free(old.ptr); err != nil {
			return 0, err
		}
		old.ptr = 0
	}
	w.buf = f
	return f.ptr, nil
}

// slot is a piece of page-locked memory with device scratch behind it: weights
// pass through slots on their way to the device.
type slot struct {
	host    *driver.HostMemory
	scratch *buffer
	stream  *driver.Stream
	launch  *driver.Launcher
}

const (
	slotBytes = 8 << 20
	maxSlots  = 16
)

// slotPool hands out staging slots: one that exists before one that must be made.
type slotPool struct {
	free chan *slot    // made, and nobody's
	room chan struct{} // one token a slot that may still be made
}

func newSlotPool() slotPool {
	p := slotPool{free: make(chan *slot, maxSlots), room: make(chan struct{}, maxSlots)}
	for range maxSlots {
		p.room <- struct{}{}
	}
	return p
}

// take hands out a slot; nil = the caller makes one, or gives the room back. If
// there is none it waits, or says so.
func (p slotPool) take(wait bool) (s *slot, ok bool) {
	select {
	case s := <-p.free:
		return s, true
	default:
	}
	if !wait {
		select {
		case <-p.room:
			return nil, true
		default:
			return nil, false
		}
	}
	select {
	case s := <-p.free:
		return s, true
	case <-p.room:
		return nil, true
	}
}

// slot takes a staging slot, making it at first use. Who holds one already must not
// wait for another: all holders could. It must run inside do.
func (b *Backend) slot(wait bool) (*slot, error) {
	s, ok := b.slots.take(wait)
	if s != nil || !ok {
		return s, nil
	}
	s = &slot{}
	err := func() error {
		var err error
		if s.host, err = b.ctx.AllocHost(slotBytes); err != nil {
			return err
		}
		if s.scratch, err = b.allocRaw(slotBytes); err != nil {
			return err
		}
		if s.stream, err = b.ctx.NewStream(0); err != nil {
			return err
		}
		s.launch = s.stream.NewLauncher()
		return nil
	}()
	if err != nil {
		_ = s.close() // the first error is the one to report
		if s.scratch != nil {
			b.mu.Lock()
			delete(b.live, s.scratch)
			b.mu.Unlock()
			_ = b.ctx.Free(s.scratch.ptr) // likewise
		}
		b.slots.room <- struct{}{}
		return nil, err
	}
	b.mu.Lock()
	b.slotList = append(b.slotList, s)
	b.mu.Unlock()
	return s, nil
}

func (s *slot) close() error {
	var first error
	if s.stream != nil {
		first = s.stream.Close()
	}
	if s.host != nil {
		if err := s.host.Free(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// uploadStaged copies src through slots, several pieces in flight.
func (b *Backend) uploadStaged(dst driver.Ptr, src []byte) error {
	return b.do(func() error {
		// Later operations run on the main stream; earlier ones may still use dst.
		if err := b.stream.Synchronize(); err != nil {
			return err
		}
		return b.through(src, slotBytes, func(s *slot, offset int64, n int) error {
			return s.stream.CopyToDevice(dst+driver.Ptr(offset), s.host.Bytes()[:n])
		})
	})
}

// through passes src in pieces of at most piece bytes through two slots: fn
// enqueues what is to be done with a piece that lies in the slot's page-locked
// memory. All of it has been done when through returns.
func (b *Backend) through(src []byte, piece int, fn func(s *slot, offset int64, n int) error) (err error) {
	var pair [2]*slot
	defer func() {
		for _, s := range pair {
			if s == nil {
				continue
			}
			if serr := s.stream.Synchronize(); serr != nil && err == nil {
				err = serr
			}
			b.slots.free <- s
		}
	}()
	for i, offset := 0, 0; offset < len(src); i, offset = i+1, offset+piece {
		s := pair[i&1]
		if s == nil && i < 2 {
			if s, err = b.slot(i == 0); err != nil {
				return err
			}
			pair[i&1] = s
		}
		if s == nil {
			s = pair[0] // no second slot to be had without waiting for others
		}
		if err := s.stream.Synchronize(); err != nil {
			return err
		}
		n := copy(s.host.Bytes()[:piece], src[offset:])
		if err := fn(s, int64(offset), n); err != nil {
			return err
		}
	}
	return nil
}

var _ kernels.Async = (*Backend)(nil)

// hostBuffer is page-locked memory.
type hostBuffer struct {
	b   *Backend
	mem *driver.HostMemory
}

// AllocHost allocates page-locked memory.
func (b *Backend) AllocHost(bytes int) (kernels.HostBuffer, error) {
	if err := b.notCapturing("page-locked memory"); err != nil {
		return nil, err
	}
	if bytes <= 0 {
		return nil, &kernels.ArgError{Op: "AllocHost", Arg: "bytes", Want: "a positive size", Got: fmt.Sprint(bytes)}
	}
	h := &hostBuffer{b: b}
	err := b.do(func() (err error) {
		h.mem, err = b.ctx.AllocHost(bytes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	b.hosts[h] = struct{}{}
	return h, nil
}

func (h *hostBuffer) Bytes() []byte { return h.mem.Bytes() }

// Free gives the memory back. Idempotent.
func (h *hostBuffer) Free() {
	if _, ok := h.b.hosts[h]; !ok || h.b.closed {
		return
	}
	delete(h.b.hosts, h)
	h.b.later(h.b.do(h.mem.Free))
}

// UploadAsync enqueues a copy from page-locked memory.
func (b *Backend) UploadAsync(dst kernels.Tensor, src []byte) error {
	if err := b.transfer("UploadAsync", dst, len(src)); err != nil {
		return err
	}
	return b.do(func() error { return b.stream.CopyToDevice(at(dst), src) })
}

// DownloadAsync enqueues a copy to page-locked memory.
func (b *Backend) DownloadAsync(dst []byte, src kernels.Tensor) error {
	if err := b.transfer("DownloadAsync", src, len(dst)); err != nil {
		return err
	}
	return b.do(func() error { return b.stream.CopyToHost(dst, at(src)) })
}

// CopyAsync enqueues a copy on the device.
func (b *Backend) CopyAsync(dst, src kernels.Tensor) error {
	bytes := src.Elements() * int64(src.DType.Size())
	if err := b.transfer("CopyAsync", dst, int(bytes)); err != nil {
		return err
	}
	if err := b.transfer("CopyAsync", src, int(bytes)); err != nil {
		return err
	}
	return b.do(func() error { return b.stream.Copy(at(dst), at(src), bytes) })
}

// transfer checks the device's side of a copy.
func (b *Backend) transfer(op string, t kernels.Tensor, bytes int) error {
	if err := b.notCapturing(op); err != nil {
		return err
	}
	if err := kernels.CheckTransfer(op, t, bytes); err != nil {
		return err
	}
	return b.own(op, t)
}

// mark is an event of the main stream.
type mark struct {
	b     *Backend
	event *driver.Event
	set   bool
}

// NewMark makes an event that takes the time.
func (b *Backend) NewMark() (kernels.Mark, error) {
	m := &mark{b: b}
	err := b.do(func() (err error) {
		m.event, err = b.ctx.NewEvent(true)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: mark: %w", err)
	}
	b.marks[m] = struct{}{}
	return m, nil
}

// Set records the event.
func (m *mark) Set() error {
	if err := m.b.notCapturing("mark"); err != nil {
		return err
	}
	m.set = true
	return m.b.do(func() error { return m.event.Record(m.b.stream) })
}

// Wait waits for the event.
func (m *mark) Wait() error {
	if !m.set {
		return nil
	}
	return m.b.do(m.event.Synchronize)
}

// Since is the time between two events.
func (m *mark) Since(from kernels.Mark) (took time.Duration, err error) {
	f, ok := from.(*mark)
	if !ok || !m.set || !f.set {
		return 0, &kernels.ArgError{Op: "Since", Arg: "from", Want: "marks of this backend that were set", Got: fmt.Sprintf("%T", from)}
	}
	err = m.b.do(func() error {
		took, err = m.event.Since(f.event)
		return err
	})
	return took, err
}

// Free destroys the event. Idempotent.
func (m *mark) Free() {
	if _, ok := m.b.marks[m]; !ok || m.b.closed {
		return
	}
	delete(m.b.marks, m)
	m.b.later(m.b.do(m.event.Close))
}
