// Package grammar constrains what a model may answer: one of some labels, a
// regular expression, or JSON of a schema. A specification becomes an automaton
// over bytes, and the automaton a mask over the vocabulary for each of its
// states: the ids that the sampler may pick.
//
//	vocab, err := grammar.NewVocab(size, text, eos) // once for a tokenizer
//	g, err := grammar.Compile(grammar.Spec{Regexp: `[A-I]`}, vocab)
//	s := g.Start()                                  // refuse if s.MinTokens() > budget
//	for left := budget; left > 0 && !s.Done(); left-- {
//		s.Prepare()                             // beside the forward pass
//		err := s.MaskWithin(mask, left)         // then: pick id from the masked logits
//		s, _ = s.Advance(id)
//		if s.Ended() { break }
//	}
//
// # Guarantees
//
//   - Whatever is picked, the answer parses. States from which no complete answer
//     can be reached are cut away when the automaton is built, so that there are
//     no dead ends; end tokens are allowed in complete answers only.
//   - The answer completes within its budget of tokens: see MaskWithin. Every byte
//     is a token of the vocabulary (NewVocab insists), so a completion can always be
//     spelled; MinTokens counts the fewest tokens for the shortest one.
//   - Labels of several tokens, and tokens that cover the end of one part and the
//     start of the next, need no care: tokens are their bytes.
//   - Memory is bounded: automata by states, determinised states and masks by number,
//     those of all grammars in a [Cache] together by bytes. They are built when first
//     needed and dropped when there are too many.
//   - So is the work for a mask. A grammar that can be read in very many ways at one
//     place, such as (.{0,30}a.{0,30}){12}, is ErrLimit there. Labels, schemas and plain
//     expressions need less than a hundredth of what is allowed.
//
// # Regular expressions
//
// The syntax is that of package regexp (RE2 with Perl classes); the whole answer
// must match. ^ and $ may stand at the ends and add nothing; other assertions
// (\b, multi-line anchors) are ErrUnsupported.
//
// # The subset of JSON Schema
//
//   - type: object, array, string, integer, number, boolean, null, or a list of these
//   - object: properties, required, additionalProperties (no others are ever
//     written, whatever it says); properties come in the order of the schema
//   - array: items, minItems, maxItems
//   - string: minLength, maxLength, or pattern (a search, as the standard has it; ^ and $
//     tie it to the ends, of the whole pattern or of alternatives of the whole)
//   - const, enum (written in compact form; of a type if type stands beside it), anyOf
//   - $ref to #/$defs/NAME or #/definitions/NAME, not recursive
//   - annotations (title, description, default, examples, …) are ignored
//
// Every other keyword is ErrUnsupported and named: nothing is ignored that would
// change what is valid. Counts are at most 4,096, nesting at most 32 levels.
// Numbers have at most 15 digits before the point and 8 after it and no exponent.
// Between tokens of JSON there is at most one space, after a colon or comma, so
// that an answer cannot run away in white space.
//
// # Why not a library
//
// The known engines (XGrammar, llguidance, Outlines) are C++, Rust or Python: a
// binding would add a native library to a program that has none, and the Go
// module index has no maintained package that compiles schemas to masks over a
// byte-level vocabulary. The subset above is regular, so that a lazily
// determinised automaton of a few hundred lines does it, with the completion
// guarantee that those engines leave to the caller.
package grammar
