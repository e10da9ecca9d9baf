package pack_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow/pack"
)

// TestFaithful compares the agent sets of mode faithful with table 1 of the paper.
func TestFaithful(t *testing.T) {
	table := map[string]string{
		"natural":              "natural_perception general_reasoning visual_guideline | general_summary",
		"structure_math":       "structure_perception infographic_perception general_reasoning visual_guideline | general_summary",
		"infographic_document": "infographic_perception ocr general_reasoning visual_guideline | general_summary",
		"medical_bio":          "natural_perception medical_reasoning visual_guideline | general_summary",
		"ui":                   "ui_perception ocr general_reasoning | general_summary",
		"code":                 "coder general_reasoning visual_guideline | general_summary",
		"knowledge_edu":        "infographic_perception knowledge_reasoning visual_guideline | general_summary",
		"synthetic":            "texture_perception general_reasoning visual_guideline | general_summary",
		"video":                "video_perception video_reasoning video_guideline | video_summary",
	}
	p := pack.Default()
	require.Len(t, p.Domains, len(table))
	agents, slots := map[string]bool{}, 0
	for _, d := range p.Domains {
		require.Equal(t, table[d.ID], strings.Join(d.Faithful, " ")+" | "+d.Summary, d.ID)
		slots += len(d.Faithful)
		for _, a := range d.Faithful {
			agents[a] = true
		}
	}
	require.Equal(t, 29, slots)
	require.Len(t, agents, 14)
	require.Len(t, p.Summaries, 2)
	require.False(t, agents["data_table"], "data_table is ours, not the paper's")
}

// TestWordings: the pack asks exactly what the embedded model is trained on.
func TestWordings(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "tools", "drawn", "prompts.json"))
	require.NoError(t, err)
	var drawn struct {
		Version   string            `json:"version"`
		Sentinels map[string]string `json:"sentinels"`
		Domains   []struct{ ID, Option string }
		Criteria  map[string][]string `json:"judge_criteria"`
		Tasks     map[string]struct{ Prompts []string }
	}
	require.NoError(t, json.Unmarshal(data, &drawn))
	first := func(task string) string {
		require.NotEmpty(t, drawn.Tasks[task].Prompts, task)
		return drawn.Tasks[task].Prompts[0]
	}
	p := pack.Default()
	require.Equal(t, drawn.Version, p.Version)
	require.Len(t, p.Domains, len(drawn.Domains))
	for i, d := range drawn.Domains {
		require.Equal(t, d.ID, p.Domains[i].ID)
		require.Equal(t, d.Option, p.Domains[i].Option)
	}
	for _, a := range p.Agents {
		require.Equal(t, first(a.ID), a.Prompt)
	}
	for _, s := range p.Summaries {
		require.Equal(t, first("summary"), s.Prompt)
	}
	for _, x := range p.Probes {
		require.Equal(t, first("probe_"+x.ID), x.Prompt)
	}
	for _, r := range p.Renderings {
		require.Equal(t, first("render_"+r.ID), r.Prompt)
	}
	for kind, list := range drawn.Criteria {
		for i, text := range list {
			require.Equal(t, text, p.Criteria[kind][i].Text)
		}
	}
	require.Equal(t, first("caption_detailed"), p.Tasks.Caption)
	require.Equal(t, first("router"), p.Tasks.Router)
	require.Equal(t, drawn.Tasks["claim"].Prompts, p.Tasks.Claim)
	require.Equal(t, first("judge"), p.Tasks.Judge)
	require.Equal(t, first("revise"), p.Tasks.Revise)
	require.Equal(t, []string{drawn.Sentinels["outside"]}, p.Refusals)
	ocr, _ := p.Agent("ocr")
	require.Contains(t, ocr.Sentinels, drawn.Sentinels["no_text"])
	require.Equal(t, "Describe the video and this video in this video.", p.ForVideo("Describe the image and this image in this picture."))
}

// TestInvalid plants one mistake at a time.
func TestInvalid(t *testing.T) {
	good, err := os.ReadFile("default.json")
	require.NoError(t, err)
	for _, c := range []struct{ old, new, want string }{
		{`"capflow-pack/1"`, `"capflow-pack/9"`, `schema is "capflow-pack/9"`},
		{`"tiles": 24`, `"tiles": 0`, "infographic_document: tiles is 0, want 1 to 256"},
		{`"max_tokens": 700`, `"max_tokens": -3`, "max_tokens is -3"},
		{`{options}`, `options`, "lacks {options}"},
		{`"temperature": 1.0`, `"temperature": 0`, "thresholds.temperature is 0"},
		{`"type": "guideline"`, `"type": "oracle"`, `type "oracle"`},
		{`"summary": "video_summary"`, `"summary": "nobody"`, `no summary "nobody"`},
		{`"probe": "text"`, `"probe": "smell"`, `no probe "smell"`},
		{`"version"`, `"verzion"`, "unknown field"},
		{`"id": "natural",`, `"id": "Natural!",`, `id "Natural!"`},
		{`"id": "medical_bio"`, `"id": "natural"`, `domain "natural" is there twice`},
	} {
		_, err := pack.Parse([]byte(strings.Replace(string(good), c.old, c.new, 1)))
		require.ErrorContains(t, err, c.want, c.new)
	}
	_, err = pack.Parse(append(good, '{'))
	require.Error(t, err)
	_, err = pack.Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestNewDomain: a domain and an agent are added with no code.
func TestNewDomain(t *testing.T) {
	data, err := json.Marshal(pack.Default())
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m))
	m["agents"] = append(m["agents"].([]any), map[string]any{"id": "roof_perception", "type": "perception", "prompt": "List roofs.", "max_tokens": 50, "sentinels": []string{}})
	m["order"] = append(m["order"].([]any), "roof_perception")
	m["domains"] = append(m["domains"].([]any), map[string]any{
		"id": "satellite", "option": "satellite: seen from above", "tiles": 12, "literal_recall": 0,
		"faithful": []string{"roof_perception"}, "verified": []string{"roof_perception", "ocr"}, "summary": "general_summary",
	})
	data, err = json.Marshal(m)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "pack.json")
	require.NoError(t, os.WriteFile(path, data, 0o644))
	p, err := pack.Load(path)
	require.NoError(t, err)
	d, ok := p.Domain("satellite")
	require.True(t, ok)
	require.Equal(t, []string{"roof_perception", "ocr"}, d.Verified)
	require.NotEqual(t, pack.Default().ID(), p.ID())
}

func TestFill(t *testing.T) {
	require.Equal(t, "a {b} c", pack.Fill("{x} {y} c", "x", "a", "y", "{b}"))
	require.Equal(t, "{y}", pack.Fill("{x}", "x", "{y}", "y", "no"))
}
