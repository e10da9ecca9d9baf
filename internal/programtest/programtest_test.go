package programtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
)

// recorder is a test whose end is seen.
type recorder struct {
	testing.TB
	failed, skipped bool
}

func (*recorder) Helper()                 {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true; panic(r) }
func (r *recorder) Skipf(string, ...any)  { r.skipped = true; panic(r) }

func TestPath(t *testing.T) {
	ask := func(names ...string) (path string, r *recorder) {
		r = &recorder{TB: t}
		defer func() { _ = recover() }()
		return programtest.Path(r, names[0], names[1:]...), r
	}
	t.Setenv("METACAP_REQUIRE", "ffmpeg,no such program")
	require.True(t, programtest.Required("ffmpeg"))
	require.False(t, programtest.Required("ffm"))
	path, _ := ask("no such program", "go")
	require.NotEmpty(t, path, "another name of it")
	_, r := ask("no such program")
	require.True(t, r.failed)
	t.Setenv("METACAP_REQUIRE", "ffmpeg")
	_, r = ask("no such program")
	require.True(t, r.skipped)
	require.False(t, r.failed)
}
