//go:build unix

package job_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/job"
	"metacap/engine"
	"metacap/engine/fake"
)

// childDir is the variable that makes the test binary a run to be killed.
const childDir = "METACAP_TEST_FLOW"

// moments at which TestKill kills, and its pictures; METACAP_TEST_KILLS sets the
// moments, and 50 or more take the 200 pictures of the acceptance.
const (
	moments      = 6
	pictures     = 40
	manyPictures = 200
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := flowRun(dir, "out.jsonl", 100*time.Microsecond); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// answer plays a model that knows how many birds a picture has: its number.
func answer(p fake.Prompt) string {
	birds := "no"
	if len(p.Images) > 0 {
		birds = strings.TrimPrefix(p.Images[0], "picture ")
	} else if _, after, ok := strings.Cut(p.Text, "There are "); ok {
		birds, _, _ = strings.Cut(after, " ")
	}
	switch {
	case strings.Contains(p.Text, "Which domain"):
		return "A"
	case strings.Contains(p.Text, "Answer Yes or No"):
		return "Yes"
	case strings.Contains(p.Text, "Rate the"):
		return "3"
	}
	return fmt.Sprintf("A scene. There are %s birds.", birds)
}

// flowRun captions the pictures of a directory into a file, as metacap capflow run -o does.
func flowRun(dir, out string, step time.Duration) (err error) {
	e, err := fake.Open(fake.Options{Engine: engine.Config{ContextTokens: 8192}, Answer: answer, StepTime: step})
	if err != nil {
		return err
	}
	defer e.Close()
	path := filepath.Join(dir, out)
	stages, err := job.OpenStages(job.StagesPath(path))
	if err != nil {
		return err
	}
	flow, err := capflow.New(capflow.Local(e, capflow.ModelInfo{Name: "scripted"}), capflow.Options{Stages: stages})
	if err != nil {
		return err
	}
	rows, err := job.Inputs(filepath.Join(dir, "pictures"))
	if err != nil {
		return err
	}
	var inputs []capflow.Input
	for _, r := range rows {
		inputs = append(inputs, r.Input)
	}
	_, err = job.Run(context.Background(), flow, flow.Caption, inputs, path, job.Options{Parallel: 4, SyncEvery: 3})
	if e := stages.Close(err == nil); err == nil {
		err = e
	}
	return err
}

// TestKill kills a run at random moments and resumes it. The file then has each
// key once, and equals that of a run that nobody touched but for what the two cost.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	n, kills := pictures, moments
	if s := os.Getenv("METACAP_TEST_KILLS"); s != "" {
		var err error
		kills, err = strconv.Atoi(s)
		require.NoError(t, err)
		if kills >= 50 {
			n = manyPictures
		}
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "pictures"), 0o755))
	for i := range n {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "pictures", fmt.Sprintf("p%03d.png", i)), fmt.Appendf(nil, "picture %d", i), 0o644))
	}
	require.NoError(t, flowRun(dir, "whole.jsonl", 0))

	rng := rand.New(rand.NewPCG(3, 3))
	killed, out := 0, filepath.Join(dir, "out.jsonl")
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		var msg strings.Builder
		cmd.Stderr = &msg
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		// A moment after some more records: all kills together reach over most of the run, whatever the machine's load.
		want, later := lines(t, out)+rng.IntN(n/kills), time.Duration(rng.IntN(5000))*time.Microsecond
		go func() {
			for data, _ := os.ReadFile(out); bytes.Count(data, []byte("\n")) < want; data, _ = os.ReadFile(out) {
				select {
				case <-ended:
					return
				case <-time.After(time.Millisecond):
				}
			}
			time.Sleep(later)
			_ = cmd.Process.Signal(syscall.SIGKILL)
		}()
		err := cmd.Wait()
		close(ended)
		if err != nil {
			require.Contains(t, err.Error(), "killed", msg.String())
			killed++
		}
	}
	before := lines(t, out)
	require.NoError(t, flowRun(dir, "out.jsonl", 0))
	t.Logf("killed %d of %d times over %d pictures; %d records stood before the last run", killed, kills, n, before)
	require.Positive(t, killed)
	require.Greater(t, before, n/4, "the kills reach over the run")
	want, got := essence(t, filepath.Join(dir, "whole.jsonl")), essence(t, filepath.Join(dir, "out.jsonl"))
	require.Len(t, want, n)
	require.Equal(t, want, got)
	require.NoFileExists(t, job.StagesPath(filepath.Join(dir, "out.jsonl")))
}

func lines(t *testing.T, path string) int {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	return bytes.Count(data, []byte("\n"))
}

// essence reads records without what may differ between two runs: time, cost,
// the unused seed of greedy answers, the order in which steps that ran together ended.
func essence(t *testing.T, path string) []any {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(data, []byte("\n")))
	keys := map[string]bool{}
	var out []any
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var r map[string]any
		require.NoError(t, json.Unmarshal(line, &r))
		key := r["key"].(string)
		require.False(t, keys[key], "key %s twice", key)
		keys[key] = true
		strip(r, "usage", "steps", "ms", "seed", "started", "cached")
		out = append(out, r)
	}
	return out
}

func strip(v any, names ...string) {
	switch x := v.(type) {
	case map[string]any:
		for _, n := range names {
			delete(x, n)
		}
		for _, y := range x {
			strip(y, names...)
		}
	case []any:
		for _, y := range x {
			strip(y, names...)
		}
	}
}
