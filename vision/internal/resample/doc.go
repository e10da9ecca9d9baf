// Package resample scales interleaved 8-bit RGB with the bicubic filter of
// Pillow's Image.resize, bit for bit, and can write the result straight into
// square tiles.
//
// # The filter
//
// Bicubic with a = -0.5, stretched by max(1, in/out) when the picture shrinks,
// so that a pixel of the result averages all source pixels under it. The weights
// of one result pixel are normalised in float64 and rounded to integers with 22
// fractional bits. A pass computes
//
//	clip((2^21 + Σ pixel·weight) >> 22, 0, 255)
//
// The horizontal pass runs first and clips to 8 bits, then the vertical pass.
// A pass whose size does not change is skipped. That is Pillow up to 12; Pillow
// 13 sometimes runs the vertical pass first, which changes values by up to 25
// levels on noise: the models were trained with the order used here.
//
// # Memory
//
// The horizontal pass feeds a ring of as many rows as the vertical filter needs,
// so the working memory is (support rows × result width × 3) bytes, whatever the
// height of the source.
//
// # Two implementations
//
// Built with cgo on amd64, both passes run in C with AVX2 (chosen at run time);
// otherwise in Go. They are integer arithmetic and agree in every byte.
package resample
