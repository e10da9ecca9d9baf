package captioner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"metacap/captioner/internal/filter"
	"metacap/captioner/internal/journal"
	"metacap/captioner/internal/sink"
	"metacap/captioner/internal/source"
	"metacap/engine"
	"metacap/vision"
)

// failure is why an input has no caption. It does not stop the job.
type failure struct {
	err      error
	captions map[string]string // what was refused
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error { return &failure{err: err} }

// plan is the data of an intent line: a record and the files it will write.
type plan struct {
	Record *Record     `json:"record"`
	Files  []sink.File `json:"files"`
}

// failedData is the data of a fail line.
type failedData struct {
	Error    string            `json:"error"`
	Captions map[string]string `json:"captions,omitempty"`
}

func recordOf(it *source.Item) *Record {
	return &Record{Key: it.Key, Path: it.Path, Within: it.Within, Member: it.Member, Kind: it.Kind.String()}
}

// item takes an input from reading to its journal line. An error ends the job.
func (r *runner) item(ctx context.Context, worker int, it *source.Item) (err error) {
	r.progress.update(func(c *Counts) { c.InFlight++ })
	defer r.progress.update(func(c *Counts) { c.InFlight--; c.Last = it.Key })
	err = r.guarded(ctx, worker, it)
	var bad *failure
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return nil // not finished: the next run takes it again
	case !errors.As(err, &bad) || fatal(err):
		return fmt.Errorf("captioner: %s: %w", it.Key, err)
	}
	data, merr := json.Marshal(failedData{Error: bad.Error(), Captions: bad.captions})
	if merr != nil {
		return merr
	}
	e := journal.Entry{Status: journal.Failed, N: it.N, Key: it.Key, Size: it.Size, MTime: it.MTime, Data: data}
	if err := r.journal.Append(e); err != nil {
		return err
	}
	r.progress.update(func(c *Counts) { c.Failed++ })
	r.event(Event{Kind: "fail", Key: it.Key, Detail: bad.Error()})
	return nil
}

// fatal reports an error that every further input would meet.
func fatal(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// guarded turns a panic over one input into its failure.
func (r *runner) guarded(ctx context.Context, worker int, it *source.Item) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failed(fmt.Errorf("captioner: internal error: %v", p))
		}
	}()
	if it.Err != nil {
		return failed(it.Err)
	}
	if !r.claim(it) {
		return failed(fmt.Errorf("captioner: %s belongs to another input with the same name; rename one, or write jsonl instead of sidecars", r.place.Path(recordOf(it), append(slices.Clone(r.sidecars), "xmp")[0])))
	}
	if done, err := r.settle(it); done || err != nil {
		return err
	}
	if done, err := r.existing(it); done || err != nil {
		return err
	}
	if r.job.Embed {
		owner, release, err := r.file(ctx, it)
		if err != nil {
			return err
		}
		defer release()
		if done, err := r.alias(it, owner); done || err != nil {
			return err
		}
	}
	return r.caption(ctx, worker, it)
}

// alias records an input that is another name, by a symbolic link, of a file that
// has its caption inside. Nothing is written into the file a second time.
func (r *runner) alias(it *source.Item, owner string) (bool, error) {
	if owner == it.Key {
		return false, nil
	}
	e, _, err := r.journal.Key(owner)
	if err != nil {
		return false, err
	}
	twin, rec := entryRecord(e), recordOf(it)
	if twin == nil || !adopt(rec, twin) {
		return false, nil // the other one failed: this one may do better
	}
	if e.Status == journal.Intent {
		if err := r.settleFiles(e); err != nil {
			return false, failed(err)
		}
	}
	rec.AliasOf, rec.SHA256 = owner, twin.SHA256
	restat(it)
	r.progress.update(func(c *Counts) { c.Duplicates++ })
	return true, r.write(it, e.ID, rec)
}

// settle finishes what an intent line announced before the job was interrupted.
func (r *runner) settle(it *source.Item) (bool, error) {
	if s, ok := r.journal.Status(it.Key); !ok || s != journal.Intent {
		return false, nil
	}
	e, _, err := r.journal.Key(it.Key)
	if err != nil {
		return false, err
	}
	rec := entryRecord(e)
	if rec == nil {
		return false, nil // not ours to read: caption it again
	}
	if err := r.settleFiles(e); err != nil {
		return false, failed(err)
	}
	if r.job.Embed {
		restat(it)
	}
	return true, r.finish(it, e.ID, rec)
}

