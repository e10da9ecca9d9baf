package kerneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"metacap/internal/dtype"
	"metacap/kernels"
)

// margin is the number of canary bytes on both sides of an operand.
const margin = 256

// world is one run of a case on one backend: the operands in order of creation
// and the first error. After an error all calls do nothing.
type world struct {
	kernels.Backend
	rng      *rand.Rand
	operands []*operand
	weights  []kernels.Weight
	caches   []kernels.KV
	err      error
	inputs   int // of the widest weight
}

// operand is a tensor with the bytes that its whole buffer held at first.
type operand struct {
	name   string
	t      kernels.Tensor
	before []byte
	after  []byte
	out    bool
	free   bool // an output that nobody compares
}

func newWorld(b kernels.Backend, seed uint64) *world {
	return &world{Backend: b, rng: rand.New(rand.NewPCG(seed, 1))}
}

// do records the error of an operation.
func (w *world) do(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *world) fail(format string, args ...any) { w.do(fmt.Errorf(format, args...)) }

// normal returns n values of a normal distribution of the given deviation.
func (w *world) normal(n int, deviation float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(w.rng.NormFloat64() * deviation)
	}
	w.spread(v, deviation)
	return v
}

// spread fails the case if a generated input is nearly constant.
func (w *world) spread(v []float32, deviation float64) {
	if len(v) < 8 {
		return
	}
	v = v[:min(len(v), 2048)]
	distinct := map[float32]bool{}
	sum := 0.0
	for _, x := range v {
		distinct[x] = true
		sum += float64(x) * float64(x)
	}
	if rms := math.Sqrt(sum / float64(len(v))); len(distinct) < len(v)/2 || !(rms > deviation/4) || !(rms < deviation*4) {
		w.fail("kerneltest: input has %d distinct values of %d, rms %g, want a deviation of %g", len(distinct), len(v), rms, deviation)
	}
}

// encode turns float32 values into stored elements.
func encode(d kernels.DType, v []float32) []byte {
	out := make([]byte, len(v)*d.Size())
	for i, x := range v {
		switch d {
		case kernels.F32:
			binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(x))
		case kernels.BF16:
			binary.LittleEndian.PutUint16(out[2*i:], dtype.ToBF16(x))
		case kernels.F16:
			binary.LittleEndian.PutUint16(out[2*i:], dtype.ToF16(x))
		}
	}
	return out
}

// decode widens stored elements; integers become float64 too.
func decode(d kernels.DType, raw []byte) []float64 {
	out := make([]float64, len(raw)/d.Size())
	for i := range out {
		switch d {
		case kernels.F32:
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
		case kernels.BF16:
			out[i] = float64(dtype.FromBF16(binary.LittleEndian.Uint16(raw[2*i:])))
		case kernels.I32:
			out[i] = float64(int32(binary.LittleEndian.Uint32(raw[4*i:])))
		}
	}
	return out
}

// place puts contiguous rows of elements into a new buffer between canaries, rows
// stride elements apart (0: contiguous), with canaries in the gaps too.
func (w *world) place(name string, d kernels.DType, raw []byte, stride int, shape ...int) *operand {
	o := &operand{name: name, t: kernels.Tensor{Offset: margin, DType: d, Shape: shape, Stride: stride}}
	w.operands = append(w.operands, o)
	if w.err != nil {
		return o
	}
	size := d.Size()
	rowBytes, strideBytes := o.t.RowLen()*size, o.t.RowStride()*size
	total := 2*margin + o.t.Rows()*strideBytes
	o.before = make([]byte, total)
	for i := range o.before {
		o.before[i] = byte(0xa5 ^ i*7)
	}
	for r := 0; r < o.t.Rows(); r++ {
		copy(o.before[margin+r*strideBytes:][:rowBytes], raw[r*rowBytes:])
	}
	buf, err := w.Alloc(int64(total))
	if err != nil {
		w.do(err)
		return o
	}
	o.t.Buf = buf
	w.do(w.Upload(kernels.Tensor{Buf: buf, DType: kernels.U8, Shape: []int{total}}, o.before))
	return o
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// floats makes an input of the given values.
func (w *world) floats(name string, d kernels.DType, v []float32, shape ...int) kernels.Tensor {
	return w.place(name, d, encode(d, v), 0, shape...).t
}

// random makes an input of normal values, unit deviation.
func (w *world) random(name string, d kernels.DType, shape ...int) kernels.Tensor {
	return w.floats(name, d, w.normal(elements(shape), 1), shape...)
}

// strided makes an input of normal values whose rows are stride elements apart.
func (w *world) strided(name string, d kernels.DType, stride int, shape ...int) kernels.Tensor {
	return w.place(name, d, encode(d, w.normal(elements(shape), 1)), stride, shape...).t
}

// ints makes an i32 input.
func (w *world) ints(name string, v []int32, shape ...int) kernels.Tensor {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], uint32(x))
	}
	return w.place(name, kernels.I32, raw, 0, shape...).t
}

// out makes an output full of NaN (-1 for integers).
func (w *world) out(name string, d kernels.DType, shape ...int) kernels.Tensor {
	return w.outStrided(name, d, 0, shape...)
}

func (w *world) outStrided(name string, d kernels.DType, stride int, shape ...int) kernels.Tensor {
	o := w.place(name, d, bytes.Repeat([]byte{0xff}, elements(shape)*d.Size()), stride, shape...)
	o.out = true
	return o.t
}

