// Package review serves a page to look through captions and mend them: a
// keyboard-first grid of pictures and captions with filters, editing that saves
// itself, undo, find and replace with a preview, and regeneration of one caption.
//
// Captions are the text sidecars beside the pictures; flags and reasons of
// failures come from captions*.jsonl in the same directory. The server is meant
// for the loopback interface: every request must carry the token that the page's
// address holds, and a Host that is the server's own, so that no other web page
// and no rebound name can reach it.
package review

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed" // the page
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
	"metacap/internal/atomicfile"
	"metacap/vision"
)

//go:embed page.html
var page []byte

// Options say what is reviewed.
type Options struct {
	Dir string // searched for pictures, recursively
	Ext string // of sidecars; empty = .txt
	// Regenerate makes a new caption of a picture; nil = the page does not offer it.
	Regenerate func(ctx context.Context, path string) (string, error)
}

// maxCaption bounds an edited caption in bytes.
const maxCaption = 1 << 20

// item is a picture with its caption.
type item struct {
	N       int      `json:"n"`
	Name    string   `json:"name"` // relative to the directory
	Caption string   `json:"caption"`
	Have    bool     `json:"have"` // a sidecar exists
	Flags   []string `json:"flags,omitempty"`
	Error   string   `json:"error,omitempty"`
	path    string
	side    string
}

// Server is an http.Handler for one directory.
type Server struct {
	o     Options
	token string
	mux   *http.ServeMux
	thumb chan struct{} // a token a thumbnail being made

	mu    sync.Mutex // of items' captions and of the sidecars
	items []*item
}

// New lists the pictures of a directory. The token is in Server.Path.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.Ext == "" {
		o.Ext = ".txt"
	}
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("review: token: %w", err)
	}
	s := &Server{o: o, token: hex.EncodeToString(key[:]), mux: http.NewServeMux(), thumb: make(chan struct{}, runtime.GOMAXPROCS(0))}
	if err := s.list(ctx); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET /{$}", s.page)
	s.mux.HandleFunc("GET /api/items", s.getItems)
	s.mux.HandleFunc("GET /api/thumb", s.getThumb)
	s.mux.HandleFunc("POST /api/save", s.save)
	s.mux.HandleFunc("POST /api/replace", s.replace)
	s.mux.HandleFunc("POST /api/regenerate", s.regenerate)
	return s, nil
}

// Path is the path and query of the page.
func (s *Server) Path() string { return "/?t=" + s.token }

// Len is the number of pictures.
func (s *Server) Len() int { return len(s.items) }

func (s *Server) list(ctx context.Context) error {
	place := sink.Place{Base: s.o.Dir, Ext: s.o.Ext}
	byName := map[string]*item{}
	for it, err := range source.List(ctx, []string{s.o.Dir}, source.Options{}) {
		if err != nil {
			return fmt.Errorf("review: %w", err)
		}
		if it.Kind != source.Image || it.Path == "" {
			continue
		}
		name, err := filepath.Rel(s.o.Dir, it.Path)
		if err != nil {
			return fmt.Errorf("review: %w", err)
		}
		v := &item{N: len(s.items), Name: filepath.ToSlash(name), path: it.Path}
		v.side = place.Path(&sink.Record{Path: it.Path, Kind: "image"}, "txt")
		data, ok, err := sink.ReadOld(v.side)
		if err != nil {
			v.Error = err.Error()
		}
		v.Caption, v.Have = strings.TrimRight(string(data), "\n"), ok
		s.items = append(s.items, v)
		byName[v.Name] = v
	}
	return s.flags(byName)
}

// flags joins what the jobs of the directory recorded. Keys are paths as the job
// was given them, so they are matched by their ends.
func (s *Server) flags(byName map[string]*item) error {
	files, err := filepath.Glob(filepath.Join(s.o.Dir, "captions*.jsonl"))
	if err != nil {
		return nil // the directory's name is no pattern: no flags
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("review: %w", err)
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 16<<20)
		for sc.Scan() {
			var r sink.Record
			if json.Unmarshal(sc.Bytes(), &r) != nil {
				continue // not a record of ours
			}
			for key := r.Key; key != ""; {
				if v := byName[key]; v != nil {
					v.Flags, v.Error = r.Flags, r.Error
					break
				}
				_, key, _ = strings.Cut(key, "/")
			}
		}
		if err := errors.Join(sc.Err(), f.Close()); err != nil {
			return fmt.Errorf("review: %s: %w", name, err)
		}
	}
	return nil
}

