//go:build unix

package captioner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine/fake"
)

// childDir is the variable that makes the test binary a job to be killed.
const childDir = "METACAP_TEST_JOB"

// kills is the number of random moments at which TestKill kills; METACAP_TEST_KILLS changes it.
const kills = 12

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		e, err := fake.Open(fake.Options{Answer: echo, StepTime: 100 * time.Microsecond})
		if err == nil {
			_, err = captioner.Run(context.Background(), []captioner.Engine{e}, killedJob(dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killedJob appends to sidecars, the one output that is not idempotent.
func killedJob(dir string) captioner.Job {
	j := job(dir)
	j.Write, j.Existing = []string{"txt", "json", "jsonl"}, captioner.ExistingAppend
	return j
}

// TestKill kills a job again and again at random moments. In the end every
// sidecar holds the old line and the new one once, and every record is there once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	n, moments := 120, kills
	if s := os.Getenv("METACAP_TEST_KILLS"); s != "" {
		var err error
		moments, err = strconv.Atoi(s)
		require.NoError(t, err)
		n = 40 * moments
	}
	pictures(t, dir, n)
	side := func(i int) string { return filepath.Join(dir, fmt.Sprintf("part%d", i%3), fmt.Sprintf("p%04d.txt", i)) }
	for i := range n {
		require.NoError(t, os.WriteFile(side(i), []byte("old\n"), 0o644))
	}
	rng := rand.New(rand.NewPCG(7, 7))
	killed := 0
	for range moments {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		var msg strings.Builder
		cmd.Stderr = &msg
		require.NoError(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(20+rng.IntN(180))*time.Millisecond, func() { cmd.Process.Signal(syscall.SIGKILL) })
		err := cmd.Wait()
		timer.Stop()
		if err != nil {
			require.Contains(t, err.Error(), "killed", msg.String())
			killed++
		}
		for i := range n { // at any moment a file is whole
			text, err := os.ReadFile(side(i))
			require.NoError(t, err)
			old, both := "old\n", fmt.Sprintf("old\nA picture of number %d.\n", i)
			require.Contains(t, []string{old, both}, string(text))
		}
	}
	rep := run(t, open(t, fake.Options{}), killedJob(dir))
	t.Logf("killed %d of %d times; the last run found %d done and did %d", killed, moments, rep.Before, rep.Done)
	require.Equal(t, n, rep.Done+rep.Before)
	require.Equal(t, 0, rep.Failed)
	require.Len(t, records(t, filepath.Join(dir, "captions.jsonl")), n)
	for i := range n {
		text, err := os.ReadFile(side(i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("old\nA picture of number %d.\n", i), string(text))
		data, err := os.ReadFile(strings.TrimSuffix(side(i), ".txt") + ".json")
		require.NoError(t, err)
		require.True(t, json.Valid(data))
	}
}

// TestFullDisk ends the job with the reason, and resumes it when there is room.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	require.NoError(t, os.Mkdir(small, 0o755))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small).CombinedOutput(); err != nil {
		t.Skipf("no tmpfs here: %s", out)
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", small).Run()) })
	data := filepath.Join(dir, "data")
	pictures(t, data, 200)
	j := job(data)
	j.Out = small
	e := open(t, fake.Options{})
	_, err := captioner.Run(context.Background(), []captioner.Engine{e}, j)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, exec.Command("mount", "-o", "remount,size=64m", small).Run())
	rep := run(t, e, j)
	require.Positive(t, rep.Before)
	require.Equal(t, 200, rep.Done+rep.Before)
	require.Len(t, records(t, filepath.Join(small, "captions.jsonl")), 200)
}

// TestUnwritable says at once that the job directory cannot be made.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	pictures(t, dir, 3)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".metacap"), nil, 0o644))
	_, err := captioner.Run(context.Background(), []captioner.Engine{open(t, fake.Options{})}, job(dir))
	require.ErrorContains(t, err, "choose a writable one with --job or --out")
}
