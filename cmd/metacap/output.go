package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"metacap/engine"
)

// record is one line of --json output: an answer, or the reason why there is none.
type record struct {
	Image   string   `json:"image,omitempty"`  // as given; "-" for standard input
	Images  []string `json:"images,omitempty"` // several pictures of one question
	Frames  []string `json:"frames,omitempty"` // of a video
	Caption *string  `json:"caption,omitempty"`
	Finish  string   `json:"finish,omitempty"` // stop, length or loop
	Error   string   `json:"error,omitempty"`  // then there is no caption

	Guess       bool     `json:"guess,omitempty"`        // the embedded model took the picture for none of its world, or was unsure
	MeanLogProb *float64 `json:"mean_logprob,omitempty"` // of the tokens, where Guess was judged by it

	Model  string  `json:"model"`
	Note   string  `json:"note,omitempty"` // what the embedded model knows
	Device string  `json:"device"`
	Prompt string  `json:"prompt"`
	System *string `json:"system,omitempty"`

	Pictures []pictureRecord `json:"pictures,omitempty"`
	Tiles    int             `json:"tiles,omitempty"`
	Tokens   *tokensRecord   `json:"tokens,omitempty"`
	Seconds  *secondsRecord  `json:"seconds,omitempty"`
	Seed     *uint64         `json:"seed,omitempty"`
	Sampling *samplingRecord `json:"sampling,omitempty"` // absent: greedy
}

// pictureRecord says what was done to a picture.
type pictureRecord struct {
	Format string   `json:"format,omitempty"`
	Width  int      `json:"width"`
	Height int      `json:"height"`
	Grid   [2]int   `json:"grid"` // columns, rows
	Tiles  int      `json:"tiles"`
	Tokens int      `json:"tokens"`
	Notes  []string `json:"notes,omitempty"`
}

// tokensRecord counts tokens.
type tokensRecord struct {
	Prompt int `json:"prompt"`
	Image  int `json:"image"`
	Cached int `json:"cached"`
	Output int `json:"output"`
}

// secondsRecord says where the time went; total includes reading and tiling.
type secondsRecord struct {
	Queue      float64 `json:"queue"`
	Vision     float64 `json:"vision"`
	Prefill    float64 `json:"prefill"`
	Decode     float64 `json:"decode"`
	FirstToken float64 `json:"first_token"`
	Total      float64 `json:"total"`
}

// samplingRecord is how tokens were picked, when not greedily.
type samplingRecord struct {
	Temperature       float64 `json:"temperature"`
	TopK              int     `json:"top_k,omitempty"`
	TopP              float64 `json:"top_p,omitempty"`
	MinP              float64 `json:"min_p,omitempty"`
	RepetitionPenalty float64 `json:"repetition_penalty,omitempty"`
}

// fill copies a result into a record.
func (r *record) fill(res *engine.Result) {
	u := res.Usage
	r.Caption, r.Finish, r.Seed, r.Tiles = &res.Text, string(res.Finish), &res.Seed, u.Tiles
	r.Tokens = &tokensRecord{Prompt: u.PromptTokens, Image: u.ImageTokens, Cached: u.CachedTokens, Output: u.OutputTokens}
	r.Seconds = &secondsRecord{
		Queue: seconds(u.Queue), Vision: seconds(u.VisionTime), Prefill: seconds(u.PrefillTime),
		Decode: seconds(u.DecodeTime), FirstToken: seconds(u.FirstToken), Total: seconds(u.Total),
	}
	for _, im := range res.Images {
		r.Pictures = append(r.Pictures, pictureRecord{
			Format: im.Format, Width: im.Width, Height: im.Height, Grid: [2]int{im.Cols, im.Rows},
			Tiles: im.Tiles, Tokens: im.Tokens, Notes: im.Notes,
		})
	}
}

// seconds rounds a duration to microseconds.
func seconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e6 }

// noteFor is the note that records of a model carry.
func noteFor(f *engineFlags) string {
	if f.embedded() {
		return "the embedded demo model knows only drawn pictures"
	}
	return ""
}

// writeJSON writes v as one line.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// summary says in a line what a result cost.
func summary(res *engine.Result) string {
	u := res.Usage
	var b strings.Builder
	for i := 0; i < len(res.Images); {
		same := 1 // equal pictures in a row, as the frames of a video are
		for i+same < len(res.Images) && describe(res.Images[i+same]) == describe(res.Images[i]) {
			same++
		}
		if same > 1 {
			fmt.Fprintf(&b, "%d times ", same)
		}
		b.WriteString(describe(res.Images[i]) + "; ")
		i += same
	}
	fmt.Fprintf(&b, "%s in", plural(u.PromptTokens, "token"))
	if u.ImageTokens > 0 {
		fmt.Fprintf(&b, " (%d of pictures)", u.ImageTokens)
	}
	if u.CachedTokens > 0 {
		fmt.Fprintf(&b, " (%d cached)", u.CachedTokens)
	}
	fmt.Fprintf(&b, ", %d out", u.OutputTokens)
	if u.OutputTokens > 1 && u.DecodeTime > 0 {
		fmt.Fprintf(&b, " at %.0f tok/s", float64(u.OutputTokens-1)/u.DecodeTime.Seconds())
	}
	fmt.Fprintf(&b, ", %.2f s (vision %.2f, prefill %.2f, decode %.2f)", u.Total.Seconds(), u.VisionTime.Seconds(), u.PrefillTime.Seconds(), u.DecodeTime.Seconds())
	if res.Finish != engine.FinishStop {
		fmt.Fprintf(&b, ", ended by %s", res.Finish)
	}
	return b.String()
}

// describe says what was done to a picture.
func describe(im engine.ImageReport) string {
	s := fmt.Sprintf("%s %d×%d, %s", im.Format, im.Width, im.Height, plural(im.Tiles, "tile"))
	if im.Tiles > im.Cols*im.Rows {
		s += fmt.Sprintf(" (%d×%d and the whole)", im.Cols, im.Rows)
	} else if im.Tiles > 1 {
		s += fmt.Sprintf(" (%d×%d)", im.Cols, im.Rows)
	}
	for _, n := range im.Notes {
		s += ", " + n
	}
	return s
}

// plain is an error's text for a user who gave the name: it leads, once.
func plain(name string, err error) string {
	text := err.Error()
	var im *engine.ImageError
	if errors.As(err, &im) {
		if im.Path != "" {
			name = im.Path // of several pictures, the one that failed
		}
		text = strings.TrimPrefix(im.Err.Error(), engine.ErrImageDecode.Error()+": ")
		text = strings.TrimPrefix(text, engine.ErrImageTooLarge.Error()+": ")
		text = strings.TrimPrefix(text, "vision: decode ")
		text = strings.TrimPrefix(text, name+": ")
		text = strings.TrimPrefix(text, "open "+name+": ")
	}
	return name + ": " + text
}

// plural is a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// terminal reports whether w is a terminal.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(st, null)
}

// style writes text in bold or dim on a terminal, unless NO_COLOR is set.
type style struct{ on bool }

func (a *app) style(w io.Writer) style {
	no, _ := a.env("NO_COLOR")
	return style{on: terminal(w) && no == ""}
}

func (s style) bold(text string) string { return s.wrap("1", text) }
func (s style) dim(text string) string  { return s.wrap("2", text) }

func (s style) wrap(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// printable replaces control characters, so that an answer cannot drive the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
