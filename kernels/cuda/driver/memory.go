package driver

import (
	"fmt"
	"unsafe"
)

// Ptr is an address in device memory (CUdeviceptr).
type Ptr uint64

// Alloc allocates device memory. The contents are undefined. The error wraps
// kernels.ErrOutOfMemory when there is not enough.
func (c *Context) Alloc(bytes int64) (Ptr, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
	if err := c.d.call(symMemAlloc, f.set(f.outAddr(0), uintptr(bytes))); err != nil {
		return 0, fmt.Errorf("driver: allocate %d bytes: %w", bytes, err)
	}
	return Ptr(f.out[0]), nil
}

// Free frees device memory; it waits for the device to finish with it.
func (c *Context) Free(p Ptr) error {
	f := newFrame()
	defer f.free()
	// CUresult cuMemFree_v2(CUdeviceptr dptr)
	return c.d.call(symMemFree, f.set(uintptr(p)))
}

// Flags of AllocHost.
const (
	hostPortable  = 1
	hostDeviceMap = 2
)

// HostMemory is page-locked host memory that the device can copy from at full
// speed and see under an address of its own.
type HostMemory struct {
	c    *Context
	addr unsafe.Pointer
	size int
	dev  Ptr
}

// AllocHost allocates page-locked memory (about 0.4 s a GiB: keep it small).
func (c *Context) AllocHost(bytes int) (*HostMemory, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
	if err := c.d.call(symMemHostAlloc, f.set(f.ptrAddr(), uintptr(bytes), hostPortable|hostDeviceMap)); err != nil {
		return nil, fmt.Errorf("driver: allocate %d bytes of page-locked memory: %w", bytes, err)
	}
	h := &HostMemory{c: c, addr: f.ptr, size: bytes}
	// CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
	if err := c.d.call(symMemHostGetDevicePointer, f.set(f.outAddr(0), uintptr(h.addr), 0)); err != nil {
		_ = h.Free() // the first error is the one to report
		return nil, err
	}
	h.dev = Ptr(f.out[0])
	return h, nil
}

// Bytes is the memory as a slice, valid until Free.
func (h *HostMemory) Bytes() []byte { return unsafe.Slice((*byte)(h.addr), h.size) }

// Device is the address under which kernels see the memory.
func (h *HostMemory) Device() Ptr { return h.dev }

// Free frees the memory. Idempotent.
func (h *HostMemory) Free() error {
	if h.addr == nil {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuMemFreeHost(void *p)
	err := h.c.d.call(symMemFreeHost, f.set(uintptr(h.addr)))
	h.addr, h.size = nil, 0
	return err
}

// CopyToDevice enqueues a copy of src to device memory. If src is page-locked
// the copy is asynchronous and src must stay unchanged until the stream reaches
// it; pageable memory may be reused when the call returns.
func (s *Stream) CopyToDevice(dst Ptr, src []byte) error {
	if len(src) == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
	return s.c.d.call(symMemcpyHtoDAsync, f.set(uintptr(dst), f.bytes(src), uintptr(len(src)), s.handle))
}

// CopyToHost enqueues a copy of device memory to dst. dst must stay alive and
// untouched until the stream has been synchronised.
func (s *Stream) CopyToHost(dst []byte, src Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
	return s.c.d.call(symMemcpyDtoHAsync, f.set(f.bytes(dst), uintptr(src), uintptr(len(dst)), s.handle))
}

// Copy enqueues a copy inside device memory. The ranges must not overlap.
func (s *Stream) Copy(dst, src Ptr, bytes int64) error {
	f := newFrame()
	defer f.free()
	// CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
	return s.c.d.call(symMemcpyDtoDAsync, f.set(uintptr(dst), uintptr(src), uintptr(bytes), s.handle))
}

// Fill enqueues setting every byte of a range.
func (s *Stream) Fill(dst Ptr, value byte, bytes int64) error {
	f := newFrame()
	defer f.free()
	// CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
	return s.c.d.call(symMemsetD8Async, f.set(uintptr(dst), uintptr(value), uintptr(bytes), s.handle))
}
