package ref_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/ref"
)

// device is a backend with short forms for the tests.
type device struct {
	kernels.Backend
	t *testing.T
}

func open(t *testing.T) device {
	b, err := ref.Open(ref.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return device{b, t}
}

func (d device) floats(v []float32, shape ...int) kernels.Tensor {
	x := d.empty(kernels.F32, shape...)
	raw := make([]byte, 4*len(v))
	for i, f := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(f))
	}
	require.NoError(d.t, d.Upload(x, raw))
	return x
}

func (d device) ints(v []int32, shape ...int) kernels.Tensor {
	x := d.empty(kernels.I32, shape...)
	raw := make([]byte, 4*len(v))
	for i, n := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], uint32(n))
	}
	require.NoError(d.t, d.Upload(x, raw))
	return x
}

func (d device) empty(dt kernels.DType, shape ...int) kernels.Tensor {
	x := kernels.Tensor{DType: dt, Shape: shape}
	buf, err := d.Alloc(x.Elements() * int64(dt.Size()))
	require.NoError(d.t, err)
	x.Buf = buf
	return x
}

func (d device) read(x kernels.Tensor) []float32 {
	raw := make([]byte, 4*x.Elements())
	require.NoError(d.t, d.Download(raw, x))
	out := make([]float32, x.Elements())
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

func le(v ...float32) []byte {
	raw := make([]byte, 4*len(v))
	for i, f := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(f))
	}
	return raw
}

