// Package bench measures an engine: prefill, decode, vision and whole captions.
//
// Tests are written as
//
//	pp512        prefill of a prompt of 512 tokens                     prompt tokens a second
//	pp512@3328   prefill of about 512 more after 3,328 computed ones   prompt tokens a second
//	tg64         decoding 64 tokens after a prompt of 32               tokens a second
//	tg64@2304    the same after a prompt of 2,304 tokens
//	tg64@512*8   eight sequences together; tokens of all a second
//	vit13        the vision encoder on one picture of 13 tiles         tiles a second
//	cap1280x960  a JPEG of that size to a caption of 64 tokens         captions a second
//	cap1280x960*4  four at a time
//	ttft8@256    from a request of 8 tiles and 256 other tokens (the template's
//	             included) to its first token; pictures are decoded and cut before    milliseconds
//	ttft8@256*4  the last of four requests made at once
//
// Prompts are of repeated words and answers run over end-of-turn tokens, so that
// lengths are exact. Prefix and encoder caches are off, and so are speculation and
// the loop guard. Prefill and vision times are the engine's own; decoding counts
// only steps in which all sequences decode and nothing else happens; a caption is
// timed from request to last token, reading and tiling included. One unmeasured
// run comes before the measured ones.
//
// [RunShare] lets several agents look at one picture at once, with their pictures
// shared and not. [Simulate] sends a planned load ([Load], [Arrival]) and [Simulation.Report]
// gives the figures of serving benchmarks. Both leave the caches on.
//
// # Limits
//
// [MeasureLimits] measures, before a model is opened, how fast the device reads
// memory and how fast it multiplies matrices of the types in use: the best of
// several sizes. A result's share of the limits is the least time in which the
// bytes that must be read could be read, or the operations that must be done could be
// done, whichever is longer, over the time it took. The products are those of the
// backend itself, so that the share shows what a model loses against its own
// kernels at their best; the read rate of a CPU is that of a plain loop.
package bench
