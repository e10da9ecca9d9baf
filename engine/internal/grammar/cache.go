package grammar

import (
	"fmt"
	"sync"
)

// Cache compiles specifications for one vocabulary and keeps the last ones: their
// masks are built while they are used, and callers repeat themselves. The zero
// value is ready; several goroutines may use it.
type Cache struct {
	mu    sync.Mutex
	vocab *Vocab
	known map[string]*Grammar
	order []string // oldest first
}

// maxCached bounds the grammars that are kept.
const maxCached = 64

// Compile returns the compiled form of spec. vocab is called once.
func (c *Cache) Compile(spec Spec, vocab func() (*Vocab, error)) (*Grammar, error) {
	key := fmt.Sprintf("%q %q %q", spec.Enum, spec.Regexp, spec.JSONSchema)
	c.mu.Lock()
	defer c.mu.Unlock()
	if g, ok := c.known[key]; ok {
		return g, nil
	}
	if c.vocab == nil {
		v, err := vocab()
		if err != nil {
			return nil, err
		}
		c.vocab, c.known = v, map[string]*Grammar{}
	}
	g, err := Compile(spec, c.vocab)
	if err != nil {
		return nil, err
	}
	if len(c.order) == maxCached {
		delete(c.known, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.known[key] = g
	c.order = append(c.order, key)
	return g, nil
}

// Vocab is the vocabulary, nil before the first Compile.
func (c *Cache) Vocab() *Vocab {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.vocab
}
