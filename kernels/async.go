package kernels

import "time"

// Async is implemented by backends whose operations go on after the call has
// returned: a caller may prepare and enqueue a step while the one before it runs.
// What Upload and Download do with any memory, these do without waiting with memory
// of AllocHost. They are ordered with all other operations and cannot be recorded.
type Async interface {
	// AllocHost allocates memory of the host that the device reads and writes by
	// itself. Its contents are undefined.
	AllocHost(bytes int) (HostBuffer, error)
	// UploadAsync enqueues a copy of src, which lies in a HostBuffer and must not
	// change until a Mark set later is reached.
	UploadAsync(dst Tensor, src []byte) error
	// DownloadAsync enqueues a copy to dst, which lies in a HostBuffer and holds src
	// when a Mark set later is reached.
	DownloadAsync(dst []byte, src Tensor) error
	// CopyAsync enqueues a copy between contiguous tensors of one size.
	CopyAsync(dst, src Tensor) error
	// NewMark makes a Mark.
	NewMark() (Mark, error)
}

// HostBuffer is memory of AllocHost. Free must not be called while an operation uses it.
type HostBuffer interface {
	Bytes() []byte
	Free()
}

// Mark is a place in the order of a backend's operations. It is used by the goroutine
// that uses the backend.
type Mark interface {
	// Set puts the mark behind everything enqueued so far.
	Set() error
	// Wait returns when the device has reached the mark, with the first error of what
	// stands before it. A mark that was never set is reached.
	Wait() error
	// Since is the device's time from another mark to this one, both of them reached.
	Since(from Mark) (time.Duration, error)
	// Free gives the mark back. Idempotent.
	Free()
}
