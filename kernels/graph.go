package kernels

// Capturer is implemented by backends that can record operations and replay them
// with one call, which costs the host microseconds instead of a launch each.
//
// Between BeginCapture and EndCapture operations are checked and recorded but not
// run. Alloc, Upload, Download, Sync, PackLinear and NewKV are errors meanwhile. A
// recording keeps every argument it was made with: addresses, shapes, scalars,
// MaxRows and MaxLen. What varies from step to step must therefore lie in device
// arrays of fixed addresses (ids, positions, slots, lengths, tables), with
// padding up to the recorded shape: a padded sequence has Lens 0 and slot -1.
// MaxLen must bound every later step, so record with the longest context of a
// bucket and record again when it is exceeded.
//
// Run the operations once with the same shapes before recording them: a backend
// may allocate working memory at the first run, which a recording cannot. Buffers,
// weights and caches that a recording uses must outlive it.
type Capturer interface {
	// BeginCapture starts a recording. It is an error while one is under way.
	BeginCapture() error
	// EndCapture ends the recording. Call it also after an operation failed
	// meanwhile, and drop the result then.
	EndCapture() (Graph, error)
}

// Graph is a recording of operations. It belongs to the goroutine that uses its backend.
type Graph interface {
	// Launch enqueues the recorded operations, in order with all others.
	Launch() error
	// Free gives the recording's memory back. Idempotent; Close of the backend does it too.
	Free()
}
