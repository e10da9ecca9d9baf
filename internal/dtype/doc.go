// Package dtype converts between float32 and the number formats that
// checkpoints store: bf16, f16, the two 8-bit floats, and integers.
//
// Scalars come in pairs: [ToBF16] rounds a float32 and returns its bits, [FromBF16]
// widens. Slices of little-endian bytes, as they lie in a file, have [DecodeBF16]
// and [EncodeBF16] and so on; [Decode] and [Encode] pick one by [Type].
//
// Every narrowing conversion rounds to nearest, ties to even. NaN stays NaN.
// Overflow gives infinity where the format has one (bf16, f16, f8e5m2) and the
// largest finite value where it has none (f8e4m3: ±448), as CUDA's saturating
// conversion does.
//
// Slice functions panic if a slice is shorter than the other one needs: a wrong
// length is a broken invariant of the caller, never a property of a file.
package dtype
