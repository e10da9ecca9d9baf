package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacap/captioner"
	"metacap/engine"
	"metacap/internal/demo"
)

// jobFlags make a caption command a job: many inputs, files as output, resumable.
type jobFlags struct {
	Write       []string `placeholder:"FORMAT" help:"Files to write: txt, caption, json, xmp beside each picture; jsonl, csv, parquet, llava, kohya for all; tar beside each shard. Default txt,jsonl." group:"job"`
	Out         string   `placeholder:"DIR" help:"Write there, in a tree like that of the inputs, instead of beside them." group:"job"`
	Ext         string   `placeholder:".EXT" help:"Extension of the txt format." group:"job"`
	Existing    string   `default:"" enum:",skip,overwrite,append,prepend,fail" placeholder:"WHAT" help:"What to do where a sidecar exists: skip (default), overwrite, append, prepend, fail." group:"job"`
	Embed       bool     `help:"Also write captions into the pictures: XMP in JPEG, PNG and WebP files, pixels untouched; an .xmp file beside the others. --existing then also speaks of a description in the file." group:"job"`
	Job         string   `placeholder:"DIR" help:"Job directory; default .metacap/NAME beside the inputs. Run the same command again to resume." group:"job"`
	Fresh       bool     `help:"Begin the job anew instead of resuming it." group:"job"`
	RetryFailed bool     `help:"Try again what failed before." group:"job"`
	DryRun      bool     `help:"Count the inputs, estimate tokens and time, write nothing." group:"job"`
	Watch       string   `placeholder:"TIME" help:"Go on, looking for new files every TIME, as 2s; files still being written are left until they are whole." group:"job"`
	Progress    string   `default:"auto" enum:"auto,plain,json,none" help:"auto = a live block on a terminal, else plain; plain = a line every 10 s; json = events; none." group:"job"`

	NoRecurse bool     `help:"Only the top of each directory." group:"select"`
	Include   []string `placeholder:"GLOB" help:"Only names that match." group:"select"`
	Exclude   []string `placeholder:"GLOB" help:"No names that match." group:"select"`
	Null      bool     `short:"0" name:"null" help:"Lists are separated by NUL, as find -print0 writes them." group:"select"`
	Filelist  bool     `help:"- is a list of paths on standard input, not a picture." group:"select"`
	FrameDirs bool     `help:"A directory that holds only pictures is one video." group:"select"`
	Limit     int64    `default:"0" placeholder:"N" help:"Stop after N inputs." group:"select"`
	Sample    int      `default:"0" placeholder:"N" help:"N inputs chosen at random, the same ones each time." group:"select"`
	Shard     string   `placeholder:"I/N" help:"Part I (from 0) of N; auto = from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX." group:"select"`

	Recipe       string   `placeholder:"FILE" help:"Recipe file (JSON); flags change what it says." group:"recipe"`
	Preset       string   `placeholder:"NAME" help:"A ready prompt; see metacap presets." group:"recipe"`
	Captions     []string `placeholder:"KEY" help:"Several captions of each picture from one encoding: KEY, a preset's name, or KEY=PROMPT." group:"recipe" sep:"none"`
	Trigger      string   `placeholder:"WORD" help:"Word that leads every caption." group:"recipe"`
	Prefix       string   `placeholder:"TEXT" aliases:"prepend" help:"Text before every caption." group:"recipe"`
	Suffix       string   `placeholder:"TEXT" aliases:"append" help:"Text after every caption." group:"recipe"`
	Replace      []string `placeholder:"A=B" sep:"none" help:"Replace A by B in captions; may be repeated." group:"recipe"`
	KeepPreamble bool     `help:"Keep openings like \"Here is a description:\"." group:"recipe"`
	Length       string   `placeholder:"LEN" help:"short, medium, long or a number of words; asked for, measured and flagged." group:"recipe"`
	Lang         string   `placeholder:"NAME" help:"Language of the captions, as German." group:"recipe"`
	WithContext  []string `name:"with" placeholder:"FIELD" help:"Tell the model: tags, caption, filename, folder, exif, or any column of a table." group:"recipe"`
	Filter       []string `placeholder:"RULE" help:"Off: no-NAME (no-loop, no-cut, …); minwords=N, maxwords=N, regex=EXPR, refuse=NAME." group:"recipe" sep:"none"`
	Retries      int      `default:"-1" placeholder:"N" help:"Further attempts for captions that fail a filter; default 2." group:"recipe"`
	VideoFrames  int      `default:"0" placeholder:"N" help:"Frames taken of a video; 0 = 8." group:"recipe"`
	VideoWindow  float64  `default:"0" placeholder:"SECONDS" help:"Also caption each stretch of so many seconds of a long video." group:"recipe"`
	FirstFrame   bool     `help:"Take an animated GIF, WebP or PNG for its first picture, not for a video." group:"recipe"`
	Devices      string   `placeholder:"LIST" help:"Several devices that share the work: cuda:0,cuda:1." group:"model"`
}

