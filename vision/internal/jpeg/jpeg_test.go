package jpeg

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReference decodes files of many kinds and compares with what libjpeg-turbo gave.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("testdata/jpeg.json")
	require.NoError(t, err)
	var rows []struct {
		File string
		Size [2]int
		RGB  string `json:"rgb_sha256"`
	}
	require.NoError(t, json.Unmarshal(data, &rows))
	require.Greater(t, len(rows), 70)
	for _, plain := range []bool{false, true} {
		d := &Decoder{plain: plain}
		for _, r := range rows {
			data, err := os.ReadFile(filepath.Join("testdata", r.File))
			require.NoError(t, err)
			pix, err := d.Decode(data, nil)
			if r.RGB == "" {
				require.Error(t, err, r.File)
				continue
			}
			require.NoError(t, err, r.File)
			h, err := ReadHeader(data)
			require.NoError(t, err)
			require.Equal(t, r.Size, [2]int{h.Width, h.Height})
			sum := sha256.Sum256(pix)
			if got := hex.EncodeToString(sum[:]); got != r.RGB {
				t.Errorf("%s (%s, plain %v): got %s, want %s", r.File, h.Mode, plain, got, r.RGB)
			}
		}
	}
}

// TestCutAnywhere: a file cut at any place is an error, never a panic or a picture.
func TestCutAnywhere(t *testing.T) {
	for _, name := range []string{"420_17x16.jpg", "420_17x16_progressive.jpg", "restart.jpg", "ycck.jpg"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		var d Decoder
		for n := range len(data) - 1 {
			if _, err := d.Decode(data[:n], nil); err == nil {
				t.Errorf("%s cut to %d of %d bytes decodes", name, n, len(data))
			}
		}
	}
}

func TestErrors(t *testing.T) {
	base, err := os.ReadFile("testdata/444_17x16.jpg")
	require.NoError(t, err)
	sof := bytes.Index(base, []byte{0xff, 0xc0})
	require.Positive(t, sof)
	change := func(at int, v byte) []byte {
		out := bytes.Clone(base)
		out[at] = v
		return out
	}
	fractional := change(sof+11, 0x31)
	fractional[sof+14] = 0x21
	for _, c := range []struct {
		name, text  string
		data        []byte
		unsupported bool
	}{
		{"arithmetic", "0xc9", change(sof+1, 0xc9), true},
		{"lossless", "0xc3", change(sof+1, 0xc3), true},
		{"12 bit", "12-bit", change(sof+4, 12), true},
		{"two components", "2 components", change(sof+9, 2), true},
		{"fractional sampling", "sampling", fractional, true},
		{"sampling 0", "sampling", change(sof+11, 0x01), false},
		{"height 0", "height", append(append(bytes.Clone(base[:sof+5]), 0, 0), base[sof+7:]...), true},
		{"width 0", "width 0", append(append(bytes.Clone(base[:sof+7]), 0, 0), base[sof+9:]...), false},
		{"duplicate component", "twice", change(sof+13, base[sof+10]), false},
		{"too large for its bytes", "cannot hold", append(append(bytes.Clone(base[:sof+5]), 0xff, 0xff, 0xff, 0xff), base[sof+9:]...), false},
	} {
		_, err := new(Decoder).Decode(c.data, nil)
		require.ErrorContains(t, err, c.text, c.name)
		require.Equal(t, c.unsupported, bytes.Contains([]byte(err.Error()), []byte("unsupported")), c.name)
	}
}

// TestTransform compares the integer transform with the definition in float64: for
// coefficients of real pictures it is within half a level and the rounding of pass 1.
func TestTransform(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var table [64]uint16
	for i := range table {
		table[i] = 1
	}
	worst := 0.0
	for range 300 {
		var samples, coeffs [64]float64
		for i := range samples {
			samples[i] = float64(rng.IntN(256)) - 128
		}
		basis := func(u, x int) float64 {
			c := 0.5
			if u == 0 {
				c = math.Sqrt(0.125)
			}
			return c * math.Cos(float64((2*x+1)*u)*math.Pi/16)
		}
		var block [64]int16
		for v := range 8 {
			for u := range 8 {
				for i, s := range samples {
					coeffs[8*v+u] += s * basis(u, i%8) * basis(v, i/8)
				}
				block[8*v+u] = int16(math.Round(coeffs[8*v+u]))
			}
		}
		got := make([]uint8, 64)
		idct(got, 8, &block, &table)
		for i := range samples {
			want := 128.0
			for k, c := range block {
				want += float64(c) * basis(k%8, i%8) * basis(k/8, i/8)
			}
			want = min(max(want, 0), 255)
			worst = max(worst, math.Abs(float64(got[i])-want))
		}
	}
	t.Logf("largest difference %.4f levels", worst)
	// 0.5 for the last rounding; pass 1 rounds 8 values to 1/4 level, each of which enters
	// with a factor of at most 1/2·cos: 8·(1/8)·(1/2)/√2 is a generous bound for the rest.
	if !(worst <= 0.5+0.36) {
		t.Errorf("got a difference of %v levels", worst)
	}
}

func TestUnstuff(t *testing.T) {
	for _, c := range []struct {
		in, out string
		at      int
	}{
		{"abc\xff\xd9", "abc", 3},
		{"a\xff\x00b\xff\x00\xff\xd0", "a\xffb\xff", 6},
		{"a\xff\xff\xd9", "a", 2},
		{"abc", "abc", 3},
		{"ab\xff", "ab", 3},
		{"", "", 0},
	} {
		out, at := unstuff(nil, []byte(c.in))
		require.Equal(t, c.out, string(out), "%q", c.in)
		require.Equal(t, c.at, at, "%q", c.in)
	}
}
