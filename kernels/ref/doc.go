// Package ref is the executable specification of kernels.Backend: the plainest Go
// that is obviously right. Operations run at once, sums are float64, and every
// result is rounded once, to the type of its tensor. It is the backend that the
// others are checked against, and it runs small models for parity.
//
// With Options.Naive the same code runs in float32 with the roundings that
// Precision and the attention operations permit (X to bf16 or 8 bits,
// probabilities to bf16): the naive implementation whose error calibrates the
// tolerances of kernels/kerneltest.
//
// Rows are shared out to goroutines; each row is computed by one goroutine in a
// fixed order, so results do not depend on the number of threads or rows.
package ref
