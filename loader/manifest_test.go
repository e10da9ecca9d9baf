package loader_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestManifest checks the checkpoints and goldens of testdata against their checksums.
func TestManifest(t *testing.T) {
	root := os.DirFS("../testdata")
	manifest, err := fs.ReadFile(root, "MANIFEST.sha256")
	require.NoError(t, err)
	listed := map[string]bool{}
	for line := range strings.Lines(string(manifest)) {
		want, name, ok := strings.Cut(strings.TrimSpace(line), "  ./")
		require.True(t, ok, line)
		data, err := fs.ReadFile(root, name)
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		require.Equal(t, want, hex.EncodeToString(sum[:]), name)
		listed[name] = true
	}
	for _, dir := range []string{"models", "goldens", "quant"} {
		require.NoError(t, fs.WalkDir(root, dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && path.Base(name) != "README.md" {
				require.True(t, listed[name], "%s is not in the manifest", name)
			}
			return err
		}))
	}
}
