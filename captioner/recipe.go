package captioner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"metacap/captioner/internal/filter"
	"metacap/engine"
)

// Recipe says what is asked of every picture and what becomes of the answers. Its
// JSON form is the recipe file; its hash is stored with every caption.
type Recipe struct {
	// Captions are the texts wanted of each input, in order; all of them are
	// answered from one encoding of the picture. Empty = one, preset descriptive.
	Captions []Caption `json:"captions"`
	System   *string   `json:"system,omitempty"`
	Language string    `json:"language,omitempty"` // "German": asked for in the prompt
	// Context lists fields that are told to the model before the question: tags,
	// caption, filename, folder, exif (when, where and with what it was taken), or any
	// column of a table.
	Context []string `json:"context,omitempty"`

	Trigger      string        `json:"trigger,omitempty"` // word that leads each caption
	Prefix       string        `json:"prefix,omitempty"`
	Suffix       string        `json:"suffix,omitempty"`
	Replace      []Replacement `json:"replace,omitempty"`
	KeepPreamble bool          `json:"keep_preamble,omitempty"` // do not strip "Here is a description:"
	KeepCut      bool          `json:"keep_cut,omitempty"`      // do not end a cut caption at its last sentence

	Sampling engine.Sampling `json:"sampling"`
	// Wordings replace the text of presets, by name, for models that know other words.
	Wordings  map[string]string `json:"wordings,omitempty"`
	MaxTokens int               `json:"max_tokens,omitempty"` // of each caption; 0 = what the context leaves
	MaxTiles  int               `json:"max_tiles,omitempty"`
	Stop      []string          `json:"stop,omitempty"`

	Filters Filters `json:"filters"`
	Retries int     `json:"retries,omitempty"` // further attempts, with changed sampling
	Video   Video   `json:"video"`
}

// Caption is one text of each input.
type Caption struct {
	Key    string `json:"key"`              // "long", "short", "tags", …
	Prompt string `json:"prompt,omitempty"` // else Preset
	Preset string `json:"preset,omitempty"` // a name of Presets
	// Length is short, medium, long, or a number of words. It is asked for and
	// measured: the filters short and long compare with it.
	Length string `json:"length,omitempty"`
}

// Replacement changes every From to To, or every match if Regexp is set.
type Replacement struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Regexp bool   `json:"regexp,omitempty"`
}

// Filters say what a bad caption is. A caption that fails one is tried again,
// Recipe.Retries times; then it is kept with a flag, or refused.
type Filters struct {
	Off      []string `json:"off,omitempty"`    // filters not to apply
	Refuse   []string `json:"refuse,omitempty"` // filters whose failure means no caption; nil = empty, loop, refusal
	MinWords int      `json:"min_words,omitempty"`
	MaxWords int      `json:"max_words,omitempty"`
	Patterns []string `json:"patterns,omitempty"` // RE2; a match fails the filter "pattern"
	// Duplicates is how often the same text may occur for different pictures
	// before the filter duplicate fails; 0 = 5, <0 = any number.
	Duplicates int `json:"duplicates,omitempty"`
}

// Video says how frames are taken. Frames are one from the middle of each of equal
// parts of the time, as the model's authors take them.
type Video struct {
	Frames int `json:"frames,omitempty"` // of each video; 0 = 8
	// Window also captions each stretch of so many seconds; the captions of the
	// whole are then asked for with those of its windows. 0 = only the whole.
	Window       float64 `json:"window,omitempty"`
	WindowFrames int     `json:"window_frames,omitempty"` // of each window; 0 = Frames
	// FirstFrame takes an animated GIF, WebP or PNG for the picture that it opens
	// with, instead of for a video.
	FirstFrame bool `json:"first_frame,omitempty"`
}

const (
	maxRetries = 16
	maxKeys    = 32
	maxFrames  = 256
	minWindow  = 0.5       // seconds
	maxWindow  = 24 * 3600 // seconds
)

var keyName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

// lengths are the words asked for by name.
var lengths = map[string]int{"short": 20, "medium": 60, "long": 150}

// words is the wanted number of words; 0 = not given.
func (c *Caption) words() (int, error) {
	if c.Length == "" {
		return 0, nil
	}
	if n, ok := lengths[c.Length]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(c.Length)
	if err != nil || n < 1 || n > 10_000 {
		return 0, fmt.Errorf("captioner: recipe: length %q of caption %q: want short, medium, long or a number of words up to 10000", c.Length, c.Key)
	}
	return n, nil
}

// ReadRecipe reads a recipe file. Unknown fields are errors.
func ReadRecipe(path string) (Recipe, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Recipe{}, fmt.Errorf("captioner: recipe: %w", err)
	}
	var r Recipe
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Recipe{}, fmt.Errorf("captioner: recipe %s: %w", path, err)
	}
	if d.More() {
		return Recipe{}, fmt.Errorf("captioner: recipe %s: text after the object", path)
	}
	return r, r.Validate()
}

