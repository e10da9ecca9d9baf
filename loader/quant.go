package loader

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"metacap/internal/dtype"
	"metacap/loader/internal/format"
	"metacap/loader/internal/quant"
)

// QuantConfig is the quantization_config of a checkpoint. Which module is
// quantised, and how wide, the tensors tell; the configuration must agree.
type QuantConfig struct {
	Method  string // "awq", "gptq", "compressed-tensors" or "fp8"
	Format  string // of compressed-tensors: "float-quantized", "int-quantized" or "pack-quantized"
	Schemes []QuantScheme
	GPTQv2  bool // zero points are stored as they are, not minus one
	field   string
}

// QuantScheme is one way in which linear layers of a checkpoint are quantised.
type QuantScheme struct {
	Bits           int
	Group          int // inputs a scale; 0 = one scale for all inputs of an output, or of the matrix
	BlockN, BlockK int // rows and columns a scale of block-scaled 8-bit floats; 0 = not by blocks
}

// parseQuant finds the quantization_config at the top or in the decoder's part.
func (c *Config) parseQuant(o *format.Object) {
	for _, sub := range []string{"", "llm_config", "text_config"} {
		in := o
		if sub != "" {
			if !o.IsObject(sub) {
				continue
			}
			in, _ = o.Object(sub)
		}
		for _, key := range []string{"quantization_config", "compression_config"} {
			if q, ok := in.Object(key); ok && c.Quant == nil {
				c.Quant = c.parseMethod(q)
			}
		}
	}
}

func (c *Config) parseMethod(o *format.Object) *QuantConfig {
	q := &QuantConfig{Method: o.String("quant_method", "", 64), field: o.Field("")}
	switch q.Method {
	case "awq":
		c.one(o, "version", "gemm", "GEMM")
		c.onlyTrue(o, "zero_point")
		q.Schemes = []QuantScheme{{Bits: c.bits(o, "bits", 4), Group: group(o)}}
	case "gptq":
		q.GPTQv2 = c.one(o, "checkpoint_format", "gptq", "gptq_v2") == "gptq_v2"
		q.Schemes = []QuantScheme{{Bits: c.bits(o, "bits", 4, 8), Group: group(o)}}
	case "compressed-tensors":
		q.Format = c.one(o, "format", "pack-quantized", "int-quantized", "float-quantized")
		c.parseGroups(o, q)
	case "fp8":
		s := QuantScheme{Bits: 8}
		if block := o.Ints("weight_block_size", 1, maxDim, 2); len(block) == 2 {
			s.BlockN, s.BlockK = block[0], block[1]
		}
		q.Schemes = []QuantScheme{s}
	default:
		o.Add(&UnsupportedError{
			File: configName, Family: c.Arch, Feature: o.Field("quant_method"), Value: format.Quote(q.Method),
			Have: "awq, gptq, compressed-tensors, fp8",
		})
	}
	return q
}

// onlyTrue refuses a switch that is there and off.
func (c *Config) onlyTrue(o *format.Object, key string) {
	if !o.Bool(key, true) {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: o.Field(key), Value: "false", Have: "true"})
	}
}

func (c *Config) bits(o *format.Object, key string, have ...int) int {
	n := o.Int(key, 0, 1, 64)
	if !slices.Contains(have, n) {
		o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: o.Field(key), Value: fmt.Sprint(n), Have: fmt.Sprint(have)})
	}
	return n
}

// group reads group_size; -1 means all inputs.
func group(o *format.Object) int {
	n := o.Int("group_size", -1, -1, maxDim)
	if n == 0 {
		o.Fail("group_size", "out of range", "0", "-1 or a positive number")
	}
	return max(n, 0)
}