// ServeHTTP checks who asks before anything else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if !localHost(r.Host) {
		http.Error(w, "review: this server answers only to its loopback name", http.StatusForbidden)
		return
	}
	token := r.Header.Get("X-Token")
	if r.Method == http.MethodGet && token == "" {
		token = r.URL.Query().Get("t")
	}
	if subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1 {
		http.Error(w, "review: open the address that metacap review printed", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page) // a reader that went away is no matter
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // a reader that went away is no matter
}

func (s *Server) getItems(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, map[string]any{"dir": s.o.Dir, "regenerate": s.o.Regenerate != nil, "items": s.items})
}

// find returns the item that a number names.
func (s *Server) find(n int) (*item, error) {
	if n < 0 || n >= len(s.items) {
		return nil, fmt.Errorf("review: no picture %d of %d", n, len(s.items))
	}
	return s.items[n], nil
}

// thumbSides are the sizes of thumbnails in pixels.
const (
	thumbSide = 320
	largeSide = 1280
)

func (s *Server) getThumb(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	var v *item
	if err == nil {
		v, err = s.find(n)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	select {
	case s.thumb <- struct{}{}:
		defer func() { <-s.thumb }()
	case <-r.Context().Done():
		return
	}
	side := thumbSide
	if r.URL.Query().Get("large") != "" {
		side = largeSide
	}
	data, err := thumbnail(v.path, side)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	w.Header().Set("Cache-Control", "private, max-age=3600")
	_, _ = w.Write(data) // a reader that went away is no matter
}

func thumbnail(path string, side int) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pic, err := vision.Decode(data, vision.Options{Name: path})
	if err != nil {
		return nil, err
	}
	return vision.Thumbnail(pic, side)
}

// read decodes a request's body.
func read(w http.ResponseWriter, r *http.Request, to any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4*maxCaption))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		http.Error(w, "review: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// errChanged says that a sidecar is not as the page knows it.
var errChanged = errors.New("review: the file was changed by something else; reload the page")

// store writes a caption if the file still holds was. The caller holds s.mu.
func (s *Server) store(v *item, was, text string) error {
	if len(text) > maxCaption || strings.ContainsRune(text, 0) {
		return fmt.Errorf("review: a caption of %d bytes, or with a zero byte; the limit is %d", len(text), maxCaption)
	}
	old, ok, err := sink.ReadOld(v.side)
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	if strings.TrimRight(string(old), "\n") != strings.TrimRight(was, "\n") {
		v.Caption, v.Have = strings.TrimRight(string(old), "\n"), ok
		return errChanged
	}
	text = strings.TrimRight(text, " \t\r\n")
	if err := atomicfile.Write(v.side, []byte(text+"\n"), 0o644); err != nil {
		return fmt.Errorf("review: %w", err)
	}
	v.Caption, v.Have = text, true
	return nil
}

func (s *Server) save(w http.ResponseWriter, r *http.Request) {
	var q struct {
		N    int    `json:"n"`
		Was  string `json:"was"`
		Text string `json:"text"`
	}
	if !read(w, r, &q) {
		return
	}
	v, err := s.find(q.N)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch err := s.store(v, q.Was, q.Text); {
	case errors.Is(err, errChanged):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		answer(w, v)
	}
}

func (s *Server) regenerate(w http.ResponseWriter, r *http.Request) {
	var q struct {
		N int `json:"n"`
	}
	if !read(w, r, &q) {
		return
	}
	v, err := s.find(q.N)
	if err != nil || s.o.Regenerate == nil {
		http.Error(w, "review: nothing to regenerate", http.StatusNotFound)
		return
	}
	text, err := s.o.Regenerate(r.Context(), v.path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	answer(w, map[string]string{"text": text}) // the page shows it and saves it as an edit
}
