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
	"strings"
	"time"
)

// Startup is how a program is started and timed.
type Startup struct {
	Program string
	Args    []string
	// Cold lists files that are put out of the page cache before every run.
	Cold        []string
	Repetitions int
}

// Run starts the program and takes the seconds from then to the first byte that it
// writes to its output: once unmeasured, then the repetitions.
func (s *Startup) Run(ctx context.Context) ([]float64, error) {
	var took []float64
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
			took = append(took, t.Seconds())
		}
	}
	return took, nil
}

func (s *Startup) once(ctx context.Context) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, s.Program, s.Args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = out.Read(make([]byte, 1))
	took := time.Since(start)
	_, rest := io.Copy(io.Discard, out)
	if err := errors.Join(err, rest, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return took, nil
}

// WriteFiles copies every file of fsys into dir and forces them to disk.
func WriteFiles(dir string, fsys fs.FS) error {
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
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Sync(), out.Close())
	})
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
