// Package cpu is the backend for processors: C kernels with run-time choice of the
// instruction set, or plain Go when built without cgo.
//
// Operations append to a command list. Sync, Download, or a list of some thousand
// commands run it in one call into C, on a pool of threads outside Go's scheduler
// (pool.c). The caller's thread takes part. Threads wait for each other by spinning
// for a fraction of a millisecond and park 20 µs after the last command, so an idle
// engine costs nothing. The pool is one for the process: engines that run at the
// same time do not multiply threads.
//
// Weights and cache pages lie in panels of 32 outputs (README.md), which every
// instruction set reads: base (SSE2 or NEON through the compiler's vectors), avx2,
// avx512, avx512bf16 and amx. Each output has one accumulator that runs through k in
// ascending order (amx: steps of 32, mc_tile.h), so a row's result depends neither on its
// neighbours nor on the number of threads. It does depend on the instruction set.
//
// Activations are float32. A bf16 weight of PrecisionNative is multiplied by rows
// rounded to bf16 where the processor has a bf16 dot product, else in float32.
//
// Sequences of a batch whose block tables begin alike share the reading of those blocks
// in attention (mc_paged.h), with the bits of sequences that share nothing.
package cpu
