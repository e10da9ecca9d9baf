package s3

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine/fake"
)

// store serves objects by the S3 protocol on the loopback interface and returns a
// client of it. broken lists keys that the server refuses to give.
func store(t *testing.T, objects map[string]string, broken ...string) *Store {
	t.Helper()
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("pictures"))
	for key, text := range objects {
		meta := map[string]string{"Last-Modified": time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat)}
		_, err := backend.PutObject("pictures", key, meta, strings.NewReader(text), int64(len(text)), nil)
		require.NoError(t, err)
	}
	inner := gofakes3.New(backend).Server()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, key := range broken {
			if r.Method == http.MethodGet && r.URL.Path == "/pictures/"+key {
				http.Error(w, "", http.StatusForbidden)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s, err := New(Options{Endpoint: srv.URL, Region: "us-east-1", AccessKey: "key", SecretKey: "secret"})
	require.NoError(t, err)
	return s
}

// archive is a tar shard of members in order.
func archive(t *testing.T, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: members[i], Mode: 0o644, Size: int64(len(members[i+1]))}))
		_, err := io.WriteString(w, members[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String()
}

// TestJob captions a prefix: pictures in folders and shards, everything else left alone.
func TestJob(t *testing.T) {
	objects := map[string]string{
		"2026/a.jpg": "picture a", "2026/deep/b.png": "picture b", "2026/deep/twin.png": "picture b",
		"2026/notes.txt": "no picture", "2026/.hidden.jpg": "x", "2026/../../../up.jpg": "picture up", "2026/secret.jpg": "picture s",
		"2026/00000.tar": archive(t, "000.jpg", "picture 0", "000.txt", "text", "001.jpg", "picture 1"),
		"2025/old.jpg":   "picture old",
	}
	for i := range 1500 { // more than a page of a listing
		objects[fmt.Sprintf("other/%05d.txt", i)] = "x"
	}
	s := store(t, objects, "2026/secret.jpg")
	e, err := fake.Open(fake.Options{Answer: func(p fake.Prompt) string { return "A picture, " + p.Images[0] + "." }})
	require.NoError(t, err)
	defer e.Close()
	out := t.TempDir()
	j := captioner.Job{
		Inputs: []string{"s3://pictures/2026/", "s3://pictures/2025/old.jpg", "s3://pictures/other"}, Select: captioner.Select{Remote: s},
		Model: "fake", Digest: "0123456789abcdef", Out: out, Write: []string{"txt", "jsonl", "tar"},
	}
	rep, err := captioner.Run(t.Context(), []captioner.Engine{e}, j)
	require.NoError(t, err)
	failed, err := os.ReadFile(rep.Quarantine)
	require.NoError(t, err)
	require.Equal(t, 1, rep.Failed, string(failed))
	require.Contains(t, string(failed), "secret.jpg")
	require.Equal(t, 7, rep.Done)
	require.Equal(t, 1, rep.Duplicates)
	for name, want := range map[string]string{
		"pictures/2026/a.txt": "a", "pictures/2026/deep/b.txt": "b", "pictures/2026/deep/twin.txt": "b", "pictures/2025/old.txt": "old",
		"pictures/2026/00000.captions/000.txt": "0", "pictures/2026/00000.captions/001.txt": "1",
	} {
		text, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.Equal(t, "A picture, picture "+want+".\n", string(text), name)
	}
	_, err = os.Stat(filepath.Join(out, "pictures/2026/00000.captions.tar"))
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(filepath.Dir(out), func(path string, _ os.DirEntry, err error) error {
		require.NotEqual(t, "up.txt", filepath.Base(path), "a key with .. leaves the directory")
		return err
	}))
	rep, err = captioner.Run(t.Context(), []captioner.Engine{e}, j)
	require.NoError(t, err)
	require.Equal(t, 7, rep.Before, "unchanged objects are known again")

	t.Run("mistakes", func(t *testing.T) {
		for _, c := range []struct{ in, want string }{
			{"s3://pictures/2026/none.jpg", "no such object"},
			{"s3://nowhere/", "bucket does not exist"},
			{"s3:///x", "want s3://BUCKET/PREFIX"},
			{"s3://pictures/*.jpg", "give a prefix, and --include"},
		} {
			j := j
			j.Inputs, j.Dir = []string{c.in}, t.TempDir()
			_, err := captioner.Run(t.Context(), []captioner.Engine{e}, j)
			require.ErrorContains(t, err, c.want)
		}
		j := j
		j.Out = ""
		_, err := captioner.Run(t.Context(), []captioner.Engine{e}, j)
		require.ErrorContains(t, err, "--out")
		_, err = New(Options{Endpoint: "127.0.0.1:9000"})
		require.ErrorContains(t, err, "want http://HOST:PORT")
	})
}
