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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/vision"
)

// ErrNoFFmpeg occurs when a video is to be read and ffmpeg or ffprobe is not installed.
var ErrNoFFmpeg = errors.New("videos need the programs ffmpeg and ffprobe, which are not installed here: apt-get install ffmpeg, brew install ffmpeg, or winget install ffmpeg")

// ffmpegTime bounds one run of ffprobe or ffmpeg.
const ffmpegTime = 10 * time.Minute

// clip is what ffprobe says of a video.
type clip struct {
	frames int
	fps    float64
}

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
	c, err := probe(ctx, path)
	if err != nil {
		return err
	}
	want, err := vision.FrameIndices(c.frames, c.fps, vision.Span{}, r.script.recipe.Video.Frames)
	if err != nil {
		return err
	}
	names, err := extract(ctx, path, in.temp, slices.Compact(slices.Clone(want)))
	if err != nil {
		return err
	}
	v := &engine.Video{}
	distinct := slices.Compact(slices.Clone(want))
	for _, n := range want {
		k := slices.Index(distinct, n)
		if k >= len(names) { // the container promised more frames than it holds
			in.notes = append(in.notes, fmt.Sprintf("frame %d of %d could not be decoded", n, c.frames))
			continue
		}
		v.Frames = append(v.Frames, engine.Image{Path: names[k]})
		in.times = append(in.times, float64(n)/c.fps)
	}
	if len(v.Frames) == 0 {
		return fmt.Errorf("captioner: %s: no frame could be decoded", filepath.Base(path))
	}
	in.part = engine.Part{Video: v}
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
func probe(ctx context.Context, path string) (clip, error) {
	out, err := tool(ctx, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets",
		"-show_entries", "stream=nb_read_packets,avg_frame_rate,r_frame_rate", "-of", "json", "file:"+path)
	if err != nil {
		return clip{}, err
	}
	var p struct {
		Streams []struct {
			Packets string `json:"nb_read_packets"`
			Average string `json:"avg_frame_rate"`
			Base    string `json:"r_frame_rate"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(out, &p); err != nil {
		return clip{}, fmt.Errorf("captioner: ffprobe: %w", err)
	}
	if len(p.Streams) == 0 {
		return clip{}, fmt.Errorf("captioner: %s: holds no video", filepath.Base(path))
	}
	s := p.Streams[0]
	c := clip{fps: ratio(s.Average)}
	if c.fps == 0 {
		c.fps = ratio(s.Base)
	}
	if c.frames, err = strconv.Atoi(s.Packets); err != nil || c.frames < 1 || !(c.fps > 0) {
		return clip{}, fmt.Errorf("captioner: %s: %q frames at %q a second", filepath.Base(path), s.Packets, s.Average)
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

// extract decodes the numbered frames, ascending and distinct, to files in dir.
func extract(ctx context.Context, path, dir string, want []int) ([]string, error) {
	var pick []string
	for _, n := range want {
		pick = append(pick, fmt.Sprintf("eq(n\\,%d)", n))
	}
	_, err := tool(ctx, "ffmpeg", "-v", "error", "-nostdin", "-i", "file:"+path, "-map", "0:v:0", "-vf", "select="+strings.Join(pick, "+"),
		"-fps_mode", "passthrough", "-frames:v", strconv.Itoa(len(want)), filepath.Join(dir, "frame%05d.png"))
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "frame*.png"))
}

// readFrames takes a directory of pictures as the frames of a video.
func (r *runner) readFrames(it *source.Item) (*input, error) {
	names, err := source.FrameFiles(it.Path)
	if err != nil {
		return nil, err
	}
	want, err := vision.FrameIndices(len(names), 1, vision.Span{}, min(r.script.recipe.Video.Frames, len(names)))
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
