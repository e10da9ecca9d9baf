package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"metacap/engine"
	"metacap/kernels"
)

// Limits are the largest rates that a device reached in plain measurements, made
// before any model is opened. They are measured, not taken from a data sheet.
type Limits struct {
	ReadBytes float64 `json:"read_bytes_per_second"` // 0 = not measured
	Ops       float64 `json:"ops_per_second"`        // of matrix products; a multiplication and an addition are two
	ReadBy    string  `json:"read_by"`               // what read fastest
	OpsBy     string  `json:"ops_by"`
}

// LimitOptions say what products to measure.
type LimitOptions struct {
	Activations kernels.DType // of the rows: F32 or BF16
	Weights     string        // "bf16", "f32", "int8", "int4"
	// Bytes bounds the memory of one measurement on the device; 0 = 1.25 GiB, or what the device has.
	Bytes int64
}

const (
	limitBytes  = 5 << 28                // default of LimitOptions.Bytes
	enough      = 25 * time.Millisecond  // a sample this long is not worth enlarging
	sampleTime  = 60 * time.Millisecond  // about how long a repeated sample takes
	limitReps   = 5                      // samples of the final size; the best one counts
	givenUp     = 400 * time.Millisecond // a first sample this long is repeated no more
	hostBytes   = 512 << 20              // of a read by the processor itself
	productRows = 4096                   // most rows of a measured product
)

// MeasureLimits measures a device. Sizes grow until a call takes long enough, so
// that it ends within a second or two on anything from pure Go to a large GPU.
func MeasureLimits(b kernels.Backend, o LimitOptions) (Limits, error) {
	info := b.Info()
	if o.Bytes <= 0 {
		o.Bytes = limitBytes
	}
	if info.FreeBytes > 0 {
		o.Bytes = min(o.Bytes, info.FreeBytes/4)
	}
	var l Limits
	read := func(rate float64, by string) {
		if rate > l.ReadBytes {
			l.ReadBytes, l.ReadBy = rate, by
		}
	}
	if info.Threads > 0 {
		read(readHost(info.Threads, int(min(o.Bytes, hostBytes))), fmt.Sprintf("%d threads adding up memory", info.Threads))
	}
	// One row times a matrix: bound by reading the matrix once it is larger than the
	// caches, so only the largest size counts.
	for n, k := 512, 2048; ; n, k = 2*n, min(2*k, 4096) {
		p := &product{b: b, o: o, m: 1, n: n, k: k}
		last, err := p.run(func(took time.Duration, bytes int64) bool { return took >= enough || 4*bytes > o.Bytes })
		if err != nil {
			return l, err
		}
		if last {
			read(float64(p.bytes)/p.took.Seconds(), fmt.Sprintf("a row times a matrix of %d MB", p.bytes>>20))
			break
		}
	}
	for m, n, k := 64, 256, 256; ; m, n, k = min(2*m, productRows), min(2*n, 24576), min(2*k, 4096) {
		p := &product{b: b, o: o, m: m, n: n, k: k}
		last, err := p.run(func(took time.Duration, bytes int64) bool {
			return took >= enough || 4*bytes > o.Bytes || m*n >= productRows*24576
		})
		if err != nil {
			return l, err
		}
		if rate := 2 * float64(m) * float64(n) * float64(k) / p.took.Seconds(); rate > l.Ops {
			l.Ops, l.OpsBy = rate, fmt.Sprintf("%d rows times a matrix of %d by %d", m, n, k)
		}
		if last {
			return l, nil
		}
	}
}

// product is a product of m rows with a matrix of n by k.
type product struct {
	b       kernels.Backend
	o       LimitOptions
	m, n, k int

	took  time.Duration // best time of one call
	bytes int64         // of the weight
}

// run times the product: a few calls, and many if last says, from the time of one
// call and the weight's bytes, that this is the size to settle on.
func (p *product) run(isLast func(time.Duration, int64) bool) (last bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bench: limits: %d rows by %d by %d: %w", p.m, p.n, p.k, err)
		}
	}()
	w, err := p.b.PackLinear(randomLinear(p.o.Weights, p.n, p.k))
	if err != nil {
		return false, err
	}
	defer w.Free()
	x, err := randomRows(p.b, p.o.Activations, p.m, p.k)
	if err != nil {
		return false, err
	}
	defer x.Buf.Free()
	out, err := randomRows(p.b, p.o.Activations, p.m, p.n)
	if err != nil {
		return false, err
	}
	defer out.Buf.Free()
	calls := func(count int) error {
		start := time.Now()
		for range count {
			if err := p.b.Linear(kernels.LinearArgs{Out: out, X: x, W: w}); err != nil {
				return err
			}
		}
		err := p.b.Sync()
		if took := time.Since(start) / time.Duration(count); p.took == 0 || took < p.took {
			p.took = took
		}
		return err
	}
	if err := calls(1); err != nil { // makes workspaces, fills caches
		return false, err
	}
	p.took, p.bytes = 0, w.Bytes()
	if err := calls(1); err != nil {
		return false, err
	}
	if last = isLast(p.took, p.bytes); !last || p.took > givenUp {
		return last, nil
	}
	count := int(max(1, min(2048, sampleTime/max(p.took, time.Microsecond))))
	for range limitReps {
		if err := calls(count); err != nil {
			return false, err
		}
	}
	return last, nil
}

