// Package jpeg decodes baseline and progressive JPEG to interleaved RGB with the
// integer arithmetic of libjpeg, so that the pixels equal those of Pillow and other
// libjpeg users bit for bit. Package image/jpeg differs by up to 100 levels at
// coloured edges, because it repeats chroma samples instead of interpolating them.
//
// # Stages
//
//	markers     parse.go         header, tables, scans; every length is checked
//	entropy     huffman.go       Huffman codes → coefficients, 64 bits at a time
//	            baseline.go      one pass; progressive.go: many scans into one store
//	transform   idct.go          the accurate integer inverse DCT ("islow")
//	upsampling  pixels.go        triangle filter for 2:1 chroma, repetition otherwise
//	colour      pixels.go        YCbCr → RGB in 16-bit fixed point; CMYK → RGB
//
// A frame is decoded MCU row by MCU row: the coefficients of a row become samples in
// a ring of two MCU rows a component, from which finished picture rows are made. So
// working memory is a few rows, except for progressive files, whose coefficients
// must all be kept (two bytes a sample).
//
// # Two implementations of the arithmetic
//
// Built with cgo on amd64, transform, upsampling and colour run in C with AVX2 when
// the machine has it; otherwise in Go. Both wrap and saturate at the same points, so
// that even hostile coefficients give equal pixels.
//
// # What is read
//
// 8-bit Huffman-coded sequential and progressive frames with 1, 3 or 4 components
// and sampling factors that divide the largest one; restart markers; JFIF and Adobe
// markers. Arithmetic coding, lossless, hierarchical and 12-bit frames are
// [ErrUnsupported]. Damaged entropy data is an error; libjpeg would guess.
//
// Source: ITU-T T.81; the arithmetic is that documented in the libjpeg sources.
package jpeg
