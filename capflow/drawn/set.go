// Package drawn measures captioning flows without a judge: on drawn pictures
// whose facts are known. A caption's sentences are compared with the facts word
// by word, its numbers with those of the picture.
//
// A set is a directory with samples.json and its pictures (testdata/drawn, or
// one made by the generator in tools/drawn).
package drawn

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"metacap/capflow"
	"metacap/capflow/internal/prose"
	"metacap/capflow/pack"
	"metacap/engine"
)

// maxSetBytes bounds samples.json.
const maxSetBytes = 256 << 20

// Fact is a true sentence and one that differs from it in a single point.
type Fact struct {
	Kind  string `json:"kind"`
	True  string `json:"true"`
	False string `json:"false"`
}

// Sample is a picture or video with everything that is true of it.
type Sample struct {
	Domain   string   `json:"domain"`
	Seed     uint64   `json:"seed"`
	Files    []string `json:"files"`
	Overview string   `json:"overview"`
	Truth    struct {
		Caption string `json:"caption"`
		OCR     string `json:"ocr"`
		Short   string `json:"short"`
	} `json:"truth"`
	Facts     []Fact   `json:"facts"`
	Reasoning []string `json:"reasoning"`
	Code      *struct {
		Source  string `json:"source"`
		Purpose string `json:"purpose"`
	} `json:"code"`

	dir string
}

// Load reads a set.
func Load(dir string) ([]*Sample, error) {
	path := filepath.Join(dir, "samples.json")
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("drawn: load: %w", err)
	}
	if st.Size() > maxSetBytes {
		return nil, fmt.Errorf("drawn: load: %s has %d bytes, limit %d", path, st.Size(), maxSetBytes)
	}
	data, err := os.ReadFile(path)
	var out []*Sample
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("drawn: load: %s: %w", path, err)
	}
	for i, s := range out {
		if len(s.Files) == 0 || s.Truth.Caption == "" || s.Domain == "" {
			return nil, fmt.Errorf("drawn: load: %s: sample %d has no file, domain or caption", path, i)
		}
		s.dir = dir
	}
	return out, nil
}

// Input is the sample as a flow takes it; its domain is not given.
func (s *Sample) Input() capflow.Input {
	in := capflow.Input{ID: fmt.Sprintf("%s_%d", s.Domain, s.Seed), Video: len(s.Files) > 1}
	for _, f := range s.Files {
		in.Images = append(in.Images, engine.Image{Path: filepath.Join(s.dir, f)})
	}
	return in
}

// truths are the keys of all sentences and lines that are true of the picture.
func (s *Sample) truths() map[string]bool {
	out := map[string]bool{}
	texts := []string{s.Truth.Caption, s.Overview, s.Truth.Short, strings.Join(s.Reasoning, " "), s.Truth.OCR}
	if s.Code != nil {
		texts = append(texts, s.Code.Source, s.Code.Purpose)
	}
	for _, f := range s.Facts {
		texts = append(texts, f.True)
	}
	for _, t := range texts {
		for _, x := range prose.Sentences(t) {
			out[prose.Key(x)] = true
		}
	}
	return out
}

// Plant returns the true caption with one fact replaced by its false form, the
// fact chosen by the sample's seed. ok is false for a sample without facts.
func (s *Sample) Plant() (caption string, ok bool) {
	var at []int
	for i, f := range s.Facts {
		if f.False != "" && strings.Contains(s.Truth.Caption, f.True) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return "", false
	}
	f := s.Facts[at[rand.New(rand.NewPCG(s.Seed, 1)).IntN(len(at))]]
	return strings.Replace(s.Truth.Caption, f.True, f.False, 1), true
}

// Counts is what is counted on one caption. Rates are ratios of sums.
type Counts struct {
	Sentences, Wrong      int // of the caption; wrong: not true of the picture
	Facts, Found          int
	Numbers, NumbersFound int // of the true caption
	Said, SaidWrong       int // numbers in the caption; wrong: nowhere in what is true
	Words, WordsFound     int // of the text in the picture
	Ordered, OrderWrong   int // pairs of neighbouring facts of a video, in the wrong order
	Accepted, Failed      int
	Leaks                 int // prompt leaks, preambles and refusals
}

// Measure compares a record with the sample.
func (s *Sample) Measure(r *capflow.Record, p *pack.Pack) Counts {
	var c Counts
	if r.Status == capflow.Failed || r.Captions == nil {
		c.Failed, c.Facts = 1, len(s.Facts)
		return c
	}
	text := r.Captions.Long
	if r.Status == capflow.Accepted {
		c.Accepted = 1
	}
	if capflow.Leak(p.Leaks, text) != "" || slices.ContainsFunc(p.Refusals, func(x string) bool { return strings.Contains(text, x) }) {
		c.Leaks = 1
	}
	truths := s.truths()
	at := map[string]int{}
	for i, x := range prose.Sentences(text) {
		k := prose.Key(x)
		if k == "" {
			continue
		}
		c.Sentences++
		if !truths[k] {
			c.Wrong++
		}
		if _, ok := at[k]; !ok {
			at[k] = i
		}
	}
	last := -1
	for _, f := range s.Facts {
		c.Facts++
		i, ok := at[prose.Key(f.True)]
		if !ok {
			continue
		}
		c.Found++
		if len(s.Files) > 1 {
			if last >= 0 {
				c.Ordered++
				if i < last {
					c.OrderWrong++
				}
			}
			last = i
		}
	}
	s.measureTokens(&c, text)
	return c
}

// measureTokens counts numbers and words of the picture's text.
func (s *Sample) measureTokens(c *Counts, text string) {
	norms := func(t string) (out []string) {
		for _, l := range prose.Numbers(t) {
			out = append(out, l.Norm)
		}
		return out
	}
	said := norms(text)
	for _, n := range norms(s.Truth.Caption) {
		c.Numbers++
		if slices.Contains(said, n) {
			c.NumbersFound++
		}
	}
	all := s.Truth.Caption + "\n" + s.Truth.OCR + "\n" + strings.Join(s.Reasoning, "\n")
	if s.Code != nil {
		all += "\n" + s.Code.Source
	}
	known := norms(all)
	for _, n := range said {
		c.Said++
		if !slices.Contains(known, n) {
			c.SaidWrong++
		}
	}
	if s.Truth.OCR == "" || s.Truth.OCR == "No readable text." {
		return
	}
	have := prose.Words(text)
	for _, w := range prose.Words(s.Truth.OCR) {
		c.Words++
		if slices.Contains(have, w) {
			c.WordsFound++
		}
	}
}
