// Package review serves a page to look through captions and mend them: a
// keyboard-first grid of pictures and captions with filters, editing that saves
// itself, undo, find and replace with a preview, regeneration of one caption, and
// a comparison of all renderings of a picture.
//
// Captions are the text sidecars beside the pictures; flags, reasons of failures
// and renderings come from captions*.jsonl in the same directory.
//
// The server is meant for the loopback interface. A request must name a loopback
// host, so that no rebound name reaches it; it must not come from another origin;
// and whatever says or changes something of the collection must carry the token
// that the page's address holds. Pictures are named by number, never by path.
package review

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed" // the page
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
)

//go:embed page
var pages embed.FS

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
	known   []rendering // of the jobs' records
}

// Server is an http.Handler for one directory.
type Server struct {
	o       Options
	token   string
	mux     *http.ServeMux
	origins *http.CrossOriginProtection
	thumbs  *thumbs

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
	s := &Server{
		o: o, token: hex.EncodeToString(key[:]), mux: http.NewServeMux(),
		origins: http.NewCrossOriginProtection(), thumbs: newThumbs(), items: []*item{},
	}
	if err := s.list(ctx); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET /{$}", asset("index.html", "text/html; charset=utf-8"))
	s.mux.HandleFunc("GET /style.css", asset("style.css", "text/css; charset=utf-8"))
	s.mux.HandleFunc("GET /script.js", asset("script.js", "text/javascript; charset=utf-8"))
	s.mux.HandleFunc("GET /api/items", s.getItems)
	s.mux.HandleFunc("GET /api/renderings", s.getRenderings)
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
					if v.known = append(v.known, renderingsOf(&r)...); len(v.known) > maxRenderings {
						v.known = v.known[:maxRenderings]
					}
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
	h.Set("Content-Security-Policy", "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if !localHost(r.Host) {
		http.Error(w, "review: this server answers only to its loopback name", http.StatusForbidden)
		return
	}
	if err := s.origins.Check(r); err != nil {
		http.Error(w, "review: requests of other pages are refused", http.StatusForbidden)
		return
	}
	if !public[r.URL.Path] && !s.authorised(r) {
		http.Error(w, "review: open the address that metacap review printed", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// public are the paths that say nothing of the collection; a style sheet and a
// script cannot be asked for with a header.
var public = map[string]bool{"/style.css": true, "/script.js": true}

// authorised reports a request that has the token: in a header, or, where it
// only reads, in the address.
func (s *Server) authorised(r *http.Request) bool {
	token := r.Header.Get("X-Token")
	if r.Method == http.MethodGet && token == "" {
		token = r.URL.Query().Get("t")
	}
	return subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1
}

func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// asset serves a file of the page.
func asset(name, kind string) http.HandlerFunc {
	data, err := pages.ReadFile("page/" + name)
	if err != nil {
		panic(err) // embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(data) // a reader that went away is no matter
	}
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
