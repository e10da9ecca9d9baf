package driver

import (
	"fmt"
	"strings"

	"metacap/kernels"
)

// Options say which driver library to load.
type Options struct {
	// Library is a path or soname tried instead of the usual places. Empty = usual places.
	Library string
}

// libraryNames are tried in order: the loader's own search path first, then the
// folders where containers and WSL put the driver.
var libraryNames = []string{
	"libcuda.so.1",
	"/usr/local/nvidia/lib64/libcuda.so.1",
	"/usr/lib/wsl/lib/libcuda.so.1",
	"/run/opengl-driver/lib/libcuda.so.1",
}

// Driver is a loaded and initialised CUDA driver. Its methods may be called by
// any goroutine.
type Driver struct {
	lib     uintptr
	library string
	version int
	entry   [numSymbols]uintptr
}

// Open loads the driver library and initialises it. It takes 0.1–0.25 s with a
// GPU. The error wraps kernels.ErrUnavailable when this machine or this build
// has no usable driver or device.
func Open(opt Options) (*Driver, error) {
	names := libraryNames
	if opt.Library != "" {
		names = []string{opt.Library}
	}
	d := &Driver{}
	var causes []string
	for _, name := range names {
		lib, err := openLibrary(name)
		if err == nil {
			d.lib, d.library = lib, name
			break
		}
		causes = append(causes, err.Error())
		if !built {
			break
		}
	}
	if d.lib == 0 {
		return nil, fmt.Errorf("driver: open: no CUDA driver: %s: %w", strings.Join(causes, "; "), kernels.ErrUnavailable)
	}
	if err := d.start(); err != nil {
		_ = closeLibrary(d.lib) // the error of start is the one to report
		return nil, err
	}
	return d, nil
}

// start resolves the entry points and initialises the driver.
func (d *Driver) start() error {
	if err := d.resolve(); err != nil {
		return err
	}
	f := newFrame()
	defer f.free()
	// CUresult cuInit(unsigned int Flags)
	if err := d.call(symInit, f.set(0)); err != nil {
		return fmt.Errorf("driver: open %s: %w: %w", d.library, kernels.ErrUnavailable, err)
	}
	// CUresult cuDriverGetVersion(int *driverVersion)
	if err := d.call(symDriverGetVersion, f.set(f.outAddr(0))); err != nil {
		return err
	}
	d.version = int(int32(f.out[0]))
	return nil
}

// resolve fills the table of entry points. Versioned prototypes come from
// cuGetProcAddress where the driver has it (CUDA 11.3), else by exported name.
func (d *Driver) resolve() error {
	getProc, _ := lookup(d.lib, "cuGetProcAddress") // absent before CUDA 11.3
	f := newFrame()
	defer f.free()
	for i, s := range symbolTable {
		if getProc != 0 {
			// CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
			f.out[0] = 0
			if invoke(getProc, f.set(f.cstr(s.name), f.outAddr(0), uintptr(s.version), 0)) == codeSuccess {
				d.entry[i] = uintptr(f.out[0])
			}
		}
		if d.entry[i] == 0 {
			d.entry[i], _ = lookup(d.lib, s.export()) // absence is checked next
		}
		if d.entry[i] == 0 && !s.optional {
			return missing(symbol(i))
		}
	}
	return nil
}

func missing(s symbol) error {
	info := symbolTable[s]
	return &MissingSymbolError{Symbol: info.export(), Since: fmt.Sprintf("%d.%d", info.version/1000, info.version%1000/10)}
}

// raw calls an entry point and returns its CUresult.
func (d *Driver) raw(s symbol, args []uintptr) int {
	return int(int32(invoke(d.entry[s], args)))
}

// call calls an entry point and turns a failure into an error.
func (d *Driver) call(s symbol, args []uintptr) error {
	if d.entry[s] == 0 {
		return missing(s)
	}
	if r := d.raw(s, args); r != codeSuccess {
		return d.failure(symbolTable[s].export(), r)
	}
	return nil
}

// Has reports whether the driver offers an optional function: "cuLaunchKernelEx", "cuTensorMapEncodeTiled".
func (d *Driver) Has(name string) bool {
	for i, s := range symbolTable {
		if s.name == name {
			return d.entry[i] != 0
		}
	}
	return false
}

// Library is the name under which the driver library was found.
func (d *Driver) Library() string { return d.library }

// Version is the CUDA version of the driver as 1000*major + 10*minor: 12090 is 12.9.
func (d *Driver) Version() int { return d.version }

// Devices is the number of CUDA devices; 0 is not an error.
func (d *Driver) Devices() (int, error) {
	f := newFrame()
	defer f.free()
	// CUresult cuDeviceGetCount(int *count)
	if err := d.call(symDeviceGetCount, f.set(f.outAddr(0))); err != nil {
		return 0, err
	}
	return int(int32(f.out[0])), nil
}

// Extension calls a function of the library that is not part of the CUDA driver,
// with integer arguments: a simulator's controls. Tests use it.
func (d *Driver) Extension(name string, args ...uint64) (uint64, error) {
	fn, err := lookup(d.lib, name)
	if err != nil {
		return 0, fmt.Errorf("driver: extension %s: %w", name, err)
	}
	f := newFrame()
	defer f.free()
	if len(args) > len(f.args) {
		return 0, fmt.Errorf("driver: extension %s: %d arguments exceed %d", name, len(args), len(f.args))
	}
	for i, a := range args {
		f.args[i] = uintptr(a)
	}
	return uint64(invoke(fn, f.args[:len(args)])), nil
}