// settleFiles writes what an intent line announced and was not written; again changes nothing.
func (r *runner) settleFiles(e journal.Entry) error {
	var p plan
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return err
	}
	for i := range p.Files {
		if err := p.Files[i].Settle(p.Record, r.script.keys, r.job.Existing); err != nil {
			return err
		}
	}
	return nil
}

// entryRecord is the record of a done line, or the one that an intent line
// announced; nil if there is none.
func entryRecord(e journal.Entry) *Record {
	var rec *Record
	switch e.Status {
	case journal.Done:
		rec = &Record{}
		if json.Unmarshal(e.Data, rec) != nil {
			return nil
		}
	case journal.Intent:
		var p plan
		if json.Unmarshal(e.Data, &p) != nil {
			return nil
		}
		rec = p.Record
	}
	return rec
}

// existing applies the policy for sidecars that are there already.
func (r *runner) existing(it *source.Item) (bool, error) {
	if len(r.sidecars) == 0 || r.job.Existing != sink.Skip && r.job.Existing != sink.Fail {
		return false, nil
	}
	rec, have := recordOf(it), 0
	for _, f := range r.sidecars {
		path := r.place.Path(rec, f)
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		have++
		if r.job.Existing == sink.Fail {
			return false, failed(fmt.Errorf("captioner: %s exists", path))
		}
	}
	if have < len(r.sidecars) {
		return false, nil
	}
	rec.Skipped = "existing"
	data, err := json.Marshal(rec)
	if err != nil {
		return false, err
	}
	err = r.journal.Append(journal.Entry{Status: journal.Done, N: it.N, Key: it.Key, Size: it.Size, MTime: it.MTime, Data: data})
	if err == nil {
		r.progress.update(func(c *Counts) { c.Skipped++ })
		r.event(Event{Kind: "skip", Key: it.Key, Detail: rec.Skipped})
	}
	return true, err
}

