package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"metacap/captioner/review"
	"metacap/engine"
)

// reviewCmd is metacap review.
type reviewCmd struct {
	Dir  string `arg:"" help:"Directory of pictures and their caption files."`
	Port int    `default:"0" placeholder:"N" help:"Port on 127.0.0.1; 0 = a free one."`
	Ext  string `default:".txt" placeholder:".EXT" help:"Extension of the caption files."`
	Demo bool   `help:"Let the embedded model make new captions; -m DIR lets another."`

	Prompt *string `short:"p" placeholder:"TEXT" help:"What to ask for a new caption." group:"answer"`
	engineFlags
	samplingFlags
}

func (*reviewCmd) examples() string {
	return `
  metacap review photos/                           look through captions and mend them
  metacap review photos/ -m ~/models/MetaCaptioner-8B
                                                   r on the page makes a new caption

The page listens on 127.0.0.1 only and its address holds a secret. Edits go to the
caption files beside the pictures, at once; captions.jsonl of a job is not changed.
`
}

// Run is called by kong.
func (c *reviewCmd) Run(ctx context.Context, a *app) error {
	if st, err := os.Stat(c.Dir); err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", c.Dir)
	}
	o := review.Options{Dir: c.Dir, Ext: c.Ext}
	if c.Demo || c.Model != "" {
		g := &regenerator{c: c, a: a, ctx: ctx}
		defer g.close()
		o.Regenerate = g.caption
	}
	s, err := review.New(ctx, o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.Port))
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	fmt.Fprintf(a.stdout, "%d pictures: http://%s%s\n", s.Len(), l.Addr(), s.Path())
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	stopped := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve returns and says so
	defer stopped()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("review: %w", err)
	}
	return nil
}

// regenerator opens the model when it is first needed.
type regenerator struct {
	c   *reviewCmd
	a   *app
	ctx context.Context

	mu  sync.Mutex
	eng *engine.Engine
}

func (g *regenerator) engine() (*engine.Engine, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.eng == nil {
		eng, err := g.c.open(g.ctx, g.a, false)
		if err != nil {
			return nil, err
		}
		g.eng = eng
	}
	return g.eng, nil
}

func (g *regenerator) close() {
	if g.eng != nil {
		_ = g.eng.Close() // the program ends
	}
}

func (g *regenerator) caption(ctx context.Context, path string) (string, error) {
	eng, err := g.engine()
	if err != nil {
		return "", err
	}
	prompt := imagePrompt
	if g.c.Prompt != nil {
		prompt = *g.c.Prompt
	}
	r := g.c.samplingFlags.request(eng.Info())
	r.Messages = append(g.c.systemMessage(), engine.Message{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Path: path}}, {Text: prompt}}})
	res, err := eng.Generate(ctx, r)
	if err != nil {
		return "", err
	}
	return res.Text, nil
}
