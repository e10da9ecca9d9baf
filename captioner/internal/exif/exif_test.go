package exif_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/captioner/internal/exif"
	"metacap/vision"
)

const want = "taken 2024-05-01 12:33:05; camera Canon EOS R5; place 48.85837 N 2.29448 E; by A. Painter; described as: The tower at noon"

// block is the EXIF block of a file that exiftool 12.57 wrote, big-endian.
func block(t testing.TB, name string) []byte {
	data, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	b := vision.EXIF(data)
	require.NotEmpty(t, b)
	return bytes.Clone(b)
}

func TestText(t *testing.T) {
	for _, name := range []string{"tagged.jpg", "tagged.png", "tagged.webp"} {
		require.Equal(t, want, exif.Text(block(t, name)), name)
	}
	data, err := os.ReadFile("../../../testdata/images/files/exif6.jpg")
	require.NoError(t, err)
	require.NotEmpty(t, vision.EXIF(data))
	require.Empty(t, exif.Text(vision.EXIF(data)), "only an orientation")
	require.Empty(t, exif.Text(nil))
	data, err = os.ReadFile("../../../testdata/images/files/gray.jpg")
	require.NoError(t, err)
	require.Nil(t, vision.EXIF(data))
}

// TestDamaged: what makes no sense is left out, and the rest stands.
func TestDamaged(t *testing.T) {
	good := block(t, "tagged.jpg")
	for _, c := range []struct{ old, new, want string }{
		{"2024:05:01 12", "0000:00:00 12", "camera Canon EOS R5; place 48.85837 N 2.29448 E; by A. Painter; described as: The tower at noon"},
		{"A. Painter", "\x00. Painter", "taken 2024-05-01 12:33:05; camera Canon EOS R5; place 48.85837 N 2.29448 E; described as: The tower at noon"},
		{"MM\x00*", "XX\x00*", ""},
	} {
		require.Equal(t, c.want, exif.Text(bytes.Replace(good, []byte(c.old), []byte(c.new), 1)))
	}
}

// FuzzText: no block makes it fail.
func FuzzText(f *testing.F) {
	f.Add(block(f, "tagged.jpg"))
	f.Add(block(f, "tagged.webp"))
	f.Fuzz(func(t *testing.T, b []byte) {
		require.LessOrEqual(t, len(exif.Text(b)), 4096)
	})
}
