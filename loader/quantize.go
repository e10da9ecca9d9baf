package loader

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"metacap/internal/atomicfile"
	"metacap/internal/dtype"
	"metacap/loader/internal/format"
	"metacap/loader/internal/quant"
)

// QuantizeOptions say how Quantize rounds the decoder's linear layers.
type QuantizeOptions struct {
	Bits int // 8 or 4
	// Group is the number of inputs that share a scale: 32, 64 or 128; 0 = the
	// largest of them that divides the inputs of every layer; -1 = all inputs of an output (8 bits only).
	Group int
	// HeadBits quantises the output head too, with the same group: 0 (not), 8 or 4.
	HeadBits int
	// Threads is the number of goroutines that round; 0 = GOMAXPROCS.
	Threads int
	// Progress is told the bytes of the source that are done. May be nil.
	Progress Progress
}

// QuantizedTensor is the outcome for one matrix.
type QuantizedTensor struct {
	Name          string // as stored in the source
	N, K          int
	Bits, Group   int
	RelativeError float64 // root mean square of the error over that of the weights
	MaxError      float64 // largest absolute error
}

// Quantize reads the dense checkpoint in directory in and writes it to directory
// out with its decoder's linear layers rounded to integers, in the layout of
// compressed-tensors (docs/models.md); everything else is copied. Symmetric,
// round to nearest; see internal/quant.Round for the choice of scales.
//
// It streams: memory is a few rows a thread and the scales of a matrix. Every file
// is written under a temporary name, synced and renamed, config.json last. After an
// interruption the same call goes on behind the last finished shard; out must be
// empty or hold a result of the same source and options. The result lists the
// matrices rounded by this call, not those of shards that were already there.
func Quantize(ctx context.Context, in, out string, o QuantizeOptions) ([]QuantizedTensor, error) {
	c, err := Open(in)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return QuantizeOpen(ctx, c, out, o)
}

// QuantizeOpen is Quantize for a checkpoint that is open already, such as an embedded one.
func QuantizeOpen(ctx context.Context, c *Checkpoint, out string, o QuantizeOptions) ([]QuantizedTensor, error) {
	if err := c.Require(c.Config.Weights()); err != nil {
		return nil, err
	}
	z := quantizer{c: c, out: out, o: o, plan: map[string]QuantizedTensor{}, scales: map[string][]byte{}}
	if err := z.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("loader: quantize: %w", err)
	}
	if err := z.checkOut(); err != nil {
		return nil, err
	}
	var err error
	if z.source, err = c.Digest(); err != nil {
		return nil, err
	}
	for i := range c.shards {
		if err := z.shard(ctx, &c.shards[i]); err != nil {
			return nil, err
		}
	}
	return z.done, z.finish()
}

type quantizer struct {
	c         *Checkpoint
	out       string
	o         QuantizeOptions
	group     int // 0 = all inputs
	source    string
	plan      map[string]QuantizedTensor // by stored name of the weight
	scales    map[string][]byte          // computed, not yet written
	done      []QuantizedTensor
	doneBytes int64
	index     map[string]string
	outBytes  int64
}

