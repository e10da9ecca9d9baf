package mapfile_test

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/loader/internal/mapfile"
)

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	content := make([]byte, 3*os.Getpagesize()+100)
	for i := range content {
		content[i] = byte(i * 7)
	}
	require.NoError(t, os.WriteFile(file, content, 0o644))
	m, err := mapfile.Open(file)
	require.NoError(t, err)
	require.Equal(t, runtime.GOOS != "windows", m.Mapped)
	require.Equal(t, content, m.Data)
	for _, r := range [][2]int64{{0, int64(len(content))}, {1, 2}, {5, 5}, {10, 0}, {0, 1 << 40}, {100, int64(len(content)) - 1}} {
		m.Drop(r[0], r[1])
		require.Equal(t, content, m.Data, "%v", r)
	}
	got := make([]byte, 50)
	_, err = m.ReadAt(got, 1000)
	require.NoError(t, err)
	require.Equal(t, content[1000:1050], got)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	require.Nil(t, m.Data)

	require.NoError(t, os.WriteFile(file, nil, 0o644))
	m, err = mapfile.Open(file)
	require.NoError(t, err)
	require.Empty(t, m.Data)
	require.NoError(t, m.Close())
	_, err = mapfile.Open(filepath.Dir(file))
	require.ErrorContains(t, err, "not a regular file")
	_, err = mapfile.Open(file + "y")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestMemory(t *testing.T) {
	data := []byte("hello")
	m := mapfile.Memory(data)
	require.Same(t, &data[0], &m.Data[0])
	got := make([]byte, 4)
	n, err := m.ReadAt(got, 2)
	require.Equal(t, io.EOF, err)
	require.Equal(t, "llo", string(got[:n]))
	_, err = m.ReadAt(got, 5)
	require.Equal(t, io.EOF, err)
	_, err = m.ReadAt(got, -1)
	require.Error(t, err)
	m.Drop(0, 5)
	require.NoError(t, m.Close())
}