// job reports whether the command is a job rather than a few pictures to print.
func (c *captionCmd) job() bool {
	f := &c.jobFlags
	for _, set := range []bool{
		len(f.Write) > 0, f.Out != "", f.Ext != "", f.Existing != "", f.Embed, f.Job != "", f.Fresh, f.RetryFailed, f.DryRun, f.Watch != "", f.NoRecurse,
		len(f.Include) > 0, len(f.Exclude) > 0, f.Null, f.Filelist, f.FrameDirs, f.Limit > 0, f.Sample > 0, f.Shard != "", f.Recipe != "", f.Preset != "",
		len(f.Captions) > 0, f.Trigger != "", f.Prefix != "", f.Suffix != "", len(f.Replace) > 0, f.KeepPreamble, f.Length != "", f.Lang != "",
		len(f.WithContext) > 0, len(f.Filter) > 0, f.Retries >= 0, f.VideoFrames > 0, f.VideoWindow > 0, f.FirstFrame, f.Devices != "",
	} {
		if set {
			return true
		}
	}
	if c.Video {
		return false
	}
	for _, in := range c.Images {
		if st, err := os.Stat(in); strings.HasPrefix(in, "s3://") || err == nil && st.IsDir() || err != nil && strings.ContainsAny(in, "*?[") || captioner.Collection(in) {
			return true
		}
	}
	return false
}

// recipe joins the recipe file and the flags.
func (c *captionCmd) recipe() (captioner.Recipe, error) {
	f := &c.jobFlags
	r := captioner.Recipe{Retries: 2}
	if f.Recipe != "" {
		var err error
		if r, err = captioner.ReadRecipe(f.Recipe); err != nil {
			return r, err
		}
	}
	if err := c.recipeCaptions(&r); err != nil {
		return r, err
	}
	if c.embedded() {
		if err := embeddedWordings(&r); err != nil {
			return r, err
		}
	}
	set(&r.Trigger, f.Trigger)
	set(&r.Prefix, f.Prefix)
	set(&r.Suffix, f.Suffix)
	set(&r.Language, f.Lang)
	set(&r.MaxTiles, c.MaxTiles)
	set(&r.MaxTokens, c.MaxTokens)
	set(&r.Video.Frames, f.VideoFrames)
	set(&r.Video.Window, f.VideoWindow)
	r.Video.FirstFrame = r.Video.FirstFrame || f.FirstFrame
	s, t := &r.Sampling, c.samplingFlags
	set(&s.Temperature, t.Temperature)
	set(&s.TopK, t.TopK)
	set(&s.TopP, t.TopP)
	set(&s.MinP, t.MinP)
	set(&s.RepetitionPenalty, t.RepetitionPenalty)
	set(&s.Seed, t.Seed)
	r.KeepPreamble = r.KeepPreamble || f.KeepPreamble
	if c.System != nil {
		r.System = c.System
	}
	if len(t.Stop) > 0 {
		r.Stop = t.Stop
	}
	if len(f.WithContext) > 0 {
		r.Context = f.WithContext
	}
	if f.Retries >= 0 {
		r.Retries = f.Retries
	}
	for _, text := range f.Replace {
		from, to, ok := strings.Cut(text, "=")
		if !ok || from == "" {
			return r, fmt.Errorf("--replace %q: want A=B", text)
		}
		r.Replace = append(r.Replace, captioner.Replacement{From: from, To: to})
	}
	if err := c.recipeFilters(&r.Filters); err != nil {
		return r, err
	}
	return r, r.Validate()
}

// embeddedWordings puts the wordings that the embedded model knows in the place of
// those of the presets.
func embeddedWordings(r *captioner.Recipe) error {
	for _, c := range r.Captions {
		if _, ok := demo.Wordings[c.Preset]; !ok && slices.Contains(captioner.PresetNames(), c.Preset) && r.Wordings[c.Preset] == "" {
			return fmt.Errorf("preset %q: the embedded model knows only %s; -m DIR names another model",
				c.Preset, strings.Join(slices.Sorted(maps.Keys(demo.Wordings)), ", "))
		}
	}
	known := maps.Clone(demo.Wordings)
	maps.Copy(known, r.Wordings)
	r.Wordings = known
	return nil
}

// set replaces a value unless the flag was not given.
func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

