package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"metacap/engine"
	"metacap/internal/demo"
)

// TestMain lets the scripts run this test binary as metacap.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"metacap": main})
}

// TestScripts runs testdata/script: the command as its users see it.
func TestScripts(t *testing.T) {
	root, err := filepath.Abs("../../testdata")
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TESTDATA", root)
			return os.WriteFile(filepath.Join(e.WorkDir, "huge.png"), pngHeader(100_000, 100_000), 0o644)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "demo":
				return demo.Included(), nil
			case "fast":
				return build().Cgo, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"records": records, "exits": exits},
	})
}

// pngHeader is a PNG that claims a size and has no pixels.
func pngHeader(width, height uint32) []byte {
	out := []byte("\x89PNG\r\n\x1a\n")
	chunk := append([]byte("IHDR"), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)...)
	chunk = append(chunk, 8, 2, 0, 0, 0)
	out = binary.BigEndian.AppendUint32(out, 13)
	out = append(out, chunk...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(chunk))
}

// exits runs a program and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// records checks that the standard output of the last command is n records that
// have no field beyond the documented ones, and that make sense.
func records(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: records N")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	if fmt.Sprint(len(lines)) != args[0] {
		ts.Fatalf("got %d records, want %s", len(lines), args[0])
	}
	for _, line := range lines {
		var r record
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		ts.Check(d.Decode(&r))
		ts.Check(r.check())
	}
}

// check says what is wrong with a record.
func (r *record) check() error {
	switch {
	case r.Model == "" || r.Device == "" || r.Prompt == "":
		return fmt.Errorf("model %q, device %q or prompt %q is empty", r.Model, r.Device, r.Prompt)
	case (r.Error == "") != (r.Caption != nil):
		return fmt.Errorf("error %q and caption %v", r.Error, r.Caption)
	case r.Error != "":
		return nil
	case r.Finish == "" || r.Tokens == nil || r.Seconds == nil || r.Seed == nil:
		return fmt.Errorf("finish %q, tokens %v, seconds %v, seed %v", r.Finish, r.Tokens, r.Seconds, r.Seed)
	case r.Tokens.Prompt <= r.Tokens.Image || r.Tokens.Output < 1 || r.Seconds.Total <= 0 || r.Seconds.FirstToken > r.Seconds.Total:
		return fmt.Errorf("tokens %+v, seconds %+v", *r.Tokens, *r.Seconds)
	}
	tiles, tokens := 0, 0
	for _, p := range r.Pictures {
		tiles += p.Tiles
		tokens += p.Tokens
		if p.Width < 1 || p.Height < 1 || p.Grid[0]*p.Grid[1] < 1 || p.Tiles < p.Grid[0]*p.Grid[1] {
			return fmt.Errorf("picture %+v", p)
		}
	}
	if tiles != r.Tiles || tokens != r.Tokens.Image {
		return fmt.Errorf("pictures have %d tiles and %d tokens, the record %d and %d", tiles, tokens, r.Tiles, r.Tokens.Image)
	}
	return nil
}

// sample is a row of testdata/drawn/samples.json.
type sample struct {
	Domain  string
	Files   []string
	Prompts map[string]string
	Greedy  map[string]string `json:"model_greedy"`
}

// bf16Step is the distance of neighbouring bf16 values between 16 and 32, where
// the largest logits of this family lie: closer candidates are a tie to the
// reference, which rounds its logits.
const bf16Step = 0.125

// TestSamples checks that the embedded model answers what the reference recorded
// for its samples, stills and video, for every recorded prompt. A difference is
// allowed only where the reference's answer was a near tie, and is shown.
func TestSamples(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	dir := "../../testdata/drawn"
	data, err := os.ReadFile(filepath.Join(dir, "samples.json"))
	require.NoError(t, err)
	var samples []sample
	require.NoError(t, json.Unmarshal(data, &samples))
	require.Len(t, samples, 36)
	e, err := engine.OpenFS(t.Context(), demo.FS(), demo.Name, engine.Config{Verify: true})
	require.NoError(t, err)
	defer e.Close()
	if !build().Cgo { // pure Go is some twenty times slower: a still and the video
		samples = slices.DeleteFunc(samples, func(s sample) bool { return s.Domain != "video" && s.Domain != "synthetic" })
	}
	same, all := 0, 0
	for _, s := range samples {
		for name, prompt := range s.Prompts {
			want, ok := s.Greedy[name]
			if !ok {
				continue
			}
			all++
			if checkSample(t, e, dir, s, name, prompt, want) {
				same++
			}
		}
	}
	t.Logf("%d of %d answers are the recorded ones", same, all)
	require.GreaterOrEqual(t, all, len(samples))
	require.GreaterOrEqual(t, same*20, all*19, "more than one in twenty differ, which near ties do not explain")
}

