package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"metacap/internal/dtype"
	"metacap/kernels"
	"metacap/loader"
	"metacap/vision"
)

// Model is a loaded checkpoint: a decoder and, in a vision-language family, an encoder.
type Model struct {
	Decoder *Decoder
	Vision  *Vision // nil for a text-only model
	DType   kernels.DType
	Bytes   int64 // of all weights on the device
}

// Options say how weights are placed.
type Options struct {
	DType     kernels.DType // of activations: F32 or BF16
	Precision kernels.Precision
	Workers   int // tensors packed at a time; 0 = 1
}

// DimsOf takes the dimensions from a checkpoint's config. vision is nil for a text-only model.
func DimsOf(c *loader.Config) (dec DecoderDims, vis *VisionDims, err error) {
	t := c.Text
	dec = DecoderDims{
		Layers: t.Layers, Width: t.Hidden, FFN: t.Intermediate, Vocab: t.Vocab, Heads: t.Heads, KVHeads: t.KVHeads,
		HeadDim: t.HeadDim, Eps: float32(t.Eps), QKNorm: t.QKNorm, Bias: t.QKVBias, OutBias: t.OutputBias, Tied: t.TiedEmbedding,
		Context: contextOf(t),
		Rope: RopeDims{
			Theta: t.Rope.Theta, Kind: t.Rope.Kind, Factor: t.Rope.Factor, Original: t.Rope.OriginalPositions,
			BetaFast: t.Rope.BetaFast, BetaSlow: t.Rope.BetaSlow, AttentionFactor: t.Rope.AttentionFactor,
		},
	}
	if err := dec.Validate(); err != nil {
		return dec, nil, err
	}
	if !c.HasVision() {
		return dec, nil, nil
	}
	v := c.Vision
	vis = &VisionDims{
		Layers: v.Layers, Width: v.Hidden, FFN: v.Intermediate, Heads: v.Heads, ImageSize: c.ImageSize, PatchSize: v.PatchSize,
		PosGrid: v.ImageSize / v.PatchSize, Eps: float32(v.Eps), RMSNorm: v.Norm == "rms_norm", QKNorm: v.QKNorm,
		QKVBias: v.QKVBias, Act: kernels.ActGELU, Shuffle: c.ShuffleFactor(), Version: c.PSVersion,
		OutWidth: t.Hidden, ProjWidth: t.Hidden,
	}
	vis.Run = c.SelectLayer // hidden state k is the output of the first k blocks
	if vis.Run < 0 {
		vis.Run += v.Layers + 1
	}
	return dec, vis, vis.Validate()
}

// contextOf is the longest sequence: yarn stretches the original context.
func contextOf(t loader.TextConfig) int {
	if t.Rope.Kind == "yarn" {
		return max(t.MaxPositions, int(t.Rope.Factor*float64(t.Rope.OriginalPositions)))
	}
	return t.MaxPositions
}

// Load checks the checkpoint's tensors and places them on the device.
func Load(ctx context.Context, ck *loader.Checkpoint, b kernels.Backend, o Options) (*Model, error) {
	dec, vis, err := DimsOf(&ck.Config)
	if err != nil {
		return nil, err
	}
	if err := ck.Require(ck.Config.Weights()); err != nil {
		return nil, err
	}
	l := &loading{b: b, ck: ck, opt: o}
	m := &Model{DType: o.DType, Decoder: l.decoder(dec)}
	if vis != nil {
		m.Vision = l.vision(*vis)
	}
	if err := l.run(ctx); err != nil {
		m.Free()
		return nil, err
	}
	m.Bytes = l.bytes
	return m, nil
}

// Free gives the model's device memory back.
func (m *Model) Free() {
	m.Decoder.Free()
	if m.Vision != nil {
		m.Vision.Free()
	}
}

// loading collects what must be placed, then places it by several goroutines.
type loading struct {
	b    kernels.Backend
	ck   *loader.Checkpoint
	opt  Options
	jobs []func() error

	mu    sync.Mutex
	bytes int64
}

func (l *loading) run(ctx context.Context) error {
	next := make(chan func() error)
	errs := make([]error, max(l.opt.Workers, 1))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for job := range next {
				if errs[i] == nil {
					errs[i] = job()
				}
			}
		})
	}
	var stop error
	for _, job := range l.jobs {
		if stop = ctx.Err(); stop != nil {
			break
		}
		next <- job
	}
	close(next)
	wg.Wait()
	return errors.Join(append(errs, stop)...)
}

func (l *loading) count(n int64) {
	l.mu.Lock()
	l.bytes += n
	l.mu.Unlock()
}

