package sim_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
)

// device is the simulated Hopper device with the kernels of testdata.
type device struct {
	t       *testing.T
	control sim.Control
	c       *driver.Context
	s       *driver.Stream
	m       *driver.Module
}

func open(t *testing.T) *device {
	t.Helper()
	lib, err := sim.Build(sim.Options{Sanitize: os.Getenv("METACAP_SIM_SANITIZE"), Kernels: os.DirFS("testdata")})
	if errors.Is(err, sim.ErrNoCompiler) && !strings.Contains(os.Getenv("METACAP_REQUIRE"), "g++") {
		t.Skip(err)
	}
	require.NoError(t, err)
	d, err := driver.Open(driver.Options{Library: lib})
	require.NoError(t, err)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	v := &device{t: t, control: sim.Control{Driver: d}}
	v.c, err = d.OpenContext(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.c.Close()) })
	v.s, err = v.c.NewStream(0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.s.Close()) })
	v.m, err = v.c.LoadModule(image("product_ways", "move_ways", "mistakes"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.m.Close()) })
	return v
}

// image is what the simulator takes for a cubin of sm_90 with these kernels.
func image(kernels ...string) []byte {
	b := append([]byte("\x7fELF\x02\x01\x01\x33\x07"), make([]byte, 55)...)
	for _, k := range kernels {
		b = append(b, ".text."+k+"\x00"...)
	}
	binary.LittleEndian.PutUint16(b[18:], 190) // EM_CUDA
	binary.LittleEndian.PutUint64(b[40:], uint64(len(b)))
	binary.LittleEndian.PutUint32(b[48:], 90)
	return b
}

func (v *device) upload(data []byte) driver.Ptr {
	v.t.Helper()
	p, err := v.c.Alloc(int64(len(data)))
	require.NoError(v.t, err)
	v.t.Cleanup(func() { require.NoError(v.t, v.c.Free(p)) })
	require.NoError(v.t, v.s.CopyToDevice(p, data))
	return p
}

func (v *device) download(p driver.Ptr, n int) []byte {
	v.t.Helper()
	data := make([]byte, n)
	require.NoError(v.t, v.s.CopyToHost(data, p))
	require.NoError(v.t, v.s.Synchronize())
	return data
}

func (v *device) tensorMap(base driver.Ptr, cols, rows, boxCols, boxRows, swizzle int) driver.TensorMap {
	v.t.Helper()
	m, err := v.c.Driver().EncodeTensorMap(driver.TensorMapConfig{
		Type: driver.TensorBF16, Base: base, Dims: []uint64{uint64(cols), uint64(rows)}, Strides: []uint64{uint64(cols) * 2},
		Box: []uint32{uint32(boxCols), uint32(boxRows)}, Swizzle: swizzle,
	})
	require.NoError(v.t, err)
	return m
}

func (v *device) failure() string {
	v.t.Helper()
	why, err := v.control.Failure()
	require.NoError(v.t, err)
	return why
}

// launch runs a kernel and waits for it.
func launch[P any](v *device, name string, ctas, threads, shared int, params *P) error {
	fn, err := v.m.Function(name)
	require.NoError(v.t, err)
	l := v.s.NewLauncher()
	require.NoError(v.t, l.Launch(fn, driver.Dim{X: ctas, Y: 1, Z: 1}, threads, shared, unsafe.Pointer(params), unsafe.Sizeof(*params), true))
	return v.s.Synchronize()
}

// matrix is random small integers, exact in bf16, and their bf16 bytes row by row, or
// column by column.
func matrix(r *rand.Rand, rows, cols int, turned bool) ([][]float32, []byte) {
	m := make([][]float32, rows)
	data := make([]byte, rows*cols*2)
	for i := range m {
		m[i] = make([]float32, cols)
		for j := range m[i] {
			m[i][j] = float32(r.IntN(17) - 8)
			at := i*cols + j
			if turned {
				at = j*rows + i
			}
			binary.LittleEndian.PutUint16(data[at*2:], dtype.ToBF16(m[i][j]))
		}
	}
	return m, data
}

// TestProducts multiplies with every kind of operand that a matrix descriptor can
// describe; the boxes of a tensor map bring them with the same swizzle.
func TestProducts(t *testing.T) {
	v := open(t)
	const m, n, k = 64, 128, 64
	type params struct {
		aMap, bMap           driver.TensorMap
		b, out               driver.Ptr
		aKind, bMajor, bMode int32
		_                    [36]byte
	}
	swizzles := []struct {
		name    string
		span    int // bytes
		mode    int32
		swizzle int
	}{{"none", 0, 0, 0}, {"128", 128, 1, 3}, {"64", 64, 2, 2}, {"32", 32, 3, 1}}
	r := rand.New(rand.NewPCG(1, 2))
	for aKind, a := range []string{"shared", "registers", "transposed"} {
		for bMajor, b := range []string{"k", "mn"} {
			for _, s := range swizzles {
				name := fmt.Sprintf("a=%s,b=%s,swizzle=%s", a, b, s.name)
				x, xs := matrix(r, m, k, a == "transposed")
				w, ws := matrix(r, n, k, b == "mn")
				p := params{b: v.upload(ws), out: v.upload(make([]byte, m*n*4)), aKind: int32(aKind), bMajor: int32(bMajor), bMode: s.mode}
				p.aMap = v.tensorMap(v.upload(xs), 64, 64, 64, 64, 3)
				switch {
				case s.span == 0:
				case b == "k":
					p.bMap = v.tensorMap(p.b, k, n, s.span/2, n, s.swizzle)
				default:
					p.bMap = v.tensorMap(p.b, n, k, s.span/2, k, s.swizzle)
				}
				err := launch(v, "product_ways", 1, 128, 1024+64*128+n*k*2, &p)
				require.NoError(t, err, "%s: %s", name, v.failure())
				out := make([]float32, m*n)
				dtype.DecodeF32(out, v.download(p.out, m*n*4))
				for i := range out {
					var want float32
					for e := range k {
						want += x[i/n][e] * w[i%n][e]
					}
					require.Equal(t, want, out[i], "%s: row %d column %d", name, i/n, i%n)
				}
			}
		}
	}
}