// check validates the options and lists the matrices to round.
func (z *quantizer) check() error {
	bad := func(field, reason string, value any, limit string) error {
		return fmt.Errorf("loader: quantize: %s: %s, got %v, want %s", field, reason, value, limit)
	}
	o := z.o
	switch {
	case z.c.Config.Quant != nil:
		return bad("source", "already quantised", z.c.Config.Quant.Method, "a dense checkpoint")
	case o.Bits != 8 && o.Bits != 4:
		return bad("Bits", "no such width", o.Bits, "8 or 4")
	case o.HeadBits != 0 && o.HeadBits != 8 && o.HeadBits != 4:
		return bad("HeadBits", "no such width", o.HeadBits, "0, 8 or 4")
	case o.HeadBits != 0 && z.c.Config.Text.TiedEmbedding:
		return bad("HeadBits", "the head is the embedding", o.HeadBits, "0 for tied embeddings")
	case !slices.Contains([]int{-1, 0, 32, 64, 128}, o.Group):
		return bad("Group", "no such group size", o.Group, "-1, 0, 32, 64 or 128")
	case o.Group == -1 && (o.Bits != 8 || o.HeadBits == 4):
		return bad("Group", "one scale an output needs 8 bits", o.Bits, "8")
	}
	sizes := []int{128, 64, 32}
	if o.Group > 0 {
		sizes = []int{o.Group}
	}
	for _, w := range z.c.Config.Weights() {
		bits := o.Bits
		if w.Name == headName {
			bits = o.HeadBits
		}
		if !w.Linear || bits == 0 || w.Name != headName && !strings.HasPrefix(w.Name, "language_model.model.layers.") {
			continue
		}
		k := w.Shape[1]
		if o.Group >= 0 {
			if sizes = slices.DeleteFunc(slices.Clone(sizes), func(g int) bool { return k%g != 0 }); len(sizes) == 0 {
				return bad("Group", fmt.Sprintf("does not divide the %d inputs of %s", k, w.Name), o.Group, "a divisor")
			}
		}
		if o.Group < 0 && k%8 != 0 { // alignment of the file, see entries
			return bad("Group", "needs inputs in multiples of 8; "+w.Name+" differs", k, "8")
		}
		views, _ := z.c.Find(w.Name)
		z.plan[views[0].Name] = QuantizedTensor{Name: views[0].Name, N: w.Shape[0], K: k, Bits: bits}
	}
	if o.Group >= 0 {
		z.group = sizes[0]
	}
	for name, p := range z.plan {
		if p.Group = z.group; p.Group == 0 {
			p.Group = p.K
		}
		z.plan[name] = p
	}
	return nil
}

// checkOut refuses a target that holds anything else than a result of ours.
func (z *quantizer) checkOut() error {
	if dir, ok := z.c.src.(dirSource); ok {
		in, errIn := os.Stat(string(dir))
		out, errOut := os.Stat(z.out)
		if err := errors.Join(errIn, errOut); err != nil {
			return fmt.Errorf("loader: quantize: %w", err)
		}
		if os.SameFile(in, out) {
			return fmt.Errorf("loader: quantize: target %s is the source", z.out)
		}
	}
	entries, err := os.ReadDir(z.out)
	if err != nil {
		return fmt.Errorf("loader: quantize: %w", err)
	}
	for _, name := range names(entries) {
		ours := slices.ContainsFunc(z.c.shards, func(s shard) bool { return s.name == name })
		if strings.HasSuffix(name, ".safetensors") && !ours {
			return fmt.Errorf("loader: quantize: target %s holds %s, which is not part of the result; use an empty directory", z.out, name)
		}
	}
	return nil
}

// scheme names the options; it goes into each shard's metadata.
func (z *quantizer) scheme() string {
	return fmt.Sprintf("int%d group %d head %d", z.o.Bits, z.group, z.o.HeadBits)
}

// channel reports whether the result is int-quantized (a scale a row) instead of pack-quantized.
func (z *quantizer) channel() bool { return z.group == 0 }