// upload places host values as a float32 tensor.
func (l *loading) upload(dst *kernels.Tensor, name string, v []float32, shape ...int) error {
	t := kernels.Tensor{DType: kernels.F32, Shape: shape}
	if int64(len(v)) != t.Elements() {
		return fmt.Errorf("model: load %s: %d values for shape %v", name, len(v), shape)
	}
	buf, err := l.b.Alloc(4 * int64(len(v)))
	if err != nil {
		return fmt.Errorf("model: load %s: %w", name, err)
	}
	t.Buf = buf
	*dst = t
	l.count(buf.Bytes())
	if err := l.b.Upload(t, floatBytes(v)); err != nil {
		return fmt.Errorf("model: load %s: %w", name, err)
	}
	return nil
}

func floatBytes(v []float32) []byte {
	b := make([]byte, 4*len(v))
	for i, f := range v {
		u := math.Float32bits(f)
		b[4*i], b[4*i+1], b[4*i+2], b[4*i+3] = byte(u), byte(u>>8), byte(u>>16), byte(u>>24)
	}
	return b
}

// vec places a checkpoint's vector, such as a norm weight.
func (l *loading) vec(dst *kernels.Tensor, name string, n int) {
	l.jobs = append(l.jobs, func() error {
		v, err := l.ck.Vector(name)
		if err != nil {
			return err
		}
		return l.upload(dst, name, v, n)
	})
}

// linear packs modules stacked along their outputs; the bias, if there is one, goes to bias.
func (l *loading) linear(dst *kernels.Weight, bias *kernels.Tensor, modules ...string) {
	l.layer(dst, bias, false, modules...)
}

// gated loads gate and up of a SwiGLU as one layer.
func (l *loading) gated(dst *kernels.Weight, gate, up string) { l.layer(dst, nil, true, gate, up) }

func (l *loading) layer(dst *kernels.Weight, bias *kernels.Tensor, gated bool, modules ...string) {
	l.jobs = append(l.jobs, func() error {
		lin, err := l.ck.Linear(modules...)
		if err != nil {
			return err
		}
		src := source(lin, l.opt.Precision)
		src.Gated = gated
		w, err := l.b.PackLinear(src)
		if err != nil {
			return fmt.Errorf("model: load %s: %w", lin.Name, err)
		}
		*dst = w
		l.count(w.Bytes())
		for _, v := range lin.Views {
			l.ck.Drop(v)
		}
		if lin.Bias == nil || bias == nil {
			return nil
		}
		return l.upload(bias, lin.Name+" bias", lin.Bias, len(lin.Bias))
	})
}

// source describes a stored linear layer to a backend.
func source(lin *loader.Linear, p kernels.Precision) kernels.LinearSource {
	src := kernels.LinearSource{Name: lin.Name, K: lin.K, Precision: p}
	for _, m := range lin.Parts {
		part := kernels.MatrixPart{N: m.N, DType: kernelType(m.DType), Data: m.Data}
		if q := m.Quant; q != nil {
			part.Quant = &kernels.QuantPart{Bits: q.Bits, Group: q.Group, Scales: q.Scales, Zeros: q.Zeros}
		}
		src.Parts = append(src.Parts, part)
	}
	return src
}

// kernelType is the backends' name of a stored type; Invalid if they have none.
func kernelType(t dtype.Type) kernels.DType {
	switch t {
	case dtype.F32:
		return kernels.F32
	case dtype.F16:
		return kernels.F16
	case dtype.BF16:
		return kernels.BF16
	case dtype.F8E4M3:
		return kernels.F8E4M3
	case dtype.I8:
		return kernels.I8
	case dtype.U8:
		return kernels.U8
	case dtype.I32:
		return kernels.I32
	}
	return kernels.Invalid
}

// table places the embedding as stored.
func (l *loading) table(dst *kernels.Tensor, name string, rows, cols int) {
	l.jobs = append(l.jobs, func() error {
		views, ok := l.ck.Find(name)
		if !ok || len(views) != 1 {
			return fmt.Errorf("model: load %s: not stored as one tensor", name)
		}
		dt := kernelType(views[0].DType)
		if dt != kernels.F32 && dt != kernels.F16 && dt != kernels.BF16 {
			return fmt.Errorf("model: load %s: type %v: %w", name, views[0].DType, kernels.ErrUnsupported)
		}
		buf, err := l.b.Alloc(int64(len(views[0].Data)))
		if err != nil {
			return fmt.Errorf("model: load %s: %w", name, err)
		}
		*dst = kernels.Tensor{Buf: buf, DType: dt, Shape: []int{rows, cols}}
		l.count(buf.Bytes())
		if err := l.b.Upload(*dst, views[0].Data); err != nil {
			return fmt.Errorf("model: load %s: %w", name, err)
		}
		return nil
	})
}