// parseGroups reads the config_groups of compressed-tensors.
func (c *Config) parseGroups(o *format.Object, q *QuantConfig) {
	for _, key := range []string{"transform_config", "sparsity_config"} {
		if s, ok := o.Object(key); ok && len(s.Keys()) > 0 && s.String("format", "", 64) != "dense" {
			o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: o.Field(key), Value: s.Text("format"), Have: "none"})
		}
	}
	groups, ok := o.Object("config_groups")
	if !ok || len(groups.Keys()) == 0 {
		o.Fail("config_groups", "missing", "", "")
		return
	}
	if len(groups.Keys()) > 64 {
		o.Fail("config_groups", "too many entries", fmt.Sprint(len(groups.Keys())), "64")
		return
	}
	for _, name := range groups.Keys() {
		g, _ := groups.Object(name)
		if g.Has("format") {
			c.one(g, "format", q.Format)
		}
		w, ok := g.Object("weights")
		if !ok {
			g.Fail("weights", "missing", "", "")
			continue
		}
		kind := "int"
		have := []int{4, 8}
		if q.Format == "float-quantized" {
			kind, have = "float", []int{8}
		} else if q.Format == "int-quantized" {
			have = []int{8}
		}
		c.one(w, "type", kind)
		s := QuantScheme{Bits: c.bits(w, "num_bits", have...), Group: group(w)}
		strategy := "tensor"
		if s.Group > 0 {
			strategy = "group"
		}
		switch strategy = w.String("strategy", strategy, 64); strategy {
		case "group", "channel", "tensor":
		case "block":
			if b := w.Ints("block_structure", 1, maxDim, 2); len(b) == 2 && kind == "float" {
				s.BlockN, s.BlockK = b[0], b[1]
				break
			}
			w.Fail("block_structure", "missing or not for floats", w.Text("block_structure"), "two numbers")
		default:
			o.Add(&UnsupportedError{File: configName, Family: c.Arch, Feature: w.Field("strategy"), Value: format.Quote(strategy), Have: "group, channel, tensor, block"})
		}
		q.Schemes = append(q.Schemes, s)
	}
}

// quantised is one stored matrix in a quantised form, its shapes checked.
type quantised struct {
	method       string // awq, gptq, packed, int8, float8
	n, k         int
	bits         int
	groups       int // scales a row; 0 for float8 scaled by tensor or by blocks
	blocks       [2]int
	values       TensorView
	scales       TensorView
	zeros, index *TensorView
	v2           bool
}

// suffixes are all names that may follow the module of a quantised matrix. The
// activation scales have no use here: activations keep their precision.
var suffixes = []string{
	"weight", "qweight", "qzeros", "scales", "g_idx",
	"weight_packed", "weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point", "weight_g_idx",
	"input_scale", "input_zero_point", "output_scale", "k_scale", "v_scale", "q_scale",
}

// quantised returns the forms of a module's pieces, ok if it has a quantised one.
// bad collects what does not fit.
func (c *Checkpoint) quantised(module string, bad func(name, want, got string)) (forms []quantised, ok bool) {
	for _, lead := range []string{"qweight", "weight_packed", "weight"} {
		p := c.canon[module+"."+lead]
		if p == nil || !p.complete() {
			continue
		}
		for i := range p.n {
			parts := map[string]TensorView{}
			for _, s := range suffixes {
				if sp := c.canon[module+"."+s]; sp != nil && sp.n == p.n && sp.stored[i] != "" {
					parts[s], _ = c.Tensor(sp.stored[i])
				}
			}
			if w := parts["weight"]; lead == "weight" && w.DType != dtype.I8 && w.DType != dtype.F8E4M3 {
				return nil, false
			}
			f := quantForm{parts: parts, config: c.Config.Quant, bad: bad, name: module}
			forms = append(forms, f.read(lead))
		}
		return forms, true
	}
	return nil, false
}

// quantForm reads the tensors of one quantised matrix.
type quantForm struct {
	parts  map[string]TensorView
	config *QuantConfig
	bad    func(name, want, got string)
	name   string
	failed bool
}

func (f *quantForm) fail(suffix, want, got string) {
	f.failed = true
	f.bad(f.name+"."+suffix, want, got)
}

// tensor returns a part of rank 2 with one of these types.
func (f *quantForm) tensor(suffix string, types ...dtype.Type) TensorView {
	v, ok := f.parts[suffix]
	switch {
	case !ok:
		f.fail(suffix, "a tensor", "nothing")
	case !slices.Contains(types, v.DType):
		f.fail(suffix, fmt.Sprint(types), v.DType.String())
	}
	return v
}

func (f *quantForm) shape(suffix string, v TensorView, want ...int) {
	if !f.failed && !slices.Equal(v.Shape, want) {
		f.fail(suffix, fmt.Sprint(want), fmt.Sprint(v.Shape))
	}
}

