package driver_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
)

// TestLaunchLayout compares the structures that are passed by address with C's.
func TestLaunchLayout(t *testing.T) {
	d, _ := open(t)
	for i, want := range driver.LaunchLayout() {
		got, err := d.Extension("sim_layout", uint64(i))
		require.NoError(t, err)
		require.Equal(t, uint64(want), got, "member %d", i)
	}
	end, err := d.Extension("sim_layout", uint64(len(driver.LaunchLayout())))
	require.NoError(t, err)
	require.Equal(t, ^uint64(0), end, "the simulator lists more members")
}

// TestCudaHeader compares the simulator's view of the driver with the real one:
// layouts, enumerators, and the versions of the prototypes. METACAP_CUDA_H is a folder with cuda.h
// and cudaTypedefs.h of CUDA 12.9 (Python package nvidia-cuda-runtime-cu12).
func TestCudaHeader(t *testing.T) {
	dir := os.Getenv("METACAP_CUDA_H")
	if dir == "" {
		t.Skip("METACAP_CUDA_H is not set")
	}
	out, err := exec.Command("g++", "-std=c++17", "-fsyntax-only", "-DSIM_CUDA_H", "-I", dir, "-I", "../sim/native", "../sim/native/abi.cc").CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(filepath.Join(dir, "cudaTypedefs.h"))
	require.NoError(t, err)
	versions := map[string]bool{}
	for _, m := range regexp.MustCompile(`\(CUDAAPI \*PFN_(\w+?)_v(\d+)(?:_ptsz|_ptds)?\)`).FindAllStringSubmatch(string(text), -1) {
		versions[m[1]+" "+m[2]] = true
	}
	require.Greater(t, len(versions), 300)
	for _, s := range driver.Symbols() {
		require.True(t, versions[s.Name+" "+strconv.Itoa(s.Version)], "%s has no prototype of version %d", s.Name, s.Version)
	}
}

// TestMissingSymbols opens drivers that lack one function each.
func TestMissingSymbols(t *testing.T) {
	open(t) // skips where there is no compiler
	// Every function answers 0 and stores nothing; cuGetProcAddress hides one of them.
	const source = `#include <string.h>
static char hidden[64];
static int call(void) { return 0; }
void hide(const char *name) { strncpy(hidden, name, sizeof hidden - 1); }
int cuGetProcAddress(const char *name, void **fn, int version, unsigned long long flags) {
  if (!strcmp(name, hidden)) return 500;
  *fn = (void *)call;
  return 0;
}`
	dir := t.TempDir()
	lib := filepath.Join(dir, "driver.so")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "driver.c"), []byte(source), 0o600))
	out, err := exec.Command("g++", "-x", "c", "-shared", "-fPIC", "-o", lib, filepath.Join(dir, "driver.c")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	d, err := driver.Open(driver.Options{Library: lib})
	require.NoError(t, err)
	for _, s := range driver.Symbols() {
		name := append([]byte(s.Name), 0)
		_, err := d.Extension("hide", uint64(uintptr(unsafe.Pointer(&name[0]))))
		require.NoError(t, err)
		old, err := driver.Open(driver.Options{Library: lib})
		if s.Optional {
			require.NoError(t, err, s.Name)
			require.False(t, old.Has(s.Name), s.Name)
			if s.Name == "cuTensorMapEncodeTiled" {
				_, err := old.EncodeTensorMap(box)
				var missing *driver.MissingSymbolError
				require.ErrorAs(t, err, &missing)
				require.Equal(t, s.Name, missing.Symbol)
				require.Equal(t, "12.0", missing.Since)
			}
			continue
		}
		var missing *driver.MissingSymbolError
		require.ErrorAs(t, err, &missing, s.Name)
		require.Equal(t, s.Export, missing.Symbol)
		require.Equal(t, fmt.Sprintf("%d.%d", s.Version/1000, s.Version%1000/10), missing.Since)
		require.ErrorIs(t, err, kernels.ErrUnavailable)
		require.ErrorContains(t, err, "update the NVIDIA driver")
	}
}

