package captioner_test

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine"
	"metacap/engine/fake"
	"metacap/internal/programtest"
	"metacap/vision"
)

// deep is a context for long prompts: a fake engine's tokens are bytes.
var deep = engine.Config{ContextTokens: 8192}

// film makes a video of n frames at 10 a second; frame k is grey level k+2. It
// needs ffmpeg.
func film(t *testing.T, path string, n int) {
	t.Helper()
	tool := programtest.Path(t, "ffmpeg")
	require.Less(t, n, 250)
	out, err := exec.Command(tool, "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=10,format=gray,geq=lum=N+2", "-frames:v", fmt.Sprint(n), "-c:v", "ffv1", path).CombinedOutput()
	require.NoError(t, err, string(out))
}

// numbers names the frames that the engine was given.
func numbers(p fake.Prompt) string {
	var list []string
	for _, data := range p.Images {
		img, err := png.Decode(bytes.NewReader([]byte(data)))
		if err != nil {
			return err.Error()
		}
		r, _, _, _ := img.At(8, 8).RGBA()
		list = append(list, fmt.Sprint(int(r>>8)-2))
	}
	return "Frames " + strings.Join(list, " ") + "."
}

func frames(t testing.TB, total int, span vision.Span, count int) string {
	t.Helper()
	list, err := vision.FrameIndices(total, 10, span, count)
	require.NoError(t, err)
	return "Frames " + strings.Trim(fmt.Sprint(list), "[]") + "."
}

func TestVideo(t *testing.T) {
	dir := t.TempDir()
	film(t, filepath.Join(dir, "a.mkv"), 120)
	e := open(t, fake.Options{Answer: numbers})
	j := job(dir)
	run(t, e, j)
	key := filepath.ToSlash(filepath.Join(dir, "a.mkv"))
	rec := records(t, filepath.Join(dir, "captions.jsonl"))[key]
	require.Equal(t, frames(t, 120, vision.Span{}, 8), rec.Captions["caption"])
	require.Equal(t, "video", rec.Kind)
	require.Len(t, rec.Meta.Frames, 8)
	require.InDelta(t, 0.7, rec.Meta.Frames[0], 1e-9) // frame 7

	t.Run("windows", func(t *testing.T) {
		var last string
		e := open(t, fake.Options{Engine: deep, Answer: func(p fake.Prompt) string { last = p.Text; return numbers(p) }})
		j := job(dir)
		j.Existing = captioner.ExistingOverwrite
		j.Dir, j.Recipe.Video = filepath.Join(dir, "job"), captioner.Video{Frames: 4, Window: 5, WindowFrames: 3}
		run(t, e, j)
		rec := records(t, filepath.Join(dir, "captions.jsonl"))[key]
		require.Equal(t, frames(t, 120, vision.Span{}, 4), rec.Captions["caption"], "of the whole")
		require.Len(t, rec.Windows, 2, "12 seconds: the rest belongs to the last window")
		require.Equal(t, frames(t, 120, vision.Span{End: 4.9}, 3), rec.Windows[0].Captions["caption"])
		require.Equal(t, frames(t, 120, vision.Span{Start: 5, End: 11.9}, 3), rec.Windows[1].Captions["caption"])
		require.Equal(t, []float64{5, 12}, []float64{rec.Windows[1].Start, rec.Windows[1].End})
		require.Contains(t, last, "0:05 to 0:12: "+rec.Windows[1].Captions["caption"], "the whole is asked for with its parts")
	})
	t.Run("too many windows", func(t *testing.T) {
		r := captioner.Recipe{Video: captioner.Video{Window: 0.01}}
		require.ErrorContains(t, r.Validate(), "video.window is 0.01 seconds, want 0.5 to 86400")
	})
	t.Run("no video inside", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "x.mp4"), []byte("no video"), 0o644))
		rep := run(t, e, job(dir))
		require.Equal(t, 1, rep.Failed)
	})
}

