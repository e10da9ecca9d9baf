// Package engine runs vision-language models of the InternVL family, and the
// Qwen decoders inside them, on a CPU or a GPU: many requests at once, each
// picture computed once.
//
//	e, err := engine.Open(ctx, dir, engine.Config{})
//	defer e.Close()
//	r, err := e.Generate(ctx, engine.Request{
//		Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{
//			{Image: &engine.Image{Path: "cat.jpg"}},
//			{Text: "Please describe the image in detail."},
//		}}},
//		MaxTokens: 512,
//	})
//	fmt.Println(r.Text)
//
// The examples show this at work: text as it comes ([Engine.Stream]), several
// questions about one picture ([Session]), answers of a given form ([Grammar]),
// probabilities of given answers ([Session.ScoreLabels]), deadlines and errors.
//
// # The life of a request
//
//  1. On the caller's goroutine [Engine.Generate] reads, decodes and tiles the
//     pictures (prepare.go), writes the conversation as ids with the checkpoint's
//     chat template, and submits a sequence (request.go).
//  2. The loop (step.go) plans a step: internal/sched chooses the sequences and
//     how many tokens of each, internal/kvcache gives them blocks; prefixes that
//     are known, text and pictures alike, are not computed again.
//  3. internal/runner uploads the step's arrays, encodes the tiles that the step
//     reaches, and runs internal/model over the device (package kernels).
//  4. Rows of logits come back (rows.go): a token is chosen (internal/sample,
//     internal/grammar), text released, the end found.
//  5. The caller gets the [Result], or its events one by one from [Engine.Stream].
//
// A step computes any mixture of prompts in chunks and answers a token at a time.
// Preemption, sharing, chunking, guessing (internal/speculate) and company change
// no bit of an answer: the tests of this package compare them.
//
// # Sharing a picture
//
// A [Session] holds a prefix: system text, pictures, the opened user turn. Its
// continuations fork it copy-on-write: [Session.Generate] for answers,
// [Session.ScoreLabels] for the probabilities of given answers, and
// [Session.ScoreText] for those of a given text. Instructions must follow the
// pictures, and the system text must be the same, for a prefix to be shared.
//
// # Goroutines
//
//	goroutine        owns                                  ends
//	loop             scheduler, device, live requests      at Close, after the step in progress
//	caller           its request until submit              when Generate or Stream returns
//	device opener    the backend until the loop has it     within Open, which waits
//	picture workers  a picture each; at most one a core    with the picture (prepareImages waits)
//	tile helpers     tiles on their way to the device      within the step
//	row workers      rows of large logits, a sequence each  within the step
//	context watches  nothing; set a flag, wake the loop    at once (context.AfterFunc)
//	mask builders    a grammar's mask                      when it is built (grammar.State.Prepare)
//
// On a GPU the loop is locked to its OS thread. Callers reach it through a
// mutex-guarded inbox and a wake-up channel; it never waits for a caller: events
// that nobody reads are kept with the request until it ends.
//
// # Errors
//
// Errors wrap the sentinels of this package; a picture's error is an *[ImageError].
// Nothing is clamped or dropped: a prompt that does not fit is [ErrContextTooLong],
// a queue that is full [ErrOverloaded]. After an error of the device every request
// ends with it, and so does every later one: open a new engine.
package engine
