package review

import (
	"encoding/json"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"metacap/captioner/internal/sink"
)

// rendering is a text that was made of a picture, to compare its caption with.
type rendering struct {
	Label string `json:"label"` // the caption's key, and the model or the file
	Text  string `json:"text"`
}

// maxRenderings bounds what is kept of a picture.
const maxRenderings = 32

// renderingsOf lists the captions of a job's record.
func renderingsOf(r *sink.Record) []rendering {
	var out []rendering
	for _, key := range slices.Sorted(maps.Keys(r.Captions)) {
		label := key
		if r.Meta.Model != "" {
			label += ", by " + r.Meta.Model
		}
		out = append(out, rendering{label, r.Captions[key]})
	}
	return out
}

// getRenderings answers with what the records and the other sidecars of a picture say.
func (s *Server) getRenderings(w http.ResponseWriter, r *http.Request) {
	v, ok := s.asked(w, r)
	if !ok {
		return
	}
	list := slices.Clone(v.known)
	stem := strings.TrimSuffix(v.path, filepath.Ext(v.path))
	for _, ext := range []string{".txt", ".caption"} {
		if stem+ext == v.side {
			continue
		}
		if data, ok, err := sink.ReadOld(stem + ext); ok && err == nil && len(data) <= maxCaption {
			list = append(list, rendering{ext + " file", strings.TrimRight(string(data), "\n")})
		}
	}
	if data, ok, err := sink.ReadOld(stem + ".json"); ok && err == nil && len(data) <= 4*maxCaption {
		var side struct {
			Captions map[string]string `json:"captions"`
		}
		if json.Unmarshal(data, &side) == nil { // else some other tool's file
			for _, key := range slices.Sorted(maps.Keys(side.Captions)) {
				list = append(list, rendering{key + ", .json file", side.Captions[key]})
			}
		}
	}
	seen := map[string]bool{}
	list = slices.DeleteFunc(list, func(v rendering) bool {
		twice := seen[v.Text] || strings.TrimSpace(v.Text) == ""
		seen[v.Text] = true
		return twice
	})
	if len(list) > maxRenderings {
		list = list[:maxRenderings]
	}
	if list == nil {
		list = []rendering{}
	}
	answer(w, list)
}
