package tokenizer

import (
	"errors"
	"fmt"
)

// Sentinel errors, wrapped in the typed ones below.
var (
	// ErrNotFound: the directory holds neither tokenizer.json nor vocab.json with merges.txt.
	ErrNotFound = errors.New("no tokenizer files")
	// ErrUnsupported: the files are valid and ask for something this package does not do.
	ErrUnsupported = errors.New("not supported")
	// ErrFormat: the files are malformed, inconsistent or over a limit.
	ErrFormat = errors.New("malformed")
	// ErrTemplate: a chat template does not parse, does not run or gives something unusable.
	ErrTemplate = errors.New("chat template")
	// ErrMessage: a conversation that the template cannot express.
	ErrMessage = errors.New("bad message")
)

// FileError says what is wrong in a tokenizer file. It matches ErrFormat or
// ErrUnsupported with errors.Is.
type FileError struct {
	File  string // base name
	Field string // path inside the file, "" for the file as a whole
	What  string // what is wrong, with the offending value and the limit
	Err   error  // ErrFormat or ErrUnsupported
}

func (e *FileError) Error() string {
	where := e.File
	if e.Field != "" {
		where += ": " + e.Field
	}
	return fmt.Sprintf("tokenizer: open: %s: %v: %s", where, e.Err, e.What)
}

// Unwrap returns the sentinel.
func (e *FileError) Unwrap() error { return e.Err }

func malformed(file, field, format string, args ...any) error {
	return &FileError{File: file, Field: field, What: fmt.Sprintf(format, args...), Err: ErrFormat}
}

func unsupported(file, field, format string, args ...any) error {
	return &FileError{File: file, Field: field, What: fmt.Sprintf(format, args...), Err: ErrUnsupported}
}

// clip shortens a hostile value for an error text.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
}
