package cuda

import (
	"fmt"
	"time"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

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