func (c *captionCmd) recipeCaptions(r *captioner.Recipe) error {
	f := &c.jobFlags
	given := 0
	for _, g := range []bool{c.Prompt != nil, f.Preset != "", len(f.Captions) > 0} {
		if g {
			given++
		}
	}
	if given > 1 {
		return errors.New("--prompt, --preset and --captions exclude each other")
	}
	switch {
	case c.Prompt != nil:
		r.Captions = []captioner.Caption{{Key: "caption", Prompt: *c.Prompt}}
	case f.Preset != "":
		r.Captions = []captioner.Caption{{Key: "caption", Preset: f.Preset}}
		if f.Preset == "tags" || f.Preset == "booru" {
			r.Captions[0].Key = f.Preset
		}
	case len(f.Captions) > 0:
		r.Captions = nil
		for _, text := range f.Captions {
			names := []string{text}
			if !strings.Contains(text, "=") {
				names = strings.Split(text, ",")
			}
			for _, name := range names {
				key, prompt, own := strings.Cut(name, "=")
				caption := captioner.Caption{Key: key, Prompt: prompt}
				if !own {
					caption.Preset = key
				}
				r.Captions = append(r.Captions, caption)
			}
		}
	}
	if f.Length != "" {
		if len(r.Captions) == 0 {
			r.Captions = []captioner.Caption{{Key: "caption", Preset: captioner.DefaultPreset}}
		}
		for i := range r.Captions {
			r.Captions[i].Length = f.Length
		}
	}
	return nil
}

func (c *captionCmd) recipeFilters(f *captioner.Filters) error {
	for _, rule := range c.Filter {
		name, value, _ := strings.Cut(rule, "=")
		var err error
		switch {
		case strings.HasPrefix(name, "no-"):
			f.Off = append(f.Off, strings.TrimPrefix(name, "no-"))
		case name == "minwords":
			f.MinWords, err = strconv.Atoi(value)
		case name == "maxwords":
			f.MaxWords, err = strconv.Atoi(value)
		case name == "duplicates":
			f.Duplicates, err = strconv.Atoi(value)
		case name == "regex":
			f.Patterns = append(f.Patterns, value)
		case name == "refuse":
			if f.Refuse == nil {
				f.Refuse = []string{"empty", "loop", "refusal"}
			}
			f.Refuse = append(f.Refuse, value)
		default:
			err = errors.New("want no-NAME, minwords=N, maxwords=N, duplicates=N, regex=EXPR or refuse=NAME")
		}
		if err != nil {
			return fmt.Errorf("--filter %s: %w", rule, err)
		}
	}
	return nil
}

// jobOf translates the flags.
func (c *captionCmd) jobOf(a *app) (captioner.Job, error) {
	f := &c.jobFlags
	r, err := c.recipe()
	if err != nil {
		return captioner.Job{}, err
	}
	j := captioner.Job{
		Inputs: c.Images, Recipe: r, Model: c.name(), Dir: f.Job, Out: f.Out, Ext: f.Ext, Existing: captioner.Existing(f.Existing),
		Write: f.Write, Embed: f.Embed, Fresh: f.Fresh, RetryFailed: f.RetryFailed, InFlight: c.Parallel,
		Select: captioner.Select{
			NoRecurse: f.NoRecurse, Include: f.Include, Exclude: f.Exclude, NUL: f.Null, FrameDirs: f.FrameDirs,
			Limit: f.Limit, Sample: f.Sample, Stdin: a.stdin,
		},
	}
	if c.embedded() {
		j.Guess = jobGuess(r)
	}
	if f.Ext != "" && !strings.HasPrefix(f.Ext, ".") {
		return j, fmt.Errorf("--ext %q: want a leading dot", f.Ext)
	}
	if f.Watch != "" {
		if j.Watch, err = time.ParseDuration(f.Watch); err != nil || j.Watch < 10*time.Millisecond {
			return j, fmt.Errorf("--watch %q: want a time like 2s", f.Watch)
		}
	}
	// A list may name objects, too; without a store those are inputs that fail.
	store, err := openStore(a)
	if err == nil {
		j.Select.Remote = store
	} else if slices.ContainsFunc(c.Images, func(in string) bool { return strings.HasPrefix(in, "s3://") }) {
		return j, err
	}
	j.Select.Shard, err = shardOf(a, f.Shard)
	return j, err
}

