package main

import (
	"compress/gzip"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseBlocks(t *testing.T) {
	blocks, err := parseBlocks(`
struct APart { int x; };
struct InnerParams {
  i32 a;
  ptr b;
  i32 c;
};
struct OuterParams {
  i32 first;
  tensormap map;
  InnerParams inner;
  f32 tail[3];
};
`)
	require.NoError(t, err)
	require.Len(t, blocks, 2)
	require.Equal(t, 24, blocks[0].size)
	require.Equal(t, []int{0, 8, 16}, offsets(blocks[0]))
	require.Equal(t, 64, blocks[1].align)
	require.Equal(t, []int{0, 64, 192, 216}, offsets(blocks[1]))
	require.Equal(t, 256, blocks[1].size)
	text, err := goFile(blocks, []sourceFile{{name: "x.cu", kernels: []kernel{{name: "do_it", params: "OuterParams", threads: 64}}}})
	require.NoError(t, err)
	for _, want := range []string{"type outerParams struct", "_     [60]byte", "Inner innerParams", "[3]float32", `kDoIt: {name: "do_it", file: "x", threads: 64, paramBytes: 256}`} {
		require.Contains(t, string(text), want)
	}
}

func offsets(b block) []int {
	var out []int
	for _, f := range b.fields {
		out = append(out, f.offset)
	}
	return out
}

func TestParseBlocksRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"struct XParams {\n  u8 a;\n};":        `unknown type "u8"`,
		"struct XParams {\n  i32 a, b;\n};":    "params.cuh:2",
		"struct XParams {\n  i32 a;\n":         "params.cuh:3", // the text ends inside
		"struct XParams {\n// comment\n};":     "params.cuh:2",
		"struct XParams {\n  YParams inner;\n": `unknown type "YParams"`,
	} {
		_, err := parseBlocks(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestParseKernels(t *testing.T) {
	kernels, archs := parseKernels("// about\n// archs: sm_90a\nKERNEL(a_b, XParams, 128, 2) { f(p); }\n  KERNEL(indented, X, 1, 1)\n")
	require.Equal(t, []kernel{{name: "a_b", params: "XParams", threads: 128, minBlocks: 2}}, kernels)
	require.Equal(t, []string{"sm_90a"}, archs)
}

func TestIncluded(t *testing.T) {
	headers := map[string]string{"a.cuh": "#include \"b.cuh\"\n#include \"c.cuh\"\n", "b.cuh": "#include \"a.cuh\"\n", "c.cuh": "", "d.cuh": ""}
	require.Equal(t, []string{"a.cuh", "b.cuh", "c.cuh"}, included("// x\n#include \"a.cuh\"\n", headers))
	require.Empty(t, included("KERNEL(a, B, 1, 1)\n", headers))
}

func TestParseReport(t *testing.T) {
	log := `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 77 registers, used 1 barriers, 96 bytes smem, 56 bytes cmem[0]
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Used 12 registers`
	blocks := []block{{name: "P", size: 56}}
	require.Equal(t, []kernelReport{
		{Name: "a", Registers: 12},
		{Name: "b", Registers: 77, SpillBytes: 16, StackBytes: 8, SharedBytes: 96, ParamBytes: 56},
	}, parseReport(log, []kernel{{name: "b", params: "P"}}, blocks))
}

func TestCompressIsDeterministic(t *testing.T) {
	data := []byte(strings.Repeat("kernel ", 1000))
	one, err := compress(data)
	require.NoError(t, err)
	two, err := compress(data)
	require.NoError(t, err)
	require.Equal(t, one, two)
	z, err := gzip.NewReader(strings.NewReader(string(one)))
	require.NoError(t, err)
	back, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Equal(t, data, back)
	require.True(t, z.ModTime.IsZero())
}

// TestGenerated checks that the committed generated files belong to the sources,
// without a compiler.
func TestGenerated(t *testing.T) {
	params, err := os.ReadFile("../../kernels/cuda/src/params.cuh")
	require.NoError(t, err)
	blocks, err := parseBlocks(string(params))
	require.NoError(t, err)
	layout, err := os.ReadFile("../../kernels/cuda/src/layout_gen.cuh")
	require.NoError(t, err)
	require.Equal(t, layoutHeader(blocks), string(layout), "run `make generate`")
}
