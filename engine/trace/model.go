package trace

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"metacap/engine"
	"metacap/engine/internal/adapt"
	"metacap/engine/internal/assemble"
	"metacap/engine/internal/kvcache"
	"metacap/engine/internal/sched"
	"metacap/kernels"
	"metacap/loader"
)

// Model is an open checkpoint. One goroutine at a time.
type Model struct {
	ck      *loader.Checkpoint
	files   fs.FS // nil: the checkpoint is the directory dir
	dir     string
	text    *adapt.Text // opened by Prompt
	backend kernels.Backend
	parts   *assemble.Parts
	chunk   int
}

// Open opens the checkpoint in dir. errors.Is(err, engine.ErrUnsupportedModel)
// tells a family that the engine lacks from a broken checkpoint.
func Open(ctx context.Context, dir string, o Options) (*Model, error) {
	ck, err := loader.Open(dir)
	if err != nil {
		var un *loader.UnsupportedError
		if errors.As(err, &un) {
			err = fmt.Errorf("%w: %w", engine.ErrUnsupportedModel, err)
		}
		return nil, fmt.Errorf("trace: open %s: %w", dir, err)
	}
	return build(ctx, ck, nil, dir, o)
}

// OpenFS is Open for a checkpoint at the root of a file system. name is for messages.
func OpenFS(ctx context.Context, fsys fs.FS, name string, o Options) (*Model, error) {
	ck, err := loader.OpenFS(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("trace: open %s: %w", name, err)
	}
	return build(ctx, ck, fsys, name, o)
}

// build places an open checkpoint, which belongs to the model from then on.
func build(ctx context.Context, ck *loader.Checkpoint, files fs.FS, dir string, o Options) (*Model, error) {
	m := &Model{ck: ck, files: files, dir: dir, chunk: o.ChunkTokens}
	var err error
	if m.backend, err = engine.OpenBackend(o.Device, o.Threads); err == nil {
		s := assemble.Settings{DType: o.DType, StepTokens: o.ChunkTokens, EncoderBytes: 64 << 20, Workers: 2}
		if s.StepTokens > 0 {
			s.MaxSequences = min(8, s.StepTokens)
		} else {
			s.MaxSequences = 8
		}
		s.Context = min(ck.Config.Text.MaxPositions, 1<<14)
		m.parts, err = assemble.Build(ctx, ck, m.backend, s)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("trace: open %s: %w", dir, err), m.Close())
	}
	return m, nil
}

// Close frees the device. Idempotent.
func (m *Model) Close() error {
	if m.parts != nil {
		m.parts.Free()
		m.parts = nil
	}
	var errs []error
	if m.backend != nil {
		errs = append(errs, m.backend.Close())
		m.backend = nil
	}
	if m.ck != nil {
		errs = append(errs, m.ck.Close())
		m.ck = nil
	}
	return errors.Join(errs...)
}

// Config is the checkpoint's configuration.
func (m *Model) Config() loader.Config { return m.ck.Config }

// Backend describes the device.
func (m *Model) Backend() kernels.Info { return m.backend.Info() }

// scheduler returns a fresh scheduler with an empty KV cache, so that runs do not influence each other.
func (m *Model) scheduler() *sched.Scheduler {
	pool := kvcache.NewPool(kvcache.Config{Blocks: m.parts.KVBlocks, BlockSize: kernels.BlockSize, NoPrefixes: true})
	return sched.New(m.parts.Sched, pool)
}

// sequence makes a sequence of an input. limit is its largest number of tokens.
func (m *Model) sequence(id uint64, in Input, limit int) (*sched.Sequence, error) {
	if len(in.IDs) == 0 || limit > m.parts.Context {
		return nil, fmt.Errorf("%d tokens, want 1 to %d: %w", limit, m.parts.Context, engine.ErrContextTooLong)
	}
	q := &sched.Sequence{
		ID: id, Tokens: append(make([]int32, 0, limit), in.IDs...), Prompt: len(in.IDs), Limit: limit,
		RowsFrom: len(in.IDs) - 1, FullLogits: true,
	}
	for i, t := range in.IDs {
		if t < 0 || int(t) >= m.parts.Runner.Vocabulary() {
			return nil, fmt.Errorf("token %d at position %d is outside the vocabulary of %d", t, i, m.parts.Runner.Vocabulary())
		}
	}
	if len(in.Tiles) == 0 {
		return q, nil
	}
	if m.parts.Model.Vision == nil {
		return nil, engine.ErrNoVision
	}
	return q, m.addTiles(q, in)
}

// addTiles finds the runs of placeholder tokens and gives each its tiles.
func (m *Model) addTiles(q *sched.Sequence, in Input) error {
	placeholder, err := m.placeholder(in)
	if err != nil {
		return err
	}
	tokens, next := m.parts.Sched.TileTokens, 0
	for i := 0; i < len(in.IDs); {
		if in.IDs[i] != placeholder {
			i++
			continue
		}
		start := i
		for i < len(in.IDs) && in.IDs[i] == placeholder {
			i++
		}
		n := (i - start) / tokens
		if (i-start)%tokens != 0 || next+n > len(in.Tiles) {
			return fmt.Errorf("image range [%d,%d) does not fit tiles of %d tokens, %d of %d used", start, i, tokens, next, len(in.Tiles))
		}
		sum := sha256.New()
		var tiles []sched.Tile
		for _, px := range in.Tiles[next : next+n] {
			tiles = append(tiles, sched.Tile{Key: sha256.Sum256(px), Pixels: px})
			sum.Write(px)
		}
		q.Spans = append(q.Spans, kvcache.Span{Start: start, End: i, Content: kvcache.ContentKey(sum.Sum(nil))})
		q.Tiles = append(q.Tiles, tiles)
		next += n
	}
	if next != len(in.Tiles) {
		return fmt.Errorf("%d tiles given, the prompt has room for %d", len(in.Tiles), next)
	}
	return nil
}