// shardOf reads I/N, or what an array job's environment says.
func shardOf(a *app, text string) (captioner.Shard, error) {
	if text == "" {
		return captioner.Shard{}, nil
	}
	index, count, ok := strings.Cut(text, "/")
	if text == "auto" {
		first := ""
		for _, v := range [][3]string{
			{"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"},
			{"JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", ""},
		} {
			if i, found := a.env(v[0]); found {
				index = i
				count, ok = a.env(v[1])
				if v[2] != "" {
					first, _ = a.env(v[2])
				}
				break
			}
		}
		if !ok {
			return captioner.Shard{}, errors.New("--shard auto: neither SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_COUNT nor JOB_COMPLETION_INDEX with JOB_COMPLETIONS is set")
		}
		if i, err := strconv.Atoi(index); err == nil && first != "" {
			if lo, err := strconv.Atoi(first); err == nil {
				index = strconv.Itoa(i - lo)
			}
		}
	}
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(count)
	if !ok || err1 != nil || err2 != nil || n < 1 || i < 0 || i >= n {
		return captioner.Shard{}, fmt.Errorf("--shard %s: want I/N with I from 0 to N-1", text)
	}
	return captioner.Shard{Index: i, Count: n}, nil
}

// jobGuess is the embedded model's rule for the answers of a job. It was measured on
// greedy answers to the usual question; in answers to another only the model's own
// word counts, that it does not know the picture.
func jobGuess(r captioner.Recipe) func(string, *engine.Result) (bool, *float64) {
	return func(prompt string, res *engine.Result) (bool, *float64) {
		if r.System != nil || r.Sampling.Temperature > 0 || prompt != imagePrompt && prompt != videoPrompt {
			return res.Text == demo.Unknown, nil
		}
		guess, mean := guessed(res, r.MaxTokens > 0)
		return guess, &mean
	}
}

// digest identifies the model's files.
func (c *captionCmd) digest() (string, error) {
	ck, err := openHeaders(&c.engineFlags)
	if err != nil {
		return "", err
	}
	d, err := ck.Digest()
	return d, errors.Join(err, ck.Close())
}

// engines opens the model on every device asked for.
func (c *captionCmd) engines(ctx context.Context, a *app) ([]captioner.Engine, func(), error) {
	devices := []string{c.Device}
	if c.Devices != "" {
		devices = strings.Split(c.Devices, ",")
	}
	var list []captioner.Engine
	var closers []func() error
	closeAll := func() {
		for _, f := range closers {
			_ = f() // the work is done
		}
	}
	for i, d := range devices {
		flags := c.engineFlags
		flags.Device = strings.TrimSpace(d)
		eng, err := flags.open(ctx, a, i > 0)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		list = append(list, eng)
		closers = append(closers, eng.Close)
	}
	return list, closeAll, nil
}

// runJob is the command as a job.
func (c *captionCmd) runJob(ctx context.Context, a *app) error {
	j, err := c.jobOf(a)
	if err != nil {
		return err
	}
	if j.Digest, err = c.digest(); err != nil {
		return err
	}
	engines, closeAll, err := c.engines(ctx, a)
	if err != nil {
		return err
	}
	defer closeAll()
	if t := c.samplingFlags.request(engines[0].Info()).MaxTokens; j.Recipe.MaxTokens == 0 {
		j.Recipe.MaxTokens = t
	}
	if c.DryRun {
		return c.dryRun(ctx, a, engines[0], j)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	interrupts := 0
	a.onInterrupt(func() { // called from one goroutine
		if interrupts++; interrupts == 1 {
			fmt.Fprintln(a.stderr, "metacap: finishing what is in flight; Ctrl-C again stops now")
			close(stop)
			return
		}
		cancel()
	})
	defer a.onInterrupt(nil)
	j.Stop, j.Progress = stop, &captioner.Progress{}
	view := newJobView(a, c, j.Progress)
	j.Event = view.event
	view.start()
	rep, err := captioner.Run(ctx, engines, j)
	view.stop()
	return c.conclude(a, view, rep, err)
}

// conclude prints the summary and chooses the exit code.
func (c *captionCmd) conclude(a *app, view *jobView, rep *captioner.Report, err error) error {
	if errors.Is(err, captioner.ErrNothing) {
		return &exitError{Code: exitNothing, Err: err}
	}
	if rep == nil {
		return err
	}
	view.summary(rep)
	switch {
	case errors.Is(err, captioner.ErrStopped):
		fmt.Fprintf(a.stderr, "metacap: stopped; resume with: %s\n", resumeCommand())
		return &exitError{Code: exitInterrupted}
	case err != nil:
		return fmt.Errorf("%w\nmetacap: when that is mended, resume with: %s", err, resumeCommand())
	case rep.Failed > 0:
		return &exitError{Code: exitSomeFailed}
	}
	return nil
}

// resumeCommand is the command line, without --fresh.
func resumeCommand() string {
	var words []string
	for _, w := range os.Args {
		if w == "--fresh" {
			continue
		}
		if w == "" || strings.ContainsAny(w, " \t\n\"'$*?[]()&;|<>\\`!#~") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}
