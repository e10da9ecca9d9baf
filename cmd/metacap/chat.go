package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"metacap/engine"
)

// chatCmd is metacap chat.
type chatCmd struct {
	Images []string `arg:"" optional:"" name:"image" help:"Pictures to talk about."`

	Prompt   string `short:"p" placeholder:"TEXT" help:"Ask this and stop; without it, ask on a terminal, or read one question from standard input." group:"answer"`
	Video    bool   `help:"The pictures are the frames of one video, in order." group:"picture"`
	MaxTiles int    `default:"0" placeholder:"N" help:"Most tiles a picture is cut into; 0 = the model's own limit." group:"picture"`
	JSON     bool   `name:"json" help:"Answers as JSON records, one a line." group:"output"`

	engineFlags
	samplingFlags
}

func (*chatCmd) examples() string {
	return `
  metacap chat a.jpg                               ask question after question
  metacap chat a.jpg b.jpg -p "What differs?"      one answer
  metacap chat -m ~/models/Qwen3-8B -p "Why is the sky blue?"
  echo "Is there a dog? Answer yes or no." | metacap chat a.jpg
`
}

const chatHelp = `/image PATH   add a picture to the next question
/reset        forget the conversation and its pictures
/stats        say what the last answer cost
/help         this
/quit         end (also end of file)
Ctrl-C stops an answer.
`

// chat is a conversation in progress.
type chat struct {
	cmd      *chatCmd
	app      *app
	engine   *engine.Engine
	messages []engine.Message
	pending  []engine.Part // pictures for the next question
	last     *engine.Result

	interactive bool
}

// Run is called by kong.
func (c *chatCmd) Run(ctx context.Context, a *app) error {
	question := c.Prompt
	interactive := question == "" && terminal(a.stdin) && terminal(a.stdout) && !c.JSON
	if question == "" && !interactive {
		data, err := io.ReadAll(io.LimitReader(a.stdin, 64<<20))
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		question = strings.TrimSuffix(string(data), "\n")
		if strings.TrimSpace(question) == "" {
			return errors.New("no question: give -p TEXT, or write it to standard input")
		}
	}
	eng, err := c.open(ctx, a, c.JSON)
	if err != nil {
		return err
	}
	defer eng.Close()
	t := &chat{cmd: c, app: a, engine: eng, interactive: interactive}
	t.reset()
	t.pending = c.parts()
	if !interactive {
		return t.ask(ctx, question)
	}
	return t.loop(ctx)
}

// parts are the pictures of the command line.
func (c *chatCmd) parts() []engine.Part {
	var parts []engine.Part
	var frames []engine.Image
	for _, path := range c.Images {
		im := engine.Image{Path: path, MaxTiles: c.MaxTiles}
		if c.Video {
			frames = append(frames, im)
			continue
		}
		parts = append(parts, engine.Part{Image: &im})
	}
	if len(frames) > 0 {
		parts = append(parts, engine.Part{Video: &engine.Video{Frames: frames}})
	}
	return parts
}

func (t *chat) reset() {
	t.messages = t.cmd.systemMessage()
	t.pending = nil
}

// loop reads questions from the terminal until its end.
func (t *chat) loop(ctx context.Context) error {
	w := t.app.stdout
	fmt.Fprintln(w, t.app.style(w).dim("Ask; /help lists commands, Ctrl-D ends."))
	lines := readLines(ctx, t.app.stdin)
	for {
		fmt.Fprint(w, t.app.style(w).bold("> "))
		var line string
		var ok bool
		select {
		case <-ctx.Done():
			fmt.Fprintln(w)
			return ctx.Err()
		case line, ok = <-lines:
		}
		if !ok {
			fmt.Fprintln(w)
			return nil
		}
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case line == "/quit" || line == "/exit":
			return nil
		case strings.HasPrefix(line, "/"):
			t.command(line)
		default:
			switch err := t.ask(ctx, line); {
			case ctx.Err() != nil || err == nil:
			case errors.Is(err, context.Canceled):
				fmt.Fprintln(w, t.app.style(w).dim("(stopped; the question is forgotten)"))
			default:
				fmt.Fprintf(t.app.stderr, "metacap: %v\n", err)
			}
		}
	}
}

