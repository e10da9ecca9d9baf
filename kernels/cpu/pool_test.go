//go:build cgo

package cpu

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// osThreads is the number of threads of the process, Go's included.
func osThreads(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(list)
}

// TestCloseFreesThreadsAndMemory opens and closes backends: pool threads live from
// the first Open to the last Close, and no memory stays.
func TestCloseFreesThreadsAndMemory(t *testing.T) {
	require.Zero(t, poolThreads())
	first, err := Open(Options{Threads: 3})
	require.NoError(t, err)
	second, err := Open(Options{Threads: 5})
	require.NoError(t, err)
	require.Equal(t, 4, poolThreads(), "one pool, as large as the largest backend wants, less the caller")
	b := first.(*backend)
	for range 20 {
		_, err := b.Alloc(3 << 20)
		require.NoError(t, err)
	}
	require.Len(t, b.live, 20)
	require.NoError(t, first.Close())
	require.NoError(t, first.Close(), "Close is idempotent")
	require.Empty(t, b.live)
	require.Equal(t, 4, poolThreads())
	require.NoError(t, second.Close())
	require.Zero(t, poolThreads())

	before := osThreads(t)
	for range 50 {
		dev, err := Open(Options{Threads: 4})
		require.NoError(t, err)
		require.NoError(t, dev.Close())
	}
	require.Less(t, osThreads(t), before+20, "threads of closed backends are gone")
}

// resident is the resident memory of the process in bytes.
func resident(t *testing.T) int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	fields := strings.Fields(string(raw))
	var pages int64
	for _, c := range fields[1] {
		pages = pages*10 + int64(c-'0')
	}
	return pages * int64(os.Getpagesize())
}

// TestFreeReturnsMemory allocates and frees more than would fit in a leak's allowance.
func TestFreeReturnsMemory(t *testing.T) {
	dev, err := Open(Options{Threads: 2})
	require.NoError(t, err)
	defer dev.Close()
	before := resident(t)
	raw := make([]byte, 8<<20)
	for range 50 {
		buf, err := dev.Alloc(int64(len(raw)))
		require.NoError(t, err)
		require.NoError(t, dev.Upload(kernels.Tensor{Buf: buf, DType: kernels.U8, Shape: []int{len(raw)}}, raw))
		buf.Free()
		buf.Free()
	}
	require.Less(t, resident(t)-before, int64(100<<20))
}

// TestFreeWaitsForCommands frees a buffer that a waiting command reads.
func TestFreeWaitsForCommands(t *testing.T) {
	dev, err := Open(Options{Threads: 2})
	require.NoError(t, err)
	defer dev.Close()
	const n = 1 << 20
	x, out := alloc(t, dev, n), alloc(t, dev, n)
	require.NoError(t, dev.Upload(kernels.Tensor{Buf: x.Buf, DType: kernels.U8, Shape: []int{4 * n}}, ones(n)))
	require.NoError(t, dev.Add(kernels.AddArgs{Out: out, A: x, B: x}))
	x.Buf.Free()
	require.Error(t, dev.Add(kernels.AddArgs{Out: out, A: kernels.Tensor{Buf: nil}, B: out}))
	raw := make([]byte, 4*n)
	require.NoError(t, dev.Download(raw, out))
	require.Equal(t, byte(0x40), raw[4*n-1], "2.0 is 0x40000000")
}

func ones(n int) []byte {
	raw := make([]byte, 4*n)
	for i := range n {
		raw[4*i+2], raw[4*i+3] = 0x80, 0x3f
	}
	return raw
}

func alloc(t *testing.T, dev kernels.Backend, n int) kernels.Tensor {
	buf, err := dev.Alloc(int64(4 * n))
	require.NoError(t, err)
	return kernels.Tensor{Buf: buf, DType: kernels.F32, Shape: []int{n / 64, 64}}
}

// TestConcurrentBackends runs several engines' worth of backends at once: results
// are right whether or not a run had the pool, and threads do not multiply.
func TestConcurrentBackends(t *testing.T) {
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			dev, err := Open(Options{Threads: 4})
			if err != nil {
				errs <- err
				return
			}
			defer dev.Close()
			const n = 1 << 18
			x, out := alloc(t, dev, n), alloc(t, dev, n)
			if err := dev.Upload(kernels.Tensor{Buf: x.Buf, DType: kernels.U8, Shape: []int{4 * n}}, ones(n)); err != nil {
				errs <- err
			}
			raw := make([]byte, 4*n)
			for range 30 {
				if err := dev.Add(kernels.AddArgs{Out: out, A: x, B: x}); err != nil {
					errs <- err
				}
				if err := dev.Download(raw, out); err != nil {
					errs <- err
				}
				for i := 3; i < len(raw); i += 4096 {
					if raw[i] != 0x40 {
						t.Errorf("byte %d: got %#x, want 0x40", i, raw[i])
					}
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Zero(t, poolThreads())
}

// TestThreadsDoNotChangeResults multiplies with 1 to 5 threads and compares bits.
func TestThreadsDoNotChangeResults(t *testing.T) {
	var want []byte
	for threads := 1; threads <= 5; threads++ {
		dev, err := Open(Options{Threads: threads})
		require.NoError(t, err)
		const rows, k, n = 40, 512, 640
		data := make([]byte, n*k*2)
		for i := range data {
			data[i] = byte(i*i>>3) & 0xbf // below 2 in magnitude
		}
		w, err := dev.PackLinear(kernels.LinearSource{Name: "w", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: data}}})
		require.NoError(t, err)
		x := alloc(t, dev, rows*k).Reshape(rows, k)
		out := alloc(t, dev, rows*n).Reshape(rows, n)
		require.NoError(t, dev.Upload(x, ones(rows*k)))
		require.NoError(t, dev.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
		got := make([]byte, rows*n*4)
		require.NoError(t, dev.Download(got, out))
		require.NoError(t, dev.Close())
		if want == nil {
			want = got
		}
		require.Equal(t, want, got, "%d threads", threads)
	}
}

// TestDecodeStepAllocatesNothing: appending operations makes no garbage.
func TestDecodeStepAllocatesNothing(t *testing.T) {
	dev, err := Open(Options{Threads: 1})
	require.NoError(t, err)
	defer dev.Close()
	x, out := alloc(t, dev, 64*64), alloc(t, dev, 64*64)
	a := kernels.AddArgs{Out: out, A: x, B: x}
	require.NoError(t, dev.Add(a))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if dev.Add(a) != nil || dev.Activation(kernels.ActivationArgs{Out: out, X: x, Act: kernels.ActSiLU}) != nil || dev.Sync() != nil {
			t.Fatal("operation failed")
		}
	}))
}
