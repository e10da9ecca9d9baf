// Package driver binds the part of the CUDA driver API that an inference
// engine needs, without cgo and without a CUDA toolkit: the shared library is
// opened at run time, so the program starts on machines that have no GPU.
//
//   - [Open] loads libcuda.so.1 (or the library given), resolves every entry
//     point and initialises the driver. A machine without driver or device gives
//     an error that wraps kernels.ErrUnavailable and says what is missing.
//   - [Driver] lists devices; [Context] is a device's primary context and makes
//     memory, streams, events, modules, graphs and tensor maps.
//   - Every failed call is a *kernels.DeviceError with the driver's own name and
//     message. A missing symbol is an error naming it when it is called, never a panic.
//
// Calls pass prebuilt argument slices to purego's SyscallN: a kernel launch or a
// graph launch allocates nothing ([LaunchConfig] owns its argument block).
//
// # Threads
//
// CUDA's current context belongs to the OS thread. A goroutine that calls methods
// of Context must be locked to its thread and have called [Context.SetCurrent].
//
// # Builds
//
// The binding itself is compiled on linux/amd64 and linux/arm64 unless the build
// tag nocuda is set; elsewhere Open returns kernels.ErrUnavailable.
package driver
