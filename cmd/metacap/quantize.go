package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"metacap/internal/compare"
	"metacap/internal/demo"
	"metacap/loader"
)

// modelQuantizeCmd is metacap model quantize.
type modelQuantizeCmd struct {
	In    string `arg:"" help:"Directory of a dense checkpoint, or demo."`
	Out   string `arg:"" help:"Directory to write; made if it is not there."`
	To    string `required:"" enum:"int8,int4" placeholder:"TYPE" help:"int8 (half the bytes of bf16) or int4 (a quarter)."`
	Group int    `default:"0" placeholder:"N" help:"Inputs that share a scale: 32, 64 or 128; 0 = the largest that fits every layer; -1 = one scale an output, int8 only."`
	Head  string `default:"none" enum:"none,int8,int4" placeholder:"TYPE" help:"Round the output head too: none, int8 or int4."`
	JSON  bool   `name:"json" help:"The result, and the report, as one JSON object."`

	Report bool `help:"Then run both on --images and print what changed, as model compare does."`
	compareFlags
}

func (*modelQuantizeCmd) examples() string {
	return `
  metacap model quantize ~/models/MetaCaptioner-8B ~/models/MetaCaptioner-8B-int4 --to int4 --head int8
  metacap model quantize demo /tmp/demo-int8 --to int8
  metacap model quantize IN OUT --to int8 --group -1
  metacap model quantize IN OUT --to int4 --report --images a.jpg --images b.jpg

The decoder's linear layers are rounded; the vision encoder, norms and embeddings
stay as they are. Memory is a few rows, whatever the size. After Ctrl-C or a crash
the same command goes on behind the last finished shard. The layout is that of
compressed-tensors (docs/models.md): other engines read it too.
`
}

// compareFlags say what two checkpoints are compared on.
type compareFlags struct {
	Images   []string `sep:"none" placeholder:"FILE" help:"Pictures to compare on; may be repeated." group:"compare"`
	Prompt   string   `short:"p" default:"${image_prompt}" placeholder:"TEXT" help:"What to ask about each." group:"compare"`
	Tokens   int      `default:"128" placeholder:"N" help:"Longest answer, tokens." group:"compare"`
	MaxTiles int      `default:"0" placeholder:"N" help:"Most tiles a picture is cut into; 0 = the model's own limit." group:"compare"`
	Device   string   `default:"auto" placeholder:"NAME" help:"${device_help}" group:"compare"`
	Threads  int      `default:"0" placeholder:"N" help:"CPU threads; 0 = all cores." group:"compare"`
}

// check validates the flags before anything long begins.
func (f *compareFlags) check() error {
	switch {
	case len(f.Images) == 0:
		return errors.New("give pictures to compare on: --images FILE")
	case f.Tokens < 1 || f.Tokens > 1<<16:
		return fmt.Errorf("--tokens %d: want 1 to %d", f.Tokens, 1<<16)
	}
	for _, name := range f.Images {
		if st, err := os.Stat(name); err != nil {
			return fmt.Errorf("--images: %w", err)
		} else if st.IsDir() {
			return fmt.Errorf("--images %s: is a directory; name the pictures", name)
		}
	}
	return nil
}

// run compares b with a.
func (f *compareFlags) run(ctx context.Context, a *app, first, second string) (*compare.Report, error) {
	line := a.progress()
	defer line.end()
	report, err := compare.Run(ctx, compareSource(first), compareSource(second), compare.Options{
		Device: f.Device, Threads: f.Threads, Images: f.Images, Question: f.Prompt, Tokens: f.Tokens, MaxTiles: f.MaxTiles,
		Progress: func(checkpoint, image string) { line.say("compare: " + filepath.Base(checkpoint) + ": " + image) },
	})
	return report, err
}

func compareSource(name string) compare.Source {
	if name == demo.Name && demo.Included() {
		return compare.Source{Name: name, Files: demo.FS()}
	}
	return compare.Source{Name: name}
}

// quantizeRecord is what model quantize --json prints.
type quantizeRecord struct {
	In       string            `json:"in"`
	Out      string            `json:"out"`
	To       string            `json:"to"`
	Group    int               `json:"group"`
	BytesIn  int64             `json:"bytes_in"`
	BytesOut int64             `json:"bytes_out"`
	Seconds  float64           `json:"seconds"`
	Resumed  bool              `json:"resumed,omitempty"` // some shards were already there
	Matrices []quantizedMatrix `json:"matrices"`          // rounded by this run
	Report   *compare.Report   `json:"report,omitempty"`
}

// quantizedMatrix is the error of one matrix.
type quantizedMatrix struct {
	Name     string  `json:"name"`
	Bits     int     `json:"bits"`
	Relative float64 `json:"relative_error"`
	Max      float64 `json:"max_error"`
}

