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
		for _, s := range [][2]int{{512, 4096}, {4096, 1024}, {1000, 12288}, {200, 640}} {
			sameBits(t, b, s[0], s[1], []int{1, 8, 9, 16, 17, 64, 65, 127, 128, 300, 1000})
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