// decoder is the table of the decoder's tensors.
func (l *loading) decoder(dims DecoderDims) *Decoder {
	const root = "language_model.model."
	d := &Decoder{
		Dims: dims, b: l.b, layers: make([]decoderLayer, dims.Layers),
		scale: float32(1 / math.Sqrt(float64(dims.HeadDim))), first: l.opt.DType == kernels.BF16,
	}
	l.table(&d.embed, root+"embed_tokens.weight", dims.Vocab, dims.Width)
	for i := range d.layers {
		y, name := &d.layers[i], fmt.Sprintf("%slayers.%d.", root, i)
		attn, mlp := name+"self_attn.", name+"mlp."
		l.vec(&y.norm1, name+"input_layernorm.weight", dims.Width)
		l.linear(&y.qkv, &y.qkvBias, attn+"q_proj", attn+"k_proj", attn+"v_proj")
		if dims.QKNorm {
			l.vec(&y.qNorm, attn+"q_norm.weight", dims.HeadDim)
			l.vec(&y.kNorm, attn+"k_norm.weight", dims.HeadDim)
		}
		l.linear(&y.out, &y.outBias, attn+"o_proj")
		l.vec(&y.norm2, name+"post_attention_layernorm.weight", dims.Width)
		l.gated(&y.gateUp, mlp+"gate_proj", mlp+"up_proj")
		l.linear(&y.down, nil, mlp+"down_proj")
	}
	l.vec(&d.norm, root+"norm.weight", dims.Width)
	if dims.Tied {
		l.linear(&d.head, nil, root+"embed_tokens")
	} else {
		l.linear(&d.head, nil, "language_model.lm_head")
	}
	inv, factor := dims.Rope.Frequencies(dims.HeadDim)
	d.factor = factor
	l.jobs = append(l.jobs, func() error { return l.upload(&d.inv, "rope frequencies", inv, len(inv)) })
	return d
}

// vision is the table of the encoder's tensors.
func (l *loading) vision(dims VisionDims) *Vision {
	const embed = "vision_model.embeddings."
	v := &Vision{
		Dims: dims, b: l.b, layers: make([]visionLayer, dims.Run),
		scale: float32(1 / math.Sqrt(float64(dims.HeadDim()))), first: l.opt.DType == kernels.BF16,
	}
	// The class token is never quantised: its type is the one the encoder was trained in.
	if views, ok := l.ck.Find(embed + "class_embedding"); ok && len(views) == 1 {
		v.half = views[0].DType == dtype.BF16 && l.opt.Precision == kernels.PrecisionNative
	}
	l.linear(&v.patch, &v.patchB, embed+"patch_embedding")
	l.vec(&v.class, embed+"class_embedding", dims.Width)
	l.jobs = append(l.jobs, func() error {
		pos, err := l.ck.Vector(embed + "position_embedding")
		if err != nil {
			return err
		}
		pos = resizePositions(pos, dims.Width, dims.PosGrid, dims.Grid())
		return l.upload(&v.pos, "position embedding", pos, dims.Rows(), dims.Width)
	})
	l.jobs = append(l.jobs, func() error {
		return l.upload(&v.lut, "pixel table", pixelTable(l.ck.Processor), 3, 256)
	})
	for i := range v.layers {
		y, name := &v.layers[i], fmt.Sprintf("vision_model.encoder.layers.%d.", i)
		l.vec(&y.norm1, name+"norm1.weight", dims.Width)
		l.vec(&y.norm2, name+"norm2.weight", dims.Width)
		if !dims.RMSNorm {
			l.vec(&y.norm1B, name+"norm1.bias", dims.Width)
			l.vec(&y.norm2B, name+"norm2.bias", dims.Width)
		}
		l.linear(&y.qkv, &y.qkvB, name+"attn.qkv")
		if dims.QKNorm {
			l.vec(&y.qNorm, name+"attn.q_norm.weight", dims.Width)
			l.vec(&y.kNorm, name+"attn.k_norm.weight", dims.Width)
		}
		l.linear(&y.out, &y.outB, name+"attn.proj")
		l.linear(&y.fc1, &y.fc1B, name+"mlp.fc1")
		l.linear(&y.fc2, &y.fc2B, name+"mlp.fc2")
		l.vec(&y.ls1, name+"ls1", dims.Width)
		l.vec(&y.ls2, name+"ls2", dims.Width)
	}
	in := dims.Width * dims.Shuffle * dims.Shuffle
	l.vec(&v.normW, "mlp1.0.weight", in)
	l.vec(&v.normB, "mlp1.0.bias", in)
	l.linear(&v.proj1, &v.proj1B, "mlp1.1")
	l.linear(&v.proj2, &v.proj2B, "mlp1.3")
	return v
}

// pixelTable is the normalisation as a table [3,256].
func pixelTable(p loader.Processor) []float32 {
	var mean, std [3]float64
	for i := range mean {
		mean[i], std[i] = float64(p.Mean[i]), float64(p.Std[i])
	}
	t := vision.NewNormTable(mean, std)
	out := make([]float32, 0, 3*256)
	for i := range t {
		out = append(out, t[i][:]...)
	}
	return out
}