// TestMoves passes boxes through clusters, barriers, registers and bulk stores.
func TestMoves(t *testing.T) {
	v := open(t)
	type params struct {
		from, to driver.TensorMap
		in, out  driver.Ptr
		_        [48]byte
	}
	_, rows := matrix(rand.New(rand.NewPCG(3, 4)), 32, 64, false)
	in := v.upload(rows)
	defer v.control.Shuffle(0)
	for seed := range uint64(8) { // 0: no random order
		require.NoError(t, v.control.Shuffle(seed))
		p := params{in: in, out: v.upload(make([]byte, len(rows)))}
		boxes := v.upload(make([]byte, 30*128))
		p.from = v.tensorMap(in, 64, 32, 64, 16, 0)
		p.to = v.tensorMap(boxes, 64, 30, 64, 16, 0)
		err := launch(v, "move_ways", 2, 256, 1024+8192+512, &p)
		require.NoError(t, err, v.failure())
		require.Equal(t, rows, v.download(p.out, len(rows)))
		require.Equal(t, rows[128:31*128], v.download(boxes, 30*128))
	}
}

// TestMistakes makes each mistake that the simulator is to find.
func TestMistakes(t *testing.T) {
	v := open(t)
	type params struct {
		m     driver.TensorMap
		out   driver.Ptr
		which int32
		_     [52]byte
	}
	_, data := matrix(rand.New(rand.NewPCG(5, 6)), 64, 64, false)
	p := params{out: v.upload(data)}
	p.m = v.tensorMap(p.out, 64, 64, 64, 64, 3)
	wants := []string{
		"cta 0, threads 0 to 127: for barrier 1 (shared+0x8) of cta 0, parity 0: in phase 0 of it 1 of 1 arrivals and 0 bytes are missing",
		"0 of 1 arrivals and 16 bytes are missing",
		"0 of 1 arrivals and -16 bytes are missing",
		"barrier 0 (shared+0) of cta 0: more than its 1 arrivals in a phase",
		"barrier -1 (shared+0x18) of cta 0 is used and was not initialised",
		"wgmma: b reads shared+0x2400 of cta 0 while a copy to it is under way",
		"a copy to shared+0x2400..0x4400 of cta 0 while a product reads there",
		"wgmma reads shared+0x400 of cta 0, written without fence_async",
		"no wgmma_fence since registers",
		"thread 0 wrote a sum before its product was waited for",
		"a thread ended with products nobody waited for",
		"wgmma: threads 0 and 70 of a warpgroup give different operands",
		"has a swizzled matrix that does not begin with whole units of 8 lines",
		"wgmma: b reaches shared address",
		"while another to the same bytes is under way",
		"cta 0 ended while a copy to shared+0x400 is under way: nobody waited for barrier 0",
		"copy_box: shared+0x440 is not on a multiple of 128 bytes",
		"named barrier 1 is of 128 threads for some and of 96 for others",
		"the warpgroups take 32768 registers of 31744",
		"a thread ended with bulk stores nobody waited for",
		"the memory of barrier 0 (shared+0) of cta 0 was overwritten",
		"threads 32 to 127: for named barrier 3, 96 of 128 threads arrived",
		"threads 0 to 63: in wgmma_wait for its warpgroup",
		"for barrier 1 (shared+0x8) of cta 0, parity 0",
		"a bulk store reads shared+0x400 of cta 0, written without fence_async",
	}
	for i, want := range wants {
		p.which = int32(i)
		require.Error(t, launch(v, "mistakes", 1, 128, 1024+2*8192, &p), "mistake %d: want %s", i, want)
		require.Contains(t, v.failure(), want, "mistake %d", i)
		require.NoError(t, v.control.ClearError())
	}
	// A map that reaches beyond what is allocated.
	p.which = 1
	p.m = v.tensorMap(p.out, 64, 65, 64, 65, 3)
	require.Error(t, launch(v, "mistakes", 1, 128, 1024+2*8192, &p))
	require.Contains(t, v.failure(), "a tensor map reaches 16 bytes")
	require.NoError(t, v.control.ClearError())
}
