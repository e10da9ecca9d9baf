package source

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var imageExt = map[string]bool{
	".jpg": true, ".jpeg": true, ".jpe": true, ".jfif": true, ".png": true, ".gif": true,
	".webp": true, ".bmp": true, ".tif": true, ".tiff": true, ".apng": true,
	".avif": true, ".heic": true, ".heif": true, ".jxl": true,
}

var videoExt = map[string]bool{
	".mp4": true, ".m4v": true, ".mov": true, ".mkv": true, ".webm": true, ".avi": true,
	".mpg": true, ".mpeg": true, ".ts": true, ".wmv": true, ".flv": true, ".ogv": true,
}

// kindOf returns the kind that a name suggests.
func kindOf(name string) (Kind, bool) {
	ext := strings.ToLower(filepath.Ext(name))
	if videoExt[ext] {
		return Video, true
	}
	return Image, imageExt[ext]
}

func fileItem(path string, st fs.FileInfo) Item {
	kind, _ := kindOf(path)
	it := Item{Key: filepath.ToSlash(path), Kind: kind, Path: path, Size: st.Size(), MTime: st.ModTime().UnixNano()}
	if !st.Mode().IsRegular() {
		it.Err = fmt.Errorf("source: %s: not a regular file (%s)", path, st.Mode().Type())
	}
	return it
}

// dir walks a directory depth first; names of one directory are in natural
// order, files before sub-directories. Only one directory's names per level are
// in memory. Symbolic links to files are followed, links to directories are not.
func dir(ctx context.Context, root string, opts Options) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if _, err := os.ReadDir(root); err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		walk(ctx, root, opts, yield)
	}
}

func walk(ctx context.Context, path string, opts Options, yield func(Item, error) bool) bool {
	if err := ctx.Err(); err != nil {
		return yield(Item{}, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return yield(Item{Key: filepath.ToSlash(path), Path: path, Err: fmt.Errorf("source: %w", err)}, nil)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return compareNatural(a.Name(), b.Name()) })
	if opts.FrameDirs && onlyPictures(entries) {
		return yield(framesItem(path, entries), nil)
	}
	for _, e := range entries {
		if e.IsDir() && !pictureDir(e.Name()) {
			continue
		}
		it, ok := entryItem(filepath.Join(path, e.Name()), e, opts)
		if ok && !yield(it, nil) {
			return false
		}
	}
	if opts.NoRecurse {
		return true
	}
	for _, e := range entries {
		if !e.IsDir() || pictureDir(e.Name()) || (!opts.Hidden && strings.HasPrefix(e.Name(), ".")) {
			continue
		}
		if sub := filepath.Join(path, e.Name()); !excluded(sub, opts) && !walk(ctx, sub, opts, yield) {
			return false
		}
	}
	return true
}

// pictureDir reports a directory whose name claims to be a picture: it is an
// item with an error rather than a folder to search.
func pictureDir(name string) bool {
	_, ok := kindOf(name)
	return ok
}

func entryItem(path string, e fs.DirEntry, opts Options) (Item, bool) {
	if !opts.Hidden && strings.HasPrefix(e.Name(), ".") || !wanted(path, opts) {
		return Item{}, false
	}
	st, err := os.Stat(path)
	if err != nil {
		return Item{Key: filepath.ToSlash(path), Path: path, Err: fmt.Errorf("source: %w", err)}, true
	}
	if st.IsDir() {
		err := fmt.Errorf("source: %s: is a directory", path)
		return Item{Key: filepath.ToSlash(path), Path: path, Err: err}, true
	}
	return fileItem(path, st), true
}

func wanted(path string, opts Options) bool {
	if excluded(path, opts) {
		return false
	}
	if len(opts.Include) == 0 {
		_, ok := kindOf(path)
		return ok
	}
	return matches(path, opts.Include)
}

func excluded(path string, opts Options) bool { return matches(path, opts.Exclude) }

// matches reports whether a pattern fits the base name, or the whole path when
// the pattern holds a slash. Patterns were checked by CheckPatterns.
func matches(path string, patterns []string) bool {
	for _, p := range patterns {
		name := filepath.Base(path)
		if strings.Contains(p, "/") {
			name = filepath.ToSlash(path)
		}
		if ok, _ := filepath.Match(p, name); ok {
			return true
		}
	}
	return false
}

// CheckPatterns returns an error naming the first malformed glob pattern.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := filepath.Match(p, "x"); err != nil {
			return fmt.Errorf("source: pattern %q: %w", p, err)
		}
	}
	return nil
}

func onlyPictures(entries []fs.DirEntry) bool {
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if kind, ok := kindOf(e.Name()); e.IsDir() || !ok || kind != Image {
			return false
		}
		n++
	}
	return n > 1
}

func framesItem(path string, entries []fs.DirEntry) Item {
	it := Item{Key: filepath.ToSlash(path) + "/", Kind: Frames, Path: path}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), ".") {
			it.Size += st.Size()
			it.MTime = max(it.MTime, st.ModTime().UnixNano())
		}
	}
	return it
}

func sortNatural(names []string) { slices.SortFunc(names, compareNatural) }

// compareNatural orders digit runs by value: "a2" before "a10". Equal values are
// ordered by the number of leading zeros, then names byte by byte.
func compareNatural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		dx, dy := digits(x), digits(y)
		if dx == 0 || dy == 0 {
			if x[0] != y[0] {
				return int(x[0]) - int(y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		nx, ny := strings.TrimLeft(x[:dx], "0"), strings.TrimLeft(y[:dy], "0")
		if len(nx) != len(ny) {
			return len(nx) - len(ny)
		}
		if c := strings.Compare(nx, ny); c != 0 {
			return c
		}
		x, y = x[dx:], y[dy:]
	}
	if len(x) != len(y) {
		return len(x) - len(y)
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// digits is the length of the run of ASCII digits at the start of s.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// FrameFiles lists the pictures of a directory of Kind Frames, in order.
func FrameFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	var names []string
	for _, e := range entries {
		if kind, ok := kindOf(e.Name()); ok && kind == Image && !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	sortNatural(names)
	return names, nil
}

// IsVideo reports a name with an extension of videos.
func IsVideo(name string) bool { return videoExt[strings.ToLower(filepath.Ext(name))] }