// randomBF16 is n values of both signs below 1 in magnitude, none of them tiny or zero.
func randomBF16(n int) []byte {
	const chunk = 8 << 20
	out := make([]byte, 2*n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+8 <= min(len(out), chunk); i += 8 {
		v := r.Uint64()
		// Exponents 115 to 122 of 127, random signs and mantissas.
		binary.LittleEndian.PutUint64(out[i:], v&0x807f807f807f807f|0x3980398039803980+(v>>3&0x0380038003800380))
	}
	for done := min(len(out), chunk); done < len(out); {
		done += copy(out[done:], out[:done])
	}
	return out
}

// randomLinear is a layer in one of the stored types.
func randomLinear(kind string, n, k int) kernels.LinearSource {
	part := kernels.MatrixPart{N: n, DType: kernels.BF16}
	src := kernels.LinearSource{Name: "limit", K: k}
	const group = 128
	switch kind {
	case "f32":
		part.DType, src.Precision = kernels.F32, kernels.PrecisionF32
		part.Data = widen(randomBF16(n * k))
	case "int8", "int4":
		q := &kernels.QuantPart{Bits: 8, Group: group, Scales: widen(randomBF16(n * k / group))}
		part.Data, part.Quant = randomBF16(n*k/2), q
		if kind == "int4" {
			q.Bits, part.Data = 4, part.Data[:n*k/2]
		}
	default:
		part.Data = randomBF16(n * k)
	}
	src.Parts = []kernels.MatrixPart{part}
	return src
}

// widen turns bf16 values into float32.
func widen(half []byte) []byte {
	out := make([]byte, 2*len(half))
	for i := 0; i < len(half); i += 2 {
		out[2*i+2], out[2*i+3] = half[i], half[i+1]
	}
	return out
}

func randomRows(b kernels.Backend, d kernels.DType, m, k int) (kernels.Tensor, error) {
	data := randomBF16(m * k)
	if d == kernels.F32 {
		data = widen(data)
	}
	buf, err := b.Alloc(int64(len(data)))
	if err != nil {
		return kernels.Tensor{}, err
	}
	t := kernels.Tensor{Buf: buf, DType: d, Shape: []int{m, k}}
	if err := b.Upload(t, data); err != nil {
		buf.Free()
		return t, err
	}
	return t, nil
}

// readHost is the best rate at which threads read memory, in bytes a second.
func readHost(threads, bytes int) float64 {
	words := make([]uint64, bytes/8)
	share := len(words) / threads
	pass := func(touch bool) time.Duration {
		start := time.Now()
		var wg sync.WaitGroup
		for i := range threads {
			part := words[i*share : (i+1)*share]
			wg.Go(func() {
				if touch {
					for j := range part {
						part[j] = uint64(j)
					}
					return
				}
				var a, b, c, d uint64
				for ; len(part) >= 8; part = part[8:] {
					a += part[0] + part[1]
					b += part[2] + part[3]
					c += part[4] + part[5]
					d += part[6] + part[7]
				}
				runtime.KeepAlive(a + b + c + d) // so that the sums are not optimised away
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	pass(true)
	best := pass(false)
	for range limitReps {
		best = min(best, pass(false))
	}
	return float64(share*threads*8) / best.Seconds()
}

// Bound is the least time in seconds that a test can take within the limits: for
// decoding of one step, for other tests of one repetition. 0 = unknown.
func (l Limits) Bound(r *Result, w engine.Work) float64 {
	if l.ReadBytes <= 0 || l.Ops <= 0 || w.StepBytes == 0 {
		return 0
	}
	t := r.Test
	batch := float64(t.Batch)
	longer := func(bytes, ops float64) float64 { return max(bytes/l.ReadBytes, ops/l.Ops) }
	prefill := func(n, depth float64) float64 {
		ops := n*float64(w.TokenOps) + float64(w.RowOps) + float64(w.PairOps)*(n*depth+n*(n+1)/2)
		return longer(float64(w.StepBytes)+depth*float64(w.KVBytes), batch*ops)
	}
	decode := func(depth float64) float64 {
		return longer(float64(w.StepBytes)+batch*depth*float64(w.KVBytes), batch*float64(w.TokenOps+w.RowOps+int64(depth)*w.PairOps))
	}
	vision := func(tiles float64) float64 {
		if tiles == 0 {
			return 0
		}
		return longer(float64(w.VisionBytes), batch*tiles*float64(w.TileOps))
	}
	prompt, tiles := float64(r.Prompt), float64(r.Tiles)
	switch t.Kind {
	case Prefill:
		return prefill(prompt, float64(t.Depth))
	case Decode:
		return decode(float64(t.Depth) + float64(t.Tokens)/2)
	case Vision:
		return vision(tiles)
	case First:
		return vision(tiles) + prefill(prompt, 0)
	case Caption:
		return vision(tiles) + prefill(prompt, 0) + (captionTokens-1)*decode(prompt+captionTokens/2)
	}
	return 0
}

// Share is the share of the limits that a result reached: bound over time, by the medians; 0 = unknown.
func (l Limits) Share(r *Result, w engine.Work) float64 {
	bound := l.Bound(r, w)
	switch t := r.Test; {
	case bound == 0 || len(r.Rates) == 0:
		return 0
	case t.Kind == Decode:
		return bound * r.Median() / float64(t.Batch)
	case t.Kind == First:
		return bound * 1e3 / r.Median()
	default:
		return bound / Quantile(r.Seconds, 0.5)
	}
}