// Run is called by kong.
func (c *modelQuantizeCmd) Run(ctx context.Context, a *app) error {
	if c.Report {
		if err := c.compareFlags.check(); err != nil {
			return err
		}
	}
	f := engineFlags{Model: c.In}
	src, err := openHeaders(&f)
	if err != nil {
		return err
	}
	defer src.Close()
	bits := map[string]int{"none": 0, "int8": 8, "int4": 4}
	line := a.progress()
	start := time.Now()
	matrices, err := loader.QuantizeOpen(ctx, src.Checkpoint, c.Out, loader.QuantizeOptions{
		Bits: bits[c.To], Group: c.Group, HeadBits: bits[c.Head],
		Progress: func(done, total int64) {
			line.say(fmt.Sprintf("quantize: %s of %s, %d %%", size(done), size(total), 100*done/max(total, 1)))
		},
	})
	line.end()
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; the same command goes on where it stopped: %w", err)
	}
	if err != nil {
		return err
	}
	r := &quantizeRecord{In: c.In, Out: c.Out, To: c.To, BytesIn: src.Bytes(), Seconds: seconds(time.Since(start))}
	if err := r.fill(matrices); err != nil {
		return err
	}
	if c.Report {
		if r.Report, err = c.compareFlags.run(ctx, a, c.In, c.Out); err != nil {
			return err
		}
	}
	if c.JSON {
		return writeJSON(a.stdout, r)
	}
	return r.print(a.stdout)
}

// fill reads the result back: what was written must open and be complete.
func (r *quantizeRecord) fill(matrices []loader.QuantizedTensor) error {
	dst, err := loader.Open(r.Out)
	if err != nil {
		return fmt.Errorf("the result does not open: %w", err)
	}
	defer dst.Close()
	if err := dst.Require(dst.Config.Weights()); err != nil {
		return fmt.Errorf("the result is not complete: %w", err)
	}
	r.BytesOut = dst.Bytes()
	want := 0
	for _, w := range dst.Config.Weights() {
		if l, ok := strings.CutSuffix(w.Name, ".weight"); ok && w.Linear && strings.Contains(l, ".layers.") && strings.HasPrefix(l, "language_model.") {
			want++
		}
	}
	r.Resumed = len(matrices) < want
	for _, m := range matrices {
		r.Group = m.Group
		r.Matrices = append(r.Matrices, quantizedMatrix{m.Name, m.Bits, m.RelativeError, m.MaxError})
	}
	return nil
}

func (r *quantizeRecord) print(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s: %s, from %s to %s (%.2f×) in %.1f s\n", r.Out, r.To, size(r.BytesIn), size(r.BytesOut), float64(r.BytesIn)/float64(r.BytesOut), r.Seconds)
	if r.Resumed {
		fmt.Fprintln(out, "shards that were already there stayed; the errors below are of the others")
	}
	if len(r.Matrices) > 0 {
		fmt.Fprintf(out, "%d matrices rounded in groups of %d; relative errors of the weights:\n", len(r.Matrices), r.Group)
		worst := slices.SortedFunc(slices.Values(r.Matrices), func(a, b quantizedMatrix) int { return cmp.Compare(b.Relative, a.Relative) })
		mean := 0.0
		for _, m := range worst {
			mean += m.Relative / float64(len(worst))
		}
		fmt.Fprintf(out, "  mean %.4f\n", mean)
		for _, m := range worst[:min(3, len(worst))] {
			fmt.Fprintf(out, "  %.4f %s\n", m.Relative, m.Name)
		}
	}
	if r.Report != nil {
		fmt.Fprintln(out)
		printReport(out, r.Report)
	}
	return out.Flush()
}

// modelCompareCmd is metacap model compare.
type modelCompareCmd struct {
	First  string `arg:"" help:"Directory of a checkpoint, or demo: the source."`
	Second string `arg:"" help:"Directory of a checkpoint, or demo: what is compared with it."`
	JSON   bool   `name:"json" help:"As one JSON object."`
	compareFlags
}

func (*modelCompareCmd) examples() string {
	return `
  metacap model compare ~/models/MetaCaptioner-8B ~/models/MetaCaptioner-8B-int4 --images a.jpg --images b.jpg
  metacap model compare demo /tmp/demo-int8 --images testdata/drawn/ui_700040.png
  metacap model compare --json A B --images a.jpg --max-tiles 1 --tokens 32

The first answers about each picture; both are then fed that answer. Per layer:
the root mean square of the difference over that of the first. KL is that of the
distributions over the vocabulary at each token, in nats. Agreement is the share
of tokens that the second would choose too. One model is open at a time.
`
}

// Run is called by kong.
func (c *modelCompareCmd) Run(ctx context.Context, a *app) error {
	if err := c.compareFlags.check(); err != nil {
		return err
	}
	r, err := c.compareFlags.run(ctx, a, c.First, c.Second)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(a.stdout, r)
	}
	out := bufio.NewWriter(a.stdout)
	printReport(out, r)
	return out.Flush()
}

