//go:build cgo

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"metacap/engine"
	"metacap/internal/demo"
)

// openExample opens the small model that the repository carries. A program opens
// a directory: engine.Open(ctx, "MetaCaptioner-8B", engine.Config{}).
func openExample(ctx context.Context) *engine.Engine {
	e, err := engine.OpenFS(ctx, demo.FS(), demo.Name, engine.Config{Device: "cpu"})
	if err != nil {
		log.Fatal(err)
	}
	return e
}

func ask(picture, text string) []engine.Message {
	return []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{{Image: &engine.Image{Path: picture}}, {Text: text}}}}
}

const picture = "../testdata/drawn/natural_700000.png"

func Example() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	r, err := e.Generate(ctx, engine.Request{Messages: ask(picture, "Describe the image in one sentence."), MaxTokens: 64})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Text)
	fmt.Println(r.Finish, r.Usage.Tiles, r.Usage.ImageTokens)
	// Output:
	// An outdoor scene on an overcast day with white snow and 2 people.
	// stop 1 64
}

func ExampleEngine_Stream() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	tokens := 0
	for ev, err := range e.Stream(ctx, engine.Request{Messages: ask(picture, "Describe the image in one sentence.")}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(ev.Text)
		if tokens++; tokens == 6 {
			break // the engine forgets the request within one step
		}
	}
	// Output: An outdoor scene on an
}

func ExampleSession() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	s, err := e.NewSession(ctx, ask(picture, ""), engine.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	domains := []string{"A", "B", "C", "D", "E", "F", "G", "H"}
	question := "Which domain fits the image best?\n" +
		"A. natural: photo or drawing of a real scene, people, objects\n" +
		"B. structure_math: chart, plot, geometry, formula\n" +
		"C. infographic_document: page, form, poster, table, slide\n" +
		"D. medical_bio: medical scan or microscope image\n" +
		"E. ui: software interface\n" +
		"F. code: source code, terminal, log\n" +
		"G. knowledge_edu: diagram or map made to explain\n" +
		"H. synthetic: generated pattern, rendered or abstract art\n" +
		"Answer with the letter only."
	scores, err := s.ScoreLabels(ctx, question, "", domains)
	if err != nil {
		log.Fatal(err)
	}
	best := 0
	for i := range scores {
		if scores[i] > scores[best] {
			best = i
		}
	}
	fmt.Println("domain", domains[best])
	r, err := s.Generate(ctx, "Read all text in the image verbatim.", engine.Request{MaxTokens: 100})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Text, r.Usage.TilesEncoded == 0, r.Usage.CachedTokens == s.PrefixTokens())
	// Output:
	// domain A
	// No readable text. true true
}

func ExampleGrammar() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	r, err := e.Generate(ctx, engine.Request{
		Messages:  ask(picture, "Is there a dog?"),
		Grammar:   engine.Grammar{Regexp: `(yes|no), [0-9]{2} %`},
		MaxTokens: 20,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(r.Text) == len("no, 99 %") || len(r.Text) == len("yes, 99 %"), r.Finish)
	// Output: true stop
}

func ExampleImageError() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	_, err := e.Generate(ctx, engine.Request{Messages: []engine.Message{{Role: engine.RoleUser, Parts: []engine.Part{
		{Image: &engine.Image{Path: picture}},
		{Image: &engine.Image{Path: "example_test.go"}}, // not a picture
		{Text: "Compare the images."},
	}}}})
	var im *engine.ImageError
	if errors.As(err, &im) {
		fmt.Println(im.Index, im.Path, errors.Is(err, engine.ErrImageDecode))
	}
	// Output: 1 example_test.go true
}

// Several answers about one picture at once: its tiles are encoded once, whoever
// comes first, and the others take what the requests have in common from the cache.
func ExampleEngine_Generate_together() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	questions := []string{"Describe the image in one sentence.", "Read all text in the image verbatim."}
	answers := make([]*engine.Result, len(questions))
	var wg sync.WaitGroup
	for i, q := range questions {
		wg.Go(func() {
			r, err := e.Generate(ctx, engine.Request{Messages: ask(picture, q), MaxTokens: 64})
			if err != nil {
				log.Fatal(err)
			}
			answers[i] = r
		})
	}
	wg.Wait()
	encoded := 0
	for _, r := range answers {
		fmt.Println(r.Text)
		encoded += r.Usage.TilesEncoded
	}
	fmt.Println("tiles encoded:", encoded)
	// Output:
	// An outdoor scene on an overcast day with white snow and 2 people.
	// No readable text.
	// tiles encoded: 1
}

// A context with a cause ends a request; what was answered so far comes with it.
func ExampleEngine_Stream_cancel() {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	e := openExample(ctx)
	defer e.Close()
	quota := errors.New("enough for today")
	for ev, err := range e.Stream(ctx, engine.Request{Messages: ask(picture, "Please describe the image in detail."), IgnoreEOS: true, MaxTokens: 1000}) {
		if err != nil {
			fmt.Println(errors.Is(err, context.Canceled), errors.Is(err, quota), ev.Result.Finish)
		}
		cancel(quota) // at the first event
	}
	// Output: true true cancel
}

func ExampleRequest_deadline() {
	ctx := context.Background()
	e := openExample(ctx)
	defer e.Close()
	r, err := e.Generate(ctx, engine.Request{
		Messages: ask(picture, "Please describe the image in detail."), Deadline: time.Now().Add(time.Nanosecond),
	})
	fmt.Println(errors.Is(err, engine.ErrDeadline), r.Finish)
	// Output: true cancel
}
