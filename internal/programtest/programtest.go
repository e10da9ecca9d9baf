// Package programtest is for tests that drive other programs: ffmpeg, exiftool,
// Chromium, a C++ compiler. Without the program a test is skipped, unless
// METACAP_REQUIRE lists it: then it fails, so that a machine that should have the
// program can not pass without it.
package programtest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Required reports whether METACAP_REQUIRE, a list with commas, holds a name.
func Required(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("METACAP_REQUIRE"), ","), name)
}

// Path returns the path of a program, or skips the test. Others are names
// that it may have besides; METACAP_REQUIRE holds the first.
func Path(t testing.TB, name string, others ...string) string {
	t.Helper()
	for _, n := range append([]string{name}, others...) {
		if path, err := exec.LookPath(n); err == nil {
			return path
		}
	}
	if Required(name) {
		t.Fatalf("METACAP_REQUIRE lists %s, and there is none", name)
	}
	t.Skipf("no %s on the path", name)
	return ""
}