// entries lists the tensors of a target shard. Those whose size keeps the next
// one aligned come first, so that every tensor lies aligned in the file.
func (z *quantizer) entries(s *shard) []format.Entry {
	var out []format.Entry
	for _, e := range s.header.Entries {
		p, ok := z.plan[e.Name]
		if !ok {
			out = append(out, e)
			continue
		}
		module := strings.TrimSuffix(e.Name, "weight")
		scale := format.Entry{Name: module + "weight_scale", DType: scaleType(e.DType), Shape: []int{p.N, p.K / p.Group}}
		if z.channel() {
			out = append(out, format.Entry{Name: e.Name, DType: dtype.I8, Shape: []int{p.N, p.K}}, scale)
			continue
		}
		out = append(out,
			format.Entry{Name: module + "weight_shape", DType: dtype.I64, Shape: []int{2}},
			format.Entry{Name: module + "weight_packed", DType: dtype.I32, Shape: []int{p.N, p.K * p.Bits / 32}}, scale)
	}
	rank := func(e format.Entry) int {
		n := e.DType.Size()
		for _, d := range e.Shape {
			n = n * (d % 8) % 8
		}
		if n == 0 {
			return 0
		}
		return 9 - e.DType.Size()
	}
	slices.SortStableFunc(out, func(a, b format.Entry) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// scaleType is the stored type of scales: bf16 for bf16 weights, else float32.
func scaleType(t dtype.Type) dtype.Type {
	if t == dtype.BF16 {
		return t
	}
	return dtype.F32
}

// shard writes one target shard, unless it is already there.
func (z *quantizer) shard(ctx context.Context, s *shard) error {
	meta := map[string]string{"format": "pt", "metacap.source": z.source, "metacap.scheme": z.scheme()}
	head, entries, err := format.EncodeHeader(z.entries(s), meta)
	if err != nil {
		return err
	}
	size := int64(len(head))
	for _, e := range entries {
		size = max(size, e.End)
		if z.index == nil {
			z.index = map[string]string{}
		}
		z.index[e.Name] = s.name
	}
	z.outBytes += size - int64(len(head))
	target := filepath.Join(z.out, s.name)
	if st, err := os.Stat(target); err == nil {
		if st.Size() != size || !startsWith(target, head) {
			return fmt.Errorf("loader: quantize: %s is of another source or other options (want %s); use an empty directory", target, z.scheme())
		}
		for _, e := range s.header.Entries {
			z.report(e.End - e.Start)
		}
		return nil
	}
	return atomicfile.WriteTo(target, 0o644, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("loader: quantize: %s: %w", s.name, err)
			}
			if err := z.tensor(ctx, w, s, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func startsWith(file string, head []byte) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	got := make([]byte, len(head))
	_, err = io.ReadFull(f, got)
	return err == nil && bytes.Equal(got, head)
}

func (z *quantizer) report(n int64) {
	z.doneBytes += n
	if z.o.Progress != nil {
		z.o.Progress(z.doneBytes, z.c.Bytes())
	}
}

// tensor writes one tensor of the target.
func (z *quantizer) tensor(ctx context.Context, w io.Writer, s *shard, e format.Entry) error {
	module, suffix := e.Name, ""
	if i := strings.LastIndexByte(e.Name, '.'); i >= 0 {
		module, suffix = e.Name[:i], e.Name[i+1:]
	}
	weight := module + ".weight"
	p, planned := z.plan[weight]
	switch {
	case planned && suffix == "weight_scale":
		b := z.scales[weight]
		delete(z.scales, weight)
		_, err := w.Write(b) // entries puts a matrix before its scales
		return err
	case planned && suffix == "weight_shape":
		_, err := w.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(p.N)), uint64(p.K)))
		return err
	case planned && (suffix == "weight_packed" || suffix == "weight"):
		return z.round(ctx, w, s, *z.c.byName[weight].entry, p)
	}
	src := z.c.byName[e.Name].entry
	_, err := io.Copy(w, io.NewSectionReader(s.file, src.Start, src.End-src.Start))
	z.report(src.End - src.Start)
	return err
}

// round reads a matrix by rows, rounds them and writes the integers; the scales stay for their own entry.
func (z *quantizer) round(ctx context.Context, w io.Writer, s *shard, e format.Entry, p QuantizedTensor) error {
	const blockBytes = 4 << 20
	store := func(f float32) float32 { return f }
	if scaleType(e.DType) == dtype.BF16 {
		store = func(f float32) float32 { return dtype.FromBF16(dtype.ToBF16(f)) }
	}
	rows := min(max(blockBytes/(4*p.K), 1), p.N)
	groups := p.K / p.Group
	raw, in := make([]byte, rows*p.K*e.DType.Size()), make([]float32, rows*p.K)
	q, scales := make([]int8, rows*p.K), make([]float32, p.N*groups)
	var sum, squares float64
	for row := 0; row < p.N; row += rows {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("loader: quantize: %s: %w", p.Name, err)
		}
		n := min(rows, p.N-row)
		b := raw[:n*p.K*e.DType.Size()]
		if _, err := s.file.ReadAt(b, e.Start+int64(row)*int64(p.K*e.DType.Size())); err != nil {
			return fmt.Errorf("loader: quantize: read %s: %w", p.Name, err)
		}
		x := in[:n*p.K]
		if err := dtype.Decode(x, b, e.DType); err != nil {
			return fmt.Errorf("loader: quantize: %s: %w", p.Name, err)
		}
		for i, v := range x {
			if !(math.Abs(float64(v)) <= math.MaxFloat32) {
				return &FormatError{File: s.name, Field: "tensor " + p.Name, Reason: "weight is not finite", Value: fmt.Sprintf("%g at row %d, input %d", v, row+i/p.K, i%p.K)}
			}
			squares += float64(v) * float64(v)
		}
		err, worst := z.roundRows(x, q[:n*p.K], scales[row*groups:], p, n, store)
		sum += err
		p.MaxError = max(p.MaxError, worst)
		out := quant.Pack(q[:n*p.K], p.Bits, !z.channel())
		if _, err := w.Write(out); err != nil {
			return err
		}
		z.report(int64(len(b)))
	}
	if squares > 0 {
		p.RelativeError = math.Sqrt(sum / squares)
	}
	z.done = append(z.done, p)
	encoded := make([]byte, len(scales)*scaleType(e.DType).Size())
	z.scales[p.Name] = encoded
	return dtype.Encode(encoded, scales, scaleType(e.DType))
}

