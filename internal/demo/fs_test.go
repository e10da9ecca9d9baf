package demo_test

import (
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"
	"unsafe"

	"github.com/stretchr/testify/require"

	"metacap/internal/demo"
)

type bytesFS interface {
	Bytes(name string) ([]byte, bool)
}

// TestFS checks that FS is a well-behaved file system that holds exactly the
// files of model/, and that Bytes does not copy.
func TestFS(t *testing.T) {
	if !demo.Included() {
		entries, err := fs.ReadDir(demo.FS(), ".")
		require.NoError(t, err)
		require.Empty(t, entries)
		return
	}
	entries, err := os.ReadDir("model")
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		want, err := os.ReadFile("model/" + e.Name())
		require.NoError(t, err)
		got, ok := demo.FS().(bytesFS).Bytes(e.Name())
		require.True(t, ok)
		require.Equal(t, len(want), len(got), "run go generate")
		require.True(t, string(want) == string(got), "%s differs: run go generate", e.Name())
		again, _ := demo.FS().(bytesFS).Bytes(e.Name())
		require.Same(t, unsafe.SliceData(got), unsafe.SliceData(again))
	}
	all, err := fs.ReadDir(demo.FS(), ".")
	require.NoError(t, err)
	require.Len(t, all, len(names))
	require.NoError(t, fstest.TestFS(demo.FS(), names...))
	_, err = fs.ReadFile(demo.FS(), "../config.json")
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = demo.FS().Open("absent")
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := demo.FS().Open("config.json")
	require.NoError(t, err)
	part := make([]byte, 4)
	_, err = f.(io.ReaderAt).ReadAt(part, 1)
	require.NoError(t, err)
}

// TestWordings: every wording is one of the prompts that the model was trained on.
func TestWordings(t *testing.T) {
	data, err := os.ReadFile("../../tools/drawn/prompts.json")
	require.NoError(t, err)
	var file struct {
		Tasks map[string]struct{ Prompts []string }
	}
	require.NoError(t, json.Unmarshal(data, &file))
	var trained []string
	for _, task := range file.Tasks {
		trained = append(trained, task.Prompts...)
	}
	require.NotEmpty(t, demo.Wordings)
	for preset, text := range demo.Wordings {
		require.Contains(t, trained, text, preset)
	}
}
