// Package kerneltest is the one conformance suite that every backend passes.
//
// A case is a function that makes operands and calls operations on the backend of
// a world. It runs in three worlds with the same seed: on the backend under test,
// on kernels/ref (the exact result) and on kernels/ref in naive mode (float32 with
// every rounding that the operation permits). After the run the suite checks
//
//   - that the inputs have spread, so that no generator is constant;
//   - that inputs, the bytes before and after every operand and the gaps between
//     strided rows are as they were;
//   - that every output, which held NaN before, is within its bound of the exact
//     result. Errors are measured in units of the largest magnitude of their row:
//     twice the largest error of the naive implementation in any row, plus 2^-18
//     (a float32 sum of some thousand terms in another order), plus one unit in
//     the last place of the output's type. Integers are equal. A backend whose matrix
//     unit truncates sums (kernels.Info) may lose a unit of the sum every 16 inputs.
//
// Invariance cases need no bound: they run an operation on a batch and on its
// pieces and compare bits. Refusal cases hand in wrong operands and want *ArgError.
//
// [Run] makes subtests whose names can be pasted back to -run; [Report] returns
// the same verdicts as values, for a result file of a machine with a device.
// The suite is itself tested on backends with planted defects.
package kerneltest
