package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/engine/trace"
	"metacap/internal/compare"
	"metacap/internal/demo"
	"metacap/internal/randmodel"
	"metacap/loader"
)

// question is a prompt about a sample with its true answer.
type question struct {
	sample sample
	kind   string // caption, short, ocr, router, claim or qa
	text   string
	truth  string
}

// questions reads the samples with everything that can be asked about them.
func questions(t *testing.T) (list []question) {
	t.Helper()
	data, err := os.ReadFile("../../testdata/drawn/samples.json")
	require.NoError(t, err)
	var samples []struct {
		sample
		Truth      map[string]string
		Claims, QA []struct{ Question, Answer string }
	}
	require.NoError(t, json.Unmarshal(data, &samples))
	require.Len(t, samples, 36)
	for _, s := range samples {
		for kind, prompt := range s.Prompts {
			list = append(list, question{s.sample, kind, prompt, s.Truth[kind]})
		}
		for _, q := range s.Claims {
			list = append(list, question{s.sample, "claim", q.Question, q.Answer})
		}
		for _, q := range s.QA {
			list = append(list, question{s.sample, "qa", q.Question, q.Answer})
		}
	}
	return list
}

// ask answers all questions with a checkpoint.
func ask(t *testing.T, dir string, list []question) (answers []string) {
	t.Helper()
	var e *engine.Engine
	var err error
	if dir == demo.Name {
		e, err = engine.OpenFS(t.Context(), demo.FS(), dir, engine.Config{})
	} else {
		e, err = engine.Open(t.Context(), dir, engine.Config{})
	}
	require.NoError(t, err)
	defer e.Close()
	for _, q := range list {
		c := captionCmd{Prompt: &q.text, Video: len(q.sample.Files) > 1}
		it := &captionItem{}
		for _, f := range q.sample.Files {
			it.images = append(it.images, engine.Image{Path: filepath.Join("../../testdata/drawn", f)})
		}
		res, err := e.Generate(t.Context(), c.request(it, e.Info()))
		require.NoError(t, err)
		answers = append(answers, res.Text)
	}
	return answers
}

// sentences counts the statements of a true text, and how many of them an answer makes.
func sentences(truth, answer string) (right, all int) {
	have := map[string]int{}
	split := func(text string) []string { return strings.Split(strings.TrimSuffix(text, "."), ". ") }
	for _, s := range split(answer) {
		have[s]++
	}
	for _, s := range split(truth) {
		all++
		if have[s] > 0 {
			have[s]--
			right++
		}
	}
	return right, all
}

// TestQuantisedDemo checks what rounding does to the embedded model's answers:
// with 8 bits at least 95 % of the long captions are the same as in bf16 and no
// more than one fact in 200 is lost; with 4 bits no more than 3 in 100.
func TestQuantisedDemo(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	if !build().Cgo {
		t.Skip("864 answers take pure Go half an hour; kerneltest covers its quantised products")
	}
	list := questions(t)
	source := ask(t, demo.Name, list)
	before, all := accuracy(list, source)
	ck, err := loader.OpenFS(demo.FS(), ".")
	require.NoError(t, err)
	defer ck.Close()
	for _, c := range []struct {
		bits, head int
		identical  float64 // share of captions
		points     float64 // percentage points of facts that may be lost
	}{{8, 8, 0.95, 0.5}, {4, 8, 0, 3}} {
		t.Run(fmt.Sprintf("int%d_head%d", c.bits, c.head), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			_, err := loader.QuantizeOpen(t.Context(), ck, out, loader.QuantizeOptions{Bits: c.bits, HeadBits: c.head})
			require.NoError(t, err)
			answers := ask(t, out, list)
			same, captions, equal := 0, 0, 0
			for i, q := range list {
				if answers[i] == source[i] {
					equal++
				}
				if q.kind == "caption" {
					captions++
					if answers[i] == source[i] {
						same++
					}
				}
			}
			after, _ := accuracy(list, answers)
			t.Logf("captions identical %d of %d; all answers identical %d of %d; facts right %d of %d, in bf16 %d", same, captions, equal, len(list), after, all, before)
			require.GreaterOrEqual(t, float64(same), c.identical*float64(captions))
			require.LessOrEqual(t, 100*float64(before-after)/float64(all), c.points)
		})
	}
}

// accuracy counts the facts that the answers state rightly: sentences of long
// answers, whole short ones.
func accuracy(list []question, answers []string) (right, all int) {
	for i, q := range list {
		r, n := sentences(q.truth, answers[i])
		right, all = right+r, all+n
	}
	return right, all
}