// TestAnimation takes an animated file for a video, without ffmpeg.
func TestAnimation(t *testing.T) {
	t.Setenv("PATH", "")
	dir := t.TempDir()
	for _, from := range []string{"../testdata/images/files/animated.gif", "../testdata/images/files/animated.webp", "testdata/animated.png"} {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		ext := filepath.Ext(from)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "of"+ext[1:]+ext), data, 0o644))
	}
	count := func(p fake.Prompt) string { return fmt.Sprintf("%d pictures of a kind.", len(p.Images)) }
	e := open(t, fake.Options{Answer: count})
	run(t, e, job(dir))
	recs := records(t, filepath.Join(dir, "captions.jsonl"))
	require.Len(t, recs, 3)
	sum := 0.0
	for key, rec := range recs {
		data, err := os.ReadFile(key)
		require.NoError(t, err)
		info, err := vision.Probe(data, vision.Options{})
		require.NoError(t, err)
		n := min(info.Frames, 8)
		require.Greater(t, n, 1, key)
		require.Equal(t, fmt.Sprintf("%d pictures of a kind.", n), rec.Captions["caption"], key)
		require.Equal(t, "video", rec.Kind)
		require.Len(t, rec.Meta.Frames, n)
		require.True(t, slices.IsSorted(rec.Meta.Frames))
		require.Zero(t, rec.Meta.Frames[0])
		frames, err := vision.DecodeFrames(data, nil, vision.Options{})
		require.NoError(t, err)
		require.InDelta(t, frames[n-1].Start.Seconds(), rec.Meta.Frames[n-1], 1e-9)
		sum += rec.Meta.Frames[n-1]
	}
	require.Positive(t, sum, "one of them says how long its frames last")
	j := job(dir)
	j.Dir, j.Existing, j.Recipe.Video.FirstFrame = filepath.Join(dir, "job"), captioner.ExistingOverwrite, true
	run(t, e, j)
	for key, rec := range records(t, filepath.Join(dir, "captions.jsonl")) {
		require.Equal(t, "1 pictures of a kind.", rec.Captions["caption"], key)
		require.Equal(t, "image", rec.Kind)
	}
}

// TestAnimatedPNG reads what another encoder wrote (ffmpeg -f lavfi -i
// "color=s=24x16:r=5,format=rgb24,geq=r='40*N':g='if(lt(X,2*N),200,0)':b=90" -frames:v 6 -plays 0 -f apng).
func TestAnimatedPNG(t *testing.T) {
	data, err := os.ReadFile("testdata/animated.png")
	require.NoError(t, err)
	frames, err := vision.DecodeFrames(data, nil, vision.Options{})
	require.NoError(t, err)
	require.Len(t, frames, 6)
	for n, f := range frames {
		require.Equal(t, time.Duration(n)*200*time.Millisecond, f.Start)
		require.Equal(t, []int{24, 16}, []int{f.Width, f.Height})
		for x := range f.Width {
			green := 0
			if x < 2*n {
				green = 200
			}
			at := f.Pix[3*(7*f.Width+x):]
			require.Equal(t, []uint8{uint8(40 * n), uint8(green), 90}, []uint8(at[:3]), "frame %d, column %d", n, x)
		}
	}
}

// TestFrameDir: a directory of few frames is shown whole, in order, each frame once;
// of many, as many as asked for.
func TestFrameDir(t *testing.T) {
	dir := t.TempDir()
	for name, n := range map[string]int{"few": 5, "many": 40} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		for i := range n {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name, fmt.Sprintf("%d.png", i)), fmt.Appendf(nil, "%d", i), 0o644))
		}
	}
	e := open(t, fake.Options{Answer: func(p fake.Prompt) string { return "Frames " + strings.Join(p.Images, " ") + "." }, Engine: deep})
	j := job(dir)
	j.Select.FrameDirs = true
	run(t, e, j)
	recs := records(t, filepath.Join(dir, "captions.jsonl"))
	require.Len(t, recs, 2)
	for key, rec := range recs {
		want := "Frames 0 1 2 3 4."
		if strings.Contains(key, "/many") {
			want = frames(t, 40, vision.Span{}, 8)
		}
		require.Equal(t, want, rec.Captions["caption"], key)
		require.Equal(t, "frames", rec.Kind)
	}
}
