package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"metacap/internal/bench"
)

// benchShareCmd is metacap bench share.
type benchShareCmd struct {
	Agents      int    `default:"7" placeholder:"N" help:"Agents, each with a question of its own."`
	Tiles       int    `default:"0" placeholder:"N" help:"Tiles of the picture, thumbnail included; 0 = the model's largest."`
	Tokens      int    `default:"32" placeholder:"N" help:"Tokens of an answer."`
	Repetitions int    `short:"r" default:"5" placeholder:"N" help:"Measured rounds of all ways, after one that is not."`
	Output      string `short:"o" default:"md" enum:"md,json" help:"md, or json (one object)."`

	benchModel
}

func (*benchShareCmd) examples() string {
	return `
  metacap bench share                              7 agents on the embedded model's largest picture
  metacap bench share --random-weights tiny --tiles 13
  metacap bench share -m ~/models/MetaCaptioner-8B --agents 8 --tokens 128 -o json

Three ways take turns in every round: none gives each agent a picture of its own,
of the same size, so that nothing can be shared; cache sends whole requests with
the same picture; fork opens a session and forks it. Every round has new pictures.
All agents ask at once. Cached tokens are those that a call took from what was
there; saved are the prompt tokens that nobody computed, as a multiple of the
common prefix: one less than the agents if it was computed once (a little less
for cache, which finds whole blocks of 32 tokens). Times and rates are medians; the ratio is the median of
the rounds' own ratios to none. Decoding and tiling the picture is included:
as often as the way does it, so once for fork and once an agent for the others;
the rate of decoding is the sum of the agents' own, from first to last token.
Speculation and the loop guard are off and answers run over end-of-turn tokens.
`
}

// shareRecord is the result as JSON.
type shareRecord struct {
	benchBase
	Test         string                     `json:"test"`
	Agents       int                        `json:"agents"`
	Tiles        int                        `json:"tiles"`
	AnswerTokens int                        `json:"answer_tokens"`
	PrefixTokens int                        `json:"prefix_tokens"`
	Ways         map[bench.ShareMode]wayRow `json:"ways"`
}

// wayRow is what a way cost. The counts are of one round; they are the same in all.
type wayRow struct {
	Seconds      []float64 `json:"seconds"`
	Median       float64   `json:"median_seconds"`
	Ratio        float64   `json:"ratio"` // to none, median of the rounds
	Rate         float64   `json:"output_tokens_per_second"`
	Decoding     float64   `json:"decode_tokens_per_second"` // between first and last tokens
	PromptTokens int       `json:"prompt_tokens"`
	CachedTokens int       `json:"cached_tokens"`
	Computed     int       `json:"computed_prompt_tokens"`
	Saved        float64   `json:"saved_prefixes"` // prompt tokens not computed, as a multiple of the prefix
	TilesEncoded int       `json:"tiles_encoded"`
}

// Run is called by kong.
func (c *benchShareCmd) Run(ctx context.Context, a *app) error {
	for _, n := range []struct {
		flag  string
		value int
		least int
	}{{"agents", c.Agents, 2}, {"tokens", c.Tokens, 1}, {"repetitions", c.Repetitions, 1}, {"tiles", c.Tiles, 0}} {
		if n.value < n.least {
			return fmt.Errorf("--%s %d: want at least %d", n.flag, n.value, n.least)
		}
	}
	cfg := c.config(a)
	cfg.MaxSequences = max(cfg.MaxSequences, c.Agents+1)
	eng, err := c.openBench(ctx, cfg)
	if err != nil {
		return err
	}
	defer eng.Close()
	info := eng.Info()
	if !info.Vision {
		return fmt.Errorf("bench share: %s has no vision encoder", c.name())
	}
	if c.Tiles == 0 {
		if c.Tiles = info.MaxTiles; c.Tiles > 1 {
			c.Tiles++ // the thumbnail
		}
	}
	res, err := bench.RunShare(ctx, eng, bench.Share{Agents: c.Agents, Tiles: c.Tiles, Tokens: c.Tokens}, c.Repetitions)
	if err != nil {
		return err
	}
	r := shareRecord{
		benchBase: c.base(info), Test: "share", Agents: c.Agents, Tiles: c.Tiles, AnswerTokens: c.Tokens, PrefixTokens: res.PrefixTokens,
		Ways: map[bench.ShareMode]wayRow{},
	}
	for _, m := range bench.ShareModes {
		run := res.Runs[m][0]
		r.Ways[m] = wayRow{
			Seconds: res.Seconds(m), Median: bench.Quantile(res.Seconds(m), 0.5), Ratio: res.Ratio(m), Rate: res.Rate(m), Decoding: res.Decoding(m),
			PromptTokens: run.PromptTokens, CachedTokens: run.CachedTokens, Computed: run.Computed, Saved: res.Saved(run), TilesEncoded: run.TilesEncoded,
		}
	}
	if c.Output == "json" {
		return writeJSON(a.stdout, r)
	}
	return writeShare(a.stdout, &r)
}

func writeShare(w io.Writer, r *shareRecord) error {
	fmt.Fprintf(w, "%s, %s: %d agents on one picture of %d tiles, answers of %d tokens, a prefix of %d tokens.\n\n",
		r.Model, r.Device, r.Agents, r.Tiles, r.AnswerTokens, r.PrefixTokens)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| sharing\t| seconds\t| ratio\t| answer t/s\t| decode t/s\t| prompt tokens\t| cached\t| computed\t| saved\t| tiles encoded\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, m := range bench.ShareModes {
		v := r.Ways[m]
		fmt.Fprintf(t, "| %s\t| %.3f\t| %.3f\t| %s\t| %s\t| %d\t| %d\t| %d\t| %.2f prefixes\t| %d\t|\n", m, v.Median, v.Ratio, rate(v.Rate), rate(v.Decoding), v.PromptTokens, v.CachedTokens, v.Computed, v.Saved, v.TilesEncoded)
	}
	return t.Flush()
}