// Validate reports the first field that makes no sense.
func (r *Recipe) Validate() error {
	if len(r.Captions) > maxKeys {
		return fmt.Errorf("captioner: recipe: %d captions of a picture exceed %d", len(r.Captions), maxKeys)
	}
	seen := map[string]bool{}
	for _, c := range r.Captions {
		switch {
		case !keyName.MatchString(c.Key):
			return fmt.Errorf("captioner: recipe: caption key %q: want a letter, then letters, digits, - and _", c.Key)
		case seen[c.Key]:
			return fmt.Errorf("captioner: recipe: caption key %q twice", c.Key)
		case strings.TrimSpace(c.Prompt) != "" && c.Preset != "":
			return fmt.Errorf("captioner: recipe: caption %q has a prompt and a preset", c.Key)
		case strings.TrimSpace(c.Prompt) == "" && c.Preset == "":
			return fmt.Errorf("captioner: recipe: caption %q has neither a prompt nor a preset", c.Key)
		}
		if _, ok := preset(c.Preset); c.Preset != "" && !ok {
			return fmt.Errorf("captioner: recipe: no preset %q; there are %s", c.Preset, strings.Join(PresetNames(), ", "))
		}
		if _, err := c.words(); err != nil {
			return err
		}
		seen[c.Key] = true
	}
	for name, text := range r.Wordings {
		if _, ok := preset(name); !ok || strings.TrimSpace(text) == "" {
			return fmt.Errorf("captioner: recipe: wording %q of preset %q: want some text and one of the presets %s", text, name, strings.Join(PresetNames(), ", "))
		}
	}
	for _, f := range slices.Concat(r.Filters.Off, r.Filters.Refuse) {
		if !slices.Contains(filter.Names(), f) {
			return fmt.Errorf("captioner: recipe: no filter %q; there are %s", f, strings.Join(filter.Names(), ", "))
		}
	}
	for _, p := range r.Filters.Patterns {
		if _, err := regexp.Compile(p); err != nil {
			return fmt.Errorf("captioner: recipe: filter pattern: %w", err)
		}
	}
	for _, p := range r.Replace {
		if p.From == "" {
			return errors.New("captioner: recipe: a replacement of nothing")
		}
		if _, err := regexp.Compile(p.From); p.Regexp && err != nil {
			return fmt.Errorf("captioner: recipe: replacement: %w", err)
		}
	}
	return r.validateNumbers()
}

func (r *Recipe) validateNumbers() error {
	for _, c := range []struct {
		name        string
		value, most int
	}{
		{"retries", r.Retries, maxRetries},
		{"max_tokens", r.MaxTokens, 1 << 20},
		{"max_tiles", r.MaxTiles, 256},
		{"video.frames", r.Video.Frames, maxFrames},
		{"video.window_frames", r.Video.WindowFrames, maxFrames},
		{"filters.min_words", r.Filters.MinWords, 1 << 20},
		{"filters.max_words", r.Filters.MaxWords, 1 << 20},
	} {
		if c.value < 0 || c.value > c.most {
			return fmt.Errorf("captioner: recipe: %s is %d, want 0 to %d", c.name, c.value, c.most)
		}
	}
	if w := r.Video.Window; !(w == 0 || w >= minWindow && w <= maxWindow) {
		return fmt.Errorf("captioner: recipe: video.window is %g seconds, want %g to %d, or 0 for none", w, minWindow, maxWindow)
	}
	return nil
}

// normal is the recipe with its defaults written out.
func (r Recipe) normal() Recipe {
	if len(r.Captions) == 0 {
		r.Captions = []Caption{{Key: "caption", Preset: DefaultPreset}}
	}
	r.Captions = slices.Clone(r.Captions)
	if r.Filters.Refuse == nil {
		r.Filters.Refuse = []string{filter.Empty, filter.Loop, filter.Refusal}
	}
	if r.Filters.Duplicates == 0 {
		r.Filters.Duplicates = 5
	}
	if r.Video.Frames == 0 {
		r.Video.Frames = 8
	}
	if r.Video.Window > 0 && r.Video.WindowFrames == 0 {
		r.Video.WindowFrames = r.Video.Frames
	}
	return r
}

// Hash is the hash of the canonical form: 16 hexadecimal digits. A preset counts
// by its text, so that a changed preset is another recipe.
func (r Recipe) Hash() string {
	n := r.normal()
	for i, c := range n.Captions {
		if p, ok := preset(c.Preset); ok && c.Prompt == "" {
			n.Captions[i].Prompt = p.Prompt
		}
	}
	data, err := json.Marshal(n)
	if err != nil {
		panic(err) // plain data always marshals
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Keys are the caption keys in order.
func (r Recipe) Keys() []string {
	var keys []string
	for _, c := range r.normal().Captions {
		keys = append(keys, c.Key)
	}
	return keys
}
