package driver_test

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
)

// open opens the simulated driver and its device on a locked thread.
func open(t testing.TB) (*driver.Driver, *driver.Context) {
	t.Helper()
	lib, err := sim.Build(sim.Options{Sanitize: os.Getenv("METACAP_SIM_SANITIZE")})
	if errors.Is(err, sim.ErrNoCompiler) && !programtest.Required("g++") {
		t.Skip(err)
	}
	require.NoError(t, err)
	d, err := driver.Open(driver.Options{Library: lib})
	require.NoError(t, err)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	c, err := d.OpenContext(0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return d, c
}

func TestOpen(t *testing.T) {
	t.Run("no_library", func(t *testing.T) {
		_, err := driver.Open(driver.Options{Library: "/nonexistent/libcuda.so.1"})
		require.ErrorIs(t, err, kernels.ErrUnavailable)
		require.ErrorContains(t, err, "no CUDA driver")
		require.ErrorContains(t, err, "/nonexistent/libcuda.so.1")
	})
	t.Run("a_library_that_is_no_driver", func(t *testing.T) {
		_, err := driver.Open(driver.Options{Library: "libc.so.6"})
		require.ErrorIs(t, err, kernels.ErrUnavailable)
		var missing *driver.MissingSymbolError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, "cuInit", missing.Symbol)
	})
	t.Run("no_such_device", func(t *testing.T) {
		d, _ := open(t)
		_, err := d.OpenContext(3)
		require.ErrorIs(t, err, kernels.ErrUnavailable)
		require.ErrorContains(t, err, "device 3: the driver has 2 devices")
	})
	t.Run("driver_without_device", func(t *testing.T) {
		d, _ := open(t)
		require.NoError(t, sim.Control{Driver: d}.Fail(0, driver.CodeNoDevice))
		_, err := driver.Open(driver.Options{Library: d.Library()})
		require.ErrorIs(t, err, kernels.ErrUnavailable)
		var dev *kernels.DeviceError
		require.ErrorAs(t, err, &dev)
		require.Equal(t, kernels.DeviceError{Call: "cuInit", Code: 100, Name: "CUDA_ERROR_NO_DEVICE", Text: "no CUDA-capable device is detected"}, *dev)
	})
}

// box is a tensor map that a driver accepts.
var box = driver.TensorMapConfig{
	Type: driver.TensorBF16, Base: 1 << 20, Dims: []uint64{256, 3}, Strides: []uint64{512}, Box: []uint32{64, 8}, Swizzle: driver.Swizzle128,
}

func TestTensorMap(t *testing.T) {
	d, _ := open(t)
	require.True(t, d.Has("cuLaunchKernelEx"))
	require.True(t, d.Has("cuTensorMapEncodeTiled"))
	m, err := d.EncodeTensorMap(box)
	require.NoError(t, err)
	require.NotEqual(t, driver.TensorMap{}, m)
	for name, change := range map[string]func(*driver.TensorMapConfig){
		"base off 16 bytes":     func(c *driver.TensorMapConfig) { c.Base += 8 },
		"stride off 16 bytes":   func(c *driver.TensorMapConfig) { c.Strides = []uint64{520} },
		"empty box":             func(c *driver.TensorMapConfig) { c.Box = []uint32{64, 0} },
		"box of 257":            func(c *driver.TensorMapConfig) { c.Box = []uint32{64, 257} },
		"row beyond swizzle":    func(c *driver.TensorMapConfig) { c.Box = []uint32{128, 8} },
		"row of no 16 bytes":    func(c *driver.TensorMapConfig) { c.Box = []uint32{4, 8} },
		"tensor without rows":   func(c *driver.TensorMapConfig) { c.Dims = []uint64{256, 0} },
		"no type of the driver": func(c *driver.TensorMapConfig) { c.Type = 99 },
	} {
		c := box
		change(&c)
		_, err := d.EncodeTensorMap(c)
		var dev *kernels.DeviceError
		require.ErrorAs(t, err, &dev, name)
		require.Equal(t, driver.CodeInvalidValue, dev.Code, name)
	}
	_, err = d.EncodeTensorMap(driver.TensorMapConfig{})
	require.ErrorContains(t, err, "want 1 to 5 dimensions")
}

