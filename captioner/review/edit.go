package review

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"

	"metacap/captioner/internal/sink"
	"metacap/internal/atomicfile"
)

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
var errChanged = errors.New("review: the file was changed by something else")

// current compares a sidecar with what the page knows of it and takes over what
// it holds. The caller holds s.mu.
func (s *Server) current(v *item, was string) error {
	old, ok, err := sink.ReadOld(v.side)
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	now := strings.TrimRight(string(old), "\n")
	v.Caption, v.Have = now, ok
	if now != strings.TrimRight(was, "\n") {
		return errChanged
	}
	return nil
}

// store writes a caption if the file still holds was. The caller holds s.mu.
func (s *Server) store(v *item, was, text string) error {
	if len(text) > maxCaption || strings.ContainsRune(text, 0) {
		return fmt.Errorf("review: a caption of %d bytes, or with a zero byte; the limit is %d", len(text), maxCaption)
	}
	if err := s.current(v, was); err != nil {
		return err
	}
	text = strings.TrimRight(text, " \t\r\n")
	if err := atomicfile.Write(v.side, []byte(text+"\n"), 0o644); err != nil {
		return fmt.Errorf("review: %w", err)
	}
	v.Caption, v.Have = text, true
	return nil
}

// remove deletes a caption file if it still holds was: the undoing of a first caption.
func (s *Server) remove(v *item, was string) error {
	if err := s.current(v, was); err != nil {
		return err
	}
	if err := os.Remove(v.side); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("review: %w", err)
	}
	v.Caption, v.Have = "", false
	return nil
}

func (s *Server) save(w http.ResponseWriter, r *http.Request) {
	var q struct {
		N      int    `json:"n"`
		Was    string `json:"was"`
		Text   string `json:"text"`
		Remove bool   `json:"remove"` // the file, instead of writing Text
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
	if q.Remove {
		err = s.remove(v, q.Was)
	} else {
		err = s.store(v, q.Was, q.Text)
	}
	switch {
	case errors.Is(err, errChanged):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": err.Error(), "item": v}) // a reader that went away is no matter
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

// change is one caption of a replacement.
type change struct {
	N      int    `json:"n"`
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
	Error  string `json:"error,omitempty"`
}

// replace finds and replaces in captions: those numbered, or all. With preview
// set nothing is written.
func (s *Server) replace(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Find    string `json:"find"`
		To      string `json:"to"`
		Regexp  bool   `json:"regexp"`
		Preview bool   `json:"preview"`
		Only    []int  `json:"only"` // nil = all
	}
	if !read(w, r, &q) {
		return
	}
	if q.Find == "" {
		http.Error(w, "review: nothing to find", http.StatusBadRequest)
		return
	}
	edit := func(text string) string { return strings.ReplaceAll(text, q.Find, q.To) }
	if q.Regexp {
		re, err := regexp.Compile(q.Find)
		if err != nil {
			http.Error(w, "review: "+err.Error(), http.StatusBadRequest)
			return
		}
		edit = func(text string) string { return re.ReplaceAllString(text, q.To) }
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	items := s.items
	if q.Only != nil {
		items = nil
		for _, n := range q.Only {
			v, err := s.find(n)
			if err != nil {
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			}
			items = append(items, v)
		}
	}
	changes := []change{}
	for _, v := range items {
		after := edit(v.Caption)
		if !v.Have || after == v.Caption {
			continue
		}
		c := change{N: v.N, Name: v.Name, Before: v.Caption, After: after}
		if !q.Preview {
			if err := s.store(v, c.Before, after); err != nil {
				c.Error = err.Error()
			}
			c.After = v.Caption
		}
		changes = append(changes, c)
	}
	answer(w, changes)
}
