package job_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/job"
	"metacap/engine/fake"
)

// tree writes files by name.
func tree(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

// list renders inputs as "ID domain video? files: caption", with paths below dir.
func list(t *testing.T, dir string, rows []job.Row) []string {
	var out []string
	for _, r := range rows {
		line := fmt.Sprintf("%s %s", r.ID, r.Domain)
		if r.Video {
			line += " video"
		}
		for _, im := range r.Images {
			rel := im.Path
			if rel != "" {
				var err error
				rel, err = filepath.Rel(dir, im.Path)
				require.NoError(t, err)
			}
			line += " " + filepath.ToSlash(rel)
		}
		if r.Caption != "" {
			line += ": " + r.Caption
		}
		out = append(out, line)
	}
	return out
}

// published is data as the authors publish it: a meta file of data sets, their
// annotations with conversations, and a plan of shards.
var published = map[string]string{
	"meta.json": `{
		"photos": {"root": "pictures/a", "annotation": "ann/photos.json", "length": 2, "task": "Natural", "modality": "image"},
		"clips": {"root": "pictures/v", "annotation": "ann/clips.json", "length": 1, "task": "Video & Temporal", "modality": "video"},
		"charts": {"root": "pictures/c", "annotation": "ann/charts.json", "length": 6, "task": "Structure & Math", "sample_count": 3}
	}`,
	"ann/photos.json": `[
		{"id": 7, "image": "1.png", "width": 4, "height": 3, "conversations": [
			{"from": "system", "value": "You see."}, {"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "A dog."}]},
		{"id": "x", "image": "deep/2.png", "task": "UI & Interaction"}]`,
	"ann/clips.json":  `[{"id": 0, "image": ["f1.png"]}]`,
	"ann/charts.json": `[{"image": "0.png"}, {"image": "1.png"}, {"image": "2.png"}, {"image": "3.png"}, {"image": "4.png"}, {"image": "5.png"}]`,
	"plan.jsonl": `{"data_name": "charts", "json_url": "ann/charts.json", "root": "pictures/c", "task": "Structure & Math"}
		{"data_name": "photos", "json_url": "ann/photos.json", "root": "pictures/a", "task": "Natural"}`,
	"own.json":   `[{"id": "f", "image": ["a.png", "b.png"]}, {"id": "g", "video": "c.mp4"}, {"id": "h"}]`,
	"bad.json":   `{"photos": {"root": "x", "annotation": "ann/photos.json", "modality": "sound"}}`,
	"empty.json": `{"photos": {"root": "x"}}`,
	"gone.jsonl": `{"data_name": "d", "json_url": "ann/none.json"}`,
}

func TestPublishedInputs(t *testing.T) {
	dir := tree(t, published)
	photos := []string{"photos/7 natural pictures/a/1.png: A dog.", "photos/x ui pictures/a/deep/2.png"}
	for _, c := range []struct {
		file string
		want []string
	}{
		{"meta.json", append([]string{
			"charts/0 structure_math pictures/c/0.png", "charts/2 structure_math pictures/c/2.png", "charts/4 structure_math pictures/c/4.png",
			"clips/0 video video pictures/v/f1.png",
		}, photos...)},
		{"ann/photos.json", []string{"7  ann/1.png: A dog.", "x ui ann/deep/2.png"}},
		{"plan.jsonl", append([]string{
			"charts/0 structure_math pictures/c/0.png", "charts/1 structure_math pictures/c/1.png", "charts/2 structure_math pictures/c/2.png",
			"charts/3 structure_math pictures/c/3.png", "charts/4 structure_math pictures/c/4.png", "charts/5 structure_math pictures/c/5.png",
		}, photos...)},
		{"own.json", []string{"f  video a.png b.png", "g  c.mp4", "h  "}},
	} {
		rows, err := job.Inputs(filepath.Join(dir, c.file))
		require.NoError(t, err, c.file)
		require.Equal(t, c.want, list(t, dir, rows), c.file)
	}
	for file, want := range map[string]string{"bad.json": `data set "photos": modality "sound"`, "empty.json": `"photos" has no annotation`, "gone.jsonl": "none.json"} {
		_, err := job.Inputs(filepath.Join(dir, file))
		require.ErrorContains(t, err, want, file)
	}
}

// TestPublishedRun captions a meta file: a record for every sample, the domain as
// given, and an error for the one without a picture.
func TestPublishedRun(t *testing.T) {
	dir := tree(t, published)
	for _, name := range []string{"a/1", "a/deep/2", "v/f1", "c/0", "c/2", "c/4"} {
		path := filepath.Join(dir, "pictures", name+".png")
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("picture 3"), 0o644))
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "pictures/c/2.png")))
	e, err := fake.Open(fake.Options{Answer: answer})
	require.NoError(t, err)
	defer e.Close()
	flow, err := capflow.New(capflow.Local(e, capflow.ModelInfo{}), capflow.Options{Mode: capflow.Single})
	require.NoError(t, err)
	rows, err := job.Inputs(filepath.Join(dir, "meta.json"))
	require.NoError(t, err)
	var inputs []capflow.Input
	for _, r := range rows {
		inputs = append(inputs, r.Input)
	}
	out := filepath.Join(dir, "out.jsonl")
	sum, err := job.Run(t.Context(), flow, flow.Caption, inputs, out, job.Options{})
	require.NoError(t, err)
	require.Equal(t, []int{6, 5, 1}, []int{sum.Inputs, sum.Accepted, sum.Failed})
	f, err := os.Open(out)
	require.NoError(t, err)
	defer f.Close()
	var got []string
	require.NoError(t, job.Each(f, func(r *capflow.Record) error {
		got = append(got, r.ID+" "+string(r.Status))
		return nil
	}))
	require.Equal(t, []string{"charts/0 accepted", "charts/2 error", "charts/4 accepted", "clips/0 accepted", "photos/7 accepted", "photos/x accepted"}, got)
}