// readLines sends the lines of r; the channel is closed at its end. The
// goroutine ends with r or, if r blocks, with the process.
func readLines(ctx context.Context, r io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 16<<20)
		for in.Scan() {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines
}

// command runs a line that starts with a slash.
func (t *chat) command(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	w := t.app.stdout
	switch verb {
	case "/help":
		fmt.Fprint(w, chatHelp)
	case "/reset":
		t.reset()
		fmt.Fprintln(w, "The conversation starts anew.")
	case "/image":
		if st, err := os.Stat(rest); err != nil || st.IsDir() {
			fmt.Fprintf(t.app.stderr, "metacap: /image %s: no such file\n", rest)
			return
		}
		t.pending = append(t.pending, engine.Part{Image: &engine.Image{Path: rest, MaxTiles: t.cmd.MaxTiles}})
		fmt.Fprintf(w, "%s goes with the next question.\n", rest)
	case "/stats":
		if t.last == nil {
			fmt.Fprintln(w, "No answer yet.")
			return
		}
		fmt.Fprintln(w, summary(t.last))
	default:
		fmt.Fprintf(t.app.stderr, "metacap: %s is no command; /help lists them\n", verb)
	}
}

// ask puts a question and prints the answer. The conversation grows only if it
// is answered.
func (t *chat) ask(ctx context.Context, question string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if t.interactive { // Ctrl-C ends the answer, not the conversation
		t.app.onInterrupt(cancel)
		defer t.app.onInterrupt(nil)
	}
	user := engine.Message{Role: engine.RoleUser, Parts: append(t.pending[:len(t.pending):len(t.pending)], engine.Part{Text: question})}
	r := t.cmd.samplingFlags.request(t.engine.Info())
	r.Messages = append(t.messages[:len(t.messages):len(t.messages)], user)
	var result *engine.Result
	var failure error
	for ev, err := range t.engine.Stream(ctx, r) {
		if err != nil {
			failure = err
		}
		if ev.Result != nil {
			result = ev.Result
		}
		if !t.cmd.JSON {
			text := ev.Text
			if terminal(t.app.stdout) {
				text = printable(text)
			}
			fmt.Fprint(t.app.stdout, text)
		}
	}
	if !t.cmd.JSON {
		fmt.Fprintln(t.app.stdout)
	}
	if errors.Is(failure, context.Canceled) {
		return failure
	}
	if failure != nil {
		if t.cmd.JSON {
			if err := writeJSON(t.app.stdout, t.record(question, nil, failure)); err != nil {
				return err
			}
			return &exitError{Code: exitSomeFailed}
		}
		return &exitError{Code: exitSomeFailed, Err: errors.New(plain("chat", failure))}
	}
	t.last = result
	t.pending = nil
	t.messages = append(r.Messages, engine.Message{Role: engine.RoleAssistant, Parts: []engine.Part{{Text: result.Text}}})
	if t.cmd.JSON {
		return writeJSON(t.app.stdout, t.record(question, result, nil))
	}
	if t.app.verbose > 0 && !t.app.quiet {
		fmt.Fprintln(t.app.stderr, t.app.style(t.app.stderr).dim("  "+summary(result)))
	}
	return nil
}

// record is an answer as a line of JSON.
func (t *chat) record(question string, res *engine.Result, err error) *record {
	r := &record{
		Model: t.cmd.name(), Note: noteFor(&t.cmd.engineFlags), Device: t.engine.Info().Device,
		Prompt: question, System: t.cmd.System,
	}
	switch images := t.cmd.Images; {
	case t.cmd.Video:
		r.Frames = images
	case len(images) == 1:
		r.Image = images[0]
	default:
		r.Images = images
	}
	if err != nil {
		r.Error = plain("chat", err)
		return r
	}
	r.fill(res)
	return r
}