func TestCopies(t *testing.T) {
	_, c := open(t)
	s, err := c.NewStream(0)
	require.NoError(t, err)
	defer s.Close()
	p, err := c.Alloc(64)
	require.NoError(t, err)
	defer c.Free(p)
	host, err := c.AllocHost(64)
	require.NoError(t, err)
	defer host.Free()
	require.NotZero(t, host.Device())
	for i := range host.Bytes() {
		host.Bytes()[i] = byte(i)
	}
	require.NoError(t, s.CopyToDevice(p, host.Bytes()))
	require.NoError(t, s.Fill(p+8, 7, 8))
	require.NoError(t, s.Copy(p+32, p, 16))
	got := make([]byte, 64)
	require.NoError(t, s.CopyToHost(got, p))
	require.NoError(t, s.Synchronize())
	require.Equal(t, []byte{6, 7, 7, 7}, got[6:10])
	require.Equal(t, got[:16], got[32:48])
	require.Equal(t, byte(63), got[63])

	for name, call := range map[string]func() error{
		"past the end": func() error { return s.CopyToHost(got, p+1) },
		"overlapping":  func() error { return s.Copy(p+8, p, 16) },
		"not device":   func() error { return s.CopyToDevice(driver.Ptr(uintptr(unsafe.Pointer(&got[0]))), got) },
	} {
		var dev *kernels.DeviceError
		require.ErrorAs(t, call(), &dev, name)
		require.Equal(t, driver.CodeInvalidValue, dev.Code, name)
		require.Equal(t, "CUDA_ERROR_INVALID_VALUE", dev.Name, name)
	}
}

func TestOutOfMemory(t *testing.T) {
	_, c := open(t)
	_, total, err := c.Memory()
	require.NoError(t, err)
	_, err = c.Alloc(total + 1)
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	require.ErrorContains(t, err, "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory")
}

func TestThreadWithoutContext(t *testing.T) {
	d, c := open(t)
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		// The thread may have run Do before.
		if _, err := d.Extension("cuCtxSetCurrent", 0); err != nil {
			errs <- err
			return
		}
		_, err := c.Alloc(16)
		errs <- err
	}()
	var dev *kernels.DeviceError
	require.ErrorAs(t, <-errs, &dev)
	require.Equal(t, 201, dev.Code)
	done := make(chan error)
	go func() {
		done <- c.Do(func() error {
			p, err := c.Alloc(16)
			if err != nil {
				return err
			}
			return c.Free(p)
		})
	}()
	require.NoError(t, <-done)
}

func TestEvents(t *testing.T) {
	_, c := open(t)
	s, err := c.NewStream(-1)
	require.NoError(t, err)
	defer s.Close()
	start, err := c.NewEvent(true)
	require.NoError(t, err)
	defer start.Close()
	end, err := c.NewEvent(true)
	require.NoError(t, err)
	defer end.Close()
	require.NoError(t, start.Record(s))
	require.NoError(t, s.Wait(start))
	require.NoError(t, end.Record(s))
	require.NoError(t, end.Synchronize())
	done, err := end.Done()
	require.NoError(t, err)
	require.True(t, done)
	idle, err := s.Idle()
	require.NoError(t, err)
	require.True(t, idle)
	d, err := end.Since(start)
	require.NoError(t, err)
	require.Positive(t, d)
}

func TestBadImages(t *testing.T) {
	_, c := open(t)
	_, err := c.LoadModule(nil)
	require.ErrorContains(t, err, "empty image")
	var dev *kernels.DeviceError
	_, err = c.LoadModule(make([]byte, 4096))
	require.ErrorAs(t, err, &dev)
	require.Equal(t, "CUDA_ERROR_INVALID_IMAGE", dev.Name)
}

// TestCapture records copies, replays them, and sees an invalid capture refused.
func TestCapture(t *testing.T) {
	_, c := open(t)
	s, err := c.NewStream(0)
	require.NoError(t, err)
	defer s.Close()
	p, err := c.Alloc(32)
	require.NoError(t, err)
	defer c.Free(p)
	require.NoError(t, s.Fill(p, 1, 32))
	require.NoError(t, s.BeginCapture())
	require.NoError(t, s.Copy(p+16, p, 16))
	g, err := s.EndCapture()
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, s.Fill(p, 9, 16))
	got := make([]byte, 32)
	require.NoError(t, s.CopyToHost(got, p))
	require.NoError(t, s.Synchronize())
	require.Equal(t, byte(1), got[16], "a capture runs nothing")
	require.NoError(t, g.Launch(s))
	require.NoError(t, s.CopyToHost(got, p))
	require.NoError(t, s.Synchronize())
	require.Equal(t, byte(9), got[16])

	require.NoError(t, s.BeginCapture())
	require.Error(t, s.Synchronize())
	_, err = s.EndCapture()
	require.ErrorContains(t, err, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
	require.NoError(t, s.Synchronize(), "the stream stays usable")
}
