package grammar

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Cache compiles specifications for one vocabulary and keeps those last used:
// their masks are built while they are used, and callers repeat themselves. The
// zero value is ready; several goroutines may use it. A compilation that takes
// long holds up only those who want the same grammar.
type Cache struct {
	vocab   atomic.Pointer[Vocab]
	vocabMu sync.Mutex // while the vocabulary is built

	mu    sync.Mutex
	known map[cacheKey]*cached
	clock int64
	most  int64 // bytes; 0 = maxCachedBytes
}

type cacheKey [sha256.Size]byte

// cached is a grammar of the cache, perhaps still being compiled.
type cached struct {
	once sync.Once
	g    atomic.Pointer[Grammar]
	err  error // valid after once
	used int64 // clock of the last use
}

// Limits of the grammars that are kept, with what was built while they were used.
const (
	maxCached      = 64
	maxCachedBytes = 256 << 20
)

// Compile returns the compiled form of spec. vocab is called once.
func (c *Cache) Compile(spec Spec, vocab func() (*Vocab, error)) (*Grammar, error) {
	v, err := c.open(vocab)
	if err != nil {
		return nil, err
	}
	key := keyOf(spec)
	e := c.entry(key)
	e.once.Do(func() {
		g, err := Compile(spec, v)
		if e.err = err; err == nil {
			e.g.Store(g)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		if c.known[key] == e {
			delete(c.known, key)
		}
		return nil, e.err
	}
	c.trim()
	return e.g.Load(), nil
}

// keyOf names a specification; a nil list and an empty one are different.
func keyOf(spec Spec) cacheKey {
	h := sha256.New()
	write := func(set bool, s string) {
		n := int64(-1)
		if set {
			n = int64(len(s))
		}
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
		h.Write([]byte(s))
	}
	write(spec.Regexp != "", spec.Regexp)
	write(spec.JSONSchema != nil, string(spec.JSONSchema))
	write(spec.Enum != nil, "")
	for _, label := range spec.Enum {
		write(true, label)
	}
	return cacheKey(h.Sum(nil))
}

func (c *Cache) open(vocab func() (*Vocab, error)) (*Vocab, error) {
	if v := c.vocab.Load(); v != nil {
		return v, nil
	}
	c.vocabMu.Lock()
	defer c.vocabMu.Unlock()
	if v := c.vocab.Load(); v != nil {
		return v, nil
	}
	v, err := vocab()
	if err == nil {
		c.vocab.Store(v)
	}
	return v, err
}

// entry finds or makes the place of a grammar and notes its use.
func (c *Cache) entry(key cacheKey) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[cacheKey]*cached{}
	}
	e := c.known[key]
	if e == nil {
		e = &cached{}
		c.known[key] = e
	}
	c.clock++
	e.used = c.clock
	return e
}

// trim forgets the grammars that were not used for longest, but the last one, until the
// limits are kept. Requests that still use them are not disturbed.
func (c *Cache) trim() {
	most := c.most
	if most == 0 {
		most = maxCachedBytes
	}
	for {
		total, oldest := int64(0), cacheKey{}
		var old *cached
		for key, e := range c.known {
			g := e.g.Load()
			if g == nil {
				continue
			}
			total += g.Bytes()
			if old == nil || e.used < old.used {
				old, oldest = e, key
			}
		}
		if len(c.known) <= maxCached && total <= most || old == nil || old.used == c.clock {
			return
		}
		delete(c.known, oldest)
	}
}

// Vocab is the vocabulary, nil before the first Compile.
func (c *Cache) Vocab() *Vocab { return c.vocab.Load() }
