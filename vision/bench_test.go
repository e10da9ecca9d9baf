//go:build unix

package vision_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// perImage reports processor time for f, which prepares a number of images, instead of elapsed time, which says little on a busy
// machine: the time of the whole process, garbage collection included.
func perImage(b *testing.B, images int, f func()) {
	f() // fill caches and buffers
	var before, after syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	for b.Loop() {
		f()
	}
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	n := float64(b.N * images)
	b.ReportMetric(n/used.Seconds(), "images/cpu-s")
	b.ReportMetric(used.Seconds()*1e3/n, "cpu-ms/image")
	b.ReportAllocs()
}

// BenchmarkDecode decodes a 1280×960 4:2:0 JPEG.
func BenchmarkDecode(b *testing.B) {
	data := photo(b, 1280, 960)
	b.SetBytes(int64(len(data)))
	var d vision.Decoder
	perImage(b, 1, func() {
		_, err := d.Decode(data, vision.Options{})
		require.NoError(b, err)
	})
}

// BenchmarkTile makes its 13 tiles: resize to 1792×1344, thumbnail, hash.
func BenchmarkTile(b *testing.B) {
	p, err := vision.Decode(photo(b, 1280, 960), vision.Options{})
	require.NoError(b, err)
	var t vision.Tiler
	var out vision.Tiles
	perImage(b, 1, func() { require.NoError(b, t.TileInto(&out, p, vision.Recipe{})) })
	require.Equal(b, 13, out.Count())
}

// BenchmarkPrepare is the whole way from encoded bytes to tiles.
func BenchmarkPrepare(b *testing.B) {
	data := photo(b, 1280, 960)
	p := vision.NewPool(vision.PoolConfig{Workers: 1})
	perImage(b, 1, func() {
		out := p.Prepare(b.Context(), vision.Job{Data: data})
		require.NoError(b, out.Err)
		p.Recycle(out.Tiles)
	})
}

// BenchmarkPool is the same on all cores, in order.
func BenchmarkPool(b *testing.B) {
	data := photo(b, 1280, 960)
	p := vision.NewPool(vision.PoolConfig{})
	perImage(b, 8, func() {
		for out := range p.Map(b.Context(), slices.Values(slices.Repeat([]vision.Job{{Data: data}}, 8))) {
			require.NoError(b, out.Err)
			p.Recycle(out.Tiles)
		}
	})
}
