package captioner

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