func (f *quantForm) read(lead string) quantised {
	if f.config == nil {
		f.fail(lead, "a quantization_config in config.json", "none")
		return quantised{}
	}
	floats := []dtype.Type{dtype.F32, dtype.F16, dtype.BF16}
	switch {
	case lead == "qweight" && (f.config.Method == "awq" || f.config.Method == "gptq"):
		return f.readGroups(floats)
	case lead == "weight_packed" && f.config.Format == "pack-quantized":
		return f.readPacked(floats)
	case lead == "weight" && f.parts["weight"].DType == dtype.I8 && f.config.Format == "int-quantized":
		return f.readInt8(floats)
	case lead == "weight" && f.parts["weight"].DType == dtype.F8E4M3 && (f.config.Method == "fp8" || f.config.Format == "float-quantized"):
		return f.readFloat8(floats)
	}
	f.fail(lead, "a tensor of method "+strings.TrimSpace(f.config.Method+" "+f.config.Format), f.parts[lead].DType.String())
	return quantised{}
}

// readGroups reads AWQ and GPTQ: qweight, qzeros and scales [K/group,N].
func (f *quantForm) readGroups(floats []dtype.Type) quantised {
	s := f.config.Schemes[0]
	q := quantised{method: f.config.Method, bits: s.Bits, v2: f.config.GPTQv2}
	q.values = f.tensor("qweight", dtype.I32)
	q.scales = f.tensor("scales", floats...)
	zeros := f.tensor("qzeros", dtype.I32)
	if f.failed || len(q.values.Shape) != 2 || len(q.scales.Shape) != 2 {
		f.shape("scales", q.scales, 0, 0)
		return q
	}
	per := 32 / s.Bits
	if q.method == "awq" {
		q.k, q.n = q.values.Shape[0], q.values.Shape[1]*per
	} else {
		q.k, q.n = q.values.Shape[0]*per, q.values.Shape[1]
	}
	if q.n%per != 0 || q.k%per != 0 || q.n == 0 || q.k == 0 {
		f.fail("qweight", fmt.Sprintf("inputs and outputs in multiples of %d", per), fmt.Sprint(q.values.Shape))
		return q
	}
	if q.groups = f.groupsOf(q.k, s.Group, "scales"); f.failed {
		return q
	}
	f.shape("scales", q.scales, q.groups, q.n)
	f.shape("qzeros", zeros, q.groups, q.n/per)
	q.zeros = &zeros
	f.readIndex(&q, "g_idx")
	return q
}

// groupsOf is the number of groups of size group in k; a group that does not divide k is an error.
func (f *quantForm) groupsOf(k, group int, suffix string) int {
	if group == 0 {
		return 1
	}
	if k%group != 0 {
		f.fail(suffix, fmt.Sprintf("a group size that divides %d inputs", k), fmt.Sprintf("group_size %d", group))
		return 0
	}
	return k / group
}

// readIndex keeps a g_idx that differs from k/group.
func (f *quantForm) readIndex(q *quantised, suffix string) {
	idx, ok := f.parts[suffix]
	if !ok || f.failed {
		return
	}
	if idx.DType != dtype.I32 {
		f.fail(suffix, "I32", idx.DType.String())
		return
	}
	if f.shape(suffix, idx, q.k); f.failed {
		return
	}
	for k, g := range int32s(idx.Data) {
		if g < 0 || int(g) >= q.groups {
			f.fail(suffix, fmt.Sprintf("groups below %d", q.groups), fmt.Sprintf("%d at input %d", g, k))
			return
		}
		if int(g) != k/(q.k/q.groups) {
			q.index = &idx
		}
	}
}