// printReport writes a comparison as text.
func printReport(w io.Writer, r *compare.Report) {
	fmt.Fprintf(w, "%s against %s on %s, %q\n\n", r.B, r.A, r.Device, r.Question)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "stage\trelative error\tlargest\t\n")
	for _, l := range r.Layers {
		fmt.Fprintf(t, "%s\t%.5f\t%.3g\t\n", l.Stage, l.Relative, l.Max)
	}
	fmt.Fprintf(t, "\t\t\t\npicture\ttokens\tagree\tKL\tlargest KL\tanswer\t\n")
	for _, im := range r.Images {
		same := "differs"
		if im.Identical {
			same = "identical"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.5f\t%.4f\t%s\t\n", filepath.Base(im.Path), im.Tokens, im.Agree, im.KL, im.MaxKL, same)
	}
	t.Flush()
	fmt.Fprintf(w, "\ngreedy agreement %.2f %% of %d tokens, identical answers %.1f %% of %d, KL mean %.5f, largest %.4f nats\n",
		100*r.Agreement, r.Tokens, 100*r.Identical, len(r.Images), r.KL, r.MaxKL)
}

// modelVerifyCmd is metacap model verify.
type modelVerifyCmd struct {
	Dir  string `arg:"" help:"Directory of a checkpoint, or demo."`
	Sums string `placeholder:"FILE" help:"Compare with the SHA-256 sums in FILE, as sha256sum and this command write them."`
}

func (*modelVerifyCmd) examples() string {
	return `
  metacap model verify DIR > DIR.sha256            read everything, print the sums
  metacap model verify --sums DIR.sha256 DIR       and compare later, or elsewhere
  metacap model verify demo

Every weight is read: shapes against the configuration, scales, group sizes and
values that are not numbers. Exit code 2 if anything is wrong.
`
}

// Run is called by kong.
func (c *modelVerifyCmd) Run(ctx context.Context, a *app) error {
	var want map[string]string
	if c.Sums != "" {
		var err error
		if want, err = readSums(c.Sums); err != nil {
			return err
		}
	}
	ck, err := openHeaders(&engineFlags{Model: c.Dir})
	if err != nil {
		return err
	}
	defer ck.Close()
	line := a.progress()
	defer line.end()
	errs := []error{ck.problem}
	if ck.problem != nil {
		errs[0] = fmt.Errorf("tokenizer: %w", ck.problem)
	}
	if err := ck.Require(ck.Config.Weights()); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, ck.CheckValues(ctx, func(done, total int64) {
			line.say(fmt.Sprintf("verify: values, %d %%", 100*done/max(total, 1)))
		}))
	}
	sums, err := ck.Sums(ctx, func(done, total int64) { line.say(fmt.Sprintf("verify: sums, %d %%", 100*done/max(total, 1))) })
	if err != nil {
		return err
	}
	if want != nil {
		errs = append(errs, loader.CompareSums(sums, want))
	}
	line.end()
	for _, s := range sums {
		fmt.Fprintf(a.stdout, "%s  %s\n", s.SHA256, s.Name)
	}
	if err := errors.Join(errs...); err != nil {
		return &exitError{Code: exitSomeFailed, Err: err}
	}
	if !a.quiet {
		fmt.Fprintf(a.stderr, "%s: %s, %s; every value reads\n", c.Dir, plural(len(sums), "file"), size(ck.Bytes()))
	}
	return nil
}

// readSums reads lines of "HEX  NAME".
func readSums(name string) (map[string]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--sums: %w", err)
	}
	defer f.Close()
	sums := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(f, 16<<20))
	for n := 1; lines.Scan(); n++ {
		hex, file, ok := strings.Cut(lines.Text(), " ")
		file = strings.TrimLeft(file, " *")
		if !ok || len(hex) != 64 || file == "" {
			return nil, fmt.Errorf("--sums %s: line %d is not 64 hex digits and a name: %q", name, n, lines.Text())
		}
		sums[filepath.Base(file)] = strings.ToLower(hex)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--sums %s: %w", name, err)
	}
	return sums, nil
}

// fileProgress is a line on stderr that overwrites itself; silent unless stderr is a terminal.
type fileProgress struct {
	w    io.Writer
	last time.Time
	said bool
}

func (a *app) progress() *fileProgress {
	if a.quiet || !terminal(a.stderr) {
		return &fileProgress{}
	}
	return &fileProgress{w: a.stderr}
}

// say replaces the line, at most ten times a second.
func (p *fileProgress) say(text string) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.said = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
}

// end clears the line.
func (p *fileProgress) end() {
	if p.said {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.said = false
	}
}
