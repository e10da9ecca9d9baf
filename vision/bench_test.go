package vision_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

func BenchmarkDecode(b *testing.B) {
	data := photo(b, 1280, 960)
	var d vision.Decoder
	for b.Loop() {
		_, err := d.Decode(data, vision.Options{})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}

func BenchmarkTile(b *testing.B) {
	p, err := vision.Decode(photo(b, 1280, 960), vision.Options{})
	require.NoError(b, err)
	var t vision.Tiler
	var out vision.Tiles
	for b.Loop() {
		require.NoError(b, t.TileInto(&out, p, vision.Recipe{}))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}

// BenchmarkPrepare is the whole way from encoded bytes to 13 tiles on one core.
func BenchmarkPrepare(b *testing.B) {
	data := photo(b, 1280, 960)
	var d vision.Decoder
	var t vision.Tiler
	var out vision.Tiles
	for b.Loop() {
		p, err := d.Decode(data, vision.Options{})
		require.NoError(b, err)
		require.NoError(b, t.TileInto(&out, p, vision.Recipe{}))
	}
	require.Equal(b, 13, out.Count())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}
