package ref

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"metacap/internal/dtype"
	"metacap/kernels"
)

// Options says how to open the reference backend. The zero value is the specification.
type Options struct {
	Threads int  // goroutines; 0 = GOMAXPROCS
	Naive   bool // float32 arithmetic with all permitted roundings
}

type backend struct {
	opt    Options
	err    error // first device error since the last Sync
	closed bool
}

var _ kernels.Backend = (*backend)(nil)

// Open returns a reference backend. It cannot fail; the error is there so that
// all backends open alike.
func Open(opt Options) (kernels.Backend, error) {
	if opt.Threads <= 0 {
		opt.Threads = runtime.GOMAXPROCS(0)
	}
	return &backend{opt: opt}, nil
}

func (b *backend) Info() kernels.Info {
	name := "ref"
	if b.opt.Naive {
		name = "naive"
	}
	return kernels.Info{
		Name:        name,
		Device:      fmt.Sprintf("Go reference, %d goroutines", b.opt.Threads),
		Activations: kernels.F32,
		Threads:     b.opt.Threads,
	}
}

// buffer is host memory. Its words are 8 bytes so that it is aligned for every type.
type buffer struct {
	data  []byte
	owner *backend
}

func (f *buffer) Bytes() int64 { return int64(len(f.data)) }
func (f *buffer) Free()        { f.data = nil }

const alignment = 256

func (b *backend) Alloc(bytes int64) (kernels.Buffer, error) {
	if bytes <= 0 || bytes > 1<<46 {
		return nil, &kernels.ArgError{Op: "Alloc", Arg: "bytes", Want: "a positive size", Got: fmt.Sprint(bytes)}
	}
	raw := make([]byte, bytes+alignment)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (alignment - 1))
	return &buffer{data: raw[skip : skip+int(bytes) : skip+int(bytes)], owner: b}, nil
}

// own requires that all given operands live in memory of this backend.
func (b *backend) own(op string, ts ...kernels.Tensor) error {
	for _, t := range ts {
		if t.Buf == nil {
			continue
		}
		if f, ok := t.Buf.(*buffer); !ok || f.owner != b {
			return &kernels.ArgError{Op: op, Arg: "operand", Want: "memory of this backend", Got: fmt.Sprintf("%T", t.Buf)}
		}
	}
	return nil
}

func (b *backend) Upload(dst kernels.Tensor, src []byte) error {
	if err := kernels.CheckTransfer("Upload", dst, len(src)); err != nil {
		return err
	}
	if err := b.own("Upload", dst); err != nil {
		return err
	}
	copy(dst.Buf.(*buffer).data[dst.Offset:], src)
	return nil
}

func (b *backend) Download(dst []byte, src kernels.Tensor) error {
	if err := kernels.CheckTransfer("Download", src, len(dst)); err != nil {
		return err
	}
	if err := b.own("Download", src); err != nil {
		return err
	}
	if err := b.Sync(); err != nil {
		return err
	}
	copy(dst, src.Buf.(*buffer).data[src.Offset:])
	return nil
}

func (b *backend) Sync() error {
	err := b.err
	b.err = nil
	return err
}

func (b *backend) Close() error {
	b.closed = true
	return nil
}

// deviceError records the first error of an operation that found bad device data.
func (b *backend) deviceError(op, format string, args ...any) {
	if b.err == nil {
		b.err = &kernels.DeviceError{Call: "kernel " + op, Code: 1, Name: "bad operand", Text: fmt.Sprintf(format, args...)}
	}
}

// parallel calls f for every i in [0,n), in any order, from several goroutines.
func (b *backend) parallel(n int, f func(i int)) {
	workers := min(b.opt.Threads, n)
	if workers <= 1 {
		for i := 0; i < n; i++ {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for w := 0; w < workers; w++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				f(i)
			}
		}()
	}
	wg.Wait()
}

// number is the type that sums are made in.
type number interface{ float32 | float64 }

// row returns the bytes of row i of t, from its first element to the end of the buffer.
func row(t kernels.Tensor, i int) []byte {
	size := t.DType.Size()
	lo := t.Offset + int64(i)*int64(t.RowStride())*int64(size)
	return t.Buf.(*buffer).data[lo : lo+int64(t.RowLen()*size)]
}

// decode widens len(dst) stored values. Exact.
func decode[A number](d kernels.DType, src []byte, dst []A) {
	for i := range dst {
		switch d {
		case kernels.F32:
			dst[i] = A(math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:])))
		case kernels.BF16:
			dst[i] = A(dtype.FromBF16(binary.LittleEndian.Uint16(src[2*i:])))
		case kernels.F16:
			dst[i] = A(dtype.FromF16(binary.LittleEndian.Uint16(src[2*i:])))
		}
	}
}

// load reads row i of t.
func load[A number](t kernels.Tensor, i int) []A {
	dst := make([]A, t.RowLen())
	decode(t.DType, row(t, i), dst)
	return dst
}

// loadAll reads all rows of t, one after the other.
func loadAll[A number](t kernels.Tensor) []A {
	n := t.RowLen()
	dst := make([]A, t.Rows()*n)
	for i := 0; i < t.Rows(); i++ {
		decode(t.DType, row(t, i), dst[i*n:(i+1)*n])
	}
	return dst
}

// store rounds src to the type of t and writes it as row i.
func store[A number](t kernels.Tensor, i int, src []A) {
	dst := row(t, i)
	for j, v := range src {
		if t.DType == kernels.F32 {
			binary.LittleEndian.PutUint32(dst[4*j:], math.Float32bits(float32(v)))
		} else {
			binary.LittleEndian.PutUint16(dst[2*j:], dtype.ToBF16(float32(v)))
		}
	}
}

// ints reads an i32 tensor.
func ints(t kernels.Tensor) []int {
	var out []int
	for r := 0; r < t.Rows(); r++ {
		data := row(t, r)
		for i := 0; i < t.RowLen(); i++ {
			out = append(out, int(int32(binary.LittleEndian.Uint32(data[4*i:]))))
		}
	}
	return out
}

func putInt(t kernels.Tensor, i int, v int) {
	binary.LittleEndian.PutUint32(row(t, i), uint32(int32(v)))
}

// roundBF16 rounds every value to bf16.
func roundBF16[A number](v []A) {
	for i := range v {
		v[i] = A(dtype.RoundBF16(float32(v[i])))
	}
}
