package review

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// collection makes n drawn pictures with captions, one of them flagged, one failed.
func collection(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	var lines bytes.Buffer
	for i := range n {
		img := image.NewRGBA(image.Rect(0, 0, 96, 64))
		for y := range 64 {
			for x := range 96 {
				img.Set(x, y, color.RGBA{uint8(x * 2), uint8(y * 3), uint8(i * 40), 255})
			}
		}
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, img))
		name := fmt.Sprintf("p%04d.png", i)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644))
		if i == 2 {
			fmt.Fprintf(&lines, `{"key":"some/where/%s","error":"refused by filters: caption:loop"}`+"\n", name)
			continue
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%04d.txt", i)), fmt.Appendf(nil, "A colour ramp, number %d, seen from the front.\n", i), 0o644))
		if i == 1 {
			fmt.Fprintf(&lines, `{"key":"some/where/%s","flags":["caption:short"]}`+"\n", name)
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "captions.jsonl"), lines.Bytes(), 0o644))
	return dir
}

func serve(t *testing.T, dir string, regenerate func(context.Context, string) (string, error)) (*Server, *httptest.Server) {
	t.Helper()
	s, err := New(context.Background(), Options{Dir: dir, Regenerate: regenerate})
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h
}

func call(t *testing.T, h *httptest.Server, method, path, token, host, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, h.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("X-Token", token)
	}
	if host != "" {
		r.Host = host
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	require.NoError(t, err)
	return res.StatusCode, b.String()
}

func TestAccess(t *testing.T) {
	s, h := serve(t, collection(t, 3), nil)
	for _, c := range []struct {
		name, method, path, token, host string
		want                            int
	}{
		{"page", "GET", s.Path(), "", "", 200},
		{"no token", "GET", "/", "", "", 403},
		{"wrong token", "GET", "/?t=" + strings.Repeat("0", 32), "", "", 403},
		{"a rebound name", "GET", s.Path(), "", "evil.example:80", 403},
		{"a form of another page has no header", "POST", "/api/save?t=" + s.token, "", "", 403},
		{"items", "GET", "/api/items", s.token, "", 200},
		{"thumbnail", "GET", "/api/thumb?n=0&t=" + s.token, "", "", 200},
		{"no such picture", "GET", "/api/thumb?n=3", s.token, "", 404},
		{"negative picture", "GET", "/api/thumb?n=-1", s.token, "", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := call(t, h, c.method, c.path, c.token, c.host, `{"n":0,"was":"","text":"x"}`)
			require.Equal(t, c.want, code, body)
		})
	}
}

func TestSave(t *testing.T) {
	dir := collection(t, 4)
	s, h := serve(t, dir, nil)
	require.Equal(t, 4, s.Len())
	require.Equal(t, []string{"caption:short"}, s.items[1].Flags)
	require.Contains(t, s.items[2].Error, "loop")
	post := func(path string, v any) (int, string) {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		return call(t, h, "POST", path, s.token, "", string(data))
	}
	code, _ := post("/api/save", map[string]any{"n": 2, "was": "", "text": "A new one."})
	require.Equal(t, 200, code)
	got, err := os.ReadFile(filepath.Join(dir, "p0002.txt"))
	require.NoError(t, err)
	require.Equal(t, "A new one.\n", string(got))
	code, body := post("/api/save", map[string]any{"n": 2, "was": "something else", "text": "lost?"})
	require.Equal(t, 409, code, body)
	code, body = post("/api/replace", map[string]any{"find": "number (\\d)", "to": "no. $1", "regexp": true, "preview": true})
	require.Equal(t, 200, code)
	require.Equal(t, 3, strings.Count(body, `"after":"A colour ramp, no. `))
	got, err = os.ReadFile(filepath.Join(dir, "p0000.txt"))
	require.NoError(t, err)
	require.Contains(t, string(got), "number 0", "a preview writes nothing")
	code, body = post("/api/replace", map[string]any{"find": "number", "to": "no.", "only": []int{0, 3}})
	require.Equal(t, 200, code)
	require.Equal(t, 2, strings.Count(body, `"n":`))
	got, err = os.ReadFile(filepath.Join(dir, "p0001.txt"))
	require.NoError(t, err)
	require.Contains(t, string(got), "number 1", "not among those named")
	code, _ = post("/api/replace", map[string]any{"find": "(", "regexp": true})
	require.Equal(t, 400, code)
}
