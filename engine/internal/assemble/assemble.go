// Package assemble chooses types and sizes for a checkpoint on a device and
// puts the parts of an engine together: model, runner, scheduler settings.
package assemble

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacap/engine/internal/model"
	"metacap/engine/internal/runner"
	"metacap/engine/internal/sched"
	"metacap/kernels"
	"metacap/loader"
)

// ErrMemory occurs when not even a small KV cache fits.
var ErrMemory = errors.New("does not fit")

// Settings are the wishes of the caller; zero fields are chosen here.
type Settings struct {
	DType        string // "", "auto", "f32", "bf16"
	MemoryBytes  int64
	MaxSequences int
	StepTokens   int
	KVBlocks     int
	Context      int
	EncoderBytes int64 // <0 = keep nothing
	Workers      int   // goroutines that place weights
}

// Parts are a model on a device, ready to run.
type Parts struct {
	Model     *model.Model
	Runner    *runner.Runner
	Sched     sched.Config
	KVBlocks  int
	Context   int
	Limit     int64 // memory the engine may use
	Precision string

	WeightTime, WorkspaceTime time.Duration // of Build
}

// Free gives the device memory back.
func (p *Parts) Free() {
	p.Runner.Close()
	p.Model.Free()
}

// types chooses activations, KV cache and precision of linear layers.
func types(want, stored string, info kernels.Info) (act, kv kernels.DType, prec kernels.Precision, err error) {
	switch want {
	case "", "auto":
		want = "bf16"
		if stored == "float32" || info.Name == "ref" {
			want = "f32"
		}
	case "f32", "bf16":
	default:
		return 0, 0, 0, fmt.Errorf("dtype %q, want auto, f32 or bf16", want)
	}
	if want == "f32" {
		return kernels.F32, kernels.F32, kernels.PrecisionF32, nil
	}
	return info.Activations, kernels.BF16, kernels.PrecisionNative, nil
}

// Defaults of a device.
const (
	cpuSequences, gpuSequences = 16, 64
	cpuStep, gpuStep           = 512, 4096 // a picture of 13 tiles with its question is one step on a GPU
	cpuTiles, gpuTiles         = 2, 13
	ageSteps                   = 2000
	encoderBytes               = 256 << 20
	maxTileSlots               = 256 // small models do not need that many bytes
	// usualTokens is the length of a sequence for which the default KV cache is
	// sized on a CPU, where memory is shared with everything else.
	usualTokens = 8192
	minKVTokens = 256
)

// layout is what the types and sizes of an engine come to, before anything is allocated.
type layout struct {
	config    runner.Config
	precision kernels.Precision
	decoder   model.DecoderDims
	vision    *model.VisionDims
	limit     int64
}

// plan chooses types and sizes for a checkpoint on a device.
func plan(ck *loader.Checkpoint, b kernels.Backend, s Settings) (layout, error) {
	info := b.Info()
	act, kv, prec, err := types(s.DType, ck.Config.DType, info)
	if err != nil {
		return layout{}, err
	}
	dec, vis, err := model.DimsOf(&ck.Config)
	if err != nil {
		return layout{}, err
	}
	l := layout{config: runner.Config{DType: act, KVDType: kv, Precision: prec}, precision: prec, decoder: dec, vision: vis, limit: limit(s, info)}
	l.config.Context = dec.Context
	if s.Context > 0 {
		l.config.Context = min(dec.Context, s.Context)
	}
	size(&l.config, s, vis, info)
	return l, l.fit(b, s, weightBytes(ck, prec))
}

// weightBytes is what the weights take on a device: matrices as stored, or as
// float32 where that precision is wanted, vectors as float32, and a second copy of
// tied embeddings, which serve as table and as head. A backend may pad a little.
func weightBytes(ck *loader.Checkpoint, p kernels.Precision) int64 {
	const embed = "language_model.model.embed_tokens.weight"
	total := int64(0)
	for _, w := range ck.Config.Weights() {
		views, ok := ck.Find(w.Name)
		if !ok { // stored quantised, in several tensors
			return ck.Bytes()
		}
		stored, elements := int64(0), int64(0)
		for _, v := range views {
			stored += int64(len(v.Data))
			elements += int64(v.Elements())
		}
		asF32 := !w.Linear || p == kernels.PrecisionF32
		switch {
		case w.Name == embed && ck.Config.Text.TiedEmbedding && p == kernels.PrecisionF32:
			total += stored + 4*elements
		case w.Name == embed && ck.Config.Text.TiedEmbedding:
			total += 2 * stored
		case w.Name == embed || !asF32:
			total += stored
		default:
			total += 4 * elements
		}
	}
	return total
}

// Plan is the memory that Build would take on a device, and the limit it keeps to
// (0 = unknown).
func Plan(ck *loader.Checkpoint, b kernels.Backend, s Settings) (budget runner.Budget, limit int64, err error) {
	l, err := plan(ck, b, s)
	if err != nil {
		return runner.Budget{}, 0, err
	}
	return runner.Plan(b, l.decoder, l.vision, weightBytes(ck, l.precision), l.config), l.limit, nil
}

