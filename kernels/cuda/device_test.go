package cuda

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
	"metacap/kernels"
	"metacap/kernels/cuda/src"
	"metacap/kernels/kerneltest"
)

// device opens the backend on a real GPU, or skips the test where there is none.
// METACAP_PORTABLE restricts it to the kernels that every architecture has.
func device(t testing.TB, opt Options) *Backend {
	t.Helper()
	opt.Portable = opt.Portable || os.Getenv("METACAP_PORTABLE") != ""
	b, err := Open(opt)
	if errors.Is(err, kernels.ErrUnavailable) && !programtest.Required("cuda") {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// conformanceResult is a file docs/results/cuda-conformance-DEVICE.json.
type conformanceResult struct {
	Device  string              `json:"device"`
	Driver  int                 `json:"driver_cuda_version"`
	Commit  string              `json:"commit"`
	Sources string              `json:"sources"` // hash of the kernels' sources
	Passed  int                 `json:"passed"`
	Skipped int                 `json:"skipped"`
	Failed  int                 `json:"failed"`
	Cases   []kerneltest.Result `json:"cases"`
}

// TestDeviceConformance runs the suite on a GPU. With METACAP_RESULTS set it writes
// every case's verdict to a file in that folder; METACAP_COMMIT names the commit.
func TestDeviceConformance(t *testing.T) {
	b := device(t, Options{})
	cases, err := kerneltest.Report(func() (kernels.Backend, error) { return Open(b.opt) })
	require.NoError(t, err)
	texts, err := src.Texts(src.Files)
	require.NoError(t, err)
	r := conformanceResult{Device: b.Info().Device, Driver: b.driver.Version(), Commit: os.Getenv("METACAP_COMMIT"), Sources: src.Hash(texts), Cases: cases}
	for _, c := range cases {
		switch {
		case c.Error != "":
			r.Failed++
			t.Errorf("%s/%s: %s", c.Op, c.Case, c.Error)
		case c.Skipped != "":
			r.Skipped++
		default:
			r.Passed++
		}
	}
	t.Logf("%s: %d passed, %d skipped, %d failed", r.Device, r.Passed, r.Skipped, r.Failed)
	if dir := os.Getenv("METACAP_RESULTS"); dir != "" {
		data, err := json.Marshal(r)
		require.NoError(t, err)
		// A line a case, for readable differences.
		data = []byte(strings.ReplaceAll(string(data), `{"op":`, "\n"+`{"op":`))
		name := strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return '-'
		}, strings.ToLower(strings.TrimPrefix(strings.Split(r.Device, " (")[0], "NVIDIA ")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cuda-conformance-"+name+".json"), append(data, '\n'), 0o644))
	}
}

// TestResultsAreCurrent fails when the kernels changed after the suite was run on a
// device: the committed result states the hash of other sources.
func TestResultsAreCurrent(t *testing.T) {
	files, err := filepath.Glob("../../docs/results/cuda-conformance-*.json")
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("no result of a device is committed")
	}
	texts, err := src.Texts(src.Files)
	require.NoError(t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		var r conformanceResult
		require.NoError(t, json.Unmarshal(data, &r), f)
		require.Equal(t, src.Hash(texts), r.Sources, "%s: kernels changed since: run `make test-cuda` on the device", f)
		require.Zero(t, r.Failed, f)
		require.NotEmpty(t, r.Cases, f)
	}
}

// sameBits multiplies the first rows of x by a weight, for each count, and compares
// the rows that the counts share, bit for bit.
func sameBits(t *testing.T, b *Backend, n, k int, counts []int) {
	t.Helper()
	most := counts[len(counts)-1]
	x, err := tensor(b, kernels.BF16, normal(most*k), most, k)
	require.NoError(t, err)
	w, err := b.PackLinear(kernels.LinearSource{Name: "w", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: make3(normal(n * k))}}})
	require.NoError(t, err)
	defer w.Free()
	var before []byte
	for _, rows := range counts {
		out, err := tensor(b, kernels.F32, make([]float32, rows*n), rows, n)
		require.NoError(t, err)
		require.NoError(t, b.Linear(kernels.LinearArgs{Out: out, X: x.Slice(0, rows), W: w}))
		got := make([]byte, rows*n*4)
		require.NoError(t, b.Download(got, out))
		differ := 0
		for i := range before {
			if before[i] != got[i] {
				differ++
			}
		}
		if differ != 0 {
			t.Errorf("n=%d k=%d: %d rows: %d of %d bytes differ from the same rows in a smaller batch", n, k, rows, differ, len(before))
		}
		before = got
		out.Buf.Free()
	}
	x.Buf.Free()
}

