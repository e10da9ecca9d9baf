package cuda

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/kernels"
	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/sim"
	"metacap/kernels/cuda/src"
)

// TestSources fails when a kernel source changed after the binaries were made.
func TestSources(t *testing.T) {
	data, err := os.ReadFile("bin/MANIFEST.json")
	require.NoError(t, err)
	var m struct {
		Sources string
		Files   []struct {
			File    string
			Kernels []struct {
				Name                   string
				Spills                 int `json:"spill_bytes"`
				ParamBytes             int `json:"param_bytes"`
				Registers, SharedBytes int
			}
		}
	}
	require.NoError(t, json.Unmarshal(data, &m))
	texts, err := src.Texts(src.Files)
	require.NoError(t, err)
	require.Equal(t, src.Hash(texts), m.Sources, "run `make generate`")
	for _, f := range m.Files {
		_, err := readImage("bin/" + f.File)
		require.NoError(t, err, f.File)
		for _, k := range f.Kernels {
			require.Zero(t, k.Spills, "%s: %s spills registers", f.File, k.Name)
		}
	}
}

// TestLayout compares the Go mirrors with the layout that C++ gives the blocks.
func TestLayout(t *testing.T) {
	blocks := []any{
		rowsParams{},
		normParams{},
		patchifyParams{},
		visionEmbedParams{},
		pixelShuffleParams{},
		ropeParams{},
		kvStoreParams{},
		qkRopeStoreParams{},
		kvCopyParams{},
		packParams{},
		convertParams{},
		linearParams{},
		linearTileParams{},
		linearStreamParams{},
		attentionParams{},
		attentionMapParams{},
		argMaxParams{},
	}
	require.Len(t, blocks, len(layout))
	for _, b := range blocks {
		typ := reflect.TypeOf(b)
		got := []int{int(typ.Size())}
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Name != "_" {
				got = append(got, int(f.Offset))
			}
		}
		require.Equal(t, layout[typ.Name()], got, typ.Name())
		require.LessOrEqual(t, got[0], driver.MaxParamBytes, typ.Name())
	}
}

