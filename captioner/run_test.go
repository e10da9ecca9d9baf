package captioner_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine"
	"metacap/engine/fake"
)

// open opens a fake engine that says of a picture what its bytes are.
func open(t testing.TB, o fake.Options) *engine.Engine {
	t.Helper()
	if o.Answer == nil {
		o.Answer = echo
	}
	e, err := fake.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// echo names the picture, so that a caption in the wrong file is seen.
func echo(p fake.Prompt) string {
	if len(p.Images) == 0 {
		return "No picture at all."
	}
	return "A picture of " + p.Images[0] + "."
}

// pictures writes n files whose content is their number.
func pictures(t testing.TB, dir string, n int) {
	t.Helper()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("part%d", i%3), fmt.Sprintf("p%04d.jpg", i))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "number %d", i), 0o644))
	}
}

func job(dir string) captioner.Job {
	return captioner.Job{Inputs: []string{dir}, Model: "fake", Digest: "0123456789abcdef", Write: []string{"txt", "jsonl"}}
}

func run(t testing.TB, e captioner.Engine, j captioner.Job) *captioner.Report {
	t.Helper()
	rep, err := captioner.Run(context.Background(), []captioner.Engine{e}, j)
	require.NoError(t, err)
	return rep
}

// records reads captions.jsonl by key.
func records(t testing.TB, path string) map[string]captioner.Record {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	out := map[string]captioner.Record{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var r captioner.Record
		require.NoError(t, json.Unmarshal(sc.Bytes(), &r))
		require.NotContains(t, out, r.Key, "a key twice")
		out[r.Key] = r
	}
	require.NoError(t, sc.Err())
	return out
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 30)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "twin.jpg"), []byte("number 7"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.jpg"), []byte("broken"), 0o644))
	e := open(t, fake.Options{})
	rep := run(t, e, job(dir))
	require.Equal(t, 31, rep.Done)
	require.Equal(t, 1, rep.Duplicates)
	require.Equal(t, 1, rep.Failed)
	require.True(t, rep.Complete)
	recs := records(t, filepath.Join(dir, "captions.jsonl"))
	require.Len(t, recs, 32)
	for key, r := range recs {
		if strings.HasSuffix(key, "bad.jpg") {
			require.Contains(t, r.Error, "corrupt")
			continue
		}
		content, err := os.ReadFile(key)
		require.NoError(t, err)
		want := "A picture of " + string(content) + "."
		require.Equal(t, want, r.Captions["caption"])
		text, err := os.ReadFile(strings.TrimSuffix(key, ".jpg") + ".txt")
		require.NoError(t, err)
		require.Equal(t, want+"\n", string(text))
	}
	t.Run("again does nothing and keeps the failure", func(t *testing.T) {
		rep := run(t, e, job(dir))
		require.Equal(t, 0, rep.Done)
		require.Equal(t, 31, rep.Before)
		require.Equal(t, 1, rep.Failed)
		require.Len(t, records(t, filepath.Join(dir, "captions.jsonl")), 32)
	})
	t.Run("mended input is taken again", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.jpg"), []byte("mended!"), 0o644))
		rep := run(t, e, job(dir))
		require.Equal(t, 1, rep.Done)
		require.Equal(t, 0, rep.Failed)
	})
	t.Run("another recipe in the same directory is refused by name", func(t *testing.T) {
		j := job(dir)
		j.Dir = rep.Dir
		j.Recipe.Trigger = "xyz"
		_, err := captioner.Run(context.Background(), []captioner.Engine{e}, j)
		var changed *captioner.ChangedError
		require.ErrorAs(t, err, &changed)
		require.Len(t, changed.Fields, 1)
		require.Contains(t, err.Error(), "recipe was")
	})
}

