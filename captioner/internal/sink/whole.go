package sink

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"metacap/internal/atomicfile"
)

// Each calls fn with the records of a job in input order, failed ones included.
type Each func(fn func(*Record) error) error

// RenderAll writes a format that holds the whole job: stem and an extension, or
// for tar a file beside every shard. It returns the files written. root is what
// the paths in files are relative to.
func RenderAll(format, stem, root string, keys []string, each Each) ([]string, error) {
	switch format {
	case "jsonl":
		return one(stem+".jsonl", func(w io.Writer) error { return writeJSONL(w, each) })
	case "csv":
		return one(stem+".csv", func(w io.Writer) error { return writeCSV(w, keys, each) })
	case "llava":
		return one(stem+".llava.json", func(w io.Writer) error { return writeLLaVA(w, root, keys, each) })
	case "kohya":
		return one(stem+".kohya.json", func(w io.Writer) error { return writeKohya(w, keys, each) })
	case "parquet":
		return one(stem+".parquet", func(w io.Writer) error { return writeParquet(w, keys, each) })
	case "tar":
		return writeTars(root, keys, each)
	}
	return nil, fmt.Errorf("sink: no format %q", format)
}

func one(path string, fill func(io.Writer) error) ([]string, error) {
	err := atomicfile.WriteTo(path, 0o644, func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<18)
		if err := fill(b); err != nil {
			return err
		}
		return b.Flush()
	})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	return []string{path}, nil
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

func writeJSONL(w io.Writer, each Each) error {
	e := encoder(w)
	return each(func(r *Record) error { return e.Encode(r) })
}

// writeCSV has a column a key.
func writeCSV(w io.Writer, keys []string, each Each) error {
	c := csv.NewWriter(w)
	if err := c.Write(slices.Concat([]string{"key", "sha256"}, keys, []string{"tags", "flags", "error"})); err != nil {
		return err
	}
	err := each(func(r *Record) error {
		row := []string{r.Key, r.SHA256}
		for _, k := range keys {
			row = append(row, r.Captions[k])
		}
		return c.Write(append(row, strings.Join(r.Tags, ", "), strings.Join(r.Flags, " "), r.Error))
	})
	c.Flush()
	if err == nil {
		err = c.Error()
	}
	return err
}

// array writes values as the elements of a JSON array, one a line.
func array(w io.Writer, each func(add func(any) error) error) error {
	first := true
	err := each(func(v any) error {
		lead := ",\n"
		if first {
			lead, first = "[\n", false
		}
		if _, err := io.WriteString(w, lead); err != nil {
			return err
		}
		data, err := marshal(v)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
	if err != nil {
		return err
	}
	tail := "\n]\n"
	if first {
		tail = "[]\n"
	}
	_, err = io.WriteString(w, tail)
	return err
}

func marshal(v any) ([]byte, error) {
	var b strings.Builder
	err := encoder(&b).Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

type turn struct {
	From  string `json:"from"`
	Value string `json:"value"`
}

// writeLLaVA writes conversations as LLaVA and InternVL train on them: the
// questions and answers of one picture in turns, <image> before the first.
func writeLLaVA(w io.Writer, root string, keys []string, each Each) error {
	type sample struct {
		ID            string `json:"id"`
		Image         string `json:"image,omitempty"`
		Video         string `json:"video,omitempty"`
		Width         int    `json:"width,omitempty"`
		Height        int    `json:"height,omitempty"`
		Conversations []turn `json:"conversations"`
	}
	return array(w, func(add func(any) error) error {
		return each(func(r *Record) error {
			if len(r.Captions) == 0 {
				return nil
			}
			name := r.Key
			if r.Path != "" {
				name = filepath.ToSlash(within(root, r.Path))
			}
			s := sample{ID: r.Stem(), Image: name, Width: r.Meta.Width, Height: r.Meta.Height}
			mark := "<image>\n"
			if r.Kind != "image" {
				s.Image, s.Video, mark = "", name, "<video>\n"
			}
			for _, k := range keys {
				if c, ok := r.Captions[k]; ok {
					s.Conversations = append(s.Conversations, turn{"human", mark + r.Meta.Prompts[k]}, turn{"gpt", c})
					mark = ""
				}
			}
			return add(s)
		})
	})
}

// writeKohya writes the metadata file of kohya's trainers: caption and tags by path.
func writeKohya(w io.Writer, keys []string, each Each) error {
	type entry struct {
		Caption string `json:"caption,omitempty"`
		Tags    string `json:"tags,omitempty"`
	}
	lead := "{\n"
	err := each(func(r *Record) error {
		if len(r.Captions) == 0 {
			return nil
		}
		var plain []string
		for _, k := range keys {
			if k != "tags" && k != "booru" {
				plain = append(plain, k)
			}
		}
		name, err := marshal(r.Key)
		if err != nil {
			return err
		}
		body, err := marshal(entry{Caption: Text(r.Captions, plain), Tags: strings.Join(r.Tags, ", ")})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s%s: %s", lead, name, body)
		lead = ",\n"
		return err
	})
	if err != nil {
		return err
	}
	if lead == "{\n" {
		_, err = io.WriteString(w, "{}\n")
	} else {
		_, err = io.WriteString(w, "\n}\n")
	}
	return err
}
