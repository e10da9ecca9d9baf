package kerneltest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
	"metacap/kernels/kerneltest"
	"metacap/kernels/ref"
)

// mutant is a backend with a planted defect: after every operation it spoils
// something about the operation's output or first input.
type mutant struct {
	kernels.Backend
	spoil func(b kernels.Backend, out, in kernels.Tensor)
}

func (m *mutant) after(err error, out, in kernels.Tensor) error {
	if err == nil {
		m.spoil(m.Backend, out, in)
	}
	return err
}

func (m *mutant) Linear(a kernels.LinearArgs) error { return m.after(m.Backend.Linear(a), a.Out, a.X) }

func (m *mutant) RMSNorm(a kernels.RMSNormArgs) error {
	return m.after(m.Backend.RMSNorm(a), a.Out, a.X)
}

func (m *mutant) LayerNorm(a kernels.LayerNormArgs) error {
	return m.after(m.Backend.LayerNorm(a), a.Out, a.X)
}

func (m *mutant) Activation(a kernels.ActivationArgs) error {
	return m.after(m.Backend.Activation(a), a.Out, a.X)
}

func (m *mutant) SiLUMul(a kernels.SiLUMulArgs) error {
	return m.after(m.Backend.SiLUMul(a), a.Out, a.X)
}
func (m *mutant) Add(a kernels.AddArgs) error     { return m.after(m.Backend.Add(a), a.Out, a.B) }
func (m *mutant) Cast(a kernels.CastArgs) error   { return m.after(m.Backend.Cast(a), a.Out, a.X) }
func (m *mutant) Embed(a kernels.EmbedArgs) error { return m.after(m.Backend.Embed(a), a.Out, a.IDs) }

func (m *mutant) GatherRows(a kernels.GatherRowsArgs) error {
	return m.after(m.Backend.GatherRows(a), a.Out, a.X)
}

func (m *mutant) ScatterRows(a kernels.ScatterRowsArgs) error {
	return m.after(m.Backend.ScatterRows(a), a.Out, a.X)
}

func (m *mutant) Rope(a kernels.RopeArgs) error { return m.after(m.Backend.Rope(a), a.X, a.InvFreq) }

func (m *mutant) PagedAttention(a kernels.PagedAttentionArgs) error {
	return m.after(m.Backend.PagedAttention(a), a.Out, a.Q)
}

func (m *mutant) SegmentAttention(a kernels.SegmentAttentionArgs) error {
	return m.after(m.Backend.SegmentAttention(a), a.Out, a.Q)
}

func (m *mutant) Patchify(a kernels.PatchifyArgs) error {
	return m.after(m.Backend.Patchify(a), a.Out, a.LUT)
}

func (m *mutant) VisionEmbed(a kernels.VisionEmbedArgs) error {
	return m.after(m.Backend.VisionEmbed(a), a.Out, a.X)
}

func (m *mutant) PixelShuffle(a kernels.PixelShuffleArgs) error {
	return m.after(m.Backend.PixelShuffle(a), a.Out, a.X)
}

func (m *mutant) ArgMax(a kernels.ArgMaxArgs) error {
	return m.after(m.Backend.ArgMax(a), a.IDs, a.Logits)
}

// bytesOf reads the last row of a tensor.
func bytesOf(b kernels.Backend, t kernels.Tensor) (kernels.Tensor, []byte) {
	last := t.Slice(t.Rows()-1, t.Rows())
	raw := make([]byte, last.RowLen()*t.DType.Size())
	if err := b.Download(raw, last); err != nil {
		panic(err)
	}
	return last, raw
}

func write(b kernels.Backend, t kernels.Tensor, raw []byte) {
	if err := b.Upload(t, raw); err != nil {
		panic(err)
	}
}

// top is the byte of an element that holds its sign (or the integer's highest bits).
func top(t kernels.Tensor) int { return t.DType.Size() - 1 }