// inPlace turns an input into an output: the operation overwrites it.
func (w *world) inPlace(t kernels.Tensor) kernels.Tensor {
	for _, o := range w.operands {
		if o.t.Buf == t.Buf {
			o.out = true
		}
	}
	return t
}

// pack packs a linear layer.
func (w *world) pack(src kernels.LinearSource) kernels.Weight {
	if w.err != nil {
		return nil
	}
	weight, err := w.PackLinear(src)
	w.do(err)
	if err != nil {
		return nil
	}
	w.weights = append(w.weights, weight)
	w.inputs = max(w.inputs, src.K)
	if n, k := weight.Dims(); k != src.K || n < src.Parts[0].N {
		w.fail("PackLinear: Dims() = %d, %d, want K %d", n, k, src.K)
	}
	return weight
}

// cache makes a key/value cache.
func (w *world) cache(s kernels.KVShape) kernels.KV {
	if w.err != nil {
		return nil
	}
	kv, err := w.NewKV(s)
	w.do(err)
	if err != nil {
		return nil
	}
	w.caches = append(w.caches, kv)
	return kv
}

// read downloads the elements of a tensor, row after row.
func (w *world) read(t kernels.Tensor) []byte {
	size := t.DType.Size()
	var all []byte
	for r := 0; r < t.Rows() && w.err == nil; r++ {
		raw := make([]byte, t.RowLen()*size)
		w.do(w.Download(raw, t.Slice(r, r+1)))
		all = append(all, raw...)
	}
	return all
}

// finish reads everything back, frees it and checks the bytes that must not change.
func (w *world) finish() {
	if w.err == nil {
		w.do(w.Sync())
	}
	for _, o := range w.operands {
		if w.err == nil {
			o.after = make([]byte, len(o.before))
			w.do(w.Download(o.after, kernels.Tensor{Buf: o.t.Buf, DType: kernels.U8, Shape: []int{len(o.before)}}))
		}
	}
	for _, o := range w.operands {
		if w.err == nil {
			w.do(o.untouched())
		}
		if o.t.Buf != nil {
			o.t.Buf.Free()
		}
	}
	for _, x := range w.weights {
		x.Free()
	}
	for _, c := range w.caches {
		c.Free()
	}
}

// untouched checks canaries, gaps and, for an input, the elements.
func (o *operand) untouched() error {
	size := o.t.DType.Size()
	rowBytes, strideBytes := o.t.RowLen()*size, o.t.RowStride()*size
	for i := range o.before {
		if o.before[i] == o.after[i] {
			continue
		}
		at := i - margin
		row := at / strideBytes
		inside := at >= 0 && row < o.t.Rows() && at%strideBytes < rowBytes
		switch {
		case inside && o.out:
			continue
		case inside:
			return fmt.Errorf("input %s %s changed at byte %d", o.name, o.t, at)
		default:
			return fmt.Errorf("operand %s %s: byte %d outside it was written", o.name, o.t, at)
		}
	}
	return nil
}

// values returns the rows of an operand after the run.
func (o *operand) values() [][]float64 {
	size := o.t.DType.Size()
	length, strideBytes := o.t.RowLen(), o.t.RowStride()*size
	last := length
	if len(o.t.Shape) > 1 {
		last = o.t.Shape[len(o.t.Shape)-1]
	}
	var rows [][]float64
	for r := 0; r < o.t.Rows(); r++ {
		all := decode(o.t.DType, o.after[margin+r*strideBytes:][:length*size])
		for lo := 0; lo < length; lo += last {
			rows = append(rows, all[lo:lo+last])
		}
	}
	return rows
}

// unit is one unit in the last place of a type, relative to a value of it.
func unit(d kernels.DType) float64 {
	if d == kernels.BF16 {
		return 1.0 / 128
	}
	return 1.0 / (1 << 22)
}

// largest is the largest magnitude of a row, and the largest error of another one against it.
func largest(exact, other []float64) (magnitude, miss float64) {
	for c := range exact {
		magnitude = max(magnitude, math.Abs(exact[c]))
		miss = max(miss, math.Abs(other[c]-exact[c]))
	}
	return magnitude, miss
}

// compare returns the largest ratio of error to bound over all outputs, and an
// error that names the first element out of bounds.
func compare(got, exact, naive *world) (worst float64, err error) {
	truncation := 0.0 // of a row's magnitude; twice, for products of two sums
	if got.Info().TruncatesSums {
		truncation = 2 * float64((got.inputs+15)/16) / (1 << 23)
	}
	for i, o := range got.operands {
		if !o.out || o.free {
			continue
		}
		g, e, n := o.values(), exact.operands[i].values(), naive.operands[i].values()
		relative := 0.0 // the naive implementation's largest error in units of its row
		for r := range e {
			if magnitude, miss := largest(e[r], n[r]); magnitude > 0 {
				relative = max(relative, miss/magnitude)
			}
		}
		for r := range g {
			magnitude, _ := largest(e[r], e[r])
			for c := range e[r] {
				bound := (2*relative+1.0/(1<<18)+truncation)*magnitude + unit(o.t.DType)*math.Abs(e[r][c]) + 1e-30
				if o.t.DType == kernels.I32 {
					bound = 0.5
				}
				diff := math.Abs(g[r][c] - e[r][c])
				if !(diff <= bound) && err == nil {
					err = fmt.Errorf("output %s %s row %d column %d: got %g, want %g within %.3g (largest naive error %.3g of a row's magnitude)",
						o.name, o.t, r, c, g[r][c], e[r][c], bound, relative)
				}
				if ratio := diff / bound; !(ratio <= worst) {
					worst = ratio
				}
			}
		}
	}
	return worst, err
}
