package dtype_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
)

// nearest finds the code of a format with the smallest distance to f among all
// finite codes (ties: even code), by brute force over the values of widen.
func nearest(f float32, codes int, widen func(uint16) float32) uint16 {
	best, bestDist := uint16(0), math.Inf(1)
	for c := range codes {
		v := float64(widen(uint16(c)))
		if math.IsNaN(v) || math.IsInf(v, 0) || math.Signbit(v) != math.Signbit(float64(f)) {
			continue
		}
		d := math.Abs(v - float64(f))
		if d < bestDist || d == bestDist && c&1 == 0 {
			best, bestDist = uint16(c), d
		}
	}
	return best
}

func TestRoundTrip(t *testing.T) {
	for i := range 1 << 16 {
		u := uint16(i)
		if f := dtype.FromBF16(u); f == f {
			require.Equal(t, u, dtype.ToBF16(f), "bf16 %#04x = %g", u, f)
		} else {
			require.True(t, math.IsNaN(float64(dtype.RoundBF16(f))), "bf16 %#04x", u)
		}
		if f := dtype.FromF16(u); f == f {
			require.Equal(t, u, dtype.ToF16(f), "f16 %#04x = %g", u, f)
		} else {
			require.True(t, math.IsNaN(float64(dtype.FromF16(dtype.ToF16(f)))), "f16 %#04x", u)
		}
	}
	for i := range 256 {
		b := uint8(i)
		if f := dtype.FromF8E4M3(b); f == f {
			require.Equal(t, b, dtype.ToF8E4M3(f), "e4m3 %#02x = %g", b, f)
		} else {
			require.Equal(t, uint8(0x7f), b&0x7f)
			require.Equal(t, b, dtype.ToF8E4M3(math.Float32frombits(0x7fc00000|uint32(b&0x80)<<24)))
		}
		if f := dtype.FromF8E5M2(b); f == f {
			require.Equal(t, b, dtype.ToF8E5M2(f), "e5m2 %#02x = %g", b, f)
		}
	}
}

func TestKnownValues(t *testing.T) {
	require.Equal(t, float32(448), dtype.FromF8E4M3(0x7e))
	require.Equal(t, float32(1), dtype.FromF8E4M3(0x38))
	require.Equal(t, float32(math.Ldexp(1, -9)), dtype.FromF8E4M3(1))
	require.Equal(t, float32(-0.015625), dtype.FromF8E4M3(0x88))
	require.Equal(t, float32(57344), dtype.FromF8E5M2(0x7b))
	require.Equal(t, float32(math.Ldexp(1, -16)), dtype.FromF8E5M2(1))
	require.Equal(t, float32(65504), dtype.FromF16(0x7bff))
	require.Equal(t, uint16(0x3f80), dtype.ToBF16(1))

	inf := float32(math.Inf(1))
	require.Equal(t, uint8(0x7e), dtype.ToF8E4M3(1e6), "saturates")
	require.Equal(t, uint8(0xfe), dtype.ToF8E4M3(-inf), "saturates")
	require.Equal(t, uint8(0x7e), dtype.ToF8E4M3(465), "saturates")
	require.Equal(t, uint8(0x7b), dtype.ToF8E5M2(61439), "below the midpoint")
	require.Equal(t, uint8(0x7c), dtype.ToF8E5M2(61440), "midpoint to even, infinity")
	require.Equal(t, uint16(0x7f80), dtype.ToBF16(math.MaxFloat32), "rounds to infinity")
	require.Equal(t, uint16(0x7c00), dtype.ToF16(65520), "rounds to infinity")
	require.Equal(t, uint16(0x8000), dtype.ToBF16(float32(math.Copysign(0, -1))))
}