// checkSample reports whether an answer is the recorded one; if not, it fails
// unless the recorded token was nearly as likely as ours.
func checkSample(t *testing.T, e *engine.Engine, dir string, s sample, name, prompt, want string) bool {
	t.Helper()
	c := captionCmd{Prompt: &prompt, Video: len(s.Files) > 1}
	it := &captionItem{}
	for _, f := range s.Files {
		it.images = append(it.images, engine.Image{Path: filepath.Join(dir, f)})
	}
	r := c.request(it, e.Info())
	r.LogProbs, r.TopLogProbs = true, 2
	res, err := e.Generate(t.Context(), r)
	require.NoError(t, err)
	if res.Text == want {
		return true
	}
	text := ""
	for _, tok := range res.Tokens {
		if !strings.HasPrefix(want, text+tok.Text) {
			margin := tok.Top[0].LogProb - tok.Top[1].LogProb
			t.Logf("%s, %s: got %q, want %q; they part after %q, where the margin is %.3f", s.Domain, name, res.Text, want, text, margin)
			require.LessOrEqual(t, margin, bf16Step, "not a near tie")
			return false
		}
		text += tok.Text
	}
	t.Errorf("%s, %s: got %q, want %q", s.Domain, name, res.Text, want)
	return false
}

// runCommand runs metacap in this process.
func runCommand(t *testing.T, env map[string]string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &app{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
	return out.String(), errs.String(), code
}

// TestHelp checks that every command has help with examples, and that the
// examples name flags that exist.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help", "caption"}, {"chat", "--help"}, {"help", "model", "info"}, {"help", "model", "quantize"}, {"help", "model", "compare"}, {"help", "model", "verify"}, {"help", "parity"}, {"help", "bench"}, {"help", "bench", "run"}, {"help", "bench", "share"}, {"help", "bench", "serve-sim"}, {"help", "doctor"}, {"help", "version"}, {"help", "completion"}} {
		out, errs, code := runCommand(t, nil, "", args...)
		require.Zero(t, code, "%v: %s", args, errs)
		require.Contains(t, out, "\nExamples:\n  ", "%v", args)
		_, examples, _ := strings.Cut(out, "\nExamples:\n")
		for _, word := range strings.Fields(examples) {
			if flag, ok := strings.CutPrefix(word, "--"); ok && len(args) > 0 && args[0] == "help" {
				require.Contains(t, out[:len(out)-len(examples)], flag, "%v: example with unknown flag", args)
			}
		}
	}
}

// TestEnvironment checks that flags come from METACAP_* variables, and that the command line wins.
func TestEnvironment(t *testing.T) {
	env := map[string]string{"METACAP_MAX_TILES": "3", "METACAP_SEED": "5", "METACAP_STOP": "a, b", "METACAP_JSON": "true"}
	out, errs, code := runCommand(t, env, "", "caption", "--print-config", "--seed", "7", "x.png")
	require.Zero(t, code, errs)
	lines := map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		lines[f[0]] = strings.Join(f[1:], " ")
	}
	require.Equal(t, "3 METACAP_MAX_TILES", lines["max-tiles"])
	require.Equal(t, "7 flag", lines["seed"])
	require.Equal(t, `["a, b"] METACAP_STOP`, lines["stop"])
	require.Equal(t, "true METACAP_JSON", lines["json"])
	require.Equal(t, `"auto" default`, lines["device"])

	_, errs, code = runCommand(t, map[string]string{"METACAP_MAX_TILES": "many"}, "", "caption", "x.png")
	require.Equal(t, exitFatal, code)
	require.Contains(t, errs, `"many"`)
}

// TestSizes checks the units of --memory.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"123": 123, "20GiB": 20 << 30, "1.5 GB": 1_500_000_000, "800m": 800_000_000, "4k": 4000, "0": 0} {
		var b bytesize
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		require.EqualValues(t, want, b, text)
	}
	for _, text := range []string{"", "x", "-1", "3 parsecs", "1e40GB", "NaN"} {
		var b bytesize
		require.Error(t, b.UnmarshalText([]byte(text)), text)
	}
}

// TestPrintable checks that an answer cannot drive a terminal.
func TestPrintable(t *testing.T) {
	require.Equal(t, "a\n\tb\uFFFD[31m", printable("a\n\tb\x1b[31m"))
}

// TestInterrupt checks that a cancelled context ends a caption with code 130 and nothing after it.
func TestInterrupt(t *testing.T) {
	if !demo.Included() {
		t.Skip("built with -tags nodemo")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"caption", "--json", "../../testdata/drawn/ui_700040.png"}, &app{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(string) (string, bool) { return "", false },
	})
	require.Equal(t, exitInterrupted, code, errs.String())
	require.Empty(t, out.String())
}
