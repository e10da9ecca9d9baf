package parity_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/parity"
)

const root = "../../testdata"

// run collects the checks of a directory.
func run(t *testing.T, dir string, o parity.Options) ([]parity.Check, parity.Summary) {
	t.Helper()
	var checks []parity.Check
	s, err := parity.Run(context.Background(), dir, o, func(c parity.Check) { checks = append(checks, c) })
	require.NoError(t, err)
	require.Equal(t, s.Passed+s.Failed+s.Unsupported, len(checks))
	return checks, s
}

// requirePass fails with the checks that failed.
func requirePass(t *testing.T, checks []parity.Check) {
	t.Helper()
	for _, c := range checks {
		if c.Verdict != parity.Pass {
			t.Errorf("%+v", c)
		}
	}
}

// TestRepository runs what is quick of the repository's own goldens; metacap
// parity testdata runs all.
func TestRepository(t *testing.T) {
	for _, o := range []parity.Options{
		{Only: []string{parity.PartTokenizer}},
		{Only: []string{parity.PartChat}},
		{Only: []string{parity.PartImages}},
		{Only: []string{parity.PartModels}, Match: "internvl35-56-remote"},
		{Only: []string{parity.PartModels}, Match: "qwen2-tied"},
	} {
		t.Run(o.Only[0]+o.Match, func(t *testing.T) {
			checks, s := run(t, root, o)
			requirePass(t, checks)
			require.NotZero(t, s.Passed)
			stages := map[string]bool{}
			for _, c := range checks {
				stages[c.Stage] = true
				require.NotZero(t, c.Count, "%+v compares nothing", c)
			}
			if o.Match == "internvl35-56-remote" {
				for _, want := range []string{"ids", "tiles", "ViT", "projector", "hidden", "logits", "greedy ids", "logprobs"} {
					require.True(t, stages[want], want)
				}
			}
		})
	}
}

// copyCase copies what one golden needs to a new directory.
func copyCase(t *testing.T, golden, model string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"goldens/" + golden + ".json", "goldens/" + golden + ".safetensors"} {
		copyFile(t, filepath.Join(root, name), filepath.Join(dir, name))
	}
	require.NoError(t, os.CopyFS(filepath.Join(dir, "models", model), os.DirFS(filepath.Join(root, "models", model))))
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	require.NoError(t, os.WriteFile(to, data, 0o644))
}

// edit changes a golden's JSON, reduced to the prompt "text".
func edit(t *testing.T, name string, change func(golden, prompt map[string]any)) {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	var g map[string]any
	require.NoError(t, json.Unmarshal(data, &g))
	for _, p := range g["prompts"].([]any) {
		if p := p.(map[string]any); p["id"] == "text" {
			g["prompts"], g["batch"] = []any{p}, []any{"text"}
			change(g, p)
		}
	}
	data, err = json.Marshal(g)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, data, 0o644))
}

// TestFindsDifferences plants one difference at a time in a golden of a text model.
func TestFindsDifferences(t *testing.T) {
	const golden, model = "qwen3-tied-bf16", "qwen3-tied-bf16"
	greedy := func(p map[string]any) map[string]any { return p["greedy"].(map[string]any) }
	for _, c := range []struct {
		name   string
		change func(g, p map[string]any)
		stage  string // that fails; "" = all pass
	}{
		{"nothing", func(_, _ map[string]any) {}, ""},
		{"greedy id", func(_, p map[string]any) { greedy(p)["ids"].([]any)[3] = 1.0 }, "greedy ids"},
		{"greedy id at a near tie", func(_, p map[string]any) {
			greedy(p)["margin"].([]any)[47] = 1e-3
			greedy(p)["ids"].([]any)[47] = 1.0
		}, ""},
		{"logprob", func(_, p map[string]any) {
			l := greedy(p)["top5_logprobs"].([]any)[2].([]any)
			l[0] = l[0].(float64) + 4e-4
		}, "logprobs"},
		{"prompt", func(_, p map[string]any) { p["input_ids"].([]any)[5] = 2.0 }, "hidden"},
		{"short list", func(_, p map[string]any) { greedy(p)["margin"] = greedy(p)["margin"].([]any)[:3] }, "golden"},
		{"bf16 bound", func(_, p map[string]any) { p["bf16"].(map[string]any)["max_abs_logit_diff"] = 1e-9 }, "logits"},
		{"model", func(g, _ map[string]any) { g["model"] = "absent" }, "open"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			dir := copyCase(t, golden, model)
			edit(t, filepath.Join(dir, "goldens", golden+".json"), c.change)
			checks, s := run(t, dir, parity.Options{})
			if c.stage == "" {
				requirePass(t, checks)
				return
			}
			require.NotZero(t, s.Failed)
			failed := map[string]bool{}
			for _, ch := range checks {
				failed[ch.Stage] = failed[ch.Stage] || ch.Verdict == parity.Fail
			}
			require.True(t, failed[c.stage], "%v", failed)
		})
	}
}

// TestFindsPlantedStage flips a bit of a stored hidden state.
func TestFindsPlantedStage(t *testing.T) {
	const golden, model = "qwen3-tied-bf16", "qwen3-tied-bf16"
	dir := copyCase(t, golden, model)
	edit(t, filepath.Join(dir, "goldens", golden+".json"), func(_, _ map[string]any) {})
	name := filepath.Join(dir, "goldens", golden+".safetensors")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	at := tensorOffset(t, data, "text.hidden.layer0")
	data[at+2] ^= 0x40 // a high bit of the mantissa of the first float32
	require.NoError(t, os.WriteFile(name, data, 0o644))
	checks, s := run(t, dir, parity.Options{})
	require.Equal(t, 1, s.Failed)
	for _, c := range checks {
		if c.Verdict == parity.Fail {
			require.Equal(t, "hidden", c.Stage)
			require.Equal(t, "hidden.layer0", c.Detail)
			require.Greater(t, c.Measured, c.Allowed)
		}
	}
}

// tensorOffset is where a tensor's data starts in a safetensors file.
func tensorOffset(t *testing.T, data []byte, tensor string) int {
	t.Helper()
	head := 0
	for i := range 8 {
		head |= int(data[i]) << (8 * i)
	}
	var entries map[string]struct {
		Offsets [2]int `json:"data_offsets"`
	}
	require.NoError(t, json.Unmarshal(data[8:8+head], &entries))
	require.Contains(t, entries, tensor)
	return 8 + head + entries[tensor].Offsets[0]
}

// TestNothing checks the errors of directories without goldens and of wrong options.
func TestNothing(t *testing.T) {
	report := func(parity.Check) {}
	_, err := parity.Run(context.Background(), t.TempDir(), parity.Options{}, report)
	require.ErrorIs(t, err, parity.ErrNothing)
	_, err = parity.Run(context.Background(), filepath.Join(root, "absent"), parity.Options{}, report)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = parity.Run(context.Background(), root, parity.Options{Only: []string{"sound"}}, report)
	require.ErrorContains(t, err, `unknown part "sound"`)
}
