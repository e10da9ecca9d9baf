package cuda

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
)

// life opens the backend, does once everything that the engine does with it, and
// closes it: weights in every form and through every path of the loader, a step by
// hand and recorded, growing workspaces, copies of blocks, frees.
func life(lib string, device int) error {
	b, err := Open(Options{Library: lib, Device: device})
	if err != nil {
		return err
	}
	return errors.Join(live(b), b.Close())
}

func live(b *Backend) error {
	s, err := newStep(b)
	if err != nil {
		return err
	}
	// Row-major weights with scales and zeros, and a piece larger than a staging slot.
	quant := &kernels.QuantPart{Bits: 4, Group: 64, Scales: make([]byte, 4*16*2), Zeros: make([]uint8, 16*2)}
	q, err := b.PackLinear(kernels.LinearSource{Name: "q", K: 128, Parts: []kernels.MatrixPart{{N: 16, Data: make([]byte, 16*64), Quant: quant}}})
	if err != nil {
		return err
	}
	large, err := b.Alloc(slotBytes + 4096)
	if err != nil {
		return err
	}
	if err := b.Upload(kernels.Tensor{Buf: large, DType: kernels.F32, Shape: []int{slotBytes/4 + 1024}}, make([]byte, slotBytes+4096)); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	if err := b.KVCopy(kernels.KVCopyArgs{KV: s.kv, Pairs: [][2]int32{{0, 3}}}); err != nil {
		return err
	}
	if err := b.BeginCapture(); err != nil {
		return err
	}
	rerr := s.run()
	g, err := b.EndCapture()
	if rerr != nil || err != nil {
		return errors.Join(rerr, err)
	}
	if err := g.Launch(); err != nil {
		return err
	}
	// A longer context outgrows the workspace that the recording holds.
	tables, err := tensor(b, kernels.I32, make([]float32, 3*40), 3, 40)
	if err != nil {
		return err
	}
	err = b.PagedAttention(kernels.PagedAttentionArgs{
		Out: s.out.Reshape(3, 2, 64), Q: s.y.Cols(0, 128).Reshape(3, 2, 64), KV: s.kv,
		Starts: s.starts, Lens: s.lens, Tables: tables, Scale: 0.125, MaxRows: 1, MaxLen: 40 * kernels.BlockSize,
	})
	if err != nil {
		return err
	}
	if _, err = s.result(); err != nil {
		return err
	}
	g.Free()
	s.w.Free()
	q.Free()
	large.Free()
	s.kv.Free()
	return b.Sync()
}

// unforgiving are the calls whose failure leaves something that nobody can free any more.
var unforgiving = []string{
	"cuMemFree_v2", "cuMemFreeHost", "cuCtxSetCurrent", "cuModuleUnload", "cuStreamDestroy_v2",
	"cuGraphExecDestroy", "cuGraphDestroy", "cuDevicePrimaryCtxRelease_v2",
}

// TestEveryCallFails makes each driver call of a backend's life fail in turn. Each
// failure must come back as the driver's error, nothing may stay behind, nothing may be
// taken apart in the wrong order, and no function that the backend uses may be left out.
func TestEveryCallFails(t *testing.T) {
	t.Run("ampere", func(t *testing.T) { everyCallFails(t, simAmpere) })
	t.Run("hopper", func(t *testing.T) { everyCallFails(t, simHopper, "cuTensorMapEncodeTiled") })
}

