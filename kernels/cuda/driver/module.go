package driver

import (
	"fmt"
	"unsafe"
)

// Module is device code loaded into a context.
type Module struct {
	c      *Context
	handle uintptr
}

// LoadModule loads a cubin or PTX text. A cubin for another architecture is a
// *kernels.DeviceError with CodeNoBinary.
func (c *Context) LoadModule(image []byte) (*Module, error) {
	if len(image) == 0 {
		return nil, fmt.Errorf("driver: load module: empty image")
	}
	data := make([]byte, len(image)+1) // PTX must end in a zero byte
	copy(data, image)
	f := newFrame()
	defer f.free()
	// CUresult cuModuleLoadData(CUmodule *module, const void *image)
	if err := c.d.call(symModuleLoadData, f.set(f.outAddr(0), f.bytes(data))); err != nil {
		return nil, err
	}
	return &Module{c: c, handle: uintptr(f.out[0])}, nil
}

// Close unloads the module. Idempotent.
func (m *Module) Close() error {
	if m.handle == 0 {
		return nil
	}
	f := newFrame()
	defer f.free()
	// CUresult cuModuleUnload(CUmodule hmod)
	err := m.c.d.call(symModuleUnload, f.set(m.handle))
	m.handle = 0
	return err
}

// Function is a kernel of a loaded module.
type Function struct {
	c      *Context
	name   string
	handle uintptr
}

// Function looks a kernel up by name.
func (m *Module) Function(name string) (*Function, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
	if err := m.c.d.call(symModuleGetFunction, f.set(f.outAddr(0), m.handle, f.cstr(name))); err != nil {
		return nil, fmt.Errorf("driver: kernel %s: %w", name, err)
	}
	return &Function{c: m.c, name: name, handle: uintptr(f.out[0])}, nil
}

// Name is the kernel's name.
func (fn *Function) Name() string { return fn.name }

// funcMaxDynamicShared is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
const funcMaxDynamicShared = 8

// AllowShared raises the kernel's limit of dynamic shared memory above 48 KiB.
func (fn *Function) AllowShared(bytes int) error {
	f := newFrame()
	defer f.free()
	// CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
	return fn.c.d.call(symFuncSetAttribute, f.set(fn.handle, funcMaxDynamicShared, uintptr(bytes)))
}

// funcPreferredSharedCarveout is CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT.
const funcPreferredSharedCarveout = 9

// PreferShared asks for a share, in percent, of the memory that a multiprocessor splits
// into shared memory and first-level cache.
func (fn *Function) PreferShared(percent int) error {
	f := newFrame()
	defer f.free()
	// CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
	return fn.c.d.call(symFuncSetAttribute, f.set(fn.handle, funcPreferredSharedCarveout, uintptr(percent)))
}

// BlocksPerSM is how many ctas of the kernel fit on a multiprocessor at once.
func (fn *Function) BlocksPerSM(threads, sharedBytes int) (int, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize)
	if err := fn.c.d.call(symOccupancy, f.set(f.outAddr(0), fn.handle, uintptr(threads), uintptr(sharedBytes))); err != nil {
		return 0, err
	}
	return int(int32(f.out[0])), nil
}

// MaxParamBytes is the largest parameter block of a kernel here.
const MaxParamBytes = 1024

// launchAttr is CUlaunchAttribute: id, padding, and a union of 64 bytes.
type launchAttr struct {
	id    uint32
	_     uint32
	value [64]byte
}

// launchConfig is CUlaunchConfig.
type launchConfig struct {
	gridX, gridY, gridZ    uint32
	blockX, blockY, blockZ uint32
	sharedBytes            uint32
	stream                 uintptr
	attrs                  uintptr
	numAttrs               uint32
}

// attrProgrammaticSerialization is CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
const attrProgrammaticSerialization = 6

// Launcher launches kernels that take one parameter block by value. It owns
// the argument memory that the driver reads during a launch, so that a launch
// allocates nothing. It must not be copied and serves one goroutine.
type Launcher struct {
	s       *Stream
	args    [11]uintptr
	params  [MaxParamBytes / 16][2]uint64 // aligned copy of the parameter block
	pointer [1]uintptr                    // kernelParams: address of params
	config  launchConfig
	attr    launchAttr
}

// NewLauncher makes a launcher for a stream.
func (s *Stream) NewLauncher() *Launcher {
	l := &Launcher{s: s}
	l.pointer[0] = uintptr(unsafe.Pointer(&l.params))
	l.config.stream = s.handle
	l.config.attrs = uintptr(unsafe.Pointer(&l.attr))
	l.config.numAttrs = 1
	l.attr.id = attrProgrammaticSerialization
	l.attr.value[0] = 1
	return l
}

// Dim is the extent of a grid.
type Dim struct{ X, Y, Z int }

// Launch enqueues a kernel with a parameter block of size bytes at params,
// which is copied. Overlap allows the kernel to start before the kernel in
// front of it has ended (programmatic dependent launch); the kernel then waits
// by itself. It needs compute capability 9.0.
func (l *Launcher) Launch(fn *Function, grid Dim, threads, sharedBytes int, params unsafe.Pointer, size uintptr, overlap bool) error {
	if size > MaxParamBytes {
		return fmt.Errorf("driver: launch %s: parameter block of %d bytes exceeds %d", fn.name, size, MaxParamBytes)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&l.params)), size), unsafe.Slice((*byte)(params), size))
	d := l.s.c.d
	var r int
	if overlap && d.entry[symLaunchKernelEx] != 0 {
		c := &l.config
		c.gridX, c.gridY, c.gridZ = uint32(grid.X), uint32(grid.Y), uint32(grid.Z)
		c.blockX, c.blockY, c.blockZ = uint32(threads), 1, 1
		c.sharedBytes = uint32(sharedBytes)
		l.args[0], l.args[1] = uintptr(unsafe.Pointer(c)), fn.handle
		l.args[2], l.args[3] = uintptr(unsafe.Pointer(&l.pointer)), 0
		// CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
		r = d.raw(symLaunchKernelEx, l.args[:4])
	} else {
		l.args = [11]uintptr{
			fn.handle, uintptr(grid.X), uintptr(grid.Y), uintptr(grid.Z), uintptr(threads), 1, 1,
			uintptr(sharedBytes), l.s.handle, uintptr(unsafe.Pointer(&l.pointer)), 0,
		}
		// CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
		//   unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
		//   CUstream hStream, void **kernelParams, void **extra)
		r = d.raw(symLaunchKernel, l.args[:])
	}
	if r != codeSuccess {
		return d.failure("kernel "+fn.name, r)
	}
	return nil
}
