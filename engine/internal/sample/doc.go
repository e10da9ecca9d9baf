// Package sample picks token ids from rows of logits and decides when an answer
// ends.
//
//   - [Sampler]: greedy, or temperature, top-k, top-p and min-p in that order,
//     after a repetition penalty (sampler.go);
//   - [LogProbs]: log-probabilities of a row, as the model gives them, before
//     temperature, penalty and mask (logprob.go);
//   - [Uniform]: the random numbers, a function of seed and position alone, so that
//     an answer does not depend on what runs beside it (rng.go);
//   - [Stops]: stop strings across token borders (stop.go);
//   - [Loop]: the loop guard (loop.go).
//
// Nothing here allocates once its working memory has grown.
package sample
