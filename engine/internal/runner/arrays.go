package runner

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"metacap/kernels"
)

// arrays packs the int32 arrays of a step into one piece of memory, so that a
// step has one upload.
type arrays struct {
	buf   kernels.Buffer
	all   kernels.Tensor // what send uploads
	host  []byte
	pin   kernels.HostBuffer // what host is part of; nil = ordinary memory
	n     int                // elements used
	start int                // of the array being pushed
}

func (a *arrays) open(b kernels.Backend, async kernels.Async, elements int) error {
	buf, err := b.Alloc(4 * int64(elements))
	if err != nil {
		return fmt.Errorf("step arrays: %w", err)
	}
	a.buf = buf
	if async == nil {
		a.host = make([]byte, 4*elements)
	} else {
		if a.pin, err = async.AllocHost(4 * elements); err != nil {
			return fmt.Errorf("step arrays: %w", err)
		}
		a.host = a.pin.Bytes()
	}
	a.all = kernels.Tensor{Buf: buf, DType: kernels.I32, Shape: []int{0}}
	return nil
}

func (a *arrays) close() {
	if a.buf != nil {
		a.buf.Free()
	}
	if a.pin != nil {
		a.pin.Free()
	}
}

func (a *arrays) reset() { a.n = 0 }

func (a *arrays) begin() {
	a.n = (a.n + arrayAlign - 1) / arrayAlign * arrayAlign
	a.start = a.n
}

func (a *arrays) push(v int32) {
	binary.LittleEndian.PutUint32(a.host[4*a.n:], uint32(v))
	a.n++
}

// end makes t a view of the elements pushed since begin. The shape's memory is reused.
func (a *arrays) end(t *kernels.Tensor) {
	if a.n == a.start {
		t.Buf = nil
		return
	}
	t.Buf, t.Offset, t.DType = a.buf, 4*int64(a.start), kernels.I32
	if len(t.Shape) != 1 {
		t.Shape = make([]int, 1)
	}
	t.Shape[0] = a.n - a.start
}

func (a *arrays) add(t *kernels.Tensor, v []int32) {
	a.begin()
	for _, x := range v {
		a.push(x)
	}
	a.end(t)
}

// addPadded adds an array and pad more elements.
func (a *arrays) addPadded(t *kernels.Tensor, v []int32, pad int, fill int32) {
	a.begin()
	for _, x := range v {
		a.push(x)
	}
	for range pad {
		a.push(fill)
	}
	a.end(t)
}

// add2 adds an array of rows of width elements.
func (a *arrays) add2(t *kernels.Tensor, v []int32, width int) {
	a.begin()
	for _, x := range v {
		a.push(x)
	}
	a.end2(t, width)
}

// end2 is end for an array of rows of width elements.
func (a *arrays) end2(t *kernels.Tensor, width int) {
	if a.n == a.start {
		t.Buf = nil
		return
	}
	t.Buf, t.Offset, t.DType = a.buf, 4*int64(a.start), kernels.I32
	if len(t.Shape) != 2 {
		t.Shape = make([]int, 2)
	}
	t.Shape[0], t.Shape[1] = (a.n-a.start)/width, width
}

func (a *arrays) send(b kernels.Backend, async kernels.Async) error {
	if a.n == 0 {
		return nil
	}
	a.all.Shape[0] = a.n
	if a.pin != nil {
		return async.UploadAsync(a.all, a.host[:4*a.n])
	}
	return b.Upload(a.all, a.host[:4*a.n])
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// bytesOf is the memory of f. Devices are little endian; fixFloats turns what
// was downloaded into host order.
func bytesOf(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*len(f))
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func fixFloats(f []float32) {
	if littleEndian {
		return
	}
	for i, x := range f {
		f[i] = math.Float32frombits(bits.ReverseBytes32(math.Float32bits(x)))
	}
}
