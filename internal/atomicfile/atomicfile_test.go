package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.txt")
	require.NoError(t, Write(path, []byte("one"), 0o644))
	require.NoError(t, Write(path, []byte("two"), 0o600))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "two", string(got))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

func TestWriteTo(t *testing.T) {
	t.Run("a failed write leaves the old content and no temporary file", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.txt")
		require.NoError(t, Write(path, []byte("old"), 0o644))
		boom := errors.New("boom")
		err := WriteTo(path, 0o644, func(w io.Writer) error {
			if _, err := w.Write([]byte("half of the ne")); err != nil {
				return err
			}
			return boom
		})
		require.ErrorIs(t, err, boom)
		require.ErrorContains(t, err, path)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "old", string(got))
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})
	t.Run("a missing directory is an error naming the file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "no", "a.txt")
		require.ErrorContains(t, Write(path, nil, 0o644), path)
	})
}