// readPacked reads compressed-tensors' pack-quantized form.
func (f *quantForm) readPacked(floats []dtype.Type) quantised {
	q := quantised{method: "packed"}
	q.values = f.tensor("weight_packed", dtype.I32)
	q.scales = f.tensor("weight_scale", floats...)
	dims := f.tensor("weight_shape", dtype.I64, dtype.I32)
	if f.failed || len(q.values.Shape) != 2 || len(q.scales.Shape) != 2 || dims.Elements() != 2 {
		f.shape("weight_packed", q.values, 0, 0)
		f.shape("weight_scale", q.scales, 0, 0)
		f.shape("weight_shape", dims, 2)
		return q
	}
	size, _ := dims.Float32s() // integers convert
	q.n, q.k = q.values.Shape[0], int(min(max(size[1], 0), maxDim))
	if float32(q.n) != size[0] || q.k == 0 || q.values.Shape[1]*32%q.k != 0 {
		f.fail("weight_shape", fmt.Sprintf("the shape of %v packed", q.values.Shape), fmt.Sprint(size))
		return q
	}
	q.bits = q.values.Shape[1] * 32 / q.k
	q.groups = q.scales.Shape[1]
	if !f.declared(q) {
		f.fail("weight_scale", fmt.Sprintf("one of the configured (bits, group) %v", f.config.Schemes), fmt.Sprintf("%d bits, %v scales for %d inputs", q.bits, q.scales.Shape, q.k))
		return q
	}
	f.shape("weight_scale", q.scales, q.n, q.groups)
	if z, ok := f.parts["weight_zero_point"]; ok {
		if z.DType != dtype.I32 {
			f.fail("weight_zero_point", "I32", z.DType.String())
		}
		f.shape("weight_zero_point", z, (q.n*q.bits+31)/32, q.groups)
		q.zeros = &z
	}
	f.readIndex(&q, "weight_g_idx")
	return q
}

// declared reports whether a scheme of the configuration has these bits and groups.
func (f *quantForm) declared(q quantised) bool {
	return slices.ContainsFunc(f.config.Schemes, func(s QuantScheme) bool {
		return s.Bits == q.bits && q.bits*q.k%32 == 0 && (s.Group == 0 && q.groups == 1 || s.Group > 0 && q.groups*s.Group == q.k)
	})
}

// readInt8 reads int8 rows with a scale a row, a group or the matrix.
func (f *quantForm) readInt8(floats []dtype.Type) quantised {
	q := quantised{method: "int8", bits: 8, values: f.parts["weight"], scales: f.tensor("weight_scale", floats...)}
	if f.failed || len(q.values.Shape) != 2 || q.values.Elements() == 0 {
		f.shape("weight", q.values, 0, 0)
		return q
	}
	q.n, q.k, q.groups = q.values.Shape[0], q.values.Shape[1], 1
	switch n := q.scales.Elements(); {
	case n == 1 || n == q.n && q.scales.Rows() == q.n:
	case len(q.scales.Shape) == 2 && q.scales.Shape[0] == q.n && q.scales.Shape[1] > 0:
		q.groups = q.scales.Shape[1]
		if !f.declared(q) {
			f.fail("weight_scale", fmt.Sprintf("one of the configured (bits, group) %v", f.config.Schemes), fmt.Sprint(q.scales.Shape))
		}
	default:
		f.fail("weight_scale", fmt.Sprintf("[%d,1]", q.n), fmt.Sprint(q.scales.Shape))
	}
	if z, ok := f.parts["weight_zero_point"]; ok {
		if z.DType != dtype.I8 || z.Elements() != q.scales.Elements() {
			f.fail("weight_zero_point", fmt.Sprintf("I8%v", q.scales.Shape), z.String())
		}
		q.zeros = &z
	}
	return q
}

// readFloat8 reads e4m3 rows with a scale for the matrix, a row, or a block.
func (f *quantForm) readFloat8(floats []dtype.Type) quantised {
	name := "weight_scale"
	if _, ok := f.parts["weight_scale_inv"]; ok {
		name = "weight_scale_inv" // a multiplier despite its name
	}
	q := quantised{method: "float8", bits: 8, values: f.parts["weight"], scales: f.tensor(name, floats...)}
	if f.failed || len(q.values.Shape) != 2 || q.values.Elements() == 0 {
		f.shape("weight", q.values, 0, 0)
		return q
	}
	q.n, q.k = q.values.Shape[0], q.values.Shape[1]
	s := f.config.Schemes[0]
	switch n := q.scales.Elements(); {
	case s.BlockN > 0:
		q.blocks = [2]int{s.BlockN, s.BlockK}
		f.shape(name, q.scales, (q.n+s.BlockN-1)/s.BlockN, (q.k+s.BlockK-1)/s.BlockK)
	case n == 1:
		q.blocks = [2]int{q.n, q.k}
	case n == q.n && q.scales.Rows() == q.n:
		q.blocks = [2]int{1, q.k}
	default:
		f.fail(name, fmt.Sprintf("[1] or [%d,1]", q.n), fmt.Sprint(q.scales.Shape))
	}
	return q
}

func int32s(b []byte) []int32 {
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return out
}

