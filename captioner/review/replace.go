package review

import (
	"net/http"
	"regexp"
	"strings"
)

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
