package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Startup is how a program is started and timed.
type Startup struct {
	Program string
	Args    []string
	// Started is a flag that tells the program when it was started, in nanoseconds
	// since 1970: "--started=" is added with the time. Empty = none.
	Started string
	// Cold lists files that are put out of the page cache before every run.
	Cold        []string
	Repetitions int
}

// StartupRun is one start.
type StartupRun struct {
	Seconds float64 // from the start to the first byte of output
	Output  string  // all of it
}

// Run starts the program and takes the time from then to the first byte that it
// writes to its output: once unmeasured, then the repetitions.
func (s *Startup) Run(ctx context.Context) ([]StartupRun, error) {
	var took []StartupRun
	for i := range s.Repetitions + 1 {
		for _, file := range s.Cold {
			if err := dropCached(file); err != nil {
				return nil, fmt.Errorf("bench: startup: %w", err)
			}
		}
		t, err := s.once(ctx)
		if err != nil {
			return nil, fmt.Errorf("bench: startup: %s %s: %w", s.Program, strings.Join(s.Args, " "), err)
		}
		if i > 0 {
			took = append(took, t)
		}
	}
	return took, nil
}

func (s *Startup) once(ctx context.Context) (run StartupRun, err error) {
	start := time.Now()
	args := slices.Clone(s.Args)
	if s.Started != "" {
		args = append(args, s.Started+"="+strconv.FormatInt(start.UnixNano(), 10))
	}
	cmd := exec.CommandContext(ctx, s.Program, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return run, err
	}
	if err := cmd.Start(); err != nil {
		return run, err
	}
	first := make([]byte, 1)
	n, err := out.Read(first)
	run.Seconds = time.Since(start).Seconds()
	all, rest := io.ReadAll(out)
	run.Output = string(first[:n]) + string(all)
	if err := errors.Join(err, rest, cmd.Wait()); err != nil {
		return run, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return run, nil
}

// WriteFiles copies every file of fsys into dir, large ones by several goroutines, and
// forces them to disk if sync is set.
func WriteFiles(dir string, fsys fs.FS, sync bool) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		in, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if err = copyFile(out, in); err == nil && sync {
			err = out.Sync()
		}
		return errors.Join(err, out.Close())
	})
}

// piece is what a goroutine copies at a time, in bytes.
const piece = 64 << 20

func copyFile(out *os.File, in fs.File) error {
	at, ok := in.(io.ReaderAt)
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !ok {
		_, err := io.Copy(out, in)
		return err
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for lo := int64(0); lo < info.Size(); lo += piece {
		group.Go(func() error {
			_, err := io.Copy(io.NewOffsetWriter(out, lo), io.NewSectionReader(at, lo, piece))
			return err
		})
	}
	return group.Wait()
}

// CheckpointFiles lists the files of a checkpoint's folder.
func CheckpointFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() || e.Type()&fs.ModeSymlink != 0 {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}
