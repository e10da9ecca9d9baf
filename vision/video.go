package vision

import (
	"fmt"
	"math"
)

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