// TestEveryFunctionFails makes each function of the driver that the binding calls
// fail, with codes that mean different things.
func TestEveryFunctionFails(t *testing.T) {
	d, c := open(t)
	ctl := sim.Control{Driver: d}
	s, err := c.NewStream(0)
	require.NoError(t, err)
	defer s.Close()
	p, err := c.Alloc(64)
	require.NoError(t, err)
	defer c.Free(p)
	event := func() *driver.Event {
		e, err := c.NewEvent(true)
		require.NoError(t, err)
		t.Cleanup(func() { e.Close() })
		return e
	}
	graph := func() *driver.Graph {
		require.NoError(t, s.BeginCapture())
		g, err := s.EndCapture()
		require.NoError(t, err)
		t.Cleanup(func() { g.Close() })
		return g
	}
	e, f, g := event(), event(), graph()
	require.NoError(t, e.Record(s))
	require.NoError(t, f.Record(s))
	buf := make([]byte, 64)
	second := func(_ any, err error) error { return err }
	calls := []struct {
		name string
		skip int // calls of the binding before it
		do   func() error
	}{
		{"cuInit", 0, func() error { return second(driver.Open(driver.Options{Library: d.Library()})) }},
		{"cuDriverGetVersion", 1, func() error { return second(driver.Open(driver.Options{Library: d.Library()})) }},
		{"cuDeviceGetCount", 0, func() error { return second(d.OpenContext(0)) }},
		{"cuDeviceGet", 1, func() error { return second(d.OpenContext(0)) }},
		{"cuDevicePrimaryCtxRetain", 2, func() error { return second(d.OpenContext(0)) }},
		{"cuCtxSetCurrent", 3, func() error { return second(d.OpenContext(0)) }},
		{"cuDeviceGetName", 0, func() error { return second(c.Name()) }},
		{"cuDeviceGetAttribute", 0, func() error { return second(c.Attribute(driver.AttrMultiprocessors)) }},
		{"cuMemGetInfo_v2", 0, func() error { _, _, err := c.Memory(); return err }},
		{"cuModuleLoadData", 0, func() error { return second(c.LoadModule(buf)) }},
		{"cuMemAlloc_v2", 0, func() error { return second(c.Alloc(64)) }},
		{"cuMemFree_v2", 0, func() error { return c.Free(p) }},
		{"cuMemHostAlloc", 0, func() error { return second(c.AllocHost(64)) }},
		{"cuMemHostGetDevicePointer_v2", 1, func() error { return second(c.AllocHost(64)) }},
		{"cuMemcpyHtoDAsync_v2", 0, func() error { return s.CopyToDevice(p, buf) }},
		{"cuMemcpyDtoHAsync_v2", 0, func() error { return s.CopyToHost(buf, p) }},
		{"cuMemcpyDtoDAsync_v2", 0, func() error { return s.Copy(p, p+32, 16) }},
		{"cuMemsetD8Async", 0, func() error { return s.Fill(p, 0, 64) }},
		{"cuStreamCreateWithPriority", 0, func() error { return second(c.NewStream(0)) }},
		{"cuStreamSynchronize", 0, s.Synchronize},
		{"cuCtxSynchronize", 0, c.Synchronize},
		{"cuStreamQuery", 0, func() error { return second(s.Idle()) }},
		{"cuStreamWaitEvent", 0, func() error { return s.Wait(e) }},
		{"cuStreamBeginCapture_v2", 0, s.BeginCapture},
		{"cuStreamEndCapture", 1, func() error {
			require.NoError(t, s.BeginCapture())
			_, err := s.EndCapture()
			_, end := s.EndCapture() // leave the capture
			require.NoError(t, end)
			return err
		}},
		{"cuGraphInstantiateWithFlags", 2, func() error { require.NoError(t, s.BeginCapture()); return second(s.EndCapture()) }},
		{"cuGraphDestroy", 3, func() error { require.NoError(t, s.BeginCapture()); return second(s.EndCapture()) }},
		{"cuGraphLaunch", 0, func() error { return g.Launch(s) }},
		{"cuEventCreate", 0, func() error { return second(c.NewEvent(false)) }},
		{"cuEventRecord", 0, func() error { return e.Record(s) }},
		{"cuEventQuery", 0, func() error { return second(e.Done()) }},
		{"cuEventSynchronize", 0, e.Synchronize},
		{"cuEventElapsedTime", 0, func() error { return second(f.Since(e)) }},
		{"cuMemFreeHost", 2, func() error { h, err := c.AllocHost(64); require.NoError(t, err); return h.Free() }},
		{"cuEventDestroy_v2", 1, func() error { e, err := c.NewEvent(false); require.NoError(t, err); return e.Close() }},
		{"cuStreamDestroy_v2", 1, func() error { s, err := c.NewStream(0); require.NoError(t, err); return s.Close() }},
		{"cuGraphExecDestroy", 4, func() error { g := graph(); return g.Close() }},
		{"cuTensorMapEncodeTiled", 0, func() error { return second(d.EncodeTensorMap(box)) }},
		{"cuDevicePrimaryCtxRelease_v2", 4, func() error { c, err := d.OpenContext(0); require.NoError(t, err); return c.Close() }},
	}
	covered := map[string]bool{
		// Asked only after another call failed; an error without a name is TestEveryCallFails's 999.
		"cuGetErrorName": true, "cuGetErrorString": true,
		// Need a kernel, which a module of the backend has: see package cuda.
		"cuModuleUnload": true, "cuModuleGetFunction": true, "cuFuncSetAttribute": true, "cuLaunchKernel": true, "cuLaunchKernelEx": true,
		"cuOccupancyMaxActiveBlocksPerMultiprocessor": true,
	}
	for _, call := range calls {
		covered[call.name] = true
		for _, code := range []int{driver.CodeInvalidValue, driver.CodeOutOfMemory, driver.CodeIllegalAddress, 999} {
			require.NoError(t, ctl.Fail(call.skip, code))
			err := call.do()
			require.NoError(t, ctl.Fail(-1, 0))
			var dev *kernels.DeviceError
			require.ErrorAs(t, err, &dev, call.name)
			require.Equal(t, call.name, dev.Call)
			require.Equal(t, code, dev.Code, call.name)
			if code == driver.CodeOutOfMemory {
				require.ErrorIs(t, err, kernels.ErrOutOfMemory, call.name)
			}
			if code == 999 {
				require.Equal(t, "CUDA_ERROR", dev.Name)
			}
		}
	}
	for _, s := range driver.Symbols() {
		require.True(t, covered[s.Export], "%s is bound and nothing makes it fail", s.Export)
	}
}
