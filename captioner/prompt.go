package captioner

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"metacap/captioner/internal/filter"
	"metacap/captioner/internal/source"
)

// maxContext bounds a field that is put into a prompt, in bytes.
const maxContext = 4096

// script is a recipe made ready to apply.
type script struct {
	recipe   Recipe
	keys     []string
	rules    map[string]filter.Rules
	replace  []*regexp.Regexp // nil where the replacement is literal
	off      map[string]bool
	refuse   map[string]bool
	hash     string
	injected bool // prompts depend on more than the picture
}

func newScript(r Recipe) (*script, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	s := &script{recipe: r.normal(), hash: r.Hash(), rules: map[string]filter.Rules{}, off: map[string]bool{}, refuse: map[string]bool{}}
	var patterns []*regexp.Regexp
	for _, p := range r.Filters.Patterns {
		patterns = append(patterns, regexp.MustCompile(p)) // Validate has compiled it
	}
	s.injected = len(r.Context) > 0
	for _, c := range s.recipe.Captions {
		s.keys = append(s.keys, c.Key)
		rule := filter.Rules{MinWords: r.Filters.MinWords, MaxWords: r.Filters.MaxWords, Patterns: patterns, WantJSON: c.Preset == "json"}
		if n, _ := c.words(); n > 0 {
			rule.MinWords, rule.MaxWords = max(rule.MinWords, n/2), n+n/2
		}
		s.rules[c.Key] = rule
		s.injected = s.injected || placeholder.MatchString(c.Prompt)
	}
	for _, p := range r.Replace {
		var re *regexp.Regexp
		if p.Regexp {
			re = regexp.MustCompile(p.From)
		}
		s.replace = append(s.replace, re)
	}
	for _, f := range r.Filters.Off {
		s.off[f] = true
	}
	for _, f := range s.recipe.Filters.Refuse {
		s.refuse[f] = true
	}
	return s, nil
}

var placeholder = regexp.MustCompile(`\{[a-z][a-z0-9_]*\}`)

// fieldEXIF is the field of what the camera wrote.
const fieldEXIF = "exif"

// mentions reports whether a prompt may speak of a field.
func (s *script) mentions(field string) bool {
	return slices.ContainsFunc(s.recipe.Context, func(c string) bool { return strings.EqualFold(c, field) }) ||
		slices.ContainsFunc(s.recipe.Captions, func(c Caption) bool { return strings.Contains(c.Prompt, "{"+field+"}") })
}

// fields are what prompts may speak of.
func fields(it *source.Item, old, exif string) map[string]string {
	f := map[string]string{fieldEXIF: exif}
	for k, v := range it.Fields {
		f[strings.ToLower(k)] = v
	}
	name := it.Key
	if it.Member != "" {
		name = it.Member
	}
	f["filename"] = strings.TrimSuffix(path.Base(name), path.Ext(name))
	f["folder"] = path.Base(path.Dir(it.Key))
	if old != "" && f["caption"] == "" {
		f["caption"] = old
	}
	for k, v := range f {
		v = strings.Join(strings.Fields(v), " ")
		if len(v) > maxContext {
			v = strings.ToValidUTF8(v[:maxContext], "")
		}
		f[k] = v
	}
	return f
}

// prompt is the question for a caption, context included.
func (s *script) prompt(c Caption, video bool, f map[string]string) string {
	text := c.Prompt
	if p, ok := preset(c.Preset); ok && text == "" {
		text = p.Prompt
		own, other := s.recipe.Wordings[c.Preset]
		if other {
			text = own
		}
		if video && p.Video != "" && !other {
			text = p.Video
		} else if video {
			text = strings.ReplaceAll(text, "image", "video")
		}
	}
	text = placeholder.ReplaceAllStringFunc(text, func(m string) string {
		if v, ok := f[m[1:len(m)-1]]; ok {
			return v
		}
		return m
	})
	var lead []string
	for _, name := range s.recipe.Context {
		if v := f[strings.ToLower(name)]; v != "" {
			lead = append(lead, fmt.Sprintf("Known %s: %s", name, v))
		}
	}
	if lead != nil {
		text = strings.Join(lead, "\n") + "\n" + text
	}
	if n, _ := c.words(); n > 0 {
		text += fmt.Sprintf(" Use about %d words.", n)
	}
	if s.recipe.Language != "" {
		text += " Answer in " + s.recipe.Language + " only."
	}
	return text
}

