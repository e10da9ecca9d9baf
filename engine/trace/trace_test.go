package trace_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine/trace"
	"metacap/loader"
	"metacap/vision"
)

const data = "../../testdata"

type golden struct {
	Model   string
	Batch   []string
	Prompts []prompt
}

type prompt struct {
	ID            string
	InputIDs      []int32 `json:"input_ids"`
	Images        []string
	Video         []string
	MaxNum        []int `json:"max_num"`
	TilesPerImage []int `json:"tiles_per_image"`
	Positions     []int
	Greedy        struct {
		IDs      []int32
		LogProbs []float64
		Margin   []float64
	}
	BF16 struct {
		Diff float64 `json:"max_abs_logit_diff"`
	}
}

func readGolden(t *testing.T, name string) (golden, *loader.Tensors) {
	raw, err := os.ReadFile(filepath.Join(data, "goldens", name+".json"))
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(raw, &g))
	ts, err := loader.OpenTensors(filepath.Join(data, "goldens", name+".safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { ts.Close() })
	return g, ts
}

// input makes the trace input of a prompt, tiles cut from the golden's pictures.
func input(t *testing.T, m *trace.Model, p prompt) trace.Input {
	in := trace.Input{IDs: p.InputIDs, Positions: p.Positions}
	files := append(append([]string{}, p.Images...), p.Video...)
	for i, f := range files {
		raw, err := os.ReadFile(filepath.Join(data, "goldens", f))
		require.NoError(t, err)
		pic, err := vision.Decode(raw, vision.Options{Exact: true, Name: f})
		require.NoError(t, err)
		c := m.Config()
		r := vision.Recipe{Size: c.ImageSize, MaxTiles: 1, NoThumbnail: !c.UseThumbnail}
		if len(p.Video) == 0 {
			r.MaxTiles = p.MaxNum[i]
		}
		tiles, err := vision.Tile(pic, r)
		require.NoError(t, err)
		if p.TilesPerImage != nil {
			require.Equal(t, p.TilesPerImage[i], tiles.Count())
		}
		for j := range tiles.Count() {
			in.Tiles = append(in.Tiles, tiles.Tile(j))
		}
	}
	if len(in.Tiles) > 0 {
		rows := m.Config().Vision.Patches() + 1
		for _, r := range []int{0, 1, 2, 17, rows - 1} {
			if r < rows && (len(in.VisionRows) == 0 || in.VisionRows[len(in.VisionRows)-1] < r) {
				in.VisionRows = append(in.VisionRows, r)
			}
		}
	}
	return in
}

// TestStages compares every stage with the reference. Tolerances are those of
// the goldens: testdata/README.md.
func TestStages(t *testing.T) {
	for _, c := range []struct{ golden, model string }{
		{"internvl35-56-bf16", "internvl35-56-remote-bf16"},
		{"internvl35-56-bf16", "internvl35-56-hf-bf16"},
		{"internvl3-qwen25-fp32", "internvl3-qwen25-remote-fp32"},
		{"internvl3-qwen25-bf16", "internvl3-qwen25-hf-bf16"},
		{"qwen3-tied-bf16", "qwen3-tied-bf16"},
		{"qwen2-tied-bf16", "qwen2-tied-bf16"},
	} {
		for _, device := range devices() {
			t.Run(c.model+"/"+device, func(t *testing.T) { testStages(t, c.golden, c.model, device) })
		}
	}
}

// slow says that a device needs seconds for long prompts.
func slow(device string) bool { return device == "ref" || !fast }

func devices() []string { return []string{"ref", "cpu"} }

func testStages(t *testing.T, name, model, device string) {
	g, ts := readGolden(t, name)
	m, err := trace.Open(t.Context(), filepath.Join(data, "models", model), trace.Options{Device: device, DType: "f32"})
	require.NoError(t, err)
	defer m.Close()
	worst := map[string]float64{}
	for _, p := range g.Prompts {
		if slow(device) && len(p.InputIDs) > 200 {
			continue // it takes its time
		}
		out, err := m.Run(t.Context(), input(t, m, p))
		require.NoError(t, err, p.ID)
		compared := 0
		for _, st := range out.Stages {
			v, ok := ts.Tensor(p.ID + "." + st.Name)
			if !ok {
				continue
			}
			want, err := v.Float32s()
			require.NoError(t, err)
			compared++
			ratio := compare(t, p.ID+"."+st.Name, st, want)
			worst[st.Name] = max(worst[st.Name], ratio)
		}
		require.Positive(t, compared, p.ID)
	}
	t.Logf("measured/allowed: %v", worst)
}

// compare returns the largest error as a share of its tolerance.
func compare(t *testing.T, name string, st trace.Stage, want []float32) float64 {
	if len(st.Data) > len(want) { // large features: the golden keeps the first tiles
		st.Data = st.Data[:len(want)]
	}
	require.Len(t, st.Data, len(want), name)
	worst := 0.0
	for i, w := range want {
		tol := 1e-4 * (1 + math.Abs(float64(w)))
		if st.Name == "logits" {
			tol = 2e-4
		}
		diff := math.Abs(float64(st.Data[i]) - float64(w))
		if !(diff <= tol) {
			t.Fatalf("%s[%d]: got %g, want %g, difference %g above %g", name, i, st.Data[i], w, diff, tol)
		}
		worst = max(worst, diff/tol)
	}
	return worst
}

// TestGreedy runs each golden's prompts as one ragged batch, teacher forced, and
// compares ids and log-probabilities; ids must agree while the reference's margin allows.
func TestGreedy(t *testing.T) {
	for _, c := range []struct{ golden, model string }{
		{"internvl35-56-bf16", "internvl35-56-remote-bf16"},
		{"internvl3-qwen25-fp32", "internvl3-qwen25-remote-fp32"},
		{"qwen3-tied-bf16", "qwen3-tied-bf16"},
	} {
		for _, device := range devices() {
			t.Run(c.model+"/"+device, func(t *testing.T) {
				g, _ := readGolden(t, c.golden)
				m, err := trace.Open(t.Context(), filepath.Join(data, "models", c.model), trace.Options{Device: device, DType: "f32"})
				require.NoError(t, err)
				defer m.Close()
				var in []trace.Input
				var forced [][]int32
				var ps []prompt
				for _, p := range g.Prompts {
					if strings.Contains(" "+strings.Join(g.Batch, " ")+" ", " "+p.ID+" ") {
						in, forced, ps = append(in, input(t, m, p)), append(forced, p.Greedy.IDs), append(ps, p)
					}
				}
				require.NotEmpty(t, in)
				if slow(device) {
					in, forced, ps = in[:2], forced[:2], ps[:2]
				}
				n := 0
				for _, ids := range forced {
					n = max(n, len(ids))
				}
				steps, err := m.Greedy(t.Context(), in, n, forced)
				require.NoError(t, err)
				for i, p := range ps {
					for j, st := range steps[i][:len(p.Greedy.IDs)] {
						at := fmt.Sprintf("%s step %d", p.ID, j)
						if p.Greedy.Margin[j] > 2e-3 {
							require.Equal(t, p.Greedy.IDs[j], st.ID, at)
						}
						if !(math.Abs(st.LogProb-p.Greedy.LogProbs[j]) <= 2e-4) {
							t.Fatalf("%s: log-probability %g, want %g", at, st.LogProb, p.Greedy.LogProbs[j])
						}
					}
				}
			})
		}
	}
}