// TestSameBits compares every linear kernel with every other.
func TestSameBits(t *testing.T) {
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulated(t)
		sameBits(t, b, 80, 320, []int{1, 8, 9, 16, 17, 64, 65, 130})
	})
	t.Run("simulator_hopper", func(t *testing.T) {
		b, c := simulatedOn(t, simHopper)
		sameBits(t, b, 80, 320, []int{1, 8, 9, 16, 17, 64, 65, 130})
		defer c.Shuffle(0)
		for seed := range uint64(4) {
			require.NoError(t, c.Shuffle(seed+1))
			sameBits(t, b, 208, 640, []int{8, 16, 32, 64, 130, 300})
		}
	})
	t.Run("device", func(t *testing.T) {
		b := device(t, Options{})
		for _, s := range [][2]int{{512, 4096}, {4096, 1024}, {1000, 12288}, {200, 640}, {6144, 256}, {24576, 128}, {40000, 192}, {24, 64}} {
			sameBits(t, b, s[0], s[1], []int{1, 8, 9, 16, 17, 32, 33, 64, 65, 127, 128, 300, 1000})
		}
	})
	t.Run("portable_and_hopper", func(t *testing.T) {
		one, two := device(t, Options{}), device(t, Options{Portable: true})
		var outs [2][]byte
		const rows, n, k = 300, 1024, 4096
		for i, b := range []*Backend{one, two} {
			x, err := tensor(b, kernels.BF16, normal(rows*k), rows, k)
			require.NoError(t, err)
			out, err := tensor(b, kernels.F32, make([]float32, rows*n), rows, n)
			require.NoError(t, err)
			w, err := b.PackLinear(kernels.LinearSource{Name: "w", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: make3(normal(n * k))}}})
			require.NoError(t, err)
			require.NoError(t, b.Linear(kernels.LinearArgs{Out: out, X: x, W: w}))
			outs[i] = make([]byte, rows*n*4)
			require.NoError(t, b.Download(outs[i], out))
		}
		differ := 0
		for i := range outs[0] {
			if outs[0][i] != outs[1][i] {
				differ++
			}
		}
		require.Zero(t, differ, fmt.Sprintf("of %d bytes", len(outs[0])))
	})
}

// TestSameNorm compares products that normalise their row with separate operations.
func TestSameNorm(t *testing.T) {
	compare := func(t *testing.T, b *Backend, n, k int, round, gated bool) {
		x, err := tensor(b, kernels.BF16, normal(k), 1, k)
		require.NoError(t, err)
		normed, err := tensor(b, kernels.BF16, normal(k), 1, k)
		require.NoError(t, err)
		weight, err := tensor(b, kernels.F32, normal(k), k)
		require.NoError(t, err)
		src := kernels.LinearSource{Name: "w", K: k, Parts: []kernels.MatrixPart{{N: n, DType: kernels.BF16, Data: make3(normal(n * k))}}}
		width := n
		if gated {
			src.Gated, src.Parts = true, append(src.Parts, kernels.MatrixPart{N: n, DType: kernels.BF16, Data: make3(normal(n * k))})
		}
		w, err := b.PackLinear(src)
		require.NoError(t, err)
		defer w.Free()
		scratch, err := tensor(b, kernels.BF16, make([]float32, 2*n), 1, 2*n)
		require.NoError(t, err)
		out, err := tensor(b, kernels.BF16, make([]float32, width), 1, width)
		require.NoError(t, err)
		var want []byte
		for _, apart := range []bool{true, false} {
			norm := kernels.RMSNormArgs{Out: normed, X: x, Weight: weight, Eps: 1e-6, RoundFirst: round}
			l := kernels.LinearArgs{Out: out, X: normed, W: w}
			switch {
			case !apart:
				done, err := b.normRow("Linear", norm, l, flag(gated)*gatedProduct)
				require.NoError(t, err)
				require.True(t, done, "n=%d k=%d: not in the product", n, k)
			case gated:
				require.NoError(t, b.RMSNorm(norm))
				require.NoError(t, b.SwiGLU(kernels.SwiGLUArgs{Out: out, X: normed, W: w, Scratch: scratch}))
			default:
				require.NoError(t, b.RMSNorm(norm))
				require.NoError(t, b.Linear(l))
			}
			got := make([]byte, 2*width)
			require.NoError(t, b.Download(got, out))
			if want == nil {
				want = got
			}
			require.Equal(t, want, got, "n=%d k=%d round=%v gated=%v", n, k, round, gated)
		}
		for _, f := range []kernels.Tensor{x, normed, weight, scratch, out} {
			f.Buf.Free()
		}
	}
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulatedOn(t, simHopper)
		compare(t, b, 48*2*b.sms+40, 1280, true, false)
		compare(t, b, 24*2*b.sms, 1152, false, true)
	})
	t.Run("device", func(t *testing.T) {
		b := device(t, Options{})
		for _, round := range []bool{true, false} {
			compare(t, b, 6144, 4096, round, false)
			compare(t, b, 12288, 4096, round, true)
			compare(t, b, 5000, 2560, round, false)
			compare(t, b, 7000, 1536, round, false)
		}
	})
}

