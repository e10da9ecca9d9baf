package captioner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"metacap/captioner/internal/exif"
	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/vision"
)

// input is an opened item: what the engine is given.
type input struct {
	part  engine.Part
	sha   string
	video bool
	times []float64 // of frames, seconds
	notes []string
	exif  string // what the camera wrote, in a line; only if prompts speak of it
	clip  *clip  // of a video file
	temp  string // directory to remove
}

func (in *input) close() {
	if in.temp != "" {
		_ = os.RemoveAll(in.temp) // a leftover in the temporary directory harms nothing
	}
}

// read fetches an item's bytes, or the frames of a video.
func (r *runner) read(ctx context.Context, it *source.Item) (*input, error) {
	switch it.Kind {
	case source.Video:
		return r.readVideo(ctx, it)
	case source.Frames:
		return r.readFrames(it)
	}
	data, err := it.Read(ctx, r.job.ReadLimit)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("captioner: %s: the file is empty", filepath.Base(it.Key))
	}
	sum := sha256.Sum256(data)
	in := &input{sha: hex.EncodeToString(sum[:])}
	if r.script.mentions(fieldEXIF) {
		in.exif = exif.Text(vision.EXIF(data))
	}
	// What cannot be probed goes to the engine, whose error says what is wrong with it.
	if info, err := vision.Probe(data, vision.Options{}); err == nil && info.Frames > 1 && animated(info.Format) && !r.script.recipe.Video.FirstFrame {
		return in, r.readAnimation(in, filepath.Base(it.Key), data, info.Frames)
	}
	in.part = engine.Part{Image: &engine.Image{Data: data, MaxTiles: r.script.recipe.MaxTiles}}
	return in, nil
}

// animated reports a format whose frames follow each other in time; those of a
// TIFF file are pages.
func animated(format string) bool {
	return slices.Contains([]string{vision.FormatGIF, vision.FormatWebP, vision.FormatPNG}, format)
}

// stillIndices picks at most count of total frames that somebody chose one by one.
// A few are all shown, each once: the recipe for videos would leave out the last
// and repeat others.
func stillIndices(total, count int) ([]int, error) {
	if total > count {
		return vision.FrameIndices(total, 1, vision.Span{}, count)
	}
	want := make([]int, total)
	for i := range want {
		want[i] = i
	}
	return want, nil
}

// readAnimation takes frames of an animated GIF, WebP or PNG file. It needs no ffmpeg.
func (r *runner) readAnimation(in *input, name string, data []byte, total int) error {
	want, err := stillIndices(total, r.script.recipe.Video.Frames)
	if err != nil {
		return err
	}
	frames, err := vision.DecodeFrames(data, want, vision.Options{Name: name})
	if err != nil {
		return err
	}
	v := &engine.Video{}
	for _, f := range frames {
		v.Frames = append(v.Frames, engine.Image{Decoded: f.Picture})
		in.times = append(in.times, f.Start.Seconds())
	}
	in.video, in.part = true, engine.Part{Video: v}
	in.notes = append(in.notes, fmt.Sprintf("animation: %d of %d frames", len(frames), total))
	return nil
}

// readFrames takes a directory of pictures as the frames of a video.
func (r *runner) readFrames(it *source.Item) (*input, error) {
	names, err := source.FrameFiles(it.Path)
	if err != nil {
		return nil, err
	}
	want, err := stillIndices(len(names), r.script.recipe.Video.Frames)
	if err != nil {
		return nil, err
	}
	in := &input{video: true}
	v := &engine.Video{}
	h := sha256.New()
	for _, n := range want {
		sum, err := hashFile(names[n])
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(h, sum)
		v.Frames = append(v.Frames, engine.Image{Path: names[n]})
	}
	in.sha, in.part = hex.EncodeToString(h.Sum(nil)), engine.Part{Video: v}
	return in, nil
}
