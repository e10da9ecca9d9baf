package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"metacap/engine/internal/kvcache"
	"metacap/engine/internal/parts"
	"metacap/engine/internal/sched"
	"metacap/loader"
	"metacap/tokenizer"
	"metacap/vision"

	"metacap/engine/internal/adapt"
)

// prompt is a conversation ready to run: ids, image ranges and tiles.
type prompt struct {
	ids         []int32
	spans       []kvcache.Span
	tiles       [][]sched.Tile
	reports     []ImageReport
	tileCount   int
	imageTokens int
}

// extend returns a prompt of the same pictures with more ids. p's ids are not changed.
func (p *prompt) extend(ids ...[]int32) *prompt {
	q := *p
	n := len(p.ids)
	for _, s := range ids {
		n += len(s)
	}
	q.ids = append(make([]int32, 0, n), p.ids...)
	for _, s := range ids {
		q.ids = append(q.ids, s...)
	}
	return &q
}

func openText(ck *loader.Checkpoint, fsys fs.FS, dir, style string) (parts.Text, error) {
	return adapt.OpenText(ck, fsys, dir, style)
}

func newImages(ck *loader.Checkpoint, c Config) parts.Images {
	return adapt.NewImages(ck, c.ImageRecipe == "exact")
}

// pictures are the images of a conversation in order, with where they occur.
func pictures(messages []Message) (list []*Image) {
	for i := range messages {
		for j := range messages[i].Parts {
			p := &messages[i].Parts[j]
			if p.Image != nil {
				list = append(list, p.Image)
			}
			if p.Video != nil {
				for k := range p.Video.Frames {
					list = append(list, &p.Video.Frames[k])
				}
			}
		}
	}
	return list
}

// prepareImages reads, decodes and tiles pictures on the caller's goroutine and,
// for several pictures, a few more: at most one a core in the whole engine.
func (e *Engine) prepareImages(ctx context.Context, messages []Message) ([]*parts.Prepared, error) {
	list := pictures(messages)
	if len(list) == 0 {
		return nil, nil
	}
	if e.parts.Images == nil {
		return nil, fmt.Errorf("%d pictures in the request: %w", len(list), ErrNoVision)
	}
	out := make([]*parts.Prepared, len(list))
	errs := make([]error, len(list))
	frames := frameSet(messages)
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, im := range list {
		work := func() {
			out[i], errs[i] = e.prepareImage(ctx, im, frames[im])
			if errs[i] != nil {
				cancel()
			}
		}
		if i == len(list)-1 {
			work()
			break
		}
		select {
		case e.decode <- struct{}{}:
			wg.Go(func() {
				defer func() { <-e.decode }()
				work()
			})
		default: // all cores are busy with pictures: do it here
			work()
		}
	}
	wg.Wait()
	if outer.Err() != nil {
		return nil, contextError(outer)
	}
	return out, firstImageError(list, errs)
}

// frameSet tells which pictures are frames of a video: those have one tile.
func frameSet(messages []Message) map[*Image]bool {
	set := map[*Image]bool{}
	for i := range messages {
		for j := range messages[i].Parts {
			if v := messages[i].Parts[j].Video; v != nil {
				for k := range v.Frames {
					set[&v.Frames[k]] = true
				}
			}
		}
	}
	return set
}

// firstImageError picks the error to report: the first that is not merely the
// cancellation that another one caused.
func firstImageError(list []*Image, errs []error) error {
	var found error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			if found == nil {
				found = err
			}
			continue
		}
		kind := ErrImageDecode
		if errors.Is(err, vision.ErrLimit) {
			kind = ErrImageTooLarge
		}
		if errors.Is(err, vision.ErrRecipe) { // a crop outside the picture
			kind = ErrInvalidRequest
		}
		if errors.Is(err, ErrInvalidRequest) {
			kind = nil
		}
		if kind != nil {
			err = fmt.Errorf("%w: %w", kind, err)
		}
		return &ImageError{Index: i, Path: list[i].Path, Err: err}
	}
	return found
}

func (e *Engine) prepareImage(ctx context.Context, im *Image, frame bool) (*parts.Prepared, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	given := 0
	for _, set := range []bool{im.Path != "", len(im.Data) > 0, im.Decoded != nil} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("exactly one of Path, Data and Decoded must be set, %d are: %w", given, ErrInvalidRequest)
	}
	if im.MaxTiles < 0 || im.MaxTiles > maxTilesLimit {
		return nil, fmt.Errorf("MaxTiles is %d, want 0 to %d: %w", im.MaxTiles, maxTilesLimit, ErrInvalidRequest)
	}
	src := parts.ImageSource{
		Path: im.Path, Data: im.Data, Decoded: im.Decoded, MaxTiles: im.MaxTiles, ThumbnailOnly: im.ThumbnailOnly, Crop: im.Crop,
	}
	if frame && src.MaxTiles == 0 {
		src.MaxTiles = 1
	}
	return e.parts.Images.Prepare(ctx, src)
}

// maxTilesLimit bounds Image.MaxTiles: published evaluations use up to 64.
const maxTilesLimit = 256