// TestSameSplits compares decode attention however its partitions are shared out.
func TestSameSplits(t *testing.T) {
	compare := func(t *testing.T, b *Backend, d, group int, lens []float32, rows int) {
		const heads, width = 2, 12
		q := make([]float32, 0, len(lens)+1)
		for i := range len(lens) + 1 {
			q = append(q, float32(i*rows))
		}
		starts, err := tensor(b, kernels.I32, q, len(q))
		require.NoError(t, err)
		lengths, err := tensor(b, kernels.I32, lens, len(lens))
		require.NoError(t, err)
		var table []float32
		for i := range len(lens) * width {
			table = append(table, float32(i*7%(len(lens)*width)))
		}
		tables, err := tensor(b, kernels.I32, table, len(lens), width)
		require.NoError(t, err)
		blocks := len(table)
		kv, err := b.NewKV(kernels.KVShape{Layers: 1, Blocks: blocks, Heads: heads, HeadDim: d, DType: kernels.BF16})
		require.NoError(t, err)
		defer kv.Free()
		tokens := blocks * kernels.BlockSize
		k, err := tensor(b, kernels.BF16, normal(tokens*heads*d), tokens, heads, d)
		require.NoError(t, err)
		v, err := tensor(b, kernels.BF16, normal(tokens*heads*d), tokens, heads, d)
		require.NoError(t, err)
		var at []float32
		for i := range tokens {
			at = append(at, float32(i))
		}
		slots, err := tensor(b, kernels.I32, at, tokens)
		require.NoError(t, err)
		require.NoError(t, b.KVStore(kernels.KVStoreArgs{KV: kv, K: k, V: v, Slots: slots}))
		n := len(lens) * rows * heads * group
		x, err := tensor(b, kernels.BF16, normal(n*d), len(lens)*rows, heads*group, d)
		require.NoError(t, err)
		out, err := tensor(b, kernels.F32, make([]float32, n*d), len(lens)*rows, heads*group, d)
		require.NoError(t, err)
		var before []byte
		for _, walk := range []int{1, 2, 3} {
			b.walk = walk
			require.NoError(t, b.PagedAttention(kernels.PagedAttentionArgs{
				Out: out, Q: x, KV: kv, Starts: starts, Lens: lengths, Tables: tables, Scale: .125, MaxRows: rows, MaxLen: width * kernels.BlockSize,
			}))
			got := make([]byte, n*d*4)
			require.NoError(t, b.Download(got, out))
			if before != nil {
				require.Equal(t, before, got, "d=%d group=%d lens=%v rows=%d: %d partitions a cta", d, group, lens, rows, walk)
			}
			before = got
		}
		b.walk = 0
		for _, f := range []kernels.Tensor{starts, lengths, tables, k, v, slots, x, out} {
			f.Buf.Free()
		}
	}
	all := func(t *testing.T, b *Backend) {
		for _, d := range []int{64, 128} {
			compare(t, b, d, 4, []float32{384, 383, 257, 256, 129, 128, 33, 1}, 1)
			compare(t, b, d, 7, []float32{300, 130, 2}, 2)
		}
	}
	t.Run("simulator", func(t *testing.T) {
		b, _ := simulated(t)
		all(t, b)
	})
	t.Run("device", func(t *testing.T) { all(t, device(t, Options{})) })
}

// TestDeviceCases is a part of the suite on a GPU as one subtest a case, for
// compute-sanitizer, under which a case takes many times longer: every n-th case of each
// operation, n being METACAP_DEVICE_CASES. TestDeviceConformance runs all.
func TestDeviceCases(t *testing.T) {
	text := os.Getenv("METACAP_DEVICE_CASES")
	if text == "" {
		t.Skip("METACAP_DEVICE_CASES is not set")
	}
	every, err := strconv.Atoi(text)
	require.NoError(t, err, "METACAP_DEVICE_CASES")
	require.Positive(t, every, "METACAP_DEVICE_CASES")
	b := device(t, Options{})
	kerneltest.RunSome(t, func() (kernels.Backend, error) { return Open(b.opt) }, every)
}
