package captioner

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

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
	Job       string         `json:"job"`
}

// maxLooked bounds the pictures whose headers an estimate reads.
const maxLooked = 256

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

// Survey lists a job's inputs, reads the headers of some, and estimates tiles and
// tokens. It writes nothing.
func Survey(ctx context.Context, eng *engine.Engine, job Job) (*Estimate, error) {
	if err := job.prepare(); err != nil {
		return nil, err
	}
	script, err := newScript(job.Recipe)
	if err != nil {
		return nil, err
	}
	est := &Estimate{Kinds: map[string]int{}, Job: job.Dir}
	tiles, tokens := 0, 0
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
	}
	if est.Inputs == 0 {
		return nil, ErrNothing
	}
	if good := est.Looked - est.Unread; good > 0 {
		f := float64(est.Inputs-est.Bad) / float64(est.Looked) // as many unreadable among the rest
		est.Tiles, est.TokensIn = int64(float64(tiles)*f), int64(float64(tokens)*f)
	}
	est.TokensOut = int64(est.Inputs) * int64(script.recipe.MaxTokens) * int64(len(script.keys))
	return est, nil
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
	fmt.Fprintf(&b, "job directory: %s\n", filepath.Clean(e.Job))
	return b.String()
}