// TestLinear checks values worked out by hand: parts, bias, activation, residual, scale.
func TestLinear(t *testing.T) {
	d := open(t)
	w, err := d.PackLinear(kernels.LinearSource{Name: "w", K: 2, Parts: []kernels.MatrixPart{
		{N: 1, DType: kernels.F32, Data: le(1, 2)},
		{N: 1, DType: kernels.BF16, Data: []byte{0x00, 0x40, 0x80, 0xbf}}, // 2, -1
	}})
	require.NoError(t, err)
	x, out := d.floats([]float32{1, 1, 3, -2}, 2, 2), d.empty(kernels.F32, 2, 2)
	require.NoError(t, d.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
	require.Equal(t, []float32{3, 1, -1, 8}, d.read(out))

	residual := d.floats([]float32{100, 200, 300, 400}, 2, 2)
	require.NoError(t, d.Linear(kernels.LinearArgs{
		Out: residual, X: x, W: w, Residual: residual,
		Bias: d.floats([]float32{1, -1}, 2), Scale: d.floats([]float32{10, 0.5}, 2),
	}))
	require.Equal(t, []float32{140, 200, 300, 403.5}, d.read(residual))
}

// TestQuantised checks the exact dequantisation of both widths.
func TestQuantised(t *testing.T) {
	d := open(t)
	w, err := d.PackLinear(kernels.LinearSource{Name: "w", K: 4, Parts: []kernels.MatrixPart{
		{N: 1, Data: []byte{1, 0xff, 0x80, 127}, Quant: &kernels.QuantPart{Bits: 8, Group: 2, Scales: le(0.5, 2)}},
		{N: 1, Data: []byte{0xf0, 0x78}, Quant: &kernels.QuantPart{Bits: 4, Group: 4, Scales: le(1)}},
		{N: 1, Data: []byte{0xf0, 0x78}, Quant: &kernels.QuantPart{Bits: 4, Group: 2, Scales: le(1, 1), Zeros: []uint8{3, 7}}},
	}})
	require.NoError(t, err)
	x, out := d.floats([]float32{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, 4, 4), d.empty(kernels.F32, 4, 3)
	require.NoError(t, d.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
	require.Equal(t, []float32{0.5, -8, -3, -0.5, 7, 12, -256, 0, 1, 254, -1, 0}, d.read(out))
}

// TestPagedAttention checks causality and block tables on values whose softmax is known.
func TestPagedAttention(t *testing.T) {
	d := open(t)
	kv, err := d.NewKV(kernels.KVShape{Layers: 2, Blocks: 3, Heads: 1, HeadDim: 2, DType: kernels.F32})
	require.NoError(t, err)
	n := 33 // the last token lies in the second block
	k, v, slots := make([]float32, 2*n), make([]float32, 2*n), make([]int32, n)
	for i := range slots {
		v[2*i] = float32(i)
		slots[i] = int32(2*kernels.BlockSize + i)
		if i >= kernels.BlockSize {
			slots[i] = int32(i - kernels.BlockSize)
		}
	}
	require.NoError(t, d.KVStore(kernels.KVStoreArgs{KV: kv, Layer: 1, K: d.floats(k, n, 1, 2), V: d.floats(v, n, 1, 2), Slots: d.ints(slots, n)}))
	out := d.floats([]float32{9, 9, 9, 9, 9, 9}, 3, 1, 2)
	require.NoError(t, d.PagedAttention(kernels.PagedAttentionArgs{
		Out: out, Q: d.floats(make([]float32, 6), 3, 1, 2), KV: kv, Layer: 1,
		Starts: d.ints([]int32{0, 2, 3}, 3), Lens: d.ints([]int32{33, 0}, 2), Tables: d.ints([]int32{2, 0, -1, -1}, 2, 2),
		Scale: 1, MaxRows: 2, MaxLen: 33,
	}))
	require.Equal(t, []float32{15.5, 0, 16, 0, 0, 0}, d.read(out)) // means of 0..31 and 0..32; padding is zero
}

// TestPixelShuffle checks both versions on a 4×4 grid of scalars.
func TestPixelShuffle(t *testing.T) {
	d := open(t)
	x := make([]float32, 17)
	for i := range x {
		x[i] = float32(i - 1)
	}
	for version, want := range map[int][]float32{
		2: {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15},
		1: {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15},
	} {
		out := d.empty(kernels.F32, 1, 4, 4)
		require.NoError(t, d.PixelShuffle(kernels.PixelShuffleArgs{Out: out, X: d.floats(x, 1, 17, 1), Factor: 2, Version: version}))
		require.Equal(t, want, d.read(out), "version %d", version)
	}
}

// TestSmallOps checks the remaining operations on one hand-made value each.
func TestSmallOps(t *testing.T) {
	d := open(t)
	x := d.floats([]float32{3, 4}, 1, 2)
	out := d.empty(kernels.F32, 1, 2)
	require.NoError(t, d.RMSNorm(kernels.RMSNormArgs{Out: out, X: x, Weight: d.floats([]float32{5, 10}, 2), Eps: 0}))
	require.InDeltaSlice(t, []float32{4.2426405, 11.313708}, d.read(out), 1e-6)
	require.NoError(t, d.LayerNorm(kernels.LayerNormArgs{Out: out, X: x, Weight: d.floats([]float32{1, 2}, 2), Bias: d.floats([]float32{1, 1}, 2)}))
	require.InDeltaSlice(t, []float32{0, 3}, d.read(out), 1e-6)
	require.NoError(t, d.Activation(kernels.ActivationArgs{Out: out, X: d.floats([]float32{1, -1}, 1, 2), Act: kernels.ActGELU}))
	require.InDeltaSlice(t, []float32{0.8413447, -0.1586553}, d.read(out), 1e-6)

	r := d.floats([]float32{1, 0, 0, 1}, 1, 1, 4) // pairs (1,0) and (0,1), a quarter turn and none
	require.NoError(t, d.Rope(kernels.RopeArgs{X: r, Positions: d.ints([]int32{1}, 1), InvFreq: d.floats([]float32{math.Pi / 2, 0}, 2)}))
	require.InDeltaSlice(t, []float32{0, 0, 1, 1}, d.read(r), 1e-6)

	ids, logp := d.empty(kernels.I32, 1), d.empty(kernels.F32, 1)
	require.NoError(t, d.ArgMax(kernels.ArgMaxArgs{IDs: ids, LogProbs: logp, Logits: d.floats([]float32{0, 1, 1}, 1, 3)}))
	require.InDelta(t, -math.Log(2+math.Exp(-1)), d.read(logp)[0], 1e-6)
	ids.DType = kernels.F32
	require.Equal(t, uint32(1), math.Float32bits(d.read(ids)[0]), "lowest index of equal logits")
}

// TestErrors checks argument errors, foreign memory and device errors.
func TestErrors(t *testing.T) {
	d, other := open(t), open(t)
	x := d.floats([]float32{1, 2}, 1, 2)
	var arg *kernels.ArgError
	require.ErrorAs(t, d.Add(kernels.AddArgs{Out: x, A: x, B: d.floats([]float32{1}, 1, 1)}), &arg)
	require.Equal(t, "kernels: Add: B: want [1 2] f32 or bf16, got f32[1 1]", arg.Error())
	require.ErrorAs(t, d.Add(kernels.AddArgs{Out: x, A: x, B: other.floats([]float32{1, 2}, 1, 2)}), &arg)

	table := d.floats([]float32{1, 2, 3, 4}, 2, 2)
	require.NoError(t, d.Embed(kernels.EmbedArgs{Out: x, Table: table, IDs: d.ints([]int32{2}, 1)}))
	var dev *kernels.DeviceError
	require.ErrorAs(t, d.Sync(), &dev)
	require.Contains(t, dev.Error(), "id 2 of row 0 is outside [0,2)")
	require.NoError(t, d.Sync(), "an error is reported once")
}
