//go:build cgo

package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

// TestCapture replays a recording on new inputs, among other operations, and compares
// with running the operations.
func TestCapture(t *testing.T) {
	dev, err := Open(Options{Threads: 2})
	require.NoError(t, err)
	defer dev.Close()
	b := dev.(*backend)
	const n = 1 << 12
	x, sum, out := alloc(t, dev, n), alloc(t, dev, n), alloc(t, dev, n)
	run := func() {
		require.NoError(t, b.Add(kernels.AddArgs{Out: sum, A: x, B: x}))
		require.NoError(t, b.Activation(kernels.ActivationArgs{Out: out, X: sum, Act: kernels.ActSiLU}))
	}
	upload := func(v byte) {
		raw := ones(n)
		for i := 2; i < len(raw); i += 4 {
			raw[i] = v
		}
		require.NoError(t, b.Upload(kernels.Tensor{Buf: x.Buf, DType: kernels.U8, Shape: []int{4 * n}}, raw))
	}
	result := func() []byte {
		raw := make([]byte, 4*n)
		require.NoError(t, b.Download(raw, out))
		return raw
	}

	upload(0x80)
	require.NoError(t, b.BeginCapture())
	require.ErrorContains(t, b.BeginCapture(), "being recorded")
	run()
	_, err = b.Alloc(16)
	require.ErrorContains(t, err, "being recorded")
	require.ErrorContains(t, b.Upload(x, ones(n)), "being recorded")
	require.ErrorContains(t, b.Sync(), "being recorded")
	spare := &memory{owner: b}
	b.live[spare] = true
	spare.Free()
	require.Len(t, b.garbage, 1, "memory that is freed meanwhile waits")
	g, err := b.EndCapture()
	require.NoError(t, err)
	require.Empty(t, b.garbage)
	_, err = b.EndCapture()
	require.ErrorContains(t, err, "not capturing")
	require.Equal(t, make([]byte, 4*n), result(), "recording runs nothing")

	for _, v := range []byte{0x80, 0x90, 0xa0} {
		upload(v)
		require.NoError(t, g.Launch())
		replayed := result()
		run()
		require.Equal(t, result(), replayed)
		require.NotZero(t, replayed[4*n-1])
	}

	// More launches than a list holds, each on what the one before left.
	again := kernels.AddArgs{Out: sum, A: sum, B: x}
	require.NoError(t, b.BeginCapture())
	for range 1000 {
		require.NoError(t, b.Add(again))
	}
	many, err := b.EndCapture()
	require.NoError(t, err)
	upload(0x80)
	require.NoError(t, b.Cast(kernels.CastArgs{Out: sum, X: x}))
	for range 20 {
		require.NoError(t, many.Launch())
	}
	require.NoError(t, b.Cast(kernels.CastArgs{Out: out, X: sum}))
	got := result()
	require.Equal(t, []byte{0x00, 0x42, 0x9c, 0x46}, got[:4], "1 + 20,000 in float32")

	g.Free()
	g.Free()
	require.ErrorContains(t, g.Launch(), "freed")
	require.NoError(t, b.BeginCapture())
	run() // Close drops a recording that nobody ended
}
