// Package speculate guesses the next tokens of an answer from text that was
// already seen: the prompt, the answer so far, earlier answers about the same
// picture. No draft model. The guesses are verified in one step; since a
// verified token is chosen exactly as it would be without a guess, from the same
// logits and the same random number, speculation changes no answer, greedy or
// sampled.
//
// [Index] finds where the last tokens occurred before; what followed them then
// is the guess. [Width] decides how much to guess from the share of guesses that
// came true and from [Clock], which measures what a further token in a step costs
// on this device: nothing where weights are streamed from memory, a full share
// where arithmetic is the limit.
package speculate
