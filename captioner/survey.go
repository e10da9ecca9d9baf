package captioner

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"metacap/captioner/internal/filter"
	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/vision"
)

// Estimate is what a job would do.
type Estimate struct {
	Inputs    int            `json:"inputs"`
	Kinds     map[string]int `json:"kinds"`
	Bad       int            `json:"bad"` // inputs that cannot even be listed
	Bytes     int64          `json:"bytes"`
	Looked    int            `json:"looked"`      // pictures whose headers were read
	Unread    int            `json:"unreadable"`  // of these, not pictures
	Tiles     int64          `json:"tiles"`       // of all, by the ones looked at
	TokensIn  int64          `json:"tokens_in"`   // of all
	TokensOut int64          `json:"tokens_most"` // at most; 0 = no bound given
	Timed     int            `json:"timed"`       // pictures captioned to measure the time
	Seconds   float64        `json:"seconds"`     // of all, at the rate of those; 0 = none could be captioned
	Job       string         `json:"job"`
}

const (
	// maxLooked bounds the pictures whose headers an estimate reads.
	maxLooked = 256
	// maxTimed bounds the pictures that an estimate captions, and timedFor the time
	// after which it begins no further ones.
	maxTimed = 64
	timedFor = 10 * time.Second
	maxHeld  = 64 << 20 // bytes of their files
)

// Collection reports a file name that stands for many inputs.
func Collection(name string) bool {
	lower := strings.ToLower(name)
	for _, ext := range []string{".tar", ".tar.gz", ".tgz", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".lst"} {
		if strings.HasSuffix(lower, ext) {
			return true
		}
	}
	return source.IsVideo(name)
}

// Survey lists a job's inputs, reads the headers of some, captions a few, and
// estimates tiles, tokens and time. It writes nothing.
func Survey(ctx context.Context, eng *engine.Engine, job Job) (*Estimate, error) {
	if err := job.prepare(); err != nil {
		return nil, err
	}
	script, err := newScript(job.Recipe)
	if err != nil {
		return nil, err
	}
	est := &Estimate{Kinds: map[string]int{}, Job: job.Dir}
	tiles, tokens, held := 0, 0, 0
	var sample []engine.Image
	for it, err := range source.List(ctx, job.Inputs, job.Select) {
		if err != nil {
			return nil, err
		}
		est.Inputs++
		est.Kinds[it.Kind.String()]++
		est.Bytes += it.Size
		if it.Err != nil {
			est.Bad++
			continue
		}
		if it.Kind != source.Image || est.Looked >= maxLooked {
			continue
		}
		est.Looked++
		data, err := it.Read(ctx, job.ReadLimit)
		if err != nil {
			est.Unread++
			continue
		}
		info, err := vision.Probe(data, vision.Options{})
		if err != nil {
			est.Unread++
			continue
		}
		w, h := info.Upright()
		n, t, err := eng.ImageTokens(w, h, script.recipe.MaxTiles)
		if err != nil {
			est.Unread++
			continue
		}
		tiles, tokens = tiles+n, tokens+t
		if held += len(data); len(sample) < maxTimed && held <= maxHeld {
			sample = append(sample, engine.Image{Data: data, MaxTiles: script.recipe.MaxTiles})
		}
	}
	if est.Inputs == 0 {
		return nil, ErrNothing
	}
	if good := est.Looked - est.Unread; good > 0 {
		f := float64(est.Inputs-est.Bad) / float64(est.Looked) // as many unreadable among the rest
		est.Tiles, est.TokensIn = int64(float64(tiles)*f), int64(float64(tokens)*f)
	}
	if err := est.time(ctx, eng, job, script, sample); err != nil {
		return nil, err
	}
	est.TokensOut = int64(est.Inputs) * int64(script.recipe.MaxTokens) * int64(len(script.keys))
	return est, nil
}

// time captions pictures as the job would, as many together as the engine takes,
// and scales the time to all inputs. The first picture is not counted: it pays for
// what is made once.
func (e *Estimate) time(ctx context.Context, eng *engine.Engine, job Job, script *script, sample []engine.Image) error {
	r := &runner{job: &job, script: script, progress: &Progress{}, seen: filter.NewSeen(), engines: []Engine{eng}, dead: make([]atomic.Bool, 1)}
	r.progress.begin()
	prompts := map[string]string{}
	for _, c := range script.recipe.Captions {
		prompts[c.Key] = script.prompt(c, false, nil)
	}
	one := func(i int) error {
		_, err := r.answers(ctx, 0, &source.Item{}, engine.Part{Image: &sample[i]}, prompts)
		return err
	}
	if len(sample) == 0 {
		return nil
	}
	start := time.Now()
	if err := one(0); err != nil {
		return r.ignore(err)
	}
	if first := time.Since(start); first > timedFor/4 { // a slow machine: that one must do
		e.Timed, e.Seconds = 1, first.Seconds()*float64(e.Inputs-e.Bad)
		return nil
	}
	group := min(max(eng.Info().MaxSequences, 1), max(1, len(sample)-1))
	start = time.Now()
	for at := 1; at < len(sample) && time.Since(start) < timedFor; {
		var g errgroup.Group
		for n := min(group, len(sample)-at); n > 0; n-- {
			i := at
			g.Go(func() error { return r.ignore(one(i)) })
			at++
		}
		if err := g.Wait(); err != nil {
			return err
		}
		e.Timed = at - 1
	}
	if e.Timed > 0 {
		e.Seconds = time.Since(start).Seconds() / float64(e.Timed) * float64(e.Inputs-e.Bad)
	}
	return nil
}

// ignore drops the error of an input: an estimate goes on without it.
func (r *runner) ignore(err error) error {
	var bad *failure
	if errors.As(err, &bad) {
		return nil
	}
	return err
}

// String is the estimate for people.
func (e *Estimate) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d inputs (", e.Inputs)
	sep := ""
	for _, k := range []string{"image", "video", "frames"} {
		if n := e.Kinds[k]; n > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, n, k)
			sep = ", "
		}
	}
	fmt.Fprintf(&b, "), %.1f MB; %d cannot be read\n", float64(e.Bytes)/1e6, e.Bad)
	fmt.Fprintf(&b, "about %d tiles and %d picture tokens, from the headers of %d pictures (%d of them unreadable)\n", e.Tiles, e.TokensIn, e.Looked, e.Unread)
	if e.TokensOut > 0 {
		fmt.Fprintf(&b, "at most %d tokens of captions\n", e.TokensOut)
	}
	if e.Seconds > 0 {
		fmt.Fprintf(&b, "about %v, at the rate of %d pictures captioned now\n", time.Duration(e.Seconds*float64(time.Second)).Round(time.Second), e.Timed)
	}
	fmt.Fprintf(&b, "job directory: %s\n", filepath.Clean(e.Job))
	return b.String()
}