// conversation turns messages into the tokenizer's form with the token counts of their pictures.
func (e *Engine) conversation(messages []Message, pics []*parts.Prepared) ([]tokenizer.Message, error) {
	if len(messages) == 0 {
		return nil, fmt.Errorf("no messages: %w", ErrInvalidRequest)
	}
	next := 0
	count := func() int {
		n := len(pics[next].Tiles) * e.parts.Sched.TileTokens
		next++
		return n
	}
	out := make([]tokenizer.Message, len(messages))
	for i, m := range messages {
		out[i].Role = string(m.Role)
		for j, p := range m.Parts {
			set := 0
			var q tokenizer.Part
			if p.Text != "" {
				q.Text = p.Text
				set++
			}
			if p.Image != nil {
				q.Image = &tokenizer.Image{Tokens: count()}
				set++
			}
			if p.Video != nil {
				v := &tokenizer.Video{Labels: p.Video.Labels}
				for range p.Video.Frames {
					v.Frames = append(v.Frames, count())
				}
				q.Video = v
				set++
			}
			if set > 1 {
				return nil, fmt.Errorf("message %d, part %d has %d of Text, Image and Video, want one: %w", i, j, set, ErrInvalidRequest)
			}
			out[i].Parts = append(out[i].Parts, q)
		}
	}
	return out, nil
}

// assemblePrompt joins a rendered conversation with its pictures.
func (e *Engine) assemblePrompt(p *tokenizer.Prompt, pics []*parts.Prepared, messages []Message) (*prompt, error) {
	if len(p.Images) != len(pics) {
		return nil, fmt.Errorf("the chat template writes %d of %d pictures: %w", len(p.Images), len(pics), ErrInvalidRequest)
	}
	out := &prompt{ids: p.IDs}
	for _, id := range p.IDs {
		if id < 0 || int(id) >= e.info.Vocabulary {
			return nil, fmt.Errorf("token %d is outside the model's vocabulary of %d: %w", id, e.info.Vocabulary, ErrUnsupportedModel)
		}
	}
	list := pictures(messages)
	for i, pic := range pics {
		r := p.Images[i]
		tokens := len(pic.Tiles) * e.parts.Sched.TileTokens
		if r.End-r.Start != tokens {
			return nil, fmt.Errorf("picture %d has %d tokens in the prompt, want %d: %w", i, r.End-r.Start, tokens, ErrInvalidRequest)
		}
		out.spans = append(out.spans, kvcache.Span{Start: r.Start, End: r.End, Content: pic.Key})
		out.tiles = append(out.tiles, pic.Tiles)
		out.tileCount += len(pic.Tiles)
		out.imageTokens += tokens
		out.reports = append(out.reports, ImageReport{
			Path: list[i].Path, Format: pic.Format, Width: pic.Width, Height: pic.Height, Cols: pic.Cols, Rows: pic.Rows,
			Tiles: len(pic.Tiles), Tokens: tokens, Notes: pic.Notes,
		})
	}
	return out, nil
}

// prepare turns a conversation into a prompt.
func (e *Engine) prepare(ctx context.Context, messages []Message, thinking *bool) (*prompt, error) {
	pics, err := e.prepareImages(ctx, messages)
	if err != nil {
		return nil, err
	}
	conv, err := e.conversation(messages, pics)
	if err != nil {
		return nil, err
	}
	p, err := e.parts.Text.Render(conv, tokenizer.RenderOptions{Thinking: thinking})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	return e.assemblePrompt(p, pics, messages)
}

// Estimate says what r would cost. Pictures are read and tiled but not encoded.
func (e *Engine) Estimate(ctx context.Context, r Request) (Estimate, error) {
	p, err := e.prepare(ctx, r.Messages, r.Thinking)
	if err != nil {
		return Estimate{}, fmt.Errorf("engine: estimate: %w", err)
	}
	blocks := int64(len(p.ids)+e.info.BlockTokens-1) / int64(e.info.BlockTokens)
	return Estimate{
		PromptTokens: len(p.ids), ImageTokens: p.imageTokens, Tiles: p.tileCount,
		KVBytes: blocks * e.info.BlockBytes, MaxNew: max(e.info.ContextTokens-len(p.ids), 0),
	}, nil
}

// Estimate says what a request would cost before it is made.
type Estimate struct {
	PromptTokens int
	ImageTokens  int
	Tiles        int
	KVBytes      int64 // of the prompt
	MaxNew       int   // tokens that the context leaves for the answer
}

// Tokens returns the token ids of text; special tokens are not recognised in it.
func (e *Engine) Tokens(text string) []int32 { return e.parts.Text.Encode(text) }

// ImageTokens returns tiles (with thumbnail) and prompt tokens of a picture of
// width×height pixels; maxTiles 0 = the model's own limit.
func (e *Engine) ImageTokens(width, height, maxTiles int) (tiles, tokens int, err error) {
	if e.parts.Images == nil {
		return 0, 0, fmt.Errorf("engine: image tokens: %w", ErrNoVision)
	}
	if width <= 0 || height <= 0 || maxTiles < 0 || maxTiles > maxTilesLimit {
		return 0, 0, fmt.Errorf("engine: image tokens: %d×%d pixels, at most %d tiles: %w", width, height, maxTiles, ErrInvalidRequest)
	}
	if tiles, err = e.parts.Images.Plan(width, height, maxTiles); err != nil {
		return 0, 0, fmt.Errorf("engine: image tokens: %w", err)
	}
	return tiles, tiles * e.parts.Sched.TileTokens, nil
}
