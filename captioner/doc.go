// Package captioner captions whole collections: directories, lists, tables, tar
// shards and videos in, captions out, nothing ever lost.
//
// A Job names inputs, a Recipe (what is asked and how the answers are judged) and
// outputs. Run works through it with any number of engines:
//
//	rep, err := captioner.Run(ctx, []captioner.Engine{eng}, captioner.Job{
//		Inputs: []string{"photos"},
//		Recipe: captioner.Recipe{Captions: []captioner.Caption{{Key: "long", Preset: "descriptive"}}},
//		Write:  []string{"txt", "jsonl"},
//	})
//
// The journal of the job directory is the truth. An item's sidecars are written
// first, atomically, then its line in the journal; files that hold the whole job
// are rendered from the journal at the end. A job that was killed at any moment
// is resumed by running it again. An item is known by the hash of its content,
// of the recipe and of the model, so the same picture is captioned once however
// often it occurs.
//
// Goroutines of Run: one lists the inputs, Job.InFlight workers each take an item
// from reading to its journal line (pictures are decoded and tiled there, so that
// the device always has the next ones waiting). All end before Run returns.
package captioner
