// Package vision turns encoded pictures into the tiles that the vision encoder reads.
//
//	pic, err := vision.Decode(data, vision.Options{Name: "cat.jpg"})
//	tiles, err := vision.Tile(pic, vision.Recipe{})
//	// tiles.Pix is [I,448,448,3] bytes; tiles.Hash keys the caches
//
// # Two recipes
//
// By default a person's view wins: EXIF orientation is applied and transparency is
// composited on white. With [Options].Exact a picture is read as the reference reads
// it (Pillow's convert("RGB")): orientation ignored, transparency dropped. Both take
// the first frame of an animation, leave ICC profiles and gamma alone, and keep the
// high byte of 16-bit samples; the latter departs from Pillow for 16-bit grey only,
// which it clips at 255 to an almost white picture. Picture.Notes says what was done.
//
// # Hostile input
//
// Files are outside bytes: the format is found from the content, the header's size is
// checked against [Limits] before pixel memory is allocated, and every failure is an
// [ImageError] that names the file, the format, the value and the limit.
//
// # Goroutines
//
// The package starts none. A [Decoder] and a [Tiler] serve one goroutine at a time and
// reuse their working memory; the functions Decode and Tile use fresh ones.
package vision