var mutants = map[string]func(b kernels.Backend, out, in kernels.Tensor){
	"one sum too large": func(b kernels.Backend, out, _ kernels.Tensor) {
		row, raw := bytesOf(b, out)
		switch size := out.DType.Size(); out.DType {
		case kernels.I32:
			raw[0]++
		case kernels.BF16: // eight units in the last place
			raw[0] += 8
		default: // 2^-5 of the value
			raw[size-2] += 4
		}
		write(b, row, raw)
	},
	"rows off by one element": func(b kernels.Backend, out, _ kernels.Tensor) {
		row, raw := bytesOf(b, out)
		size := out.DType.Size()
		write(b, row, append(append([]byte{}, raw[size:]...), raw[0]^1, raw[1]^1, raw[size-2]^0x40, raw[size-1]^0x40)[:len(raw)])
	},
	"a NaN": func(b kernels.Backend, out, _ kernels.Tensor) {
		row, raw := bytesOf(b, out)
		for i := 0; i < out.DType.Size(); i++ {
			raw[i] = 0xff
		}
		write(b, row, raw)
	},
	"an element not written": func(b kernels.Backend, out, _ kernels.Tensor) {
		row, raw := bytesOf(b, out)
		raw[len(raw)-1], raw[len(raw)-2] = 0xff, 0xff
		write(b, row, raw)
	},
	"wrong sign": func(b kernels.Backend, out, _ kernels.Tensor) {
		row, raw := bytesOf(b, out)
		for i := top(out); i < len(raw); i += out.DType.Size() {
			raw[i] ^= 0x80
		}
		write(b, row, raw)
	},
	"a write past the end": func(b kernels.Backend, out, _ kernels.Tensor) {
		last := out.Slice(out.Rows()-1, out.Rows())
		end := last.Offset + int64(last.RowLen()*out.DType.Size())
		write(b, kernels.Tensor{Buf: out.Buf, Offset: end, DType: kernels.U8, Shape: []int{1}}, []byte{0})
	},
	"a write before the start": func(b kernels.Backend, out, _ kernels.Tensor) {
		write(b, kernels.Tensor{Buf: out.Buf, Offset: out.Offset - 1, DType: kernels.U8, Shape: []int{1}}, []byte{0})
	},
	"a changed input": func(b kernels.Backend, _, in kernels.Tensor) {
		row, raw := bytesOf(b, in)
		raw[len(raw)/2] ^= 1
		write(b, row, raw)
	},
}

// TestMutants proves the suite: every planted defect is caught in eight of ten
// cases of every operation; one slightly wrong sum in half of them, as the element
// that it hits may be small beside the rounding that its row is allowed.
func TestMutants(t *testing.T) {
	for name, spoil := range mutants {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			results, err := kerneltest.ReportSome(func() (kernels.Backend, error) {
				b, err := ref.Open(ref.Options{Naive: true})
				return &mutant{Backend: b, spoil: spoil}, err
			}, true)
			require.NoError(t, err)
			caught, all := map[string]int{}, map[string]int{}
			for _, r := range results {
				all[r.Op]++
				if r.Error != "" {
					caught[r.Op]++
				}
			}
			require.Len(t, all, 20)
			share := 0.8
			if name == "one sum too large" {
				share = 0.5
			}
			for op, n := range all {
				require.GreaterOrEqual(t, float64(caught[op]), share*float64(n), "%s: %d of %d cases caught it", op, caught[op], n)
			}
		})
	}
}

// variant is a backend whose sums depend on the number of rows.
type variant struct{ kernels.Backend }

func (v *variant) Linear(a kernels.LinearArgs) error {
	return v.nudge(v.Backend.Linear(a), a.Out)
}

func (v *variant) RMSNorm(a kernels.RMSNormArgs) error {
	return v.nudge(v.Backend.RMSNorm(a), a.Out)
}

func (v *variant) LayerNorm(a kernels.LayerNormArgs) error {
	return v.nudge(v.Backend.LayerNorm(a), a.Out)
}

func (v *variant) Activation(a kernels.ActivationArgs) error {
	return v.nudge(v.Backend.Activation(a), a.Out)
}

func (v *variant) PagedAttention(a kernels.PagedAttentionArgs) error {
	return v.nudge(v.Backend.PagedAttention(a), a.Out)
}

func (v *variant) SegmentAttention(a kernels.SegmentAttentionArgs) error {
	return v.nudge(v.Backend.SegmentAttention(a), a.Out)
}

// nudge changes the last bit of one element when there is more than one row.
func (v *variant) nudge(err error, out kernels.Tensor) error {
	if err == nil && out.Rows() > 8 {
		row, raw := bytesOf(v.Backend, out)
		raw[0] ^= 1
		write(v.Backend, row, raw)
	}
	return err
}

// TestVariant proves the invariance cases: a last bit that depends on the number
// of rows is within every bound and still caught.
func TestVariant(t *testing.T) {
	results, err := kerneltest.ReportSome(func() (kernels.Backend, error) {
		b, err := ref.Open(ref.Options{Naive: true})
		return &variant{b}, err
	}, false)
	require.NoError(t, err)
	caught := 0
	for _, r := range results {
		invariance := strings.Contains(r.Case, "together") || strings.Contains(r.Case, "chunked")
		if !invariance {
			continue
		}
		caught++
		require.Contains(t, r.Error, "differs in bits", "%s/%s", r.Op, r.Case)
	}
	require.Greater(t, caught, 20)
}

// TestNames checks that names are unique and fit -run.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range kerneltest.Names() {
		require.False(t, seen[name], name)
		require.NotContains(t, name, " ", name)
		seen[name] = true
	}
	require.Greater(t, len(seen), 500)
}