// TestQuantisedBatch checks that a quantised model's answer has the same bits
// alone and among others.
func TestQuantisedBatch(t *testing.T) {
	for _, bits := range []int{8, 4} {
		t.Run(fmt.Sprintf("int%d", bits), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			_, err := loader.Quantize(t.Context(), "../../testdata/models/qwen3-tied-bf16", out, loader.QuantizeOptions{Bits: bits})
			require.NoError(t, err)
			m, err := trace.Open(t.Context(), out, trace.Options{Device: "cpu"})
			require.NoError(t, err)
			defer m.Close()
			var inputs []trace.Input
			for n := 3; n < 60; n += 9 { // prompts of 3 to 57 tokens
				var in trace.Input
				for i := range n {
					in.IDs = append(in.IDs, int32((i*31+n*7)%700))
				}
				inputs = append(inputs, in)
			}
			together, err := m.Greedy(t.Context(), inputs, 12, nil)
			require.NoError(t, err)
			for i := range inputs {
				alone, err := m.Greedy(t.Context(), inputs[i:i+1], 12, nil)
				require.NoError(t, err)
				require.Equal(t, alone[0], together[i], "prompt of %d tokens", len(inputs[i].IDs))
			}
		})
	}
}

// TestQuantizeInterrupted checks that Ctrl-C ends quantising with code 130,
// leaves no half-written file, and that the same command then finishes.
func TestQuantizeInterrupted(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var errs strings.Builder
	code := run(ctx, []string{"model", "quantize", demo.Name, out, "--to", "int4"}, &app{
		stdin: strings.NewReader(""), stdout: &errs, stderr: &errs, env: func(string) (string, bool) { return "", false },
	})
	require.Equal(t, exitInterrupted, code, errs.String())
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Empty(t, files)
	stdout, stderr, code := runCommand(t, nil, "", "model", "quantize", demo.Name, out, "--to", "int4")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "35 matrices rounded in groups of 32")
}

// TestVerifyNamesDamage checks that a scale that is no number and a group size
// that does not fit are refused by name.
func TestVerifyNamesDamage(t *testing.T) {
	damaged := func(format string, change func(dir string)) string {
		dir := filepath.Join(t.TempDir(), format)
		require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("../../testdata/quant", format))))
		require.NoError(t, os.Remove(filepath.Join(dir, "expected.safetensors")))
		change(dir)
		_, stderr, code := runCommand(t, nil, "", "model", "verify", dir)
		require.Equal(t, exitSomeFailed, code, stderr)
		return stderr
	}
	const scales = "model.layers.0.self_attn.q_proj.scales"
	require.Contains(t, damaged("awq-g16", func(dir string) {
		file := filepath.Join(dir, "model.safetensors")
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		head := int(binary.LittleEndian.Uint64(data))
		var entries map[string]struct {
			Offsets []int `json:"data_offsets"`
		}
		require.NoError(t, json.Unmarshal(data[8:8+head], &entries))
		at := 8 + head + entries[scales].Offsets[0]
		binary.LittleEndian.PutUint16(data[at:], 0x7e00)
		require.NoError(t, os.WriteFile(file, data, 0o644))
	}), scales+": scale is not a finite non-negative number, got NaN at element 0")
	require.Contains(t, damaged("awq-g16", func(dir string) {
		file := filepath.Join(dir, "config.json")
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(data), `"group_size": 16`)
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(data), `"group_size": 16`, `"group_size": 32`, 1)), 0o644))
	}), "self_attn.q_proj.scales: want [1 32], got [2 32]")
}

// TestQuantisedShape rounds a model of the 8B shape's dimensions with two decoder layers
// and random weights and compares it with its source on one picture. It takes 4 GB and
// minutes: METACAP_TEST_SHAPES=1 go test ./cmd/metacap -v -run TestQuantisedShape
func TestQuantisedShape(t *testing.T) {
	if os.Getenv("METACAP_TEST_SHAPES") == "" {
		t.Skip("METACAP_TEST_SHAPES is not set")
	}
	files, err := randmodel.New("../../tools/benchcpu/shapes/vit300m.json", 1)
	require.NoError(t, err)
	ck, err := loader.OpenFS(files, ".")
	require.NoError(t, err)
	defer ck.Close()
	kl := map[int]float64{}
	for _, bits := range []int{8, 4} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := loader.QuantizeOpen(t.Context(), ck, out, loader.QuantizeOptions{Bits: bits, HeadBits: 8})
		require.NoError(t, err)
		r, err := compare.Run(t.Context(), compare.Source{Name: "random", Files: files}, compare.Source{Name: out}, compare.Options{
			Device: "cpu", Images: []string{"../../testdata/drawn/natural_700000.png"}, Question: "Describe the image in detail.", Tokens: 64, MaxTiles: 1,
		})
		require.NoError(t, err)
		require.Len(t, r.Images, 1)
		last := r.Layers[len(r.Layers)-1]
		t.Logf("int%d, head int8: KL mean %.2g, largest %.2g nats over %d tokens; the same token %.1f %%; relative error of %s %.3g", bits, r.KL, r.MaxKL, r.Tokens, 100*r.Agreement, last.Stage, last.Relative)
		kl[bits] = r.KL
	}
	require.Positive(t, kl[8])
	require.Greater(t, kl[4], kl[8], "4 bits are coarser than 8")
}
