package driver

import (
	"fmt"
	"runtime"

	"metacap/kernels"
)

// Attribute is a CUdevice_attribute.
type Attribute int

// Device attributes that the backend plans with.
const (
	AttrMaxSharedMemoryPerBlock      Attribute = 8
	AttrMultiprocessors              Attribute = 16
	AttrL2CacheBytes                 Attribute = 38
	AttrComputeCapabilityMajor       Attribute = 75
	AttrComputeCapabilityMinor       Attribute = 76
	AttrMaxSharedMemoryPerSM         Attribute = 81
	AttrMaxSharedMemoryPerBlockOptin Attribute = 97
)

// Context is the primary context of a device. Its methods must be called on an
// OS thread on which SetCurrent succeeded (see the package comment).
type Context struct {
	d      *Driver
	device int32
	handle uintptr
}

// OpenContext retains the primary context of a device and makes it current on
// the calling thread, which the caller must have locked. It takes about 0.1 s.
func (d *Driver) OpenContext(ordinal int) (*Context, error) {
	n, err := d.Devices()
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= n {
		return nil, fmt.Errorf("driver: open device %d: the driver has %d devices: %w", ordinal, n, kernels.ErrUnavailable)
	}
	f := newFrame()
	defer f.free()
	// CUresult cuDeviceGet(CUdevice *device, int ordinal)
	if err := d.call(symDeviceGet, f.set(f.outAddr(0), uintptr(ordinal))); err != nil {
		return nil, err
	}
	c := &Context{d: d, device: int32(f.out[0])}
	// CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
	if err := d.call(symPrimaryCtxRetain, f.set(f.outAddr(0), uintptr(c.device))); err != nil {
		return nil, err
	}
	c.handle = uintptr(f.out[0])
	if err := c.SetCurrent(); err != nil {
		_ = c.Close() // the first error is the one to report
		return nil, err
	}
	return c, nil
}

// Driver is the driver that the context belongs to.
func (c *Context) Driver() *Driver { return c.d }

// SetCurrent makes the context current on the calling OS thread.
func (c *Context) SetCurrent() error {
	f := newFrame()
	defer f.free()
	// CUresult cuCtxSetCurrent(CUcontext ctx)
	return c.d.call(symCtxSetCurrent, f.set(c.handle))
}

// Do runs fn on a locked OS thread with the context current.
func (c *Context) Do(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.SetCurrent(); err != nil {
		return err
	}
	return fn()
}

// Synchronize waits for all work of the context.
func (c *Context) Synchronize() error {
	// CUresult cuCtxSynchronize(void)
	return c.d.call(symCtxSynchronize, nil)
}

// Close releases the primary context. Idempotent.
func (c *Context) Close() error {
	if c.handle == 0 {
		return nil
	}
	c.handle = 0
	f := newFrame()
	defer f.free()
	// CUresult cuDevicePrimaryCtxRelease(CUdevice dev)
	return c.d.call(symPrimaryCtxRelease, f.set(uintptr(c.device)))
}

// Name is the device's own name: "NVIDIA H100 80GB HBM3".
func (c *Context) Name() (string, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuDeviceGetName(char *name, int len, CUdevice dev)
	if err := c.d.call(symDeviceGetName, f.set(f.cstr(""), uintptr(len(f.text)), uintptr(c.device))); err != nil {
		return "", err
	}
	n := 0
	for n < len(f.text) && f.text[n] != 0 {
		n++
	}
	return string(f.text[:n]), nil
}

// Attribute reads a device attribute.
func (c *Context) Attribute(a Attribute) (int, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
	if err := c.d.call(symDeviceGetAttribute, f.set(f.outAddr(0), uintptr(a), uintptr(c.device))); err != nil {
		return 0, err
	}
	return int(int32(f.out[0])), nil
}

// Memory returns the free and total bytes of device memory.
func (c *Context) Memory() (free, total int64, err error) {
	f := newFrame()
	defer f.free()
	// CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
	if err := c.d.call(symMemGetInfo, f.set(f.outAddr(0), f.outAddr(1))); err != nil {
		return 0, 0, err
	}
	return int64(f.out[0]), int64(f.out[1]), nil
}
