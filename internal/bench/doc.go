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
package bench
