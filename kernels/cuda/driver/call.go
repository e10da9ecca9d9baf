package driver

import (
	"fmt"
	"sync"
	"unsafe"

	"metacap/kernels"
)

// Result codes of the driver (CUresult) that callers tell apart.
const (
	codeSuccess        = 0
	CodeInvalidValue   = 1
	CodeOutOfMemory    = 2
	codeNotInitialized = 3
	CodeNoDevice       = 100
	CodeNoBinary       = 209 // no kernel image for this device
	CodeNotFound       = 500
	CodeNotReady       = 600
	CodeIllegalAddress = 700
	CodeLaunchFailed   = 719
)

// MissingSymbolError occurs when the installed driver lacks a function: it is too old.
type MissingSymbolError struct {
	Symbol string // as exported: "cuLaunchKernelEx"
	Since  string // first CUDA version that has it
}

func (e *MissingSymbolError) Error() string {
	return fmt.Sprintf("driver: %s: not found in the CUDA driver library (needs a driver for CUDA %s or newer): update the NVIDIA driver", e.Symbol, e.Since)
}

// Unwrap makes a missing symbol an unavailable backend.
func (e *MissingSymbolError) Unwrap() error { return kernels.ErrUnavailable }

// failure turns a result code into an error with the driver's own name and text.
func (d *Driver) failure(call string, code int) error {
	name, text := d.describe(code)
	err := &kernels.DeviceError{Call: call, Code: code, Name: name, Text: text}
	if code == CodeOutOfMemory {
		return fmt.Errorf("%w: %w", kernels.ErrOutOfMemory, err)
	}
	return err
}

// describe asks the driver for the name and message of a code.
func (d *Driver) describe(code int) (name, text string) {
	name, text = "CUDA_ERROR", "no message from the driver"
	f := newFrame()
	defer f.free()
	// CUresult cuGetErrorName(CUresult error, const char **pStr)
	if d.raw(symGetErrorName, f.set(uintptr(code), f.ptrAddr())) == codeSuccess {
		name = cString(f.ptr)
	}
	// CUresult cuGetErrorString(CUresult error, const char **pStr)
	if d.raw(symGetErrorString, f.set(uintptr(code), f.ptrAddr())) == codeSuccess {
		text = cString(f.ptr)
	}
	return name, text
}

// frame is the argument block of one driver call. It lies in the heap, which
// does not move, so that addresses inside it may be passed to C: a goroutine's
// stack can move between taking an address and the call.
type frame struct {
	args [16]uintptr
	out  [4]uint64      // integers and handles written by C
	ptr  unsafe.Pointer // a host address written by C
	text [256]byte
	keep unsafe.Pointer // memory of the caller that C reads or writes during the call
}

var frames = sync.Pool{New: func() any { return new(frame) }}

func newFrame() *frame { return frames.Get().(*frame) }

func (f *frame) free() {
	f.keep = nil
	f.out = [4]uint64{}
	f.ptr = nil
	frames.Put(f)
}

// set fills the arguments and returns them as a slice of the frame.
func (f *frame) set(args ...uintptr) []uintptr {
	return f.args[:copy(f.args[:], args)]
}

func (f *frame) outAddr(i int) uintptr { return uintptr(unsafe.Pointer(&f.out[i])) }

func (f *frame) ptrAddr() uintptr { return uintptr(unsafe.Pointer(&f.ptr)) }

// cstr copies s into the frame with a final zero byte, cut to what fits, and
// returns its address.
func (f *frame) cstr(s string) uintptr {
	n := copy(f.text[:len(f.text)-1], s)
	f.text[n] = 0
	return uintptr(unsafe.Pointer(&f.text[0]))
}

// bytes keeps b alive (and off the stack) and returns its address.
func (f *frame) bytes(b []byte) uintptr {
	f.keep = unsafe.Pointer(unsafe.SliceData(b))
	return uintptr(f.keep)
}

// maxCString bounds how far a message of the driver is read.
const maxCString = 512

// cString copies a C string owned by the driver.
func cString(p unsafe.Pointer) string {
	if p == nil {
		return ""
	}
	n := 0
	for n < maxCString && *(*byte)(unsafe.Add(p, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(p), n))
}
