package demo

// Unknown is what the embedded model answers to a picture that it takes for
// none of its world (the sentinel "outside" of tools/drawn/prompts.json).
const Unknown = "This is not a drawn picture that I know. A description would be a guess."

// GuessBelow is the mean log-probability of a token under which a detailed
// caption of the embedded model is called a guess. It was chosen so that at most
// 2 % of the captions of held-out drawn pictures are; docs/results/drawn-accuracy.md
// has what it catches.
const GuessBelow = -0.0535

// Guess reports whether a detailed caption, made greedily, is a guess: the model
// says so, or its words were too unsure. The mean is of the natural logarithms of
// its tokens' probabilities, the end of the answer included.
func Guess(caption string, meanLogProb float64) bool {
	return caption == Unknown || !(meanLogProb >= GuessBelow)
}
