// Package compare measures how far a checkpoint is from another one of the same
// shape, such as a quantised one from its source, on given pictures.
//
// The first checkpoint answers a question about each picture, greedily. Both are
// then fed the same prompt and that same answer (teacher forcing), and compared
// at every position that predicts a token of it: each layer's output, and the
// distribution over the vocabulary. The second one also answers by itself. The
// two are open one after the other, never together; what is kept between is
// (layers·width + vocabulary)·4 bytes a token of the answers.
package compare