// caption reads an input and makes its captions, or takes them from an equal one.
func (r *runner) caption(ctx context.Context, worker int, it *source.Item) error {
	held := min(max(it.Size, 1), r.job.Bytes)
	if err := r.bytes.Acquire(ctx, held); err != nil {
		return err
	}
	defer r.bytes.Release(held)
	rec := recordOf(it)
	start := time.Now()
	in, err := r.read(ctx, it)
	r.progress.busy(StageRead, time.Since(start))
	if err != nil {
		return failed(err)
	}
	defer in.close()
	rec.SHA256, rec.Meta.Frames, rec.Meta.Notes = in.sha, in.times, in.notes
	if in.video && rec.Kind == source.Image.String() {
		rec.Kind = source.Video.String() // an animation
	}
	prompts := r.prompts(it, in)
	id := r.id(in.sha, prompts)
	release, err := r.flight(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if twin, ok, err := r.journal.ID(id); err != nil {
		return err
	} else if ok && adopt(rec, entryRecord(twin)) {
		r.progress.update(func(c *Counts) { c.Duplicates++ })
		return r.write(it, id, rec)
	}
	if err := r.generate(ctx, worker, it, in, prompts, rec); err != nil {
		return err
	}
	return r.write(it, id, rec)
}

func (r *runner) prompts(it *source.Item, in *input) map[string]string {
	old := ""
	if slices.Contains(r.script.recipe.Context, "caption") && it.Path != "" {
		data, _, _ := sink.ReadOld(r.place.Path(recordOf(it), "txt")) // optional context: none if unreadable
		old = strings.TrimSpace(string(data))
	}
	f := fields(it, old, in.exif)
	out := map[string]string{}
	for _, c := range r.script.recipe.Captions {
		out[c.Key] = r.script.prompt(c, in.video, f)
	}
	return out
}

// id is the digest of content, recipe, model and, where they vary, prompts.
func (r *runner) id(sha string, prompts map[string]string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", sha, r.script.hash, r.job.Digest, r.job.Model)
	if r.script.injected {
		for _, k := range r.script.keys {
			fmt.Fprintf(h, "\x00%s", prompts[k])
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// flight waits until nobody else works on the same id.
func (r *runner) flight(ctx context.Context, id string) (func(), error) {
	mine := make(chan struct{})
	for {
		r.mu.Lock()
		other, busy := r.flights[id]
		if !busy {
			r.flights[id] = mine
		}
		r.mu.Unlock()
		if !busy {
			return func() {
				r.mu.Lock()
				delete(r.flights, id)
				r.mu.Unlock()
				close(mine)
			}, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// adopt copies the captions of a finished twin.
func adopt(rec, t *Record) bool {
	if t == nil || len(t.Captions) == 0 {
		return false
	}
	rec.Captions, rec.Windows, rec.Tags, rec.Flags, rec.Guess, rec.DuplicateOf = t.Captions, t.Windows, t.Tags, t.Flags, t.Guess, t.Key
	if t.DuplicateOf != "" {
		rec.DuplicateOf = t.DuplicateOf
	}
	if rec.DuplicateOf == rec.Key {
		rec.DuplicateOf = ""
	}
	meta := t.Meta
	meta.Seconds, meta.TokensIn, meta.TokensOut = nil, 0, 0
	rec.Meta = meta
	return true
}

// generate fills the record's captions: those of a long video's windows first.
func (r *runner) generate(ctx context.Context, worker int, it *source.Item, in *input, prompts map[string]string, rec *Record) error {
	start := time.Now()
	if err := r.windows(ctx, worker, it, in, prompts, rec); err != nil {
		return err
	}
	if len(rec.Windows) > 0 {
		prompts = withParts(prompts, r.script.keys[0], rec.Windows)
	}
	a, err := r.answers(ctx, worker, it, in.part, prompts)
	if err != nil {
		return err
	}
	rec.Meta.TokensIn, rec.Meta.TokensOut = rec.Meta.TokensIn+a.tokensIn, rec.Meta.TokensOut+a.out
	rec.Meta.Seconds = map[string]float64{"total": time.Since(start).Seconds()}
	return r.judge(rec, a.answers, a.images, prompts)
}

// answered is what came of asking about one picture or stretch of a video.
type answered struct {
	answers       map[string]*answer
	images        []engine.ImageReport
	tokensIn, out int
}

// answers asks an engine that works, and another one when that fails.
func (r *runner) answers(ctx context.Context, worker int, it *source.Item, part engine.Part, prompts map[string]string) (*answered, error) {
	for {
		eng, n, err := r.engine(worker)
		if err != nil {
			return nil, err
		}
		a := &asker{runner: r, eng: eng, key: it.Key, part: part, prompt: prompts}
		answers, images, err := a.ask(ctx)
		if errors.Is(err, engine.ErrOverloaded) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err == nil {
			return &answered{answers, images, a.tokensIn, a.out}, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if ofItem(err) {
			return nil, failed(plain(err))
		}
		r.mu.Lock()
		r.broken = err
		r.mu.Unlock()
		r.dead[n].Store(true)
		r.event(Event{Kind: "engine", Key: it.Key, Detail: err.Error()})
	}
}

// ofItem reports an error that the input caused, not the engine.
func ofItem(err error) bool {
	for _, e := range []error{engine.ErrImageDecode, engine.ErrImageTooLarge, engine.ErrContextTooLong, engine.ErrInvalidRequest, engine.ErrDeadline} {
		if errors.Is(err, e) {
			return true
		}
	}
	var im *engine.ImageError
	return errors.As(err, &im)
}

// plain leaves out what the engine says around the error of a picture.
func plain(err error) error {
	var im *vision.ImageError
	if errors.As(err, &im) {
		return im
	}
	return err
}

// judge puts the answers into the record, or refuses them.
func (r *runner) judge(rec *Record, answers map[string]*answer, images []engine.ImageReport, prompts map[string]string) error {
	m := &rec.Meta
	m.Model, m.Digest, m.Recipe, m.Prompts = r.job.Model, r.job.Digest, r.script.hash, prompts
	m.Seeds, m.Finish, m.Words, m.Attempts, m.MeanLogProb = map[string]uint64{}, map[string]string{}, map[string]int{}, map[string]int{}, map[string]float64{}
	m.Created = time.Now().UTC().Truncate(time.Millisecond)
	rec.Captions = map[string]string{}
	var refused []string
	for _, key := range r.script.keys {
		a := answers[key]
		rec.Guess = rec.Guess || a.guess
		if a.mean != nil {
			m.MeanLogProb[key] = *a.mean
		}
		for _, f := range a.faults() {
			if r.script.refuse[f] {
				refused = append(refused, key+":"+f)
			} else {
				rec.Flags = append(rec.Flags, key+":"+f)
			}
		}
		rec.Captions[key] = r.script.dress(key, a.text)
		m.Seeds[key], m.Finish[key], m.Words[key] = a.seed, string(a.finish), filter.Words(a.text)
		if a.attempts > 1 {
			m.Attempts[key] = a.attempts
		}
		if (key == "tags" || key == "booru") && !a.guess {
			rec.Tags = splitTags(a.text)
		}
	}
	if len(images) > 0 {
		m.Format, m.Width, m.Height = images[0].Format, images[0].Width, images[0].Height
		for _, im := range images {
			m.Tiles += im.Tiles
		}
		m.Notes = append(m.Notes, images[0].Notes...)
	}
	if refused != nil {
		return &failure{err: fmt.Errorf("captioner: refused by filters: %s", strings.Join(refused, ", ")), captions: rec.Captions}
	}
	for _, key := range r.script.keys {
		r.seen.Add(key, answers[key].text)
	}
	return nil
}

// write writes the sidecars, then the journal line.
func (r *runner) write(it *source.Item, id string, rec *Record) error {
	start := time.Now()
	defer func() { r.progress.busy(StageWrite, time.Since(start)) }()
	files, err := r.plan(rec)
	if err != nil {
		return failed(err)
	}
	if len(files) > 0 && (r.job.Existing != sink.Overwrite || r.job.Embed) {
		data, err := json.Marshal(plan{Record: rec, Files: files})
		if err != nil {
			return err
		}
		if err := r.journal.Append(journal.Entry{Status: journal.Intent, N: it.N, Key: it.Key, ID: id, Size: it.Size, MTime: it.MTime, Data: data}); err != nil {
			return err
		}
	}
	for i := range files {
		if err := files[i].Write(); err != nil {
			return failed(err)
		}
		if files[i].Format == sink.Embed {
			restat(it)
		}
	}
	return r.finish(it, id, rec)
}

// plan renders the files of a record.
func (r *runner) plan(rec *Record) ([]sink.File, error) {
	var files []sink.File
	sidecars := r.sidecars
	if r.job.Embed && rec.AliasOf == "" {
		f, err := r.embed(rec)
		switch {
		case errors.Is(err, sink.ErrNoXMP) && !slices.Contains(sidecars, "xmp"):
			sidecars = append(slices.Clone(sidecars), "xmp")
		case errors.Is(err, sink.ErrNoXMP):
		case err != nil:
			return nil, err
		case f.Changes():
			files = append(files, f)
		default:
			rec.Meta.Notes = append(rec.Meta.Notes, "the file's own description was kept")
		}
	}
	for _, format := range sidecars {
		f, err := sink.Plan(rec, r.place.Path(rec, format), format, r.script.keys, r.job.Existing)
		if err != nil {
			return nil, err
		}
		if f.Before != "" && r.job.Existing == sink.Skip {
			continue
		}
		files = append(files, f)
	}
	return files, nil
}

// embed plans the change of the picture's own file. What has no place for a
// caption (a video, a member of a shard, a format without XMP) is ErrNoXMP: it
// gets an .xmp sidecar instead.
func (r *runner) embed(rec *Record) (sink.File, error) {
	if rec.Path == "" || rec.Kind == "frames" {
		return sink.File{}, sink.ErrNoXMP
	}
	path, err := filepath.EvalSymlinks(rec.Path) // a link stays one
	if err != nil {
		return sink.File{}, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return sink.File{}, err
	}
	if st.Size() > r.job.ReadLimit {
		return sink.File{}, sink.ErrNoXMP
	}
	return sink.Plan(rec, path, sink.Embed, r.script.keys, r.job.Existing)
}

// restat takes over the size and time of a file that the job has changed, so that
// the next run knows it again.
func restat(it *source.Item) {
	if st, err := os.Stat(it.Path); err == nil {
		it.Size, it.MTime = st.Size(), st.ModTime().UnixNano()
	}
}

// finish writes the done line.
func (r *runner) finish(it *source.Item, id string, rec *Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := r.journal.Append(journal.Entry{Status: journal.Done, N: it.N, Key: it.Key, ID: id, Size: it.Size, MTime: it.MTime, Data: data}); err != nil {
		return err
	}
	r.progress.update(func(c *Counts) {
		c.Done++
		c.Bytes += it.Size
		if len(rec.Flags) > 0 {
			c.Flagged++
		}
	})
	if len(rec.Flags) > 0 {
		r.event(Event{Kind: "flag", Key: it.Key, Detail: strings.Join(rec.Flags, " ")})
	}
	r.event(Event{Kind: "item", Key: it.Key, Record: rec})
	return nil
}
