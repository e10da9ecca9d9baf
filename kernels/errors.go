package kernels

import (
	"errors"
	"fmt"
)

var (
	// ErrUnavailable occurs when a backend cannot run on this machine: no such
	// device, no driver, no compiled support.
	ErrUnavailable = errors.New("backend unavailable")
	// ErrUnsupported occurs for a valid request that this backend does not implement.
	ErrUnsupported = errors.New("unsupported")
	// ErrOutOfMemory occurs when the device has less free memory than asked for.
	ErrOutOfMemory = errors.New("out of device memory")
)

// ArgError is a wrong operand: its shape, dtype or value breaks the rule of the op.
type ArgError struct {
	Op   string // "Linear"
	Arg  string // "X"
	Want string // "[T,4096] bf16 or f32"
	Got  string // "bf16[3 4097]"
}

func (e *ArgError) Error() string {
	return fmt.Sprintf("kernels: %s: %s: want %s, got %s", e.Op, e.Arg, e.Want, e.Got)
}

// DeviceError is an error of the device or its driver.
type DeviceError struct {
	Call string // driver function or "kernel NAME"
	Code int
	Name string // the driver's own name of the code
	Text string // the driver's own message
}

func (e *DeviceError) Error() string {
	return fmt.Sprintf("kernels: %s: %s (%d): %s", e.Call, e.Name, e.Code, e.Text)
}
