package driver

import (
	"fmt"
	"unsafe"
)

// TensorMap is CUtensorMap: an opaque description of a tiled tensor for the bulk
// copy engine, passed to kernels by value. It must lie on a 64-byte boundary
// inside a parameter block.
type TensorMap [128]byte

// Element types of a TensorMap (CUtensorMapDataType).
const (
	TensorU32  = 2
	TensorBF16 = 9
)

// Swizzles of a TensorMap (CUtensorMapSwizzle).
const (
	SwizzleNone = 0
	Swizzle64   = 2
	Swizzle128  = 3
)

// TensorMapConfig describes a tensor of up to five dimensions, innermost first.
type TensorMapConfig struct {
	Type    int
	Base    Ptr      // 16-byte aligned
	Dims    []uint64 // elements
	Strides []uint64 // bytes, of all dimensions but the innermost; multiples of 16
	Box     []uint32 // elements of one copy, each at most 256
	Swizzle int
}

// EncodeTensorMap makes a tensor map. Elements outside the tensor read as zero.
func (d *Driver) EncodeTensorMap(cfg TensorMapConfig) (TensorMap, error) {
	rank := len(cfg.Dims)
	if rank < 1 || rank > 5 || len(cfg.Strides) != rank-1 || len(cfg.Box) != rank {
		return TensorMap{}, fmt.Errorf("driver: encode tensor map: want 1 to 5 dimensions with matching strides and box, got %d, %d, %d", rank, len(cfg.Strides), len(cfg.Box))
	}
	// The block is one heap object: C reads the arrays and writes the map.
	b := &struct {
		m       [192]byte // room to align the map to 64 bytes
		dims    [5]uint64
		strides [5]uint64
		box     [5]uint32
		steps   [5]uint32
		args    [12]uintptr
	}{steps: [5]uint32{1, 1, 1, 1, 1}}
	copy(b.dims[:], cfg.Dims)
	copy(b.strides[:], cfg.Strides)
	copy(b.box[:], cfg.Box)
	at := -uintptr(unsafe.Pointer(&b.m)) & 63
	const interleaveNone, promoteL2256B, fillZero = 0, 3, 0
	b.args = [12]uintptr{
		uintptr(unsafe.Pointer(&b.m[at])), uintptr(cfg.Type), uintptr(rank), uintptr(cfg.Base),
		uintptr(unsafe.Pointer(&b.dims)), uintptr(unsafe.Pointer(&b.strides)),
		uintptr(unsafe.Pointer(&b.box)), uintptr(unsafe.Pointer(&b.steps)),
		interleaveNone, uintptr(cfg.Swizzle), promoteL2256B, fillZero,
	}
	escape(unsafe.Pointer(b))
	// CUresult cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank,
	//   void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides, const cuuint32_t *boxDim,
	//   const cuuint32_t *elementStrides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
	//   CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
	if err := d.call(symTensorMapEncodeTiled, b.args[:]); err != nil {
		return TensorMap{}, err
	}
	return TensorMap(b.m[at : at+128]), nil
}

// escape forces an object into the heap, where it does not move.
func escape(p unsafe.Pointer) {
	f := newFrame()
	f.keep = p
	f.free()
}
