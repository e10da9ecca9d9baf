package captioner_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine/fake"
)

// maxGrowth is what resident memory may grow by after a tenth of the inputs, in bytes.
const maxGrowth = 50e6

// TestMemory compares the live heap and the resident memory after a tenth of many
// inputs with those at the end. METACAP_TEST_INPUTS sets their number; the bound of
// the heap is that of 50,000.
func TestMemory(t *testing.T) {
	n := 2000
	if s := os.Getenv("METACAP_TEST_INPUTS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	dir := t.TempDir()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("d%03d", i/500), fmt.Sprintf("picture_%06d.jpg", i))
		if i%500 == 0 {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		}
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "n%d", i), 0o644))
	}
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	j := job(dir)
	j.Write = []string{"jsonl"}
	var warm, end, warmRSS, endRSS int64
	var count atomic.Int64
	j.Event = func(e captioner.Event) {
		if e.Kind != "item" {
			return
		}
		switch count.Add(1) {
		case int64(n / 10):
			warm, warmRSS = live(), resident()
		case int64(n):
			end, endRSS = live(), resident()
		}
	}
	rep := run(t, open(t, fake.Options{Tiles: 1, TileTokens: 1, Answer: func(p fake.Prompt) string { return p.Images[0] }}), j)
	require.Equal(t, n, rep.Done)
	t.Logf("%d inputs: live heap %.1f MB after a tenth, %.1f MB at the end; resident %.1f MB, %.1f MB", n,
		float64(warm)/1e6, float64(end)/1e6, float64(warmRSS)/1e6, float64(endRSS)/1e6)
	if grown := end - warm; !(grown <= 50e6*int64(max(n, 2000))/50_000+5e6) {
		t.Fatalf("the live heap grew by %d bytes", grown)
	}
	if grown := endRSS - warmRSS; !(grown <= maxGrowth) {
		t.Fatalf("resident memory grew by %d bytes", grown)
	}
}

// resident is the memory of this process in bytes; 0 where /proc does not say it.
func resident() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var total, pages int64
	if _, err := fmt.Sscan(string(data), &total, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
