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

func call(t *testing.T, h *httptest.Server, method, path, token, host, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, h.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
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
		header                          []string
		want                            int
	}{
		{"page", "GET", s.Path(), "", "", nil, 200},
		{"script", "GET", "/script.js", "", "", nil, 200},
		{"style", "GET", "/style.css", "", "", nil, 200},
		{"no token", "GET", "/", "", "", nil, 403},
		{"wrong token", "GET", "/?t=" + strings.Repeat("0", 32), "", "", nil, 403},
		{"a rebound name", "GET", s.Path(), "", "evil.example:80", nil, 403},
		{"a rebound name that looks like an address", "GET", s.Path(), "", "127.0.0.1.evil.example", nil, 403},
		{"a rebound name asks for the script", "GET", "/script.js", "", "evil.example", nil, 403},
		{"an address of the network", "GET", s.Path(), "", "192.168.1.2:80", nil, 403},
		{"localhost", "GET", s.Path(), "", "localhost:1", nil, 200},
		{"IPv6 loopback", "GET", s.Path(), "", "[::1]:1", nil, 200},
		{"a form of another page has no header", "POST", "/api/save?t=" + s.token, "", "", nil, 403},
		{"another site with the token", "POST", "/api/save", s.token, "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another port of this host with the token", "POST", "/api/save", s.token, "", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another origin with the token, old browser", "POST", "/api/save", s.token, "", []string{"Origin", "http://evil.example"}, 403},
		{"our own origin", "POST", "/api/save", s.token, "", []string{"Origin", h.URL, "Sec-Fetch-Site", "same-origin"}, 409},
		{"items", "GET", "/api/items", s.token, "", nil, 200},
		{"thumbnail", "GET", "/api/thumb?n=0&t=" + s.token, "", "", nil, 200},
		{"no such picture", "GET", "/api/thumb?n=3", s.token, "", nil, 404},
		{"negative picture", "GET", "/api/thumb?n=-1", s.token, "", nil, 404},
		{"a path for a number", "GET", "/api/thumb?n=../../etc/passwd", s.token, "", nil, 404},
		{"a path beside the page", "GET", "/../review.go", s.token, "", nil, 404},
		{"renderings without the token", "GET", "/api/renderings?n=0", "", "", nil, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := call(t, h, c.method, c.path, c.token, c.host, `{"n":0,"was":"","text":"x"}`, c.header...)
			require.Equal(t, c.want, code, body)
		})
	}
}

// TestThumbs checks that a thumbnail is kept, sent again only when the file
// changed, and that what is kept is bounded.
func TestThumbs(t *testing.T) {
	dir := collection(t, 2)
	s, h := serve(t, dir, nil)
	get := func(tag string) (int, string) {
		r, err := http.NewRequest("GET", h.URL+"/api/thumb?n=0&t="+s.token, nil)
		require.NoError(t, err)
		r.Header.Set("If-None-Match", tag)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode, res.Header.Get("ETag")
	}
	code, tag := get("")
	require.Equal(t, 200, code)
	require.Equal(t, 1, s.thumbs.used.Len())
	code, _ = get(tag)
	require.Equal(t, 304, code)
	other, err := os.ReadFile(filepath.Join(dir, "p0001.png"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p0000.png"), append(other, 0), 0o644))
	code, changed := get(tag)
	require.Equal(t, 200, code)
	require.NotEqual(t, tag, changed)
	for i := range 40 {
		s.thumbs.keep(thumbKey{n: 100 + i}, make([]byte, thumbBytes/16))
	}
	require.LessOrEqual(t, s.thumbs.bytes, thumbBytes)
	require.Len(t, s.thumbs.kept, s.thumbs.used.Len())
	_, ok := s.thumbs.find(thumbKey{n: 139})
	require.True(t, ok)
	_, ok = s.thumbs.find(thumbKey{n: 100})
	require.False(t, ok)
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