// placeholder is the image token: the one that fills the room of all tiles.
// The prompt's own counts decide, so that no tokenizer is needed.
func (m *Model) placeholder(in Input) (int32, error) {
	if id := m.ck.Config.ImageTokenID; id > 0 {
		return int32(id), nil
	}
	want, counts := len(in.Tiles)*m.parts.Sched.TileTokens, map[int32]int{}
	for _, id := range in.IDs {
		counts[id]++
	}
	for i := len(in.IDs) - 1; i >= 0; i-- {
		id := in.IDs[i]
		if counts[id] == want && (want < 2 || i > 0 && in.IDs[i-1] == id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no token occurs %d times, as %d tiles need", want, len(in.Tiles))
}

// Run prefills in and returns every stage.
func (m *Model) Run(ctx context.Context, in Input) (*Output, error) {
	q, err := m.sequence(1, in, len(in.IDs))
	if err != nil {
		return nil, fmt.Errorf("trace: run: %w", err)
	}
	q.RowsFrom = 0
	if len(in.Positions) > 0 { // the head computes no row before the first that is kept
		q.RowsFrom = min(max(slices.Min(in.Positions), 0), len(in.IDs)-1)
	}
	first := q.RowsFrom // Commit moves it
	c := newCollector(m, in)
	s := m.scheduler()
	s.Add(q)
	for q.Computed() < len(q.Tokens) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("trace: run: %w", err)
		}
		b := s.Schedule()
		if b.Empty() {
			return nil, fmt.Errorf("trace: run: nothing to schedule at token %d of %d", q.Computed(), len(q.Tokens))
		}
		c.start(b, q.Computed(), first)
		if err := m.parts.Runner.RunTap(b, c, c.tap); err != nil {
			return nil, fmt.Errorf("trace: run: %w", err)
		}
		for i := range b.Items {
			s.Commit(i, nil)
		}
		s.Finish()
	}
	s.Remove(q)
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("trace: run: %w", err)
	}
	return c.output(), nil
}

// Greedy prefills the inputs together as one ragged batch and decodes n tokens
// of each. Where forced[i] is non-nil its tokens are fed instead of the chosen
// ones (teacher forcing); forced may be nil. End-of-turn tokens do not end it.
func (m *Model) Greedy(ctx context.Context, in []Input, n int, forced [][]int32) ([][]Step, error) {
	s := m.scheduler()
	g := &greedy{m: m, n: n, forced: forced, steps: make([][]Step, len(in)), next: make([]int32, len(in))}
	for i := range in {
		q, err := m.sequence(uint64(i), in[i], len(in[i].IDs)+n)
		if err != nil {
			return nil, fmt.Errorf("trace: greedy: input %d: %w", i, err)
		}
		q.Owner = i
		s.Add(q)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("trace: greedy: %w", err)
		}
		b := s.Schedule()
		if b.Empty() {
			break
		}
		g.batch = b
		if err := m.parts.Runner.Run(b, g); err != nil {
			return nil, fmt.Errorf("trace: greedy: %w", err)
		}
		for i := range b.Items {
			it := &b.Items[i]
			if it.Rows == 0 {
				s.Commit(i, nil)
				continue
			}
			k := it.Seq.Owner.(int)
			s.Commit(i, g.next[k:k+1])
			if len(g.steps[k]) >= n {
				s.Remove(it.Seq)
			}
		}
		s.Finish()
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("trace: greedy: %w", err)
	}
	return g.steps, nil
}

// greedy chooses tokens from the logits of a batch.
type greedy struct {
	m      *Model
	n      int
	batch  *sched.Batch
	forced [][]int32
	steps  [][]Step
	next   []int32
}

func (g *greedy) ArgMax(int, []int32, []float32) error { return nil }

func (g *greedy) Logits(lo, n int, logits []float32) error {
	vocab := len(logits) / n
	for i := range g.batch.Items {
		it := &g.batch.Items[i]
		if it.Rows == 0 || it.Row < lo || it.Row >= lo+n {
			continue
		}
		k := it.Seq.Owner.(int)
		st := best(logits[(it.Row-lo)*vocab:][:vocab])
		g.next[k] = st.ID
		if k < len(g.forced) && len(g.steps[k]) < len(g.forced[k]) {
			g.next[k] = g.forced[k][len(g.steps[k])]
		}
		g.steps[k] = append(g.steps[k], st)
	}
	return nil
}

// best describes a row of logits by its five best tokens.
func best(row []float32) Step {
	const top = 5
	var st Step
	for range min(top, len(row)) {
		at := -1
		for id, l := range row {
			taken := false
			for _, t := range st.TopIDs {
				taken = taken || int(t) == id
			}
			if !taken && (at < 0 || l > row[at]) {
				at = id
			}
		}
		st.TopIDs = append(st.TopIDs, int32(at))
	}
	high := float64(row[st.TopIDs[0]])
	sum := 0.0
	for _, l := range row {
		sum += math.Exp(float64(l) - high)
	}
	for _, id := range st.TopIDs {
		st.TopLogProbs = append(st.TopLogProbs, float64(row[id])-high-math.Log(sum))
	}
	st.ID, st.LogProb = st.TopIDs[0], st.TopLogProbs[0]
	if len(st.TopIDs) > 1 {
		st.Margin = high - float64(row[st.TopIDs[1]])
	}
	return st
}
