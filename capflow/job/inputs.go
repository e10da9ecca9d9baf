package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"metacap/capflow"
	"metacap/engine"
)

// maxInputBytes bounds a list, meta or annotation file.
const maxInputBytes = 1 << 30

// extensions are what a directory is searched for.
var extensions = []string{".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

// Inputs lists what a path stands for: a picture; a directory, searched in
// depth and sorted; a .jsonl file of {"id","image"|"images","video","domain"|"task","caption"};
// or a .json file, either a meta file (an object of data sets) or a list of
// annotations. The picture itself is not read.
func Inputs(path string) ([]Row, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("job: inputs: %w", err)
	case st.IsDir():
		return directory(path)
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".jsonl":
		return jsonLines(path)
	case ".json":
		return metaFile(path)
	}
	return []Row{{Input: still(path, path)}}, nil
}

// Row is an input, and the caption to judge if it brings one.
type Row struct {
	capflow.Input
	Caption string
	Agents  []capflow.AgentRecord // evidence of an earlier record
}

func still(id, path string) capflow.Input {
	return capflow.Input{ID: id, Images: []engine.Image{{Path: path}}}
}

func directory(root string) ([]Row, error) {
	var out []Row
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains(extensions, strings.ToLower(filepath.Ext(path))) {
			out = append(out, Row{Input: still(path, path)})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("job: inputs: %w", err)
	}
	return out, nil
}

// line is a row of JSONL: ours, a record, or a row of a shard plan.
type line struct {
	ID      string   `json:"id"`
	Image   string   `json:"image"`
	Images  []string `json:"images"`
	Video   bool     `json:"video"`
	Domain  any      `json:"domain"` // a string, or a record's object
	Task    string   `json:"task"`
	Caption string   `json:"caption"`

	Source   *capflow.Source       `json:"source"`
	Captions *capflow.Captions     `json:"captions"`
	Agents   []capflow.AgentRecord `json:"agents"`

	DataName string `json:"data_name"`
	JSONURL  string `json:"json_url"`
	Root     string `json:"root"`
}

func jsonLines(path string) ([]Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("job: inputs: %w", err)
	}
	defer f.Close()
	var out []Row
	dir := filepath.Dir(path)
	err = eachLine(newlineEnd(f), func(n int, data []byte) error {
		if strings.TrimSpace(string(data)) == "" {
			return nil
		}
		var l line
		if err := json.Unmarshal(data, &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if l.JSONURL != "" { // a shard of a plan
			rows, err := annotations(within(dir, l.JSONURL), within(dir, l.Root), l.Task, l.DataName)
			out = append(out, rows...)
			return err
		}
		row, err := l.row(dir)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, row)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("job: inputs: %s: %w", path, err)
	}
	return out, nil
}

// row turns a line into an input. Relative paths start at the file's directory,
// but those of a record are as they were.
func (l *line) row(dir string) (Row, error) {
	r := Row{Input: capflow.Input{ID: l.ID, Video: l.Video}, Caption: l.Caption, Agents: l.Agents}
	files := l.Images
	if l.Image != "" {
		files = append([]string{l.Image}, files...)
	}
	if l.Source != nil && len(files) == 0 {
		dir = ""
		if files = l.Source.Frames; len(files) == 0 {
			files = []string{l.Source.URI}
		}
		r.Video = l.Source.Modality == "video"
	}
	if l.Captions != nil && r.Caption == "" {
		r.Caption = l.Captions.Long
	}
	switch d := l.Domain.(type) {
	case string:
		r.Domain = d
	case map[string]any:
		r.Domain, _ = d["label"].(string)
	}
	if l.Task != "" {
		r.Domain = l.Task
	}
	r.Domain = DomainID(r.Domain)
	for _, f := range files {
		if f == "" {
			return r, errors.New("an empty path")
		}
		r.Images = append(r.Images, engine.Image{Path: within(dir, f)})
	}
	if len(r.Images) == 0 {
		return r, errors.New("no image")
	}
	if r.ID == "" {
		r.ID = r.Images[0].Path
	}
	return r, nil
}

func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) || dir == "" {
		return path
	}
	return filepath.Join(dir, path)
}

// published maps the names that the published data uses for tasks to ids of our pack.
var published = map[string]string{
	"natural": "natural", "structure & math": "structure_math", "chart & math": "structure_math",
	"infographic & document": "infographic_document", "medical & bio-imaging": "medical_bio",
	"ui & interaction": "ui", "code & programming": "code", "knowledge & education": "knowledge_edu",
	"synthetic": "synthetic", "synthetic & aesthetic": "synthetic", "video & temporal": "video",
}

