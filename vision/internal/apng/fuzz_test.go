package apng

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/vision/internal/anim"
)

// FuzzReader draws every frame of any bytes on a canvas: frames lie inside it, and
// reading ends.
func FuzzReader(f *testing.F) {
	names, err := filepath.Glob("../../../testdata/images/files/*.png")
	require.NoError(f, err)
	require.NotEmpty(f, names)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		if len(data) < 16_000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Open(data)
		if err != nil {
			return
		}
		info := r.Info()
		if info.Width < 1 || info.Height < 1 || info.Width*info.Height > 1<<16 {
			return
		}
		canvas := anim.NewCanvas(info.Width, info.Height, [3]uint8{})
		for range 8 {
			p, err := r.Next()
			if err != nil {
				return
			}
			require.Len(t, p.Pix, 4*p.Rect.Dx()*p.Rect.Dy())
			canvas.Draw(p)
		}
	})
}
