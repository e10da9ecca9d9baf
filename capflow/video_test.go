package capflow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/engine"
	"metacap/engine/fake"
)

// watching is a model that sees what happens from frame real on, and puts it into the
// last frame that it is shown.
func watching(real int) func(fake.Prompt) string {
	return func(p fake.Prompt) string {
		n := len(p.Images)
		switch {
		case strings.Contains(p.Text, "Does the video"):
			return "No"
		case strings.Contains(p.Text, "Yes or No"):
			return "Yes"
		case strings.Contains(p.Text, "Rate the"):
			return "3"
		case n >= real:
			return fmt.Sprintf("A square moves up. Its color changes to red in frame %d.", n)
		}
		return "A square moves up. Its color stays the same."
	}
}

func clip(n int) capflow.Input {
	in := capflow.Input{ID: "v", Video: true}
	for i := range n {
		in.Images = append(in.Images, engine.Image{Data: fmt.Appendf(nil, "frame %d", i+1)})
	}
	return in
}

// TestDates: an event stands in the frame from which openings of the video tell of it,
// found by bisection.
func TestDates(t *testing.T) {
	for real := 2; real <= 8; real++ {
		m := answering(t, "", watching(real))
		f, err := capflow.New(m, capflow.Options{Off: []string{capflow.OffRender}})
		require.NoError(t, err)
		r, err := f.Caption(context.Background(), clip(8))
		require.NoError(t, err)
		require.Nil(t, r.Error)
		require.Equal(t, fmt.Sprintf("A square moves up. Its color changes to red in frame %d.", real), r.Captions.Long)
		openings := 0
		for _, p := range r.Usage.Prefixes {
			if strings.HasPrefix(p.Name, "opening") {
				openings++
			}
		}
		require.LessOrEqual(t, openings, 3, "log2 of 8 frames")
		if real < 8 {
			wrong := find(r, "Its color changes to red in frame 8.")
			require.Equal(t, "drop", wrong.Action)
			require.Zero(t, wrong.PTrue)
			require.Contains(t, wrong.Reasons[0], "by the openings of the video")
			require.Equal(t, "openings", find(r, fmt.Sprintf("Its color changes to red in frame %d.", real)).From)
		}
	}
}

// TestDatesOff: without openings the readings' frame stands, and a video without events has none.
func TestDatesOff(t *testing.T) {
	m := answering(t, "", watching(2))
	f, err := capflow.New(m, capflow.Options{Off: []string{capflow.OffRender, capflow.OffDates}})
	require.NoError(t, err)
	r, err := f.Caption(context.Background(), clip(4))
	require.NoError(t, err)
	require.Contains(t, r.Captions.Long, "frame 4")

	m = answering(t, "", watching(99))
	f, err = capflow.New(m, capflow.Options{Off: []string{capflow.OffRender}})
	require.NoError(t, err)
	r, err = f.Caption(context.Background(), clip(4))
	require.NoError(t, err)
	for _, p := range r.Usage.Prefixes {
		require.NotContains(t, p.Name, "opening")
	}
}

// TestDatesFilter: a given caption with an event in the wrong frame is rejected for it, the true one is not.
func TestDatesFilter(t *testing.T) {
	m := answering(t, "", watching(3))
	f, err := capflow.New(m, capflow.Options{})
	require.NoError(t, err)
	for frame, want := range map[int]capflow.Status{3: capflow.Accepted, 4: capflow.Rejected, 5: capflow.Rejected} {
		r, err := f.Filter(context.Background(), clip(5), fmt.Sprintf("A square moves up. Its color changes to red in frame %d.", frame), nil)
		require.NoError(t, err)
		require.Nil(t, r.Error)
		require.Equal(t, want, r.Status, "frame %d: %v", frame, r.Checks.Reasons)
		if want == capflow.Rejected {
			require.Contains(t, strings.Join(r.Checks.Reasons, "\n"), "by the openings of the video")
		}
	}
}

// TestWindows: a long video is also read in overlapping windows, whose frames count
// in the whole video; what only a window sees comes into the caption.
func TestWindows(t *testing.T) {
	m := answering(t, "", func(p fake.Prompt) string {
		inWindow := slices.Contains(p.Images, "frame 20") && len(p.Images) <= 16
		switch {
		case strings.Contains(p.Text, "Does the video"):
			return "No"
		case strings.Contains(p.Text, "Yes or No"):
			return "Yes"
		case strings.Contains(p.Text, "Rate the"):
			return "3"
		case strings.Contains(p.Text, "Video perception") && inWindow:
			return fmt.Sprintf("A square moves up. A dog barks at the fence in frame %d.", slices.Index(p.Images, "frame 20")+1)
		}
		return "A square moves up."
	})
	for n, windows := range map[int]int{16: 0, 17: 2, 28: 2, 29: 3} {
		f, err := capflow.New(m, capflow.Options{Off: []string{capflow.OffRender}})
		require.NoError(t, err)
		r, err := f.Caption(context.Background(), clip(n))
		require.NoError(t, err)
		require.Nil(t, r.Error)
		opened := 0
		for _, p := range r.Usage.Prefixes {
			if strings.HasPrefix(p.Name, "window") {
				opened++
			}
		}
		require.Equal(t, windows, opened, "%d frames", n)
		if n == 28 {
			i := slices.IndexFunc(r.Agents, func(a capflow.AgentRecord) bool { return a.ID == "windows" })
			require.Equal(t, "Frames 1 to 16:\nA square moves up.\nFrames 13 to 28:\nA square moves up. A dog barks at the fence in frame 20.", r.Agents[i].Text)
			require.Equal(t, "A square moves up. A dog barks at the fence in frame 20.", r.Captions.Long)
		}
	}
}