// TestSeveralCaptions checks that several keys cost one encoding.
func TestSeveralCaptions(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 5)
	e := open(t, fake.Options{Answer: func(p fake.Prompt) string {
		switch {
		case strings.Contains(p.Text, "keywords"):
			return "Cat, mat, cat , red hat"
		case strings.Contains(p.Text, "short sentence"):
			return "Sure! Here is a short caption: a cat."
		}
		return "A cat sits on a mat and looks at " + p.Images[0] + "."
	}})
	j := job(dir)
	j.Recipe.Captions = []captioner.Caption{{Key: "long", Preset: "long"}, {Key: "short", Preset: "short"}, {Key: "tags", Preset: "tags"}}
	j.Recipe.Trigger, j.Recipe.Filters.Duplicates = "zxc", -1
	rep := run(t, e, j)
	require.Equal(t, 5, rep.Done)
	require.EqualValues(t, 15, e.Stats().TilesEncoded, "five pictures of three tiles, three captions each")
	r := records(t, filepath.Join(dir, "captions.jsonl"))[filepath.ToSlash(filepath.Join(dir, "part0", "p0000.jpg"))]
	require.Equal(t, []string{"Cat", "mat", "red hat"}, r.Tags)
	require.Equal(t, "zxc, A cat.", r.Captions["short"])
	text, err := os.ReadFile(filepath.Join(dir, "part0", "p0000.txt"))
	require.NoError(t, err)
	require.Len(t, strings.Split(strings.TrimSpace(string(text)), "\n"), 3)
}

// TestWordings asks a preset in other words, of pictures and of videos.
func TestWordings(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 1)
	j := job(dir)
	j.Recipe.Captions = []captioner.Caption{{Key: "tags", Preset: "tags"}, {Key: "short", Preset: "short"}}
	j.Recipe.Wordings = map[string]string{"tags": "Tag this image."}
	said := func(p fake.Prompt) string { return "asked <" + p.Text + ">" }
	run(t, open(t, fake.Options{Answer: said}), j)
	for _, r := range records(t, filepath.Join(dir, "captions.jsonl")) {
		require.Contains(t, r.Captions["tags"], "Tag this image.")
		require.Contains(t, r.Captions["short"], "Describe this image in one short sentence.")
	}
	for name, text := range map[string]string{"no such preset": "x", "tags": " "} {
		r := captioner.Recipe{Wordings: map[string]string{name: text}}
		require.ErrorContains(t, r.Validate(), fmt.Sprintf("wording %q of preset %q", text, name))
	}
}

// TestSeveralEngines shares a queue among engines, one of which dies.
func TestSeveralEngines(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 60)
	engines := []captioner.Engine{open(t, fake.Options{}), open(t, fake.Options{FailStep: 40}), open(t, fake.Options{})}
	rep, err := captioner.Run(context.Background(), engines, job(dir))
	require.NoError(t, err)
	require.Equal(t, 60, rep.Done)
	require.Equal(t, 0, rep.Failed)
	require.Len(t, records(t, filepath.Join(dir, "captions.jsonl")), 60)
}

// TestEnginesGone ends a job whose only engine fails, and resumes it. With one sequence at a time a picture takes
// 3 to 30 steps (speculation guesses some bytes of its answer), so step 80 falls among the 40 on every machine.
func TestEnginesGone(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 40)
	one := open(t, fake.Options{FailStep: 80, Engine: engine.Config{MaxSequences: 1}})
	rep, err := captioner.Run(context.Background(), []captioner.Engine{one}, job(dir))
	require.ErrorIs(t, err, fake.ErrStep)
	require.NotNil(t, rep)
	require.Positive(t, rep.Done)
	again := run(t, open(t, fake.Options{}), job(dir))
	require.Equal(t, 40, again.Done+again.Before)
	require.GreaterOrEqual(t, again.Before, rep.Done)
}

func TestStop(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 50)
	j := job(dir)
	stop := make(chan struct{})
	j.Stop, j.InFlight = stop, 4
	var n atomic.Int32
	j.Event = func(e captioner.Event) {
		if e.Kind == "item" && n.Add(1) == 10 {
			close(stop)
		}
	}
	e := open(t, fake.Options{})
	rep, err := captioner.Run(context.Background(), []captioner.Engine{e}, j)
	require.ErrorIs(t, err, captioner.ErrStopped)
	require.GreaterOrEqual(t, rep.Done, 10)
	require.Less(t, rep.Done, 20, "what was in flight, no more")
	require.Len(t, records(t, filepath.Join(dir, "captions.jsonl")), rep.Done, "the checkpoint holds what is done")
	rest := run(t, e, job(dir))
	require.Equal(t, 50, rest.Done+rep.Done)
}

