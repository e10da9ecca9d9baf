package demo_test

import (
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/demo"
)

// TestGuess checks both reasons for calling a caption a guess, and that the model
// was trained to say the sentence that the rule looks for.
func TestGuess(t *testing.T) {
	for _, c := range []struct {
		caption string
		mean    float64
		want    bool
	}{
		{"A drawn outdoor scene.", 0, false},
		{"A drawn outdoor scene.", demo.GuessBelow, false},
		{"A drawn outdoor scene.", demo.GuessBelow - 1e-6, true},
		{"A drawn outdoor scene.", math.NaN(), true},
		{demo.Unknown, 0, true},
	} {
		require.Equal(t, c.want, demo.Guess(c.caption, c.mean), "%q with %g", c.caption, c.mean)
	}
	prompts, err := os.ReadFile("../../tools/drawn/prompts.json")
	require.NoError(t, err)
	require.Contains(t, string(prompts), `"outside": "`+demo.Unknown+`"`)
}
