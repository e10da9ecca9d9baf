package review

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"

	"metacap/vision"
)

// Sides of the pictures that the page shows, in pixels.
const (
	thumbSide = 480 // a card on a dense screen
	largeSide = 1600
)

// thumbBytes bounds the thumbnails kept for the next look.
const thumbBytes = 64 << 20

// maxPicture bounds a picture file that is read for its thumbnail, in bytes.
const maxPicture = 256 << 20

// thumbs makes small pictures and keeps those used last.
type thumbs struct {
	making chan struct{} // a token a thumbnail being made

	mu    sync.Mutex
	kept  map[thumbKey]*list.Element // of *thumb
	used  *list.List                 // last used first
	bytes int
}

// thumbKey names a thumbnail; a changed file has another one.
type thumbKey struct {
	n, side     int
	size, mtime int64
}

type thumb struct {
	key  thumbKey
	data []byte
}

func newThumbs() *thumbs {
	return &thumbs{making: make(chan struct{}, runtime.GOMAXPROCS(0)), kept: map[thumbKey]*list.Element{}, used: list.New()}
}

func (t *thumbs) find(key thumbKey) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.kept[key]
	if !ok {
		return nil, false
	}
	t.used.MoveToFront(e)
	return e.Value.(*thumb).data, true
}

func (t *thumbs) keep(key thumbKey, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.kept[key]; ok {
		return // two requests made it together
	}
	t.kept[key] = t.used.PushFront(&thumb{key, data})
	t.bytes += len(data)
	for t.bytes > thumbBytes && t.used.Len() > 1 {
		last := t.used.Remove(t.used.Back()).(*thumb)
		delete(t.kept, last.key)
		t.bytes -= len(last.data)
	}
}

// get returns the thumbnail of a file.
func (t *thumbs) get(ctx context.Context, key thumbKey, path string) ([]byte, error) {
	if data, ok := t.find(key); ok {
		return data, nil
	}
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if key.size > maxPicture {
		return nil, fmt.Errorf("review: %d bytes exceed the limit of %d", key.size, maxPicture)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pic, err := vision.Decode(data, vision.Options{Name: path})
	if err != nil {
		return nil, err
	}
	if data, err = vision.Thumbnail(pic, key.side); err == nil {
		t.keep(key, data)
	}
	return data, err
}

func (s *Server) getThumb(w http.ResponseWriter, r *http.Request) {
	v, ok := s.asked(w, r)
	if !ok {
		return
	}
	st, err := os.Stat(v.path)
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("review: not a regular file")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	key := thumbKey{n: v.N, side: thumbSide, size: st.Size(), mtime: st.ModTime().UnixNano()}
	if r.URL.Query().Get("large") != "" {
		key.side = largeSide
	}
	tag := fmt.Sprintf(`"%d-%x-%x"`, key.side, key.size, key.mtime)
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache") // asked again each time, sent again when the file changed
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	data, err := s.thumbs.get(r.Context(), key, v.path)
	if err != nil {
		w.Header().Del("ETag")
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	_, _ = w.Write(data) // a reader that went away is no matter
}

// asked returns the item that a request names by its number.
func (s *Server) asked(w http.ResponseWriter, r *http.Request) (*item, bool) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	var v *item
	if err == nil {
		v, err = s.find(n)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, false
	}
	return v, true
}