// TestFilters retries bad captions and refuses what stays bad.
func TestFilters(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 4)
	var mu sync.Mutex
	asked := map[string]bool{}
	e := open(t, fake.Options{Answer: func(p fake.Prompt) string {
		mu.Lock()
		defer mu.Unlock()
		asked[p.Images[0]] = true
		switch p.Images[0] {
		case "number 0":
			return "I'm sorry, but I cannot describe this image."
		case "number 1":
			return strings.Repeat("so it goes, ", 30)
		case "number 2":
			return "A cat."
		}
		return "A picture of eight quite different and pleasant words."
	}})
	j := job(dir)
	j.Recipe.Retries = 2
	j.Recipe.Filters.MinWords = 4
	rep := run(t, e, j)
	require.Equal(t, 2, rep.Failed)
	require.Equal(t, 1, rep.Flagged)
	require.Equal(t, 6, rep.Retries)
	recs := records(t, filepath.Join(dir, "captions.jsonl"))
	at := func(i int) captioner.Record {
		return recs[filepath.ToSlash(filepath.Join(dir, fmt.Sprintf("part%d", i%3), fmt.Sprintf("p%04d.jpg", i)))]
	}
	require.Contains(t, at(0).Error, "caption:refusal")
	require.Contains(t, at(1).Error, "caption:loop")
	require.Equal(t, []string{"caption:short"}, at(2).Flags)
	require.Equal(t, 3, at(2).Meta.Attempts["caption"])
	require.Empty(t, at(3).Flags)
	_, err := os.Stat(filepath.Join(dir, "part0", "p0000.txt"))
	require.True(t, errors.Is(err, os.ErrNotExist), "a refused caption has no sidecar")
	list, err := os.ReadFile(rep.Quarantine)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(list), "\n"))
}

// TestEXIF tells the model what the camera wrote, in its own field or before the question.
func TestEXIF(t *testing.T) {
	dir := t.TempDir()
	data, err := os.ReadFile("internal/exif/testdata/tagged.jpg")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.jpg"), data, 0o644))
	e := open(t, fake.Options{Engine: deep, Answer: func(p fake.Prompt) string { return "Asked: " + strings.ReplaceAll(p.Text, "<", " ") }})
	j := job(dir)
	j.Recipe.Captions = []captioner.Caption{{Key: "caption", Prompt: "Use ({exif})."}}
	j.Recipe.Context = []string{"EXIF"}
	run(t, e, j)
	for _, r := range records(t, filepath.Join(dir, "captions.jsonl")) {
		require.Contains(t, r.Meta.Prompts["caption"], "Known EXIF: taken 2024-05-01 12:33:05; camera Canon EOS R5; place 48.85837 N")
		require.Contains(t, r.Meta.Prompts["caption"], "Use (taken 2024-05-01")
	}
}

