package randmodel

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/demo"
	"metacap/loader"
)

// TestNewQuantized checks that the loader takes a quantised random model whole,
// head included, and that groups which do not fit are refused.
func TestNewQuantized(t *testing.T) {
	if !demo.Included() {
		t.Skip("no tokenizer: built with -tags nodemo")
	}
	for _, bits := range []int{8, 4} {
		files, err := NewQuantized("tiny", bits, 128, 1)
		require.NoError(t, err)
		c, err := loader.OpenFS(files, ".")
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Require(c.Config.Weights()))
		require.NoError(t, c.CheckValues(t.Context(), nil))
		for module, want := range map[string]int{"language_model.model.layers.1.mlp.down_proj": bits, "language_model.lm_head": 8} {
			l, err := c.Linear(module)
			require.NoError(t, err)
			require.NotNil(t, l.Parts[0].Quant, module)
			require.Equal(t, want, l.Parts[0].Quant.Bits, module)
			require.Equal(t, 128, l.Parts[0].Quant.Group)
		}
	}
	_, err := NewQuantized("tiny", 3, 128, 1)
	require.ErrorContains(t, err, "weights of 3 bits, want 8 or 4")
	_, err = NewQuantized("tiny", 4, 96, 1)
	require.ErrorContains(t, err, "groups of 96 do not divide the 256 inputs")
}