// matrix converts a quantised matrix. It reads all of it.
func (q *quantised) matrix() (Matrix, error) {
	scales, err := q.scales.Float32s()
	if err != nil {
		return Matrix{}, err
	}
	for i, s := range scales {
		if !(s >= 0) || math.IsInf(float64(s), 0) {
			return Matrix{}, &FormatError{File: "weights", Field: "tensor " + q.scales.Name, Reason: "scale is not a finite non-negative number", Value: fmt.Sprintf("%g at element %d", s, i)}
		}
	}
	if q.method == "float8" {
		return q.float8(scales)
	}
	var data []byte
	var zeros []uint8
	switch q.method {
	case "awq":
		data, zeros = quant.AWQ(q.values.Data, q.n, q.k), quant.AWQZeros(q.zeros.Data, q.n, q.groups)
		scales = quant.Transpose(scales, q.groups, q.n)
	case "gptq":
		plus := uint32(1)
		if q.v2 {
			plus = 0
		}
		data, zeros = quant.GPTQ(q.values.Data, q.n, q.k, q.bits), quant.GPTQZeros(q.zeros.Data, q.n, q.groups, q.bits, plus)
		scales = quant.Transpose(scales, q.groups, q.n)
	case "packed":
		if data = q.values.Data; q.bits == 8 {
			data = quant.Flip(data)
		}
		if q.zeros != nil {
			zeros = quant.PackedZeros(q.zeros.Data, q.n, q.groups, q.bits)
		}
	default:
		if data = q.values.Data; len(scales) == 1 {
			scales = slices.Repeat(scales, q.n)
		}
		if q.zeros != nil {
			if zeros = quant.Flip(q.zeros.Data); len(zeros) == 1 {
				zeros = slices.Repeat(zeros, q.n)
			}
		}
	}
	if !slices.ContainsFunc(zeros, func(z uint8) bool { return int(z) != 1<<(q.bits-1) }) {
		zeros = nil // symmetric
	}
	if q.index != nil || zeros != nil && q.bits == 8 {
		return q.dense(data, scales, zeros)
	}
	raw := make([]byte, 4*len(scales))
	dtype.EncodeF32(raw, scales)
	return Matrix{N: q.n, Data: data, Quant: &Quant{Bits: q.bits, Group: q.k / q.groups, Scales: raw, Zeros: zeros}}, nil
}

// dense dequantises to f16, whose 11 bits hold (q-zero)*scale to within 2^-11 of itself.
func (q *quantised) dense(data []byte, scales []float32, zeros []uint8) (Matrix, error) {
	group := func(k int) int { return k / (q.k / q.groups) }
	if q.index != nil {
		index := int32s(q.index.Data)
		group = func(k int) int { return int(index[k]) }
	}
	out := make([]byte, 2*q.n*q.k)
	err := quant.Dense(data, scales, zeros, q.n, q.k, q.bits, group, func(i int, w []float32) error {
		for _, x := range w {
			if !(math.Abs(float64(x)) <= 65504) {
				return &FormatError{File: "weights", Field: "tensor " + q.scales.Name, Reason: "weight exceeds f16", Value: fmt.Sprintf("%g in row %d", x, i), Limit: "65504"}
			}
		}
		dtype.EncodeF16(out[2*i*q.k:], w)
		return nil
	})
	return Matrix{N: q.n, DType: dtype.F16, Data: out}, err
}

// float8 dequantises to bf16, as transformers does: rounding to 8 significant
// bits adds little to the 4 of e4m3.
func (q *quantised) float8(scales []float32) (Matrix, error) {
	out := make([]byte, 2*q.n*q.k)
	row := make([]float32, q.k)
	perRow := (q.k + q.blocks[1] - 1) / q.blocks[1]
	for i := range q.n {
		src := q.values.Data[i*q.k : (i+1)*q.k]
		dtype.DecodeF8E4M3(row, src)
		for k := range row {
			if row[k] != row[k] {
				return Matrix{}, &FormatError{File: "weights", Field: "tensor " + q.values.Name, Reason: "weight is not a number", Value: fmt.Sprintf("%#02x at row %d, input %d", src[k], i, k)}
			}
			row[k] *= scales[i/q.blocks[0]*perRow+k/q.blocks[1]]
		}
		dtype.EncodeBF16(out[2*i*q.k:], row)
	}
	return Matrix{N: q.n, DType: dtype.BF16, Data: out}, nil
}
