//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// started is a job whose standard error is read line by line.
type started struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	seen  bytes.Buffer
}

func start(t *testing.T, dir string, args ...string) *started {
	t.Helper()
	s := &started{cmd: metacap(t, dir, args...)}
	pipe, err := s.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // it has ended, unless the test failed
	s.lines = bufio.NewScanner(pipe)
	return s
}

// until reads up to a line that holds text.
func (s *started) until(t *testing.T, text string) string {
	t.Helper()
	for s.lines.Scan() {
		fmt.Fprintln(&s.seen, s.lines.Text())
		if strings.Contains(s.lines.Text(), text) {
			return s.lines.Text()
		}
	}
	require.Fail(t, "ended without "+text, s.seen.String())
	return ""
}

// end reads the rest and returns the exit code.
func (s *started) end(t *testing.T) int {
	t.Helper()
	for s.lines.Scan() {
		fmt.Fprintln(&s.seen, s.lines.Text())
	}
	return exitCode(t, s.cmd.Wait())
}

// resumeLine is the command that a stopped job prints.
func (s *started) resumeLine(t *testing.T) string {
	t.Helper()
	_, command, ok := strings.Cut(s.seen.String(), "resume with: ")
	require.True(t, ok, s.seen.String())
	command, _, _ = strings.Cut(command, "\n")
	return command
}

// TestStopAndResume stops real jobs with Ctrl-C, once and twice, starts a second one
// meanwhile, and resumes with the command that was printed.
func TestStopAndResume(t *testing.T) {
	needDemo(t)
	const n = 14
	for _, signals := range []int{1, 2} {
		t.Run(fmt.Sprintf("signals=%d", signals), func(t *testing.T) {
			root := t.TempDir()
			photos := filepath.Join(root, "my photos")
			require.NoError(t, os.Mkdir(photos, 0o755))
			for i := range n {
				put(t, filepath.Join(photos, fmt.Sprintf("p%02d.jpg", i)), drawJPEG(t, i))
			}
			args := []string{"caption", "my photos", "--parallel", "2", "--max-tiles", "1", "--max-tokens", "5", "--retries", "0", "--filter", "refuse=empty", "--progress", "json"}
			s := start(t, root, args...)
			s.until(t, `"event":"item"`)
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGSTOP)) // it holds its lock while the second one tries

			second := metacap(t, root, args...)
			var msg bytes.Buffer
			second.Stderr = &msg
			require.Equal(t, exitFatal, exitCode(t, second.Run()), msg.String())
			require.Contains(t, msg.String(), fmt.Sprintf("process %d", s.cmd.Process.Pid), "the second process names the first")
			require.Contains(t, msg.String(), ".metacap")

			require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))
			if signals == 2 {
				s.until(t, "Ctrl-C again stops now")
				require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
			}
			require.Equal(t, exitInterrupted, s.end(t), s.seen.String())
			done := len(readRecords(t, filepath.Join(photos, "captions.jsonl")))
			require.Positive(t, done)
			require.Less(t, done, n, "the job was stopped before its end")

			bin := t.TempDir()
			exe, err := os.Executable()
			require.NoError(t, err)
			require.NoError(t, os.Symlink(exe, filepath.Join(bin, "metacap")))
			resume := exec.Command("/bin/sh", "-c", s.resumeLine(t))
			resume.Dir, resume.Env, resume.Stderr = root, append(os.Environ(), "PATH="+bin), io.Discard
			require.Equal(t, 0, exitCode(t, resume.Run()), s.resumeLine(t))
			records := readRecords(t, filepath.Join(photos, "captions.jsonl"))
			require.Len(t, records, n)
			for key, r := range records {
				require.Len(t, r, 1, key)
				require.NotEmpty(t, r[0].Captions["caption"], key)
			}
			t.Logf("stopped after %d of %d", done, n)
		})
	}
}

// TestShardProcesses runs three processes at the same time on one directory, each
// with a part that an array job's environment names: every picture is captioned once.
func TestShardProcesses(t *testing.T) {
	needDemo(t)
	const n = 12
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "photos"), 0o755))
	for i := range n {
		put(t, filepath.Join(root, "photos", fmt.Sprintf("p%02d.jpg", i)), drawJPEG(t, i))
	}
	var jobs []*exec.Cmd
	for _, env := range [][]string{
		{"SLURM_ARRAY_TASK_ID=7", "SLURM_ARRAY_TASK_COUNT=3", "SLURM_ARRAY_TASK_MIN=7"},
		{"SLURM_ARRAY_TASK_ID=8", "SLURM_ARRAY_TASK_COUNT=3", "SLURM_ARRAY_TASK_MIN=7"},
		{"JOB_COMPLETION_INDEX=2", "JOB_COMPLETIONS=3"},
	} {
		cmd := metacap(t, root, "caption", "-q", "photos", "--shard", "auto", "--max-tiles", "1", "--max-tokens", "4", "--retries", "0", "--filter", "refuse=empty")
		cmd.Env = append(os.Environ(), env...)
		require.NoError(t, cmd.Start())
		jobs = append(jobs, cmd)
	}
	for _, cmd := range jobs {
		require.Equal(t, 0, exitCode(t, cmd.Wait()))
	}
	seen := map[string]int{}
	for i := range jobs {
		part := readRecords(t, filepath.Join(root, "photos", fmt.Sprintf("captions-%d-of-3.jsonl", i)))
		require.NotEmpty(t, part, "part %d", i)
		for key, r := range part {
			seen[key] += len(r)
		}
	}
	require.Len(t, seen, n)
	for key, times := range seen {
		require.Equal(t, 1, times, key)
	}
}