// roundRows rounds n rows on several goroutines. Sums are added in row order.
func (z *quantizer) roundRows(x []float32, q []int8, scales []float32, p QuantizedTensor, n int, store func(float32) float32) (sum, worst float64) {
	threads := z.o.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	groups := p.K / p.Group
	type result struct{ sum, worst float64 }
	results := make([]result, n)
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() {
			for i := t; i < n; i += threads {
				r := &results[i]
				r.sum, r.worst = quant.Round(x[i*p.K:(i+1)*p.K], q[i*p.K:(i+1)*p.K], scales[i*groups:(i+1)*groups], p.Group, p.Bits, store)
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		sum += r.sum
		worst = max(worst, r.worst)
	}
	return sum, worst
}

// finish writes what is not weights, config.json last.
func (z *quantizer) finish() error {
	files, err := z.c.Files()
	if err != nil {
		return fmt.Errorf("loader: quantize: %w", err)
	}
	const limit = 256 << 20
	skip := []string{".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".onnx", ".h5", ".msgpack"}
	for _, name := range files {
		if slices.Contains(skip, path.Ext(name)) || name == indexName || name == configName || strings.HasPrefix(name, ".") {
			continue
		}
		if _, err := z.c.src.size(name); err != nil { // a folder, a pipe
			continue
		}
		data, err := z.c.ReadFile(name, limit)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(z.out, name), data, 0o644); err != nil {
			return err
		}
	}
	if _, err := z.c.src.size(singleName); errors.Is(err, fs.ErrNotExist) {
		index := map[string]any{"metadata": map[string]any{"total_size": z.outBytes}, "weight_map": z.index}
		if err := z.writeJSON(indexName, index); err != nil {
			return err
		}
	}
	config, err := z.config()
	if err != nil {
		return err
	}
	return z.writeJSON(configName, config)
}

func (z *quantizer) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("loader: quantize: %s: %w", name, err)
	}
	return atomicfile.Write(filepath.Join(z.out, name), append(data, '\n'), 0o644)
}

// config is the source's config.json with a quantization_config.
func (z *quantizer) config() (map[string]any, error) {
	data, err := z.c.ReadFile(configName, format.MaxConfigBytes)
	if err != nil {
		return nil, err
	}
	config := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&config); err != nil {
		return nil, fmt.Errorf("loader: quantize: %s: %w", configName, err)
	}
	weights := func(bits int) map[string]any {
		w := map[string]any{"num_bits": bits, "type": "int", "symmetric": true, "dynamic": false, "strategy": "channel"}
		if !z.channel() {
			w["strategy"], w["group_size"] = "group", z.group
		}
		return w
	}
	groups := map[string]any{"group_0": map[string]any{"targets": []string{"Linear"}, "weights": weights(z.o.Bits), "input_activations": nil}}
	ignore := []string{"re:.*vision.*", "re:.*mlp1.*", "re:.*multi_modal_projector.*"}
	if z.o.HeadBits == 0 {
		ignore = append(ignore, "re:.*lm_head")
	} else if z.o.HeadBits != z.o.Bits {
		groups["group_1"] = map[string]any{"targets": []string{"re:.*lm_head"}, "weights": weights(z.o.HeadBits), "input_activations": nil}
	}
	form := "pack-quantized"
	if z.channel() {
		form = "int-quantized"
	}
	config["quantization_config"] = map[string]any{
		"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
		"config_groups": groups, "ignore": ignore,
	}
	return config, nil
}
