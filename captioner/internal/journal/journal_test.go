package journal

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func entry(n int, status Status, id string) Entry {
	return Entry{Status: status, N: int64(n), Key: fmt.Sprintf("k%03d", n), ID: id, Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}
}

func TestJournal(t *testing.T) {
	t.Run("entries survive reopening, the last of a key wins, order is input order", func(t *testing.T) {
		dir := t.TempDir()
		j, err := Open(dir, Options{})
		require.NoError(t, err)
		for _, n := range []int{3, 1, 2} {
			require.NoError(t, j.Append(entry(n, Failed, "")))
		}
		require.NoError(t, j.Append(entry(1, Done, "id1")))
		require.NoError(t, j.Close())
		require.NoError(t, j.Close())

		j, err = Open(dir, Options{})
		require.NoError(t, err)
		defer j.Close()
		require.Equal(t, map[Status]int{Done: 1, Failed: 2}, j.Counts())
		var keys []string
		require.NoError(t, j.Each(func(e Entry) error { keys = append(keys, e.Key+string(e.Status)); return nil }))
		require.Equal(t, []string{"k001done", "k002fail", "k003fail"}, keys)
		e, ok, err := j.ID("id1")
		require.NoError(t, err)
		require.True(t, ok)
		require.JSONEq(t, `{"n":1}`, string(e.Data))
		_, ok, err = j.ID("id2")
		require.NoError(t, err)
		require.False(t, ok)
	})

	t.Run("a file cut at any byte opens and keeps every complete line", func(t *testing.T) {
		dir := t.TempDir()
		j, err := Open(dir, Options{})
		require.NoError(t, err)
		for n := range 20 {
			require.NoError(t, j.Append(entry(n, Done, fmt.Sprint("id", n))))
		}
		require.NoError(t, j.Close())
		path := filepath.Join(dir, "journal.jsonl")
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		rng := rand.New(rand.NewPCG(7, 7))
		for range 60 {
			cut := rng.IntN(len(whole) + 1)
			require.NoError(t, os.WriteFile(path, whole[:cut], 0o644))
			j, err := Open(dir, Options{})
			require.NoError(t, err, "cut at %d", cut)
			want := strings.Count(string(whole[:cut]), "\n")
			require.Equal(t, want, j.Counts()[Done], "cut at %d", cut)
			require.NoError(t, j.Append(entry(99, Done, "new")))
			require.NoError(t, j.Close())
			j, err = Open(dir, Options{})
			require.NoError(t, err)
			require.Zero(t, j.Skipped(), "cut at %d: the new line must not join the torn one", cut)
			require.Equal(t, want+1, j.Counts()[Done])
			require.NoError(t, j.Close())
		}
	})

	t.Run("an unreadable line in the middle is counted and passed over", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "journal.jsonl"),
			[]byte("{\"status\":\"done\",\"key\":\"a\"}\n\x00\x00garbage\n{\"status\":\"done\",\"key\":\"b\"}\n"), 0o644))
		j, err := Open(dir, Options{})
		require.NoError(t, err)
		defer j.Close()
		require.Equal(t, 1, j.Skipped())
		require.Equal(t, 2, j.Counts()[Done])
	})

	t.Run("a record over the limit is refused and leaves the file usable", func(t *testing.T) {
		j, err := Open(t.TempDir(), Options{})
		require.NoError(t, err)
		defer j.Close()
		big, _ := json.Marshal(strings.Repeat("x", MaxLine))
		require.ErrorContains(t, j.Append(Entry{Status: Done, Key: "big", Data: big}), "exceeds")
		require.NoError(t, j.Append(entry(1, Done, "a")))
	})
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := Acquire(dir)
	require.NoError(t, err)
	_, err = Acquire(dir)
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, os.Getpid(), locked.PID)
	require.NoError(t, l.Release())
	l, err = Acquire(dir)
	require.NoError(t, err)
	require.NoError(t, l.Release())
}