// TestNearest compares rounding with a search over all codes, on values beside
// every midpoint of the small formats and on random values of the large ones.
func TestNearest(t *testing.T) {
	eight := map[string]struct {
		round func(float32) uint8
		widen func(uint8) float32
		max   float32
	}{
		"e4m3": {dtype.ToF8E4M3, dtype.FromF8E4M3, 448},
		"e5m2": {dtype.ToF8E5M2, dtype.FromF8E5M2, 57344},
	}
	for name, c := range eight {
		widen := func(u uint16) float32 { return c.widen(uint8(u)) }
		for i := range 128 {
			a, b := c.widen(uint8(i)), c.widen(uint8(i+1))
			if i == 127 || !(b <= c.max) {
				continue
			}
			mid := (a + b) / 2
			for _, f := range []float32{mid, math.Nextafter32(mid, 0), math.Nextafter32(mid, 1e9), -mid} {
				require.Equal(t, uint8(nearest(f, 256, widen)), c.round(f), "%s %g", name, f)
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		f := math.Float32frombits(r.Uint32())
		if f != f || math.Abs(float64(f)) > 3e38 {
			continue
		}
		require.Equal(t, nearest(f, 1<<16, dtype.FromBF16), dtype.ToBF16(f), "bf16 %g", f)
		f = float32(r.NormFloat64()) * float32(math.Ldexp(1, r.IntN(30)-24))
		require.Equal(t, nearest(f, 1<<16, dtype.FromF16), dtype.ToF16(f), "f16 %g", f)
	}
	// Ties of bf16 go to even.
	require.Equal(t, uint16(0x3f80), dtype.ToBF16(math.Float32frombits(0x3f808000)))
	require.Equal(t, uint16(0x3f82), dtype.ToBF16(math.Float32frombits(0x3f818000)))
}

// TestSlices checks that slice conversions equal the scalar ones on every code,
// for lengths that are not a multiple of the unrolling.
func TestSlices(t *testing.T) {
	raw := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[2*i:], uint16(i))
	}
	for _, n := range []int{0, 1, 3, 5, 1<<16 - 1, 1 << 16} {
		dst := make([]float32, n)
		for typ, widen := range map[dtype.Type]func(uint16) float32{dtype.BF16: dtype.FromBF16, dtype.F16: dtype.FromF16} {
			require.NoError(t, dtype.Decode(dst, raw[:2*n], typ))
			for i, f := range dst {
				if math.Float32bits(f) != math.Float32bits(widen(uint16(i))) {
					t.Fatalf("%v %#04x: got %#08x, want %#08x", typ, i, math.Float32bits(f), math.Float32bits(widen(uint16(i))))
				}
			}
		}
	}
	f := []float32{0, 1, -2.5, 300, 1e-3, -7}
	for _, typ := range []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E5M2} {
		b := make([]byte, len(f)*typ.Size())
		require.NoError(t, dtype.Encode(b, f, typ))
		got := make([]float32, len(f))
		require.NoError(t, dtype.Decode(got, b, typ))
		for i := range f {
			rel := map[dtype.Type]float64{dtype.F32: 0, dtype.F16: 1. / 2048, dtype.BF16: 1. / 256, dtype.F8E4M3: 1. / 16, dtype.F8E5M2: 1. / 8}[typ]
			abs := 0.0
			if typ == dtype.F8E4M3 {
				abs = math.Ldexp(1, -10) // half the smallest subnormal
			}
			if diff := math.Abs(float64(got[i] - f[i])); !(diff <= rel*math.Abs(float64(f[i]))+abs) {
				t.Errorf("%v: got %g, want %g", typ, got[i], f[i])
			}
		}
	}
	require.Panics(t, func() { dtype.DecodeBF16(make([]float32, 2), make([]byte, 3)) })
}

func TestIntegersAndTypes(t *testing.T) {
	got := make([]float32, 2)
	require.NoError(t, dtype.Decode(got, []byte{0xff, 0x7f}, dtype.I8))
	require.Equal(t, []float32{-1, 127}, got)
	require.NoError(t, dtype.Decode(got, []byte{0xff, 0x7f}, dtype.U8))
	require.Equal(t, []float32{255, 127}, got)
	require.NoError(t, dtype.Decode(got, []byte{0xfe, 0xff, 0xff, 0xff, 5, 0, 0, 0}, dtype.I32))
	require.Equal(t, []float32{-2, 5}, got)
	require.NoError(t, dtype.Decode(got[:1], []byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, dtype.I64))
	require.Equal(t, float32(-3), got[0])
	require.ErrorIs(t, dtype.Decode(got, make([]byte, 8), dtype.Bool), dtype.ErrNotNumeric)
	require.ErrorIs(t, dtype.Encode(make([]byte, 8), got, dtype.I8), dtype.ErrNotNumeric)

	for _, name := range []string{"F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8", "U8", "I32", "I64", "BOOL"} {
		typ, ok := dtype.Parse(name)
		require.True(t, ok, name)
		require.Equal(t, name, typ.String())
		require.Positive(t, typ.Size())
	}
	_, ok := dtype.Parse("F64")
	require.False(t, ok)
	_, ok = dtype.Parse("invalid")
	require.False(t, ok)
}

func BenchmarkDecode(b *testing.B) {
	const n = 1 << 16
	src, dst := make([]byte, 2*n), make([]float32, n)
	for _, typ := range []dtype.Type{dtype.BF16, dtype.F16, dtype.F8E4M3} {
		b.Run("type="+typ.String(), func(b *testing.B) {
			b.SetBytes(int64(n * typ.Size()))
			for b.Loop() {
				if err := dtype.Decode(dst, src, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
