package job

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"metacap/capflow"
)

// Turn is one message of a training sample.
type Turn struct {
	From  string `json:"from"` // human or gpt
	Value string `json:"value"`
}

// Sample is a training sample in the form that LLaVA and InternVL read.
type Sample struct {
	ID            string `json:"id"`
	Image         any    `json:"image"` // a path, or the frames of a video
	Conversations []Turn `json:"conversations"`
	Width         int    `json:"width,omitempty"`
	Height        int    `json:"height,omitempty"`
}

// NewSample makes a training sample of a record.
func NewSample(r *capflow.Record, question string) Sample {
	s := Sample{ID: r.ID, Image: r.Source.URI, Width: r.Source.Width, Height: r.Source.Height}
	human := "<image>\n" + question
	if r.Source.Modality == "video" {
		s.Image = r.Source.Frames
		var b strings.Builder
		for i := range r.Source.Frames {
			fmt.Fprintf(&b, "Frame%d: <image>\n", i+1)
		}
		human = b.String() + question
	}
	s.Conversations = []Turn{{"human", human}, {"gpt", r.Captions.Long}}
	return s
}

// Export writes the accepted records of a file as one JSON array of training samples.
func Export(w io.Writer, records, question string) (n int, err error) {
	f, err := os.Open(records)
	if err != nil {
		return 0, fmt.Errorf("job: export: %w", err)
	}
	defer f.Close()
	if _, err := io.WriteString(w, "["); err != nil {
		return 0, err
	}
	err = Each(f, func(r *capflow.Record) error {
		if r.Status != capflow.Accepted || r.Captions == nil {
			return nil
		}
		data, err := json.Marshal(NewSample(r, question))
		if err != nil {
			return err
		}
		sep := ",\n "
		if n == 0 {
			sep = "\n "
		}
		n++
		_, err = fmt.Fprintf(w, "%s%s", sep, data)
		return err
	})
	if err != nil {
		return n, fmt.Errorf("job: export: %s: %w", records, err)
	}
	_, err = io.WriteString(w, "\n]\n")
	return n, err
}

// Each calls fn with every record of a file.
func Each(f io.Reader, fn func(*capflow.Record) error) error {
	return eachLine(newlineEnd(f), func(n int, line []byte) error {
		if strings.TrimSpace(string(line)) == "" {
			return nil
		}
		r := &capflow.Record{}
		if err := json.Unmarshal(line, r); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		return fn(r)
	})
}

// newlineEnd adds a line break, so that a hand-made file may lack its last one.
func newlineEnd(f io.Reader) io.Reader {
	return io.MultiReader(f, strings.NewReader("\n"))
}
