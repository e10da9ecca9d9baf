package vision

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Frame is one picture of an animation and how long it is shown.
type Frame struct {
	*Picture
	Index int           // number of the frame in the file
	Start time.Duration // when it is first shown
	Delay time.Duration
}

// DecodeFrames decodes frames of an animated GIF, WebP or PNG as a viewer shows them:
// composed on the frames before, disposal handled. want lists the frames by number,
// ascending; nil means all. Other formats, and still files, give one frame. The limits
// bound the number of frames wanted and their RGB memory; both are checked first.
func DecodeFrames(data []byte, want []int, opts Options) ([]Frame, error) {
	frames, err := decodeFrames(data, want, opts)
	if err != nil {
		return nil, opts.named(err)
	}
	return frames, nil
}

func decodeFrames(data []byte, want []int, opts Options) (frames []Frame, err error) {
	limits := opts.Limits.withDefaults()
	info, err := probe(data, limits)
	if err != nil {
		return nil, err
	}
	if !slices.IsSorted(want) || len(want) > 0 && (want[0] < 0 || want[len(want)-1] >= info.Frames) {
		return nil, corrupt(info.Format, "frames %v wanted of %d", want, info.Frames)
	}
	n := int64(info.Frames)
	if want != nil {
		n = int64(len(want))
	}
	if n > int64(limits.Frames) {
		return nil, &ImageError{Format: info.Format, Kind: ErrLimit, Quantity: "frames", Value: float64(n), Limit: float64(limits.Frames)}
	}
	if bytes := n * 3 * int64(info.Width) * int64(info.Height); bytes > limits.FrameBytes {
		return nil, &ImageError{Format: info.Format, Kind: ErrLimit, Quantity: "frame bytes", Value: float64(bytes), Limit: float64(limits.FrameBytes)}
	}
	if info.Frames == 1 {
		p, err := Decode(data, opts)
		if err != nil {
			return nil, err
		}
		return []Frame{{Picture: p}}, nil
	}
	defer rescue(info.Format, &err)
	return playReel(data, want, info, opts, limits)
}

// playReel draws every frame up to the last one wanted and keeps those wanted.
func playReel(data []byte, want []int, info Info, opts Options, limits Limits) ([]Frame, error) {
	r, canvas, err := startReel(info.Format, data, opts, limits)
	if err != nil {
		return nil, err
	}
	var out []Frame
	var start time.Duration
	for i := range info.Frames {
		if want != nil && len(want) == 0 {
			break
		}
		patch, err := r.Next()
		if err == io.EOF {
			return nil, corrupt(info.Format, "%d of %d frames", i, info.Frames)
		}
		if err != nil {
			return nil, corrupt(info.Format, "%w", err)
		}
		canvas.Draw(patch)
		start += patch.Delay
		if want != nil && want[0] != i {
			continue
		}
		p := snapshot(canvas, info.Format, r.Info(), opts)
		p.Orientation = info.Orientation
		p.Frames = 1 // of a single picture now
		p.finish(opts)
		for out = append(out, Frame{p, i, start - patch.Delay, patch.Delay}); len(want) > 0 && want[0] == i; want = want[1:] {
			if len(want) > 1 && want[1] == i { // asked for twice: the pixels are shared
				out = append(out, out[len(out)-1])
			}
		}
	}
	return out, nil
}

// Span is a part of a video in seconds. The zero value is all of it.
type Span struct {
	Start, End float64 // End 0 = to the end
}

// FrameIndices picks frames of a video of total frames at fps frames a second, one
// from the middle of each of count equal segments of span. Indices may repeat when
// the span has fewer frames than count. total and count must be ≥ 1, fps > 0.
//
// Source: InternVL get_index: segment k contributes int(start + seg/2 + round(seg·k)),
// rounding half to even.
func FrameIndices(total int, fps float64, span Span, count int) ([]int, error) {
	if total < 1 || count < 1 || !(fps > 0) || math.IsInf(fps, 0) {
		return nil, fmt.Errorf("vision: frames: %w: %d frames at %g/s, %d wanted", ErrRecipe, total, fps, count)
	}
	if !(span.Start >= 0) || span.End != 0 && !(span.End > span.Start) {
		return nil, fmt.Errorf("vision: frames: %w: span from %g s to %g s", ErrRecipe, span.Start, span.End)
	}
	end := 100000.0 // the reference's "no bound"
	if span.End != 0 {
		end = span.End
	}
	first := max(0, math.RoundToEven(span.Start*fps))
	last := min(math.RoundToEven(end*fps), float64(total-1))
	if first > float64(total-1) {
		return nil, fmt.Errorf("vision: frames: %w: span starts at frame %.0f of %d", ErrRecipe, first, total)
	}
	segment := (last - first) / float64(count)
	out := make([]int, count)
	for k := range out {
		out[k] = int(first + segment/2 + math.RoundToEven(float64(segment*float64(k))))
	}
	return out, nil
}

// FrameIndicesHF picks frames as the HF-native video processor does: every
// total/count-th frame, from the middle of the first segment when shift is set
// (initial_shift), else from frame 0. It is an error to ask for more frames than
// there are.
//
// Source: transformers InternVLVideoProcessor.sample_frames: arange(shift, total, total/count).
func FrameIndicesHF(total, count int, shift bool) ([]int, error) {
	if total < 1 || count < 1 || count > total {
		return nil, fmt.Errorf("vision: frames: %w: %d wanted of %d", ErrRecipe, count, total)
	}
	step := float64(total) / float64(count)
	start := 0.0
	if shift {
		start = float64(total) / float64(count) / 2
	}
	n := int(math.Ceil((float64(total) - start) / step))
	out := make([]int, n)
	for k := range out {
		out[k] = int(float32(start + float64(float64(k)*step))) // the reference's tensor is float32
	}
	return out, nil
}
