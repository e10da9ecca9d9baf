package jpeg

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecode checks that both implementations agree on any bytes and give a picture of
// the stated size or an error.
func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"../../../testdata/images/*/*.jpg", "testdata/*.jpg"} {
		names, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, name := range names {
			data, err := os.ReadFile(name)
			require.NoError(f, err)
			if len(data) < 16_000 {
				f.Add(data)
			}
		}
	}
	fast, plain := new(Decoder), &Decoder{plain: true}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHeader(data)
		if err != nil || h.Width*h.Height > 1<<17 {
			return
		}
		a, errA := fast.Decode(data, nil)
		b, errB := plain.Decode(data, nil)
		require.Equal(t, errA, errB)
		if errA == nil {
			require.Len(t, a, 3*h.Width*h.Height)
			require.Equal(t, b, a)
		}
	})
}
