package job_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/endpoint"
	"metacap/capflow/job"
	"metacap/engine/fake"
)

// records runs a flow over files and reads what it wrote.
func records(t *testing.T, flow *capflow.Flow, files map[string]string) map[string]capflow.Record {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
	for name, data := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "in", name), []byte(data), 0o644))
	}
	rows, err := job.Inputs(filepath.Join(dir, "in"))
	require.NoError(t, err)
	var inputs []capflow.Input
	for _, r := range rows {
		inputs = append(inputs, r.Input)
	}
	out := filepath.Join(dir, "out.jsonl")
	sum, err := job.Run(context.Background(), flow, flow.Caption, inputs, out, job.Options{Parallel: 2})
	require.NoError(t, err, "the run goes on")
	require.Equal(t, len(files), sum.Accepted+sum.Rejected+sum.Failed)
	f, err := os.Open(out)
	require.NoError(t, err)
	defer f.Close()
	got := map[string]capflow.Record{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		var r capflow.Record
		require.NoError(t, json.Unmarshal(s.Bytes(), &r))
		got[filepath.Base(r.Source.URI)] = r
	}
	require.Len(t, got, len(files))
	return got
}

// TestCorrupt: a picture that cannot be decoded is an error record between two captions.
func TestCorrupt(t *testing.T) {
	e, err := fake.Open(fake.Options{Answer: answer})
	require.NoError(t, err)
	defer e.Close()
	flow, err := capflow.New(capflow.Local(e, capflow.ModelInfo{}), capflow.Options{Mode: capflow.Single})
	require.NoError(t, err)
	got := records(t, flow, map[string]string{"a.png": "picture 1", "b.png": "broken", "c.png": "picture 3"})
	require.Equal(t, capflow.Failed, got["b.png"].Status)
	require.NotEmpty(t, *got["b.png"].Error)
	require.Equal(t, "A scene. There are 1 birds.", got["a.png"].Captions.Long)
	require.Equal(t, "A scene. There are 3 birds.", got["c.png"].Captions.Long)
}

// TestEndpoint: whatever the server does to one picture, that picture is an
// error record and the others have their captions.
func TestEndpoint(t *testing.T) {
	const good = `{"choices":[{"message":{"content":"A fine cat sits."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":5}}`
	const head = "\x89PNG\r\n\x1a\n"
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"garbage": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00\xff<html>") },
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"hang":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"truncated": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4000")
			fmt.Fprint(w, good[:30])
		},
		"no choice": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"choices":[]}`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if strings.Contains(string(body), base64.StdEncoding.EncodeToString([]byte(head+"broken"))) {
					bad(w, r)
					return
				}
				fmt.Fprint(w, good)
			}))
			defer s.Close()
			m, err := endpoint.New(endpoint.Options{URL: s.URL + "/v1", Model: "m", Tries: 2, Pause: time.Millisecond, Timeout: 200 * time.Millisecond})
			require.NoError(t, err)
			flow, err := capflow.New(m, capflow.Options{Mode: capflow.Single})
			require.NoError(t, err)
			got := records(t, flow, map[string]string{"a.png": head + "fine", "b.png": head + "broken", "c.png": head + "fine too"})
			require.Equal(t, capflow.Failed, got["b.png"].Status)
			require.NotEmpty(t, *got["b.png"].Error)
			for _, f := range []string{"a.png", "c.png"} {
				require.Nil(t, got[f].Error)
				require.Equal(t, "A fine cat sits.", got[f].Captions.Long)
			}
		})
	}
}