func everyCallFails(t *testing.T, device int, also ...string) {
	lib := library(t)
	drv, err := driver.Open(driver.Options{Library: lib})
	require.NoError(t, err)
	c := sim.Control{Driver: drv}
	count := func(which sim.Counter) uint64 {
		n, err := c.Count(which)
		require.NoError(t, err)
		return n
	}
	// The first life loads the staging memory into the process, the second is counted.
	require.NoError(t, life(lib, device))
	before := count(sim.Calls)
	require.NoError(t, life(lib, device))
	calls := int(count(sim.Calls) - before)
	require.Greater(t, calls, 100)
	failed := map[string]bool{}
	for n := range calls {
		// Device errors that stick are the rule; an unknown code must be reported too.
		code := []int{driver.CodeIllegalAddress, driver.CodeOutOfMemory, driver.CodeLaunchFailed, 999}[n%4]
		require.NoError(t, c.Fail(n, code))
		err := life(lib, device)
		require.NoError(t, c.Fail(-1, 0))
		var dev *kernels.DeviceError
		require.ErrorAs(t, err, &dev, "call %d of %d", n, calls)
		require.Equal(t, code, dev.Code, "call %d: %v", n, err)
		require.Equal(t, code == driver.CodeOutOfMemory, errors.Is(err, kernels.ErrOutOfMemory), "call %d: %v", n, err)
		name, _, _ := strings.Cut(dev.Call, " ")
		failed[name] = true
		leaks, err := c.Leaks()
		require.NoError(t, err)
		if slices.Contains(unforgiving, name) {
			_, err := drv.Extension("sim_reset")
			require.NoError(t, err)
			continue
		}
		require.Empty(t, leaks, "call %d, %s", n, dev.Call)
		require.Zero(t, count(sim.Disorder), "call %d, %s: taken apart out of order", n, dev.Call)
	}
	for _, name := range append(also,
		"cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuDeviceGetName",
		"cuDeviceGetAttribute", "cuMemGetInfo_v2", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuMemAlloc_v2", "cuMemHostAlloc",
		"cuMemHostGetDevicePointer_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemsetD8Async", "cuStreamCreateWithPriority",
		"cuStreamSynchronize", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch", "kernel") {
		require.True(t, failed[name], "%s was never made to fail", name)
	}
	for _, name := range unforgiving {
		require.True(t, failed[name], "%s was never made to fail", name)
	}
}

// TestParameterSizes compares three views of each kernel's parameter block: the
// compiled binary's, as the manifest has it, the simulator's and, through TestLayout, Go's.
func TestParameterSizes(t *testing.T) {
	b, _ := simulated(t)
	for _, k := range kernelTable {
		name := append([]byte(k.name), 0)
		got, err := b.driver.Extension("sim_param_bytes", uint64(uintptr(unsafe.Pointer(&name[0]))))
		require.NoError(t, err)
		require.Equal(t, uint64(k.paramBytes), got, k.name)
	}
}

// TestOverlappedLaunch compares launches through cuLaunchKernelEx, which the backend uses
// on compute capability 9.0 only, with plain ones.
func TestOverlappedLaunch(t *testing.T) {
	const n = 640
	var sums [2][]byte
	for device := range sums {
		t.Run([]string{"plain", "overlapped"}[device], func(t *testing.T) {
			b, c := simulatedOn(t, device)
			before, err := c.Count(sim.Overlapped)
			require.NoError(t, err)
			x, err := tensor(b, kernels.F32, normal(n), 1, n)
			require.NoError(t, err)
			out, err := tensor(b, kernels.F32, make([]float32, n), 1, n)
			require.NoError(t, err)
			require.NoError(t, b.Add(kernels.AddArgs{Out: out, A: x, B: x}))
			sums[device] = make([]byte, 4*n)
			require.NoError(t, b.Download(sums[device], out))
			after, err := c.Count(sim.Overlapped)
			require.NoError(t, err)
			require.Equal(t, device == simHopper, after > before)
		})
	}
	require.Equal(t, sums[simAmpere], sums[simHopper])
}

// TestOutOfOrderShows makes the mistake that the simulator is to notice.
func TestOutOfOrderShows(t *testing.T) {
	lib := library(t)
	b, err := Open(Options{Library: lib})
	require.NoError(t, err)
	c := sim.Control{Driver: b.driver}
	require.NoError(t, b.do(b.ctx.Close))
	n, err := c.Count(sim.Disorder)
	require.NoError(t, err)
	require.Equal(t, uint64(2), n, "streams and modules outlived their context")
	_, err = b.driver.Extension("sim_reset")
	require.NoError(t, err)
	n, err = c.Count(sim.Disorder)
	require.NoError(t, err)
	require.Zero(t, n)
}

// TestSanitizer asks for nothing by itself: run under `make test-sim-sanitize` it makes
// sure that the simulator is really built with the sanitizers.
func TestSanitizer(t *testing.T) {
	if os.Getenv("METACAP_SIM_SANITIZE") == "" {
		t.Skip("METACAP_SIM_SANITIZE is not set")
	}
	b, _ := simulated(t)
	on, err := b.driver.Extension("sim_sanitized")
	require.NoError(t, err)
	require.Equal(t, uint64(1), on)
}
