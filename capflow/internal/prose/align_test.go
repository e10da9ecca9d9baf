package prose_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/capflow/internal/prose"
)

func TestAlign(t *testing.T) {
	pairs := func(a, b string) string {
		x, y := prose.Sentences(a), prose.Sentences(b)
		var out []string
		for _, p := range prose.Align(x, y) {
			out = append(out, x[p[0]]+" = "+y[p[1]])
		}
		return strings.Join(out, "; ")
	}
	for _, c := range []struct{ name, a, b, want string }{
		{"a value differs", "A scene. There are 3 trees.", "A scene. There are 4 trees.", "A scene. = A scene.; There are 3 trees. = There are 4 trees."},
		{"one is missing", "A. There are 3 trees. There is 1 cow.", "There is 1 cow.", "There is 1 cow. = There is 1 cow."},
		{"equal before alike", "w1 is 3. w2 is 3.", "w2 is 3.", "w2 is 3. = w2 is 3."},
		{"a misread word", `The field "User" contains "insrrxrt0166".`, `The field "User" contains "insrxrt0166".`, `The field "User" contains "insrrxrt0166". = The field "User" contains "insrxrt0166".`},
		{"other statements", "The sky is blue.", "There are 3 birds.", ""},
		{"nothing", "", "A scene.", ""},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, pairs(c.a, c.b)) })
	}
}

// TestAlignBounded: a text of many long sentences is aligned in part, not for minutes.
func TestAlignBounded(t *testing.T) {
	var long []string
	for i := range 600 {
		long = append(long, fmt.Sprintf("%d %s", i, strings.Repeat("word ", 60)))
	}
	require.LessOrEqual(t, len(prose.Align(long, long)), 192)
}
