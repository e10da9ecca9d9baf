// Package cuda is the backend for NVIDIA GPUs. It needs the driver and nothing
// else: kernels are compiled ahead of time (cmd/cu2go), embedded, and launched
// through the binding in package driver.
//
// # Tour
//
//   - backend.go opens a device: driver, context, stream, modules; memory.go holds
//     buffers, copies and workspaces; module.go picks the embedded cubin of the
//     device's compute capability, or PTX that the driver compiles.
//   - linear.go packs weights and chooses among the linear kernels (hopper.go: those of
//     compute capability 9.0, with tensor maps and wgmma); attention.go
//     holds the paged cache and chooses among the attention kernels; rows.go and
//     vision.go are the rest of kernels.Backend; fused.go the optional operations.
//   - graph.go records the operations of a step and replays them with one call.
//   - src/ are the kernels; kernels_gen.go mirrors their parameter blocks.
//   - sim/ is a simulated driver for machines without a GPU; the tests here run the
//     conformance suite on it.
//
// # Numbers
//
// Activations are bf16 (float32 for float32 checkpoints), sums float32. bf16
// weights go through tensor cores; float32, float16 and quantised weights, and
// layers with PrecisionF32, through float32 arithmetic. A row's bits depend
// neither on the other rows nor on which kernel ran: see src/linear.cuh and
// src/attention.cuh.
//
// # Threads
//
// Every method locks its goroutine to an OS thread for the call and makes the
// context current, so any goroutine may call, one at a time (PackLinear and
// Upload: also concurrently).
package cuda

//go:generate go run metacap/cmd/cu2go -dir . -nvrtc ../../build/nvrtc
