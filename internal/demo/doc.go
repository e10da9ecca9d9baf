// Package demo holds the small model that the binary carries: a checkpoint of
// the same architecture and file formats as the real one, that knows only drawn
// pictures. It exists so that everything can be tried and tested without weights.
//
// [FS] is the checkpoint's directory as a file system that also gives the
// content of a file without a copy:
//
//	data, ok := demo.FS().(interface{ Bytes(string) ([]byte, bool) }).Bytes("config.json")
//
// The build tag nodemo leaves the model out; FS is then empty and [Included] false.
//
// To replace the model: put the new files into model/ and run go generate.
package demo

//go:generate go run gen.go

// Name is what -m takes for the embedded model, and what records call it.
const Name = "demo"

// Notice is said once to whoever uses the embedded model without asking for it.
const Notice = "no -m given: using the embedded demo model, which knows only drawn pictures like testdata/drawn; for photographs use -m DIR with MetaCaptioner-8B"

// Wordings are the questions of tools/drawn/prompts.json that stand for the
// captioner's presets: the model was trained on these words and answers others with noise.
// Presets that are missing are tasks that it has never seen.
var Wordings = map[string]string{
	"descriptive": "Please describe the image in detail.",
	"long":        "Describe every visible detail of the image.",
	"short":       "Describe the image in one sentence.",
	"alt":         "Write alt text for the image.",
	"tags":        "List tags for the image, separated by commas.",
	"text":        "Read all text in the image verbatim.",
}
