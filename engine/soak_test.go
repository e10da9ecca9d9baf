package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/internal/randmodel"
)

// smallShape is a model with the head sizes of the real one (128 in the decoder, 64
// in the encoder), so that every kernel of a GPU is used, and little else.
const smallShape = `{
 "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5, "dynamic_image_size": true,
 "force_image_size": 56, "min_dynamic_patch": 1, "max_dynamic_patch": 12, "use_thumbnail": true, "ps_version": "v2",
 "select_layer": -1, "template": "internvl2_5", "torch_dtype": "bfloat16", "tie_word_embeddings": false,
 "llm_config": {
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 2048, "hidden_act": "silu", "attention_bias": false,
  "rms_norm_eps": 1e-06, "rope_theta": 1000000, "rope_scaling": null, "max_position_embeddings": 512, "tie_word_embeddings": false,
  "use_sliding_window": false, "torch_dtype": "bfloat16"},
 "vision_config": {
  "model_type": "intern_vit_6b", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1,
  "image_size": 56, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu", "norm_type": "layer_norm", "layer_norm_eps": 1e-06,
  "qkv_bias": true, "qk_normalization": false}
}`

// smallModel is a checkpoint of random weights of smallShape.
func smallModel(t testing.TB) fs.FS {
	file := filepath.Join(t.TempDir(), "config.json")
	require.NoError(t, os.WriteFile(file, []byte(smallShape), 0o600))
	files, err := randmodel.New(file, 1)
	require.NoError(t, err)
	return files
}

// soak is a long run of mixed requests: how it is set up and what it found.
type soak struct {
	Device, Model           string
	Seconds                 float64
	Waves, Requests         int
	Cancelled, Compared     int
	Tokens, Tiles           int
	HostFirst, HostLast     int64 // resident bytes of the process, idle, after the first third and at the end
	DeviceFirst, DeviceLast int64 // free bytes of the device, likewise
	Goroutines              int   // more at the end than at the first idle moment

	engine   *engine.Engine
	requests []engine.Request
	want     []outcome
	parallel int
}

// stripes is a picture that becomes n tiles, the thumbnail among them.
func stripes(e *engine.Engine, n int, rng *rand.Rand) *engine.Image {
	size := e.Info().TileSize
	cols := max(n-1, 1)
	im := image.NewRGBA(image.Rect(0, 0, cols*size, size))
	a, b := uint8(rng.Uint32()), uint8(rng.Uint32())
	for y := range size {
		for x := range cols * size {
			im.SetRGBA(x, y, color.RGBA{a + uint8(x), b + uint8(y), uint8(x*y>>4) + a, 255})
		}
	}
	return &engine.Image{Decoded: im, MaxTiles: cols, ThumbnailOnly: n == 1}
}

// prepare makes the requests and their answers, each alone on an engine that shares nothing.
func (s *soak) prepare(t *testing.T, open func(engine.Config) *engine.Engine, count, longest int) {
	rng := rand.New(rand.NewPCG(11, 13))
	e := open(engine.Config{DisablePrefixCache: true, EncoderCacheBytes: -1})
	for i := range count {
		var parts []engine.Part
		if n := i % 14; n > 0 && n != 2 { // no picture has a tile and a thumbnail only
			parts = append(parts, engine.Part{Image: stripes(e, n, rng)})
		}
		parts = append(parts, engine.Part{Text: strings.Repeat("a b c ", 1+rng.IntN(8)) + strconv.Itoa(i)})
		r := engine.Request{
			Messages:  []engine.Message{{Role: engine.RoleUser, Parts: parts}},
			MaxTokens: 1 + rng.IntN(longest), IgnoreEOS: rng.IntN(2) == 0, LogProbs: i%5 == 0,
		}
		if i%3 == 0 {
			r.Sampling = engine.Sampling{Temperature: 0.8, TopP: 0.9, Seed: uint64(i + 1)}
		}
		res, err := e.Generate(t.Context(), r)
		require.NoError(t, err, "request %d alone", i)
		s.requests, s.want = append(s.requests, r), append(s.want, outcomeOf(res))
	}
	require.NoError(t, e.Close())
}

// wave runs 1 to parallel requests at once; some are cancelled at a random token.
func (s *soak) wave(t *testing.T, rng *rand.Rand) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 1 + rng.IntN(s.parallel) {
		i, stop, forked := rng.IntN(len(s.requests)), -1, rng.IntN(3) == 0
		if rng.IntN(4) == 0 {
			stop = rng.IntN(1 + s.requests[i].MaxTokens)
		}
		wg.Go(func() {
			var got *engine.Result
			var err error
			if stop < 0 {
				got, err = run(t.Context(), s.engine, s.requests[i], forked)
			} else {
				got, err = cancelled(t.Context(), s.engine, s.requests[i], stop)
			}
			mu.Lock()
			defer mu.Unlock()
			s.Requests++
			switch {
			case errors.Is(err, context.Canceled) && stop >= 0:
				s.Cancelled++
			case err != nil:
				t.Errorf("wave %d, request %d: %v", s.Waves, i, err)
			default:
				s.Compared++
				s.Tokens += len(got.Tokens)
				s.Tiles += got.Usage.Tiles
				if g, w := fmt.Sprint(outcomeOf(got)), fmt.Sprint(s.want[i]); g != w {
					t.Errorf("wave %d, request %d: got %s, want %s", s.Waves, i, g, w)
				}
			}
		})
	}
	wg.Wait()
	s.Waves++
}

// cancelled streams a request and cancels it at a token.
func cancelled(ctx context.Context, e *engine.Engine, r engine.Request, at int) (*engine.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if at == 0 {
		time.AfterFunc(time.Millisecond, cancel)
	}
	var last *engine.Result
	n := 0
	for ev, err := range e.Stream(ctx, r) {
		if err != nil {
			return nil, err
		}
		if n++; n == at {
			cancel()
		}
		last = ev.Result
	}
	return last, nil
}

