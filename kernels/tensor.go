package kernels

import "fmt"

// DType is the element type of a Tensor.
type DType uint8

// Element types. Only F32, BF16, I32 and U8 appear in activations; the others
// occur in weights as stored in checkpoints.
const (
	Invalid DType = iota
	F32
	BF16
	F16
	I32
	U8
	I8
	F8E4M3
)

// Size returns the bytes of one element, 0 for Invalid.
func (d DType) Size() int {
	switch d {
	case F32, I32:
		return 4
	case BF16, F16:
		return 2
	case U8, I8, F8E4M3:
		return 1
	}
	return 0
}

func (d DType) String() string {
	switch d {
	case F32:
		return "f32"
	case BF16:
		return "bf16"
	case F16:
		return "f16"
	case I32:
		return "i32"
	case U8:
		return "u8"
	case I8:
		return "i8"
	case F8E4M3:
		return "f8e4m3"
	}
	return "invalid"
}

// Buffer is a piece of device memory owned by the backend that made it.
// Free returns the memory; a buffer must not be used by operations enqueued
// after Free. Free is idempotent.
type Buffer interface {
	Bytes() int64
	Free()
}

// Tensor is a typed row-major view of a Buffer. The last dimension is
// contiguous. Rows of the leading dimension are Stride elements apart, or
// contiguous if Stride is 0: Q of a fused projection [T,(Hq+2*Hkv)*D] is
// Shape [T,Hq,D] with Stride (Hq+2*Hkv)*D. A Tensor is a value; copying it
// copies the view, not the memory.
type Tensor struct {
	Buf    Buffer
	Offset int64 // bytes from the start of Buf to the first element; a multiple of 16 for activations
	DType  DType
	Shape  []int
	Stride int // elements between rows of the leading dimension; 0 = product of the other dimensions
}

// Rows is the leading dimension, 0 for a tensor without shape.
func (t Tensor) Rows() int {
	if len(t.Shape) == 0 {
		return 0
	}
	return t.Shape[0]
}

// RowLen is the number of elements in one row (product of all but the leading dimension).
func (t Tensor) RowLen() int {
	n := 1
	for _, d := range t.Shape[min(1, len(t.Shape)):] {
		n *= d
	}
	return n
}

// RowStride is the distance between rows in elements.
func (t Tensor) RowStride() int {
	if t.Stride != 0 {
		return t.Stride
	}
	return t.RowLen()
}

// Contiguous reports whether all rows follow each other without a gap.
func (t Tensor) Contiguous() bool { return t.RowStride() == t.RowLen() || t.Rows() <= 1 }

// Elements is the product of the dimensions.
func (t Tensor) Elements() int64 { return int64(t.Rows()) * int64(t.RowLen()) }

// Slice returns rows [lo,hi) of the leading dimension as a view.
func (t Tensor) Slice(lo, hi int) Tensor {
	v := t
	v.Offset += int64(lo) * int64(t.RowStride()) * int64(t.DType.Size())
	v.Shape = append([]int{hi - lo}, t.Shape[1:]...)
	v.Stride = t.RowStride()
	return v
}

// Reshape returns the same memory with another shape. Only the trailing
// dimensions may be split or merged when rows are not contiguous.
func (t Tensor) Reshape(shape ...int) Tensor {
	v := t
	v.Shape = shape
	if t.Contiguous() {
		v.Stride = 0
	} else {
		v.Stride = t.RowStride()
	}
	return v
}

// Cols returns columns [lo,hi) of a two-dimensional tensor as a strided view.
func (t Tensor) Cols(lo, hi int) Tensor {
	v := t
	v.Offset += int64(lo) * int64(t.DType.Size())
	v.Shape = []int{t.Rows(), hi - lo}
	v.Stride = t.RowStride()
	return v
}

func (t Tensor) String() string {
	if t.Stride != 0 && !t.Contiguous() {
		return fmt.Sprintf("%s%v/%d", t.DType, t.Shape, t.Stride)
	}
	return fmt.Sprintf("%s%v", t.DType, t.Shape)
}