// DomainID returns the id of a published task name; other names stay as they are.
func DomainID(task string) string {
	if id, ok := published[strings.ToLower(strings.TrimSpace(task))]; ok {
		return id
	}
	return task
}

// dataset is an entry of a meta file. Its length is not needed.
type dataset struct {
	Root       string `json:"root"`
	Annotation string `json:"annotation"`
	Task       string `json:"task"`
	Modality   string `json:"modality"`     // image or video
	Samples    int    `json:"sample_count"` // so many, evenly spread; 0 = all
}

// take applies modality and sample count.
func (s *dataset) take(rows []Row) ([]Row, error) {
	if s.Modality != "" && s.Modality != "image" && s.Modality != "video" {
		return nil, fmt.Errorf("modality %q, want image or video", s.Modality)
	}
	if s.Samples < 0 {
		return nil, fmt.Errorf("sample_count is %d, want 0 for all, or more", s.Samples)
	}
	for i := range rows {
		rows[i].Video = rows[i].Video || s.Modality == "video"
	}
	if s.Samples == 0 || s.Samples >= len(rows) {
		return rows, nil
	}
	out := make([]Row, s.Samples)
	for i := range out {
		out[i] = rows[i*len(rows)/s.Samples]
	}
	return out, nil
}

// metaFile reads a meta file or a list of annotations.
func metaFile(path string) ([]Row, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("job: inputs: %w", err)
	}
	dir := filepath.Dir(path)
	if strings.HasPrefix(strings.TrimSpace(string(data)), "[") {
		rows, err := parseAnnotations(data, dir, "", "")
		if err != nil {
			return nil, fmt.Errorf("job: inputs: %s: %w", path, err)
		}
		return rows, nil
	}
	var sets map[string]dataset
	if err := json.Unmarshal(data, &sets); err != nil {
		return nil, fmt.Errorf("job: inputs: %s: %w", path, err)
	}
	names := make([]string, 0, len(sets))
	for name := range sets {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []Row
	for _, name := range names {
		s := sets[name]
		if s.Annotation == "" {
			return nil, fmt.Errorf("job: inputs: %s: data set %q has no annotation", path, name)
		}
		rows, err := annotations(within(dir, s.Annotation), within(dir, s.Root), s.Task, name)
		if err == nil {
			rows, err = s.take(rows)
		}
		if err != nil {
			return nil, fmt.Errorf("job: inputs: %s: data set %q: %w", path, name, err)
		}
		out = append(out, rows...)
	}
	return out, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxInputBytes {
		return nil, fmt.Errorf("%s has %d bytes, limit %d", path, st.Size(), maxInputBytes)
	}
	return os.ReadFile(path)
}

func annotations(path, root, task, name string) ([]Row, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if root == "" {
		root = filepath.Dir(path)
	}
	return parseAnnotations(data, root, task, name)
}

// parseAnnotations reads [{"id","image","conversations","task",…}], as the
// published files are. A sample's own task wins over its data set's; its caption is
// the last answer of its conversation. One without a picture becomes an input that fails.
func parseAnnotations(data []byte, root, task, name string) ([]Row, error) {
	var list []struct {
		ID            any    `json:"id"`
		Image         any    `json:"image"` // one path, or frames
		Video         string `json:"video"`
		Task          string `json:"task"`
		Conversations []Turn `json:"conversations"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	var out []Row
	for i, a := range list {
		r := Row{Input: capflow.Input{ID: fmt.Sprint(a.ID), Domain: DomainID(task)}}
		if a.Task != "" {
			r.Domain = DomainID(a.Task)
		}
		if a.ID == nil {
			r.ID = fmt.Sprint(i)
		}
		if name != "" {
			r.ID = name + "/" + r.ID
		}
		switch im := a.Image.(type) {
		case string:
			r.Images = []engine.Image{{Path: within(root, im)}}
		case []any:
			for _, f := range im {
				s, ok := f.(string)
				if !ok {
					return nil, fmt.Errorf("annotation %d: a frame is no path", i)
				}
				r.Images = append(r.Images, engine.Image{Path: within(root, s)})
			}
			r.Video = len(r.Images) > 1
		}
		if len(r.Images) == 0 { // a video file, which is none of our pictures, or nothing
			r.Images = []engine.Image{{Path: within(root, a.Video)}}
		}
		for _, t := range a.Conversations {
			if t.From == "gpt" {
				r.Caption = t.Value
			}
		}
		out = append(out, r)
	}
	return out, nil
}
