//go:build cgo

package cpu

// #include <stdlib.h>
// #include "mc.h"
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"metacap/kernels"
)

// weight is a packed linear layer.
type weight struct {
	*memory
	w *C.mc_weight // heads the memory, the panels follow
}

func (w *weight) Dims() (n, k int) { return int(w.w.n), int(w.w.k) }

const panel = 32 // outputs of a panel

func ceil(n, unit int) int { return (n + unit - 1) / unit * unit }

// plan is how a layer is packed.
type plan struct {
	layout     C.int32_t
	panelBytes int64
	quant      *kernels.QuantPart // of a quantised layout; the parts agree on Bits and Group
	zeros      bool
}

// planOf picks the layout: quantised if all parts are alike and the kernels take
// their group, bf16 if all parts are, else float32, into which every source decodes.
func planOf(src kernels.LinearSource) plan {
	p := plan{layout: C.MC_W_F32, panelBytes: int64(src.K) * panel * 4}
	dense, first := true, src.Parts[0].Quant
	same := first != nil && src.Precision == kernels.PrecisionNative
	for _, part := range src.Parts {
		dense = dense && part.Quant == nil && part.DType == kernels.BF16
		same = same && part.Quant != nil && part.Quant.Bits == first.Bits && part.Quant.Group == first.Group
		p.zeros = p.zeros || part.Quant != nil && part.Quant.Zeros != nil
	}
	switch {
	case dense:
		p.layout, p.panelBytes = C.MC_W_BF16, int64(ceil(src.K, 2))*panel*2
	case same && first.Bits == 8 && first.Group%4 == 0:
		p.layout, p.panelBytes, p.quant = C.MC_W_Q8, int64(src.K)*panel, first
	case same && first.Bits == 4 && first.Group%8 == 0:
		p.layout, p.panelBytes, p.quant = C.MC_W_Q4, int64(src.K)*panel/2, first
	}
	return p
}

func (b *backend) PackLinear(src kernels.LinearSource) (kernels.Weight, error) {
	n, err := src.Check()
	if err != nil {
		return nil, err
	}
	p := planOf(src)
	panels := int64(ceil(n, panel) / panel)
	const head, slack = 256, 4096 // slack: kernels fetch past the end
	data := panels*p.panelBytes + slack
	scales, zeros := int64(0), int64(0)
	if p.quant != nil {
		scales = panels * panel * 4 * int64(src.K/p.quant.Group)
		if p.zeros {
			zeros = scales
		}
	}
	m, err := b.allocate(head + scales + zeros + data)
	if err != nil {
		return nil, fmt.Errorf("cpu: pack %s [%d,%d]: %w", src.Name, n, src.K, err)
	}
	w := (*C.mc_weight)(m.p)
	w.layout, w.n, w.k = p.layout, C.int64_t(n), C.int64_t(src.K)
	w.panel_bytes, w.bytes = C.int64_t(p.panelBytes), C.int64_t(m.bytes)
	w.data = (*C.char)(unsafe.Add(m.p, head+scales+zeros))
	if p.quant != nil {
		w.group, w.agroup = C.int64_t(p.quant.Group), C.int64_t(p.quant.ActivationGroup())
		w.scales = (*C.float)(unsafe.Add(m.p, head))
		if p.zeros {
			w.zeros = (*C.float)(unsafe.Add(m.p, head+scales))
		}
	}
	if src.Precision == kernels.PrecisionF32 {
		w.exact = 1
	}
	at := 0
	for _, part := range src.Parts {
		pack(w, part, at)
		at += part.N
	}
	return &weight{memory: m, w: w}, nil
}

// pack writes the rows of one part, which begin at output at, on several goroutines.
func pack(w *C.mc_weight, p kernels.MatrixPart, at int) {
	first, last := at/panel, ceil(at+p.N, panel)/panel
	workers := min(runtime.GOMAXPROCS(0), max(1, p.N*int(w.k)>>18))
	var wg sync.WaitGroup
	for i := 0; i < workers; i++ {
		lo, hi := first+(last-first)*i/workers, first+(last-first)*(i+1)/workers
		wg.Add(1)
		go func() {
			defer wg.Done()
			packRange(w, p, at, lo, hi)
		}()
	}
	wg.Wait()
	runtime.KeepAlive(p)
}

func packRange(w *C.mc_weight, p kernels.MatrixPart, at, lo, hi int) {
	n0, n1 := C.int64_t(at), C.int64_t(at+p.N)
	data := unsafe.Pointer(&p.Data[0])
	q := p.Quant
	if q == nil {
		C.mc_pack_dense(w, C.int64_t(lo), C.int64_t(hi), (*C.char)(data), n0, n1, cType(p.DType))
		return
	}
	var zeros *C.uint8_t
	if q.Zeros != nil {
		zeros = (*C.uint8_t)(unsafe.Pointer(&q.Zeros[0]))
	}
	C.mc_pack_quant(w, C.int64_t(lo), C.int64_t(hi), (*C.uint8_t)(data), (*C.float)(unsafe.Pointer(&q.Scales[0])), zeros, C.int(q.Bits), C.int64_t(q.Group), n0, n1)
}

// cType is the C code of a dtype.
func cType(d kernels.DType) C.int { return C.int(d) }

// cache is a paged key/value cache.
type cache struct {
	*memory
	shape kernels.KVShape
	kv    *C.mc_kv
}

func (c *cache) Shape() kernels.KVShape { return c.shape }

func (b *backend) NewKV(s kernels.KVShape) (kernels.KV, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	size := int64(s.DType.Size())
	dp := int64(ceil(s.HeadDim, panel))
	keyBytes := int64(s.HeadDim) * kernels.BlockSize * size
	pageBytes := keyBytes + dp*kernels.BlockSize*size
	const head, slack = 256, 8192
	m, err := b.allocate(head + int64(s.Layers)*int64(s.Blocks)*int64(s.Heads)*pageBytes + slack)
	if err != nil {
		return nil, fmt.Errorf("cpu: kv cache of %d blocks: %w", s.Blocks, err)
	}
	kv := (*C.mc_kv)(m.p)
	kv.layers, kv.blocks, kv.heads = C.int64_t(s.Layers), C.int64_t(s.Blocks), C.int64_t(s.Heads)
	kv.d, kv.dp, kv.dt = C.int64_t(s.HeadDim), C.int64_t(dp), C.int64_t(s.DType)
	kv.k_bytes, kv.page_bytes = C.int64_t(keyBytes), C.int64_t(pageBytes)
	kv.data, kv.bytes = (*C.char)(unsafe.Add(m.p, head)), C.int64_t(m.bytes)
	return &cache{memory: m, shape: s, kv: kv}, nil
}
