package vision_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// seeds adds every sample and broken file of up to limit bytes.
func seeds(f *testing.F, limit int) {
	for _, dir := range []string{"files", "broken"} {
		names, err := filepath.Glob(filepath.Join(goldens, dir, "*"))
		require.NoError(f, err)
		require.NotEmpty(f, names)
		for _, name := range names {
			data, err := os.ReadFile(name)
			require.NoError(f, err)
			if len(data) <= limit {
				f.Add(data)
			}
		}
	}
}

// small keeps a round of fuzzing short.
var small = vision.Limits{Pixels: 1 << 17, Frames: 6, FrameBytes: 1 << 20}

// FuzzDecode runs the whole way from bytes to tiles: whatever the bytes, the result is
// a picture of the stated size or an ImageError, the same one the second time, and
// Probe agrees with Decode.
func FuzzDecode(f *testing.F) {
	seeds(f, 40_000)
	var d vision.Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, exact := range []bool{false, true} {
			opts := vision.Options{Exact: exact, Limits: small}
			p, err := d.Decode(data, opts)
			info, probeErr := vision.Probe(data, opts)
			if err != nil {
				var e *vision.ImageError
				require.ErrorAs(t, err, &e)
				continue
			}
			require.NoError(t, probeErr)
			require.Len(t, p.Pix, 3*p.Width*p.Height)
			w, h := info.Upright()
			if exact && info.Format != vision.FormatTIFF {
				w, h = info.Width, info.Height
			}
			require.Equal(t, [2]int{w, h}, [2]int{p.Width, p.Height})
			tiles, err := vision.Tile(p, vision.Recipe{Size: 28, MaxTiles: 4})
			require.NoError(t, err)
			require.LessOrEqual(t, tiles.Count(), 5)
		}
	})
}

// FuzzFrames does the same for animations.
func FuzzFrames(f *testing.F) {
	for _, name := range []string{"animated.gif", "animated.webp", "transparent.gif", "still.gif", "alpha.webp", "rgba.png"} {
		f.Add(readFile(f, "files/"+name))
	}
	f.Add(animatedPNG(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames, err := vision.DecodeFrames(data, nil, vision.Options{Limits: small})
		var e *vision.ImageError
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("got %T %v, want an ImageError", err, err)
		}
		for _, g := range frames {
			require.Len(t, g.Pix, 3*g.Width*g.Height)
		}
	})
}
