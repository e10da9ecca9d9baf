package endpoint_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/endpoint"
	"metacap/engine"
)

// TestFailures: every way a server fails is an error, after the tries that may help.
func TestFailures(t *testing.T) {
	good := `{"choices":[{"message":{"content":"A cat."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000000,"completion_tokens":2}}`
	for name, c := range map[string]struct {
		serve func(n int64, w http.ResponseWriter, r *http.Request)
		tries int64
		ok    bool
	}{
		"good":    {func(_ int64, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, good) }, 1, true},
		"garbage": {func(_ int64, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, 1, false},
		"empty":   {func(_ int64, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, 1, false},
		"500":     {func(_ int64, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 3, false},
		"400":     {func(_ int64, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }, 1, false},
		"once 503": {func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.WriteHeader(503)
				return
			}
			fmt.Fprint(w, good)
		}, 2, true},
		"hang": {func(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 3, false},
		"truncated": {func(_ int64, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, good[:20])
		}, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				buf := make([]byte, 1<<16)
				_, _ = r.Body.Read(buf)
				c.serve(n.Add(1), w, r)
			}))
			defer s.Close()
			m, err := endpoint.New(endpoint.Options{URL: s.URL + "/v1", Model: "m", Tries: 3, Pause: time.Millisecond, Timeout: 100 * time.Millisecond, PriceIn: 2})
			require.NoError(t, err)
			f, err := capflow.New(m, capflow.Options{Mode: capflow.Single})
			require.NoError(t, err)
			png := []byte("\x89PNG\r\n\x1a\n")
			r, err := f.Caption(context.Background(), capflow.Input{ID: "a", Images: []engine.Image{{Data: png}}})
			require.NoError(t, err)
			require.Equal(t, c.tries, n.Load())
			if !c.ok {
				require.Equal(t, capflow.Failed, r.Status)
				return
			}
			require.Equal(t, "A cat.", r.Captions.Long)
			require.InDelta(t, 2, r.Usage.Dollars, 1e-9)
		})
	}
}
