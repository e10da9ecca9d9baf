package captioner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/vision"
)

// ErrNoFFmpeg occurs when a video is to be read and ffmpeg or ffprobe is not installed.
var ErrNoFFmpeg = errors.New("videos need the programs ffmpeg and ffprobe, which are not installed here: apt-get install ffmpeg, brew install ffmpeg, or winget install ffmpeg")

// errNoFrame occurs for a video of which ffmpeg decodes nothing.
var errNoFrame = errors.New("no frame could be decoded")

// ffmpegTime bounds one run of ffprobe or ffmpeg.
const ffmpegTime = 10 * time.Minute

// clip is a video file and what ffprobe says of it.
type clip struct {
	path  string
	total int // frames
	fps   float64
}

func (c *clip) seconds() float64 { return float64(c.total) / c.fps }

// readVideo picks frames of a video file by the model's recipe and has ffmpeg
// decode just those.
func (r *runner) readVideo(ctx context.Context, it *source.Item) (*input, error) {
	path, temp := it.Path, ""
	dir, err := os.MkdirTemp("", "metacap-video-*")
	if err != nil {
		return nil, fmt.Errorf("captioner: video: %w", err)
	}
	in := &input{video: true, temp: dir}
	if path == "" { // a member of a shard
		data, err := it.Read(ctx, r.job.ReadLimit)
		if err == nil {
			temp = filepath.Join(dir, "clip"+filepath.Ext(it.Member))
			err = os.WriteFile(temp, data, 0o600)
		}
		if err != nil {
			in.close()
			return nil, err
		}
		path = temp
	}
	if err := r.decodeVideo(ctx, path, in); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (r *runner) decodeVideo(ctx context.Context, path string, in *input) error {
	sum, err := hashFile(path)
	if err != nil {
		return err
	}
	in.sha = sum
	if in.clip, err = probe(ctx, path); err != nil {
		return err
	}
	whole, err := in.clip.frames(ctx, in.temp, []vision.Span{{}}, r.script.recipe.Video.Frames)
	if err != nil {
		return err
	}
	s := whole[0]
	for _, n := range s.lost {
		in.notes = append(in.notes, fmt.Sprintf("frame %d of %d could not be decoded", n, in.clip.total))
	}
	if len(s.images) == 0 {
		return fmt.Errorf("captioner: %s: %w", filepath.Base(path), errNoFrame)
	}
	in.part, in.times = engine.Part{Video: &engine.Video{Frames: s.images}}, s.times
	return nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// tool runs ffprobe or ffmpeg and returns its standard output.
func tool(ctx context.Context, name string, args ...string) ([]byte, error) {
	bin, err := exec.LookPath(name)
	if err != nil {
		return nil, ErrNoFFmpeg
	}
	ctx, cancel := context.WithTimeout(ctx, ffmpegTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(msg.String()), "\n")
		return nil, fmt.Errorf("captioner: %s: %w: %s", name, err, lines[len(lines)-1])
	}
	return out.Bytes(), nil
}

// probe counts the frames of the first video stream.
func probe(ctx context.Context, path string) (*clip, error) {
	out, err := tool(ctx, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets",
		"-show_entries", "stream=nb_read_packets,avg_frame_rate,r_frame_rate", "-of", "json", "file:"+path)
	if err != nil {
		return nil, err
	}
	var p struct {
		Streams []struct {
			Packets string `json:"nb_read_packets"`
			Average string `json:"avg_frame_rate"`
			Base    string `json:"r_frame_rate"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(out, &p); err != nil {
		return nil, fmt.Errorf("captioner: ffprobe: %w", err)
	}
	if len(p.Streams) == 0 {
		return nil, fmt.Errorf("captioner: %s: holds no video", filepath.Base(path))
	}
	s := p.Streams[0]
	c := &clip{path: path, fps: ratio(s.Average)}
	if c.fps == 0 {
		c.fps = ratio(s.Base)
	}
	if c.total, err = strconv.Atoi(s.Packets); err != nil || c.total < 1 || !(c.fps > 0) {
		return nil, fmt.Errorf("captioner: %s: %q frames at %q a second", filepath.Base(path), s.Packets, s.Average)
	}
	return c, nil
}

// ratio reads "30000/1001"; 0 if it is none.
func ratio(s string) float64 {
	a, b, _ := strings.Cut(s, "/")
	x, err := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	if err != nil || err2 != nil || !(y > 0) {
		return 0
	}
	return x / y
}

// extract decodes the numbered frames, ascending and distinct, to files in a new
// directory under dir, which the next call removes: the whole video's come first
// and stay.
func extract(ctx context.Context, path, dir string, want []int) ([]string, error) {
	out := filepath.Join(dir, "whole")
	if _, err := os.Stat(out); err == nil {
		out = filepath.Join(dir, "windows")
		if err := os.RemoveAll(out); err != nil {
			return nil, fmt.Errorf("captioner: video: %w", err)
		}
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		return nil, fmt.Errorf("captioner: video: %w", err)
	}
	_, err := tool(ctx, "ffmpeg", "-v", "error", "-nostdin", "-i", "file:"+path, "-map", "0:v:0", "-vf", "select="+pick(want),
		"-fps_mode", "passthrough", "-frames:v", strconv.Itoa(len(want)), filepath.Join(out, "frame%05d.png"))
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(out, "frame*.png"))
}

// pick is ffmpeg's expression for "the frame's number is one of want": a tree, so
// that it costs little for each frame and nests little.
func pick(want []int) string {
	if len(want) == 1 {
		return fmt.Sprintf("eq(n\\,%d)", want[0])
	}
	half := len(want) / 2
	return fmt.Sprintf("if(lt(n\\,%d)\\,%s\\,%s)", want[half], pick(want[:half]), pick(want[half:]))
}

const (
	// maxWindows bounds the windows of a video.
	maxWindows = 2000
	// decodedFrames bounds the frames of windows that lie decoded in the temporary
	// directory; the video is read once for each such group.
	decodedFrames = 256
	// maxParts bounds the captions of windows that are told to the model with the
	// question about the whole, in bytes.
	maxParts = 8192
)

// spans divides a video into windows. A rest of less than half a window belongs to
// the last one.
func spans(seconds, window float64) ([]vision.Span, error) {
	n := max(1, int(seconds/window+0.5))
	if n > maxWindows {
		return nil, fmt.Errorf("captioner: %.0f seconds make %d windows of %g seconds; the limit is %d", seconds, n, window, maxWindows)
	}
	var out []vision.Span
	for i := range n {
		out = append(out, vision.Span{Start: float64(i) * window, End: float64(i+1) * window})
	}
	out[n-1].End = seconds
	return out, nil
}

// windows captions the windows of a long video, one after the other.
func (r *runner) windows(ctx context.Context, worker int, it *source.Item, in *input, prompts map[string]string, rec *Record) error {
	video := r.script.recipe.Video
	if in.clip == nil || video.Window == 0 || in.clip.seconds() <= video.Window {
		return nil
	}
	list, err := spans(in.clip.seconds(), video.Window)
	if err != nil {
		return failed(err)
	}
	for group := range slices.Chunk(list, max(1, decodedFrames/video.WindowFrames)) {
		stretches, err := in.clip.frames(ctx, in.temp, group, video.WindowFrames)
		if err != nil {
			return failed(err)
		}
		for i, s := range stretches {
			w, err := r.window(ctx, worker, it, s, prompts, rec)
			if err != nil {
				return err
			}
			w.Start, w.End = group[i].Start, group[i].End
			rec.Windows = append(rec.Windows, *w)
		}
	}
	return nil
}

// window captions one window. A caption that the filters refuse is left out and
// flagged: the video has others.
func (r *runner) window(ctx context.Context, worker int, it *source.Item, s stretch, prompts map[string]string, rec *Record) (*sink.Window, error) {
	w := &sink.Window{Captions: map[string]string{}, Frames: s.times}
	if len(s.images) == 0 {
		w.Flags = append(w.Flags, "undecodable")
		return w, nil
	}
	a, err := r.answers(ctx, worker, it, engine.Part{Video: &engine.Video{Frames: s.images}}, prompts)
	if err != nil {
		return nil, err
	}
	rec.Meta.TokensIn, rec.Meta.TokensOut = rec.Meta.TokensIn+a.tokensIn, rec.Meta.TokensOut+a.out
	for _, key := range r.script.keys {
		got, refused := a.answers[key], false
		for _, f := range got.faults() {
			w.Flags = append(w.Flags, key+":"+f)
			refused = refused || r.script.refuse[f]
		}
		if !refused {
			w.Captions[key] = r.script.dress(key, got.text)
		}
	}
	return w, nil
}

// withParts puts the captions of a video's windows before the questions about the whole.
func withParts(prompts map[string]string, key string, windows []sink.Window) map[string]string {
	var b strings.Builder
	b.WriteString("What its parts show:\n")
	most := maxParts / len(windows)
	for _, w := range windows {
		text := sink.OneLine(w.Captions[key])
		if len(text) > most {
			text = strings.ToValidUTF8(text[:most], "") + " …"
		}
		if text != "" {
			fmt.Fprintf(&b, "%s to %s: %s\n", clock(w.Start), clock(w.End), text)
		}
	}
	out := maps.Clone(prompts)
	for k, p := range out {
		out[k] = b.String() + p
	}
	return out
}

// clock writes seconds as 1:02:03, or as 2:03.
func clock(seconds float64) string {
	s := int(seconds + 0.5)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// stretch is the frames of one window, or of the whole video.
type stretch struct {
	images []engine.Image
	times  []float64 // seconds
	lost   []int     // frames that could not be decoded
}

// frames decodes count frames of each span to files in dir, which it empties of
// those decoded before, and reads the video once for all of them.
func (c *clip) frames(ctx context.Context, dir string, spans []vision.Span, count int) ([]stretch, error) {
	var want [][]int
	var all []int
	for _, s := range spans {
		if s.End > 0 {
			s.End = max(s.Start, s.End-1/c.fps) // the frame at the end opens the next window
		}
		if s.End == s.Start && s.End > 0 {
			s.End += 1 / c.fps
		}
		list, err := vision.FrameIndices(c.total, c.fps, s, count)
		if err != nil {
			return nil, err
		}
		want, all = append(want, list), append(all, list...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	names, err := extract(ctx, c.path, dir, all)
	if err != nil {
		return nil, err
	}
	out := make([]stretch, len(spans))
	for i, list := range want {
		for _, n := range list {
			if k := slices.Index(all, n); k < len(names) {
				out[i].images = append(out[i].images, engine.Image{Path: names[k]})
				out[i].times = append(out[i].times, float64(n)/c.fps)
			} else { // the container promised more frames than it holds
				out[i].lost = append(out[i].lost, n)
			}
		}
	}
	return out, nil
}