// TestGuess: what Job.Guess says of first answers is in the record, is refused if the
// recipe says so, and is left out if it is off.
func TestGuess(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 3)
	e := open(t, fake.Options{Answer: func(p fake.Prompt) string {
		if p.Images[0] == "number 1" {
			return "I have never seen such a thing."
		}
		return "A known picture of " + p.Images[0] + "."
	}})
	j := job(dir)
	j.Recipe.Captions = []captioner.Caption{{Key: "long", Prompt: "What?"}, {Key: "short", Prompt: "What, in short?"}}
	j.Guess = func(prompt string, r *engine.Result) (bool, *float64) {
		require.NotEmpty(t, r.Tokens)
		mean := r.Tokens[0].LogProb
		if prompt != "What?" {
			return false, nil
		}
		return strings.Contains(r.Text, "never"), &mean
	}
	key := func(i int) string {
		return filepath.ToSlash(filepath.Join(dir, fmt.Sprintf("part%d", i%3), fmt.Sprintf("p%04d.jpg", i)))
	}
	run(t, e, j)
	recs := records(t, filepath.Join(dir, "captions.jsonl"))
	require.True(t, recs[key(1)].Guess)
	require.Equal(t, []string{"long:guess"}, recs[key(1)].Flags)
	require.Contains(t, recs[key(1)].Meta.MeanLogProb, "long")
	require.NotContains(t, recs[key(1)].Meta.MeanLogProb, "short")
	require.False(t, recs[key(0)].Guess)
	require.Empty(t, recs[key(0)].Flags)

	j.Dir, j.Recipe.Filters.Refuse = filepath.Join(dir, "refuse"), []string{"guess"}
	j.Existing = captioner.ExistingOverwrite
	require.Equal(t, 1, run(t, e, j).Failed)
	require.Contains(t, records(t, filepath.Join(dir, "captions.jsonl"))[key(1)].Error, "long:guess")

	j.Dir, j.Recipe.Filters = filepath.Join(dir, "off"), captioner.Filters{Off: []string{"guess"}}
	require.Zero(t, run(t, e, j).Flagged)
}

// TestExisting covers the policies for sidecars that are there.
func TestExisting(t *testing.T) {
	for mode, want := range map[captioner.Existing]string{
		captioner.ExistingSkip:      "mine\n",
		captioner.ExistingOverwrite: "A picture of number 0.\n",
		captioner.ExistingAppend:    "mine\nA picture of number 0.\n",
		captioner.ExistingPrepend:   "A picture of number 0.\nmine\n",
		captioner.ExistingFail:      "mine\n",
	} {
		t.Run(string(mode), func(t *testing.T) {
			dir := t.TempDir()
			pictures(t, dir, 2)
			side := filepath.Join(dir, "part0", "p0000.txt")
			require.NoError(t, os.WriteFile(side, []byte("mine\n"), 0o644))
			j := job(dir)
			j.Existing = mode
			e := open(t, fake.Options{})
			rep := run(t, e, j)
			require.Equal(t, mode == captioner.ExistingFail, rep.Failed == 1)
			require.Equal(t, mode == captioner.ExistingSkip, rep.Skipped == 1)
			run(t, e, j)
			got, err := os.ReadFile(side)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		})
	}
}

// TestSameName refuses to give two pictures one sidecar.
func TestSameName(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.jpg", "a.png"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
	}
	rep := run(t, open(t, fake.Options{}), job(dir))
	require.Equal(t, 1, rep.Done)
	require.Equal(t, 1, rep.Failed)
	said := records(t, filepath.Join(dir, "captions.jsonl")) // whichever was first has the name
	one, two := said[filepath.ToSlash(filepath.Join(dir, "a.jpg"))].Error, said[filepath.ToSlash(filepath.Join(dir, "a.png"))].Error
	require.Contains(t, one+two, "belongs to another input")
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 3)
	e := open(t, fake.Options{})
	j := job(dir)
	var second error
	var once sync.Once
	j.Event = func(captioner.Event) {
		once.Do(func() { _, second = captioner.Run(context.Background(), []captioner.Engine{e}, job(dir)) })
	}
	run(t, e, j)
	var locked *captioner.LockedError
	require.ErrorAs(t, second, &locked)
	require.Equal(t, os.Getpid(), locked.PID)
}

// TestShards covers every input once by n jobs.
func TestShards(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 40)
	e := open(t, fake.Options{})
	seen := map[string]int{}
	for i := range 3 {
		j := job(dir)
		j.Select.Shard = captioner.Shard{Index: i, Count: 3}
		run(t, e, j)
		for key := range records(t, filepath.Join(dir, fmt.Sprintf("captions-%d-of-3.jsonl", i))) {
			seen[key]++
		}
	}
	require.Len(t, seen, 40)
	for key, n := range seen {
		require.Equal(t, 1, n, key)
	}
}

func TestNothing(t *testing.T) {
	_, err := captioner.Run(context.Background(), []captioner.Engine{open(t, fake.Options{})}, job(t.TempDir()))
	require.ErrorIs(t, err, captioner.ErrNothing)
}