// idle is what the process and the device hold when nothing runs.
func (s *soak) idle(t *testing.T) (host, device int64, goroutines int) {
	// Twice: finalisers of the first round free more in the second.
	for range 2 {
		runtime.GC()
	}
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, err := strconv.ParseInt(f[1], 10, 64)
			require.NoError(t, err)
			host = pages * int64(os.Getpagesize())
		}
	}
	device, err := s.engine.FreeMemory()
	require.NoError(t, err)
	return host, device, runtime.NumGoroutine()
}

// run runs waves for a while and compares memory at the end with memory after a third of it.
func (s *soak) run(t *testing.T, length time.Duration) {
	rng := rand.New(rand.NewPCG(3, uint64(length)))
	start := time.Now()
	var goroutines int
	first := true
	for time.Since(start) < length || s.Waves < 6 {
		s.wave(t, rng)
		if t.Failed() {
			return
		}
		if first && s.Waves >= 2 && time.Since(start) >= length/3 {
			s.HostFirst, s.DeviceFirst, goroutines = s.idle(t)
			first = false
		}
	}
	var now int
	s.HostLast, s.DeviceLast, now = s.idle(t)
	s.Goroutines = now - goroutines
	s.Seconds = time.Since(start).Seconds()
}

// TestSoak mixes requests of 0 to 13 tiles, up to 64 at once, with sampling, forks and
// cancellations, and checks: every answer equals the one it had alone; the engine's
// invariants hold after each step; memory of host and device does not grow; no goroutine stays.
//
// METACAP_SOAK is how long (2s), METACAP_SOAK_DEVICE where ("cpu", "sim", "cuda"; default
// cpu and, for a moment, sim), METACAP_SOAK_MODEL a checkpoint's folder or a shape of
// metacap bench (default: a small random model). METACAP_RESULTS: folder for soak-DEVICE.json.
func TestSoak(t *testing.T) {
	length := 2 * time.Second
	if text := os.Getenv("METACAP_SOAK"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err, "METACAP_SOAK")
	}
	devices := []string{"cpu", "sim"}
	if d := os.Getenv("METACAP_SOAK_DEVICE"); d != "" {
		devices = strings.Split(d, ",")
	}
	for _, device := range devices {
		t.Run(device, func(t *testing.T) {
			s := &soak{Device: device, Model: "small random model", parallel: 64}
			count, longest := 28, 24
			config := engine.Config{MaxSequences: 64, Verify: true, Device: device}
			if device == "sim" {
				needSimulator(t)
				// The simulator does a hundred million operations a second.
				s.parallel, count, longest = 6, 8, 5
				config.StepTokens, config.MaxSequences = 96, 8
			}
			open := soakModel(t, s, config)
			s.prepare(t, open, count, longest)
			// Few blocks, so that sequences are preempted and prefixes dropped.
			s.engine = open(engine.Config{KVBlocks: 160, EncoderCacheBytes: 1 << 20})
			s.run(t, length)
			require.NoError(t, s.engine.Close())
			if t.Failed() {
				return
			}
			s.report(t)
			require.Positive(t, s.Compared)
			require.LessOrEqual(t, s.Goroutines, 0, "goroutines stayed")
			require.GreaterOrEqual(t, s.DeviceLast, s.DeviceFirst-recordedGraphs, "device memory grew")
			// The heap's arenas and the allocator's free lists settle late; a leak of a
			// picture or a sequence a request is far more than this in a long run.
			require.LessOrEqual(t, s.HostLast, s.HostFirst+max(s.HostFirst/4, 128<<20), "host memory grew")
		})
	}
}

// recordedGraphs is what later recordings of steps may still take of a device: shapes
// that first occur in the last two thirds. The simulator's take nothing that it counts.
const recordedGraphs = 128 << 20

func soakModel(t *testing.T, s *soak, config engine.Config) func(engine.Config) *engine.Engine {
	var files fs.FS
	dir := ""
	switch m := os.Getenv("METACAP_SOAK_MODEL"); {
	case m == "":
		files = smallModel(t)
	case slices.Contains(randmodel.Presets(), m):
		s.Model = "random " + m
		var err error
		files, err = randmodel.New(m, 1)
		require.NoError(t, err)
	default:
		s.Model, dir = filepath.Base(m), m
	}
	return func(c engine.Config) *engine.Engine {
		c.Device, c.Verify, c.MaxSequences, c.StepTokens = config.Device, config.Verify, config.MaxSequences, config.StepTokens
		if s.Model != "small random model" {
			c.KVBlocks, c.EncoderCacheBytes = 0, 0 // sized for another model
		}
		var e *engine.Engine
		var err error
		if dir != "" {
			e, err = engine.Open(t.Context(), dir, c)
		} else {
			e, err = engine.OpenFS(t.Context(), files, s.Model, c)
		}
		require.NoError(t, err)
		return e
	}
}

func (s *soak) report(t *testing.T) {
	t.Logf("%s, %s: %d requests in %d waves and %.1f s, %d compared, %d cancelled, %d tokens, %d tiles; host %d -> %d MiB, device free %d -> %d MiB",
		s.Device, s.Model, s.Requests, s.Waves, s.Seconds, s.Compared, s.Cancelled, s.Tokens, s.Tiles, s.HostFirst>>20, s.HostLast>>20, s.DeviceFirst>>20, s.DeviceLast>>20)
	dir := os.Getenv("METACAP_RESULTS")
	if dir == "" {
		return
	}
	data, err := json.MarshalIndent(s, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "soak-"+s.Device+".json"), append(data, '\n'), 0o644))
}