func TestImageNames(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		want         []string
	}{
		{8, 0, []string{"bin/x.sm_80.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{8, 7, []string{"bin/x.sm_86.cubin.gz", "bin/x.sm_80.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{8, 9, []string{"bin/x.sm_89.cubin.gz", "bin/x.sm_86.cubin.gz", "bin/x.sm_80.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{9, 0, []string{"bin/x.sm_90a.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{10, 0, []string{"bin/x.sm_100a.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{10, 3, []string{"bin/x.compute_80.ptx.gz"}},
		{12, 1, []string{"bin/x.sm_120.cubin.gz", "bin/x.compute_80.ptx.gz"}},
		{13, 0, []string{"bin/x.compute_80.ptx.gz"}},
	} {
		require.Equal(t, c.want, imageNames("x", c.major, c.minor), "%d.%d", c.major, c.minor)
	}
}

func TestOpenWithoutDriver(t *testing.T) {
	_, err := Open(Options{Library: "/nonexistent/libcuda.so.1"})
	require.ErrorIs(t, err, kernels.ErrUnavailable)
}

// tensor makes a tensor of the given values.
func tensor(b *Backend, d kernels.DType, v []float32, shape ...int) (kernels.Tensor, error) {
	var raw []byte
	for _, x := range v {
		switch d {
		case kernels.F32:
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		case kernels.BF16:
			raw = binary.LittleEndian.AppendUint16(raw, dtype.ToBF16(x))
		case kernels.I32:
			raw = binary.LittleEndian.AppendUint32(raw, uint32(int32(x)))
		}
	}
	buf, err := b.Alloc(int64(len(raw)))
	if err != nil {
		return kernels.Tensor{}, err
	}
	t := kernels.Tensor{Buf: buf, DType: d, Shape: shape}
	return t, b.Upload(t, raw)
}

func normal(n int) []float32 {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// step is a small piece of a model: linear, norm, store and attend.
type step struct {
	b            *Backend
	x, y, out    kernels.Tensor
	norm         kernels.Tensor
	starts, lens kernels.Tensor
	table, slots kernels.Tensor
	w            kernels.Weight
	kv           kernels.KV
	rows, maxLen int
}

func newStep(b *Backend) (*step, error) {
	s := &step{b: b, rows: 3, maxLen: 200}
	var err error
	make := func(d kernels.DType, v []float32, shape ...int) kernels.Tensor {
		if err != nil {
			return kernels.Tensor{}
		}
		var t kernels.Tensor
		t, err = tensor(b, d, v, shape...)
		return t
	}
	s.x = make(kernels.BF16, normal(3*128), 3, 128)
	s.y = make(kernels.BF16, normal(3*256), 3, 256)
	s.out = make(kernels.BF16, normal(3*128), 3, 128)
	s.norm = make(kernels.F32, normal(128), 128)
	s.starts = make(kernels.I32, []float32{0, 1, 2, 3}, 4)
	s.lens = make(kernels.I32, []float32{1, 5, 33}, 3)
	s.table = make(kernels.I32, []float32{0, 0, 1, 0, 2, 3}, 3, 2)
	s.slots = make(kernels.I32, []float32{0, 32 + 4, 3*32 + 0}, 3)
	if err != nil {
		return nil, err
	}
	w := make3(normal(256 * 128))
	if s.w, err = b.PackLinear(kernels.LinearSource{Name: "w", K: 128, Parts: []kernels.MatrixPart{{N: 256, DType: kernels.BF16, Data: w}}}); err != nil {
		return nil, err
	}
	if s.kv, err = b.NewKV(kernels.KVShape{Layers: 1, Blocks: 4, Heads: 1, HeadDim: 64, DType: kernels.BF16}); err != nil {
		return nil, err
	}
	// Every slot of the cache holds something.
	all := normal(128 * 64)
	k, err := tensor(b, kernels.BF16, all, 128, 1, 64)
	if err != nil {
		return nil, err
	}
	order := append([]float32{}, all[:128]...)
	for i := range order {
		order[i] = float32(i)
	}
	slots, err := tensor(b, kernels.I32, order, 128)
	if err != nil {
		return nil, err
	}
	return s, b.KVStore(kernels.KVStoreArgs{KV: s.kv, K: k, V: k, Slots: slots})
}

func make3(v []float32) []byte {
	var raw []byte
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint16(raw, dtype.ToBF16(x))
	}
	return raw
}

func (s *step) run() error {
	if err := s.b.RMSNorm(kernels.RMSNormArgs{Out: s.out, X: s.x, Weight: s.norm, Eps: 1e-6}); err != nil {
		return err
	}
	if err := s.b.Linear(kernels.LinearArgs{Out: s.y, X: s.out, W: s.w}); err != nil {
		return err
	}
	k, v := s.y.Cols(128, 192).Reshape(3, 1, 64), s.y.Cols(192, 256).Reshape(3, 1, 64)
	if err := s.b.KVStore(kernels.KVStoreArgs{KV: s.kv, K: k, V: v, Slots: s.slots}); err != nil {
		return err
	}
	return s.b.PagedAttention(kernels.PagedAttentionArgs{
		Out: s.out.Reshape(3, 2, 64), Q: s.y.Cols(0, 128).Reshape(3, 2, 64), KV: s.kv,
		Starts: s.starts, Lens: s.lens, Tables: s.table, Scale: 0.125, MaxRows: 1, MaxLen: 64,
	})
}

func (s *step) result() ([]byte, error) {
	raw := make([]byte, 3*128*2)
	return raw, s.b.Download(raw, s.out)
}

// TestGraph replays a recorded step on new inputs and compares with running it.
func TestGraph(t *testing.T) {
	b, c := simulated(t)
	s, err := newStep(b)
	require.NoError(t, err)
	require.NoError(t, s.run())
	first, err := s.result()
	require.NoError(t, err)
	require.NoError(t, b.BeginCapture())
	require.ErrorContains(t, b.BeginCapture(), "already capturing")
	require.NoError(t, s.run())
	g, err := b.EndCapture()
	require.NoError(t, err)
	require.NoError(t, g.Launch())
	again, err := s.result()
	require.NoError(t, err)
	require.Equal(t, first, again)

	// Other inputs at the same addresses.
	require.NoError(t, b.Upload(s.x, make3(normal(3*128 + 1)[1:])))
	require.NoError(t, g.Launch())
	replayed, err := s.result()
	require.NoError(t, err)
	require.NotEqual(t, first, replayed)
	require.NoError(t, s.run())
	direct, err := s.result()
	require.NoError(t, err)
	require.Equal(t, direct, replayed)

	// A longer context needs workspace that a capture may not allocate.
	tables, err := tensor(b, kernels.I32, make([]float32, 3*2000), 3, 2000)
	require.NoError(t, err)
	require.NoError(t, b.BeginCapture())
	err = b.PagedAttention(kernels.PagedAttentionArgs{
		Out: s.out.Reshape(3, 2, 64), Q: s.y.Cols(0, 128).Reshape(3, 2, 64), KV: s.kv,
		Starts: s.starts, Lens: s.lens, Tables: tables, Scale: 0.125, MaxRows: 1, MaxLen: 64000,
	})
	require.ErrorContains(t, err, "run the step once")
	_, err = b.Alloc(16)
	require.ErrorContains(t, err, "being recorded")
	require.ErrorContains(t, b.Upload(s.x, make([]byte, 3*128*2)), "being recorded")
	require.ErrorContains(t, b.Sync(), "being recorded")
	_, err = b.EndCapture()
	require.NoError(t, err)
	_, err = b.EndCapture()
	require.ErrorContains(t, err, "not capturing")
	g.Free()
	g.Free()
	n, err := c.Count(sim.Graphs)
	require.NoError(t, err)
	require.Equal(t, uint64(1), n, "the capture without operations is left for Close")
}

func TestOutOfMemory(t *testing.T) {
	b, c := simulated(t)
	free := b.Info().FreeBytes
	_, err := b.Alloc(free + 1)
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	_, err = b.NewKV(kernels.KVShape{Layers: 100, Blocks: 10000, Heads: 8, HeadDim: 128, DType: kernels.BF16})
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	require.ErrorContains(t, err, "key/value cache of")
	used, err := c.Count(sim.AllocatedBytes)
	require.NoError(t, err)
	require.NoError(t, c.SetMemory(int64(used)+1000))
	defer c.SetMemory(2 << 30)
	_, err = b.PackLinear(kernels.LinearSource{Name: "big", K: 64, Parts: []kernels.MatrixPart{{N: 64, DType: kernels.BF16, Data: make([]byte, 8192)}}})
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	require.ErrorContains(t, err, "pack big")
}

// TestLargeWeights pushes more than a staging slot through the loader, from many
// goroutines, and compares a product with the same weight packed in one part.
func TestLargeWeights(t *testing.T) {
	b, _ := simulated(t)
	const k, n = 4096, 1500 // 12 MB
	data := make3(normal(k * n))
	x, err := tensor(b, kernels.BF16, normal(2*k), 2, k)
	require.NoError(t, err)
	outs := make([][]byte, 4)
	errs := make(chan error)
	weights := make([]kernels.Weight, len(outs))
	for i := range weights {
		go func() {
			var err error
			cut := i * 333
			parts := []kernels.MatrixPart{{N: n - cut, DType: kernels.BF16, Data: data[:(n-cut)*k*2]}}
			if cut > 0 {
				parts = append(parts, kernels.MatrixPart{N: cut, DType: kernels.BF16, Data: data[(n-cut)*k*2:]})
			}
			weights[i], err = b.PackLinear(kernels.LinearSource{Name: "w", K: k, Parts: parts})
			errs <- err
		}()
	}
	for range weights {
		require.NoError(t, <-errs)
	}
	out, err := tensor(b, kernels.F32, make([]float32, 2*n), 2, n)
	require.NoError(t, err)
	for i, w := range weights {
		require.NoError(t, b.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
		outs[i] = make([]byte, 2*n*4)
		require.NoError(t, b.Download(outs[i], out))
		require.Equal(t, outs[0], outs[i])
		w.Free()
		w.Free()
	}
	require.Error(t, b.Linear(kernels.LinearArgs{Out: out, X: x, W: weights[0]}))
}

func TestUseAfterClose(t *testing.T) {
	lib := library(t)
	b, err := Open(Options{Library: lib})
	require.NoError(t, err)
	x, err := tensor(b, kernels.F32, normal(64), 1, 64)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	x.Buf.Free()
	_, err = b.Alloc(16)
	require.ErrorIs(t, err, kernels.ErrUnavailable)
	require.Error(t, b.Add(kernels.AddArgs{Out: x, A: x, B: x}))
	require.Error(t, b.Sync())
}

// TestLaunchAllocates checks that an operation's launch and a graph's launch allocate nothing.
func TestLaunchAllocates(t *testing.T) {
	b, _ := simulated(t)
	s, err := newStep(b)
	require.NoError(t, err)
	require.NoError(t, s.run())
	require.NoError(t, b.BeginCapture())
	require.NoError(t, s.run())
	g, err := b.EndCapture()
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(20, func() {
		if g.(*graph).exec.Launch(b.stream) != nil {
			t.Fail()
		}
	}))
	require.NoError(t, b.Sync())
}