// polish makes the caption of an answer. cut says that the token limit ended it.
func (s *script) polish(key, text string, cut bool) string {
	r := &s.recipe
	text = strings.TrimSpace(text)
	if !r.KeepPreamble {
		text = filter.StripPreamble(text)
	}
	if cut && !r.KeepCut && !s.rules[key].WantJSON {
		text = filter.TrimCut(text)
	}
	for i, p := range r.Replace {
		if re := s.replace[i]; re != nil {
			text = re.ReplaceAllString(text, p.To)
		} else {
			text = strings.ReplaceAll(text, p.From, p.To)
		}
	}
	return strings.TrimSpace(text)
}

// dress adds the trigger, prefix and suffix, after the filters have judged.
func (s *script) dress(key, text string) string {
	r := &s.recipe
	if s.rules[key].WantJSON {
		return text
	}
	if r.Trigger != "" && !strings.HasPrefix(text, r.Trigger) {
		text = r.Trigger + ", " + text
	}
	return r.Prefix + text + r.Suffix
}

// splitTags makes tags of a comma-separated caption, each once.
func splitTags(text string) []string {
	var out []string
	seen := map[string]bool{}
	for _, t := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' || r == ';' || r == '，' }) {
		t = strings.Trim(strings.TrimSpace(t), `"'.*•- `)
		if low := strings.ToLower(t); t != "" && !seen[low] {
			seen[low] = true
			out = append(out, t)
		}
	}
	return out
}

// Preset is a prompt with a name.
type Preset struct {
	Name   string
	About  string // in a few words
	Prompt string
	Video  string // the same for a video; empty = Prompt
}

// DefaultPreset is what is asked unless something else is.
const DefaultPreset = "descriptive"

// presets are in the order of the listing.
var presets = []Preset{
	{
		"descriptive", "everything that can be seen, in prose", "Please describe the image in detail.",
		"Please describe the video in detail.",
	},
	{
		"straightforward", "plain facts, no mood, no guesses",
		"Describe what is in this image, plainly and precisely: the main subject first, then other objects, their number, colours, positions and actions, any text, and the setting. State only what can be seen. Do not speak of mood, and do not begin with \"This image\".", "",
	},
	{"short", "one sentence", "Describe this image in one short sentence.", "Describe this video in one short sentence."},
	{
		"long", "several paragraphs",
		"Describe this image as fully as you can: subjects, clothing and expressions, actions, objects, background, text, composition, point of view, light, colours and style. Write flowing paragraphs.", "",
	},
	{"tags", "keywords separated by commas", "List keywords for this image: subjects, objects, attributes, actions, setting, style. Answer only with single words or short phrases, separated by commas, the most important first.", ""},
	{
		"booru", "tags in the manner of image boards",
		"List tags for this image in the manner of an image board: lower case, words of a tag joined by underscores, separated by commas; number of persons first, then appearance, clothing, pose, objects, background. Answer only with the tags.", "",
	},
	{
		"product", "for a shop",
		"Write a product description for a shop from this image: what the product is, material, colour, shape and visible features, in at most four sentences. Claim nothing that cannot be seen.", "",
	},
	{
		"alt", "alternative text for people who do not see the image",
		"Write alternative text for this image for a person who cannot see it: one or two sentences, at most 30 words, the essential first, text in the image quoted. Do not begin with \"Image of\".", "",
	},
	{"art", "subject, medium, style, composition", "Describe this work of art: subject, medium and technique, style, composition, palette, light, and what draws the eye.", ""},
	{
		"prompt", "as a prompt for an image generator",
		"Write a prompt from which an image generator could make this image: subject, action, setting, composition, lens or medium, light, colours, style, as one paragraph of phrases separated by commas.", "",
	},
	{"social", "a caption for a post", "Write a short, friendly caption for posting this image, without hashtags.", ""},
	{"text", "all text in the image, verbatim", "Read all text in the image verbatim, in reading order. If there is none, answer: no text.", ""},
	{
		"json", "an object with fields",
		"Describe this image as one JSON object with the fields \"subject\" (string), \"objects\" (array of strings), \"setting\" (string), \"style\" (string), \"text\" (array of strings) and \"summary\" (string). Answer only with the JSON.", "",
	},
}

// Presets lists the presets.
func Presets() []Preset { return append([]Preset(nil), presets...) }

// PresetNames lists their names.
func PresetNames() []string {
	names := make([]string, len(presets))
	for i, p := range presets {
		names[i] = p.Name
	}
	return names
}

func preset(name string) (Preset, bool) {
	for _, p := range presets {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}