// Build loads the checkpoint's weights on b and sizes everything else.
func Build(ctx context.Context, ck *loader.Checkpoint, b kernels.Backend, s Settings) (*Parts, error) {
	l, err := plan(ck, b, s)
	if err != nil {
		return nil, err
	}
	p := &Parts{Limit: l.limit}
	start := time.Now()
	p.Model, err = model.Load(ctx, ck, b, model.Options{DType: l.config.DType, Precision: l.precision, Workers: s.Workers})
	if err != nil {
		return nil, err
	}
	p.WeightTime = time.Since(start)
	// What the weights really took, padding included.
	if err := l.fit(b, s, p.Model.Bytes); err != nil {
		p.Model.Free()
		return nil, err
	}
	c, vis := l.config, l.vision
	if p.Runner, err = runner.Open(b, p.Model, c); err != nil {
		p.Model.Free()
		return nil, err
	}
	p.WorkspaceTime = time.Since(start) - p.WeightTime
	p.KVBlocks, p.Context = c.KVBlocks, min(c.Context, c.KVBlocks*kernels.BlockSize)
	p.Sched = sched.Config{
		StepTokens: c.StepTokens, MaxSequences: c.MaxSequences, MaxRows: max(c.StepTokens, c.MaxSequences), AgeSteps: ageSteps,
		TileSlots: c.TileSlots, MaxTiles: c.MaxTiles, KeepTiles: s.EncoderBytes >= 0,
	}
	_, p.Sched.Ahead = b.(kernels.Async)
	if vis != nil {
		p.Sched.TileTokens = vis.Tokens()
	}
	return p, nil
}

func onGPU(info kernels.Info) bool { return info.Threads == 0 }

func pick(given, cpu, gpu int, info kernels.Info) int {
	switch {
	case given > 0:
		return given
	case onGPU(info):
		return gpu
	}
	return cpu
}

// size fills in everything but the KV cache.
func size(c *runner.Config, s Settings, vis *model.VisionDims, info kernels.Info) {
	c.MaxSequences = pick(s.MaxSequences, cpuSequences, gpuSequences, info)
	c.StepTokens = max(pick(s.StepTokens, cpuStep, gpuStep, info), c.MaxSequences)
	c.MaxRows = min(c.StepTokens, max(c.MaxSequences, pick(0, 32, 64, info)))
	if vis == nil {
		return
	}
	// As many tiles as a step's chunk can reach, within the device's usual number.
	c.MaxTiles = min(pick(0, cpuTiles, gpuTiles, info)*max(1, 1024/vis.Rows()), c.StepTokens/vis.Tokens()+1)
	c.TileSlots = c.MaxTiles
	bytes := s.EncoderBytes
	if bytes == 0 {
		bytes = encoderBytes
	}
	if bytes > 0 {
		c.TileSlots = max(c.TileSlots, int(min(bytes/runner.TileSlotBytes(*vis, c.DType), maxTileSlots)))
	}
}

// limit is the memory the engine may use in bytes; 0 = unknown.
func limit(s Settings, info kernels.Info) int64 {
	if s.MemoryBytes > 0 {
		return s.MemoryBytes
	}
	return info.FreeBytes / 10 * 9
}

// fit chooses the number of KV blocks: weights and workspaces first, the rest is KV cache.
func (l *layout) fit(b kernels.Backend, s Settings, weights int64) error {
	c, dec, vis, info := &l.config, l.decoder, l.vision, b.Info()
	per := runner.KVBlockBytes(dec, c.KVDType)
	blocks := func(tokens int) int { return (tokens + kernels.BlockSize - 1) / kernels.BlockSize }
	want := s.KVBlocks
	if want == 0 {
		want = max(blocks(c.Context), c.MaxSequences*blocks(min(c.Context, usualTokens)))
	}
	c.KVBlocks = want
	if l.limit == 0 {
		return nil
	}
	rest := l.limit - (runner.Plan(b, dec, vis, weights, *c).Total() - int64(want)*per)
	fits := int(max(rest, 0) / per)
	if s.KVBlocks == 0 && onGPU(info) {
		c.KVBlocks = fits // a GPU has nothing else to do with its memory
	} else if s.KVBlocks == 0 {
		c.KVBlocks = min(want, fits)
	}
	if need := min(blocks(minKVTokens), blocks(c.Context)); c.KVBlocks < need || c.KVBlocks > fits {
		const mib = 20
		plan := runner.Plan(b, dec, vis, weights, *c)
		return fmt.Errorf("%w: weights %d MiB, vision workspace %d MiB, decoder workspace %d MiB, encoded tiles %d MiB, backend workspace %d MiB and %d KV blocks of %d KiB exceed the limit of %d MiB",
			ErrMemory, plan.Weights>>mib, plan.Vision>>mib, plan.Workspace>>mib, plan.Encoder>>mib, plan.Backend>>mib, max(c.KVBlocks, need), per>>10, l.limit>>mib)
	}
	return nil
}
