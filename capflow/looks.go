package capflow

import (
	"context"
	"fmt"
	"image"
	"slices"
	"strings"
	"sync"

	"metacap/capflow/internal/prose"
	"metacap/engine"
)

// look is one independent reading of the picture: the plain caption, asked on
// the whole picture or on a view of it.
type look struct {
	prefix string // name of the conversation
	text   string
	finish engine.FinishReason
}

// viewName is the conversation of the i-th view.
func viewName(i int) string { return fmt.Sprintf("view %d", i+1) }

// looks asks the plain caption of the whole picture and of the pack's views of
// it, each the picture with a narrow border cut away. Other wordings of the
// question repeat the mistakes of the first; a picture that falls on the patches
// of the encoder otherwise does not.
func (r *run) readLooks(ctx context.Context) (note string, err error) {
	names := []string{SeesImage}
	views, err := r.openViews(ctx)
	if err != nil {
		return "", err
	}
	names = append(names, views...)
	r.looks = make([]look, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { r.looks[i], errs[i] = r.readLook(ctx, name) })
	}
	wg.Wait()
	for _, e := range errs {
		if e != nil {
			return "", e
		}
	}
	return fmt.Sprintf("%d readings", len(names)), nil
}

func (r *run) readLook(ctx context.Context, name string) (look, error) {
	step := "look " + name
	var l look
	var saved struct{ Text, Finish string }
	if r.loadStage(step, &saved) {
		return look{name, saved.Text, engine.FinishReason(saved.Finish)}, nil
	}
	res, err := r.generate(ctx, RoleAgent, name, r.wording(r.pack.Tasks.Caption), r.pack.Thresholds.Tokens, engine.Request{})
	if err != nil {
		return l, err
	}
	l = look{name, strings.TrimSpace(res.Text), res.Finish}
	saved.Text, saved.Finish = l.text, string(l.finish)
	return l, r.save(step, saved)
}

// openViews opens a conversation for each view that the picture allows. A model
// that does not tell the size of pictures has no views.
func (r *run) openViews(ctx context.Context) ([]string, error) {
	p, err := r.conversation(ctx, RoleAgent, SeesImage)
	if err != nil {
		return nil, err
	}
	reports := p.conv.Images()
	if len(reports) != len(r.in.Images) {
		r.without("looks: the model does not tell the size of pictures, so they are read once")
		return nil, nil
	}
	m := r.flow.roleModel(RoleAgent)
	var names []string
	for i, v := range r.pack.Views {
		pre := r.prefix(m, SeesImage)
		for k, im := range reports {
			w, h := float64(im.Width), float64(im.Height)
			pre.Images[k].Crop = image.Rect(edge(v[0], w), edge(v[1], h), im.Width-edge(v[2], w), im.Height-edge(v[3], h))
			if pre.Images[k].Crop.Dx() < minView || pre.Images[k].Crop.Dy() < minView {
				r.without(fmt.Sprintf("looks: a picture of %dx%d is too small for views", im.Width, im.Height))
				return nil, nil
			}
		}
		r.openAs(ctx, m, viewName(i), pre)
		names = append(names, viewName(i))
	}
	return names, nil
}

// minView is the least side of a view, in pixels.
const minView = 16

// edge is the pixels that a view cuts from a side; a share above 0 cuts at least two.
func edge(share, side float64) int {
	if share == 0 {
		return 0
	}
	return max(2, int(share*side))
}

// openAs opens a conversation over a prefix of its own under a name, once.
func (r *run) openAs(ctx context.Context, m Model, name string, pre Prefix) *prefix {
	key := prefixKey{m, name}
	r.mu.Lock()
	p := r.open[key]
	if p == nil {
		p = &prefix{}
		r.open[key] = p
	}
	r.mu.Unlock()
	p.once.Do(func() { p.conv, p.err = m.Open(ctx, pre) })
	return p
}

// without notes that a check was not made, once.
func (r *run) without(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.rec.check(); !slices.Contains(c.Off, why) {
		c.Off = append(c.Off, why)
	}
}

// base takes the text whose sentences are verified: the plain caption if there
// is one and the pack prefers it; the summary is then one more reading of the evidence.
func (r *run) base() {
	if len(r.looks) == 0 || r.pack.Base != baseCaption || r.looks[0].finish != engine.FinishStop || r.given {
		return
	}
	r.rec.Summary.Base = baseCaption
	r.others = append(r.others, r.draft)
	r.draft, r.finish = r.looks[0].text, r.looks[0].finish
	r.rec.Captions.Long, r.rec.Summary.Draft = r.draft, r.draft
}

const baseCaption = "caption"

// readings are the texts that can speak for a sentence: those of looks, and
// those of perception, guideline and summary.
func (r *run) readings() (looks, agents []named) {
	for _, l := range r.looks {
		looks = append(looks, named{l.prefix, prose.Sentences(l.text)})
	}
	for _, a := range r.evidence {
		if a.Type == "perception" || a.Type == "guideline" {
			said := prose.Sentences(a.Text)
			if a.ID == "windows" {
				said = slices.DeleteFunc(said, func(s string) bool { return strings.HasSuffix(s, ":") }) // headings
			}
			agents = append(agents, named{a.ID, said})
		}
	}
	for _, t := range r.others {
		agents = append(agents, named{"summary", prose.Sentences(t)})
	}
	return looks, agents
}

// named is a reading taken apart.
type named struct {
	from      string
	sentences []string
}
