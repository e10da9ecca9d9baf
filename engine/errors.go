package engine

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed occurs when a request is made on, or interrupted by, a closed engine or session.
	ErrClosed = errors.New("engine is closed")
	// ErrInvalidRequest occurs when a request, or a Config, contradicts itself or leaves the allowed range;
	// the text names field, value and limit.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrContextTooLong occurs when the prompt, or the prompt and the wanted answer, do not fit the context.
	ErrContextTooLong = errors.New("context too long")
	// ErrImageDecode occurs when a picture cannot be read or decoded. See ImageError for which.
	ErrImageDecode = errors.New("image cannot be decoded")
	// ErrImageTooLarge occurs when a picture exceeds the limits on bytes, pixels or aspect ratio.
	ErrImageTooLarge = errors.New("image too large")
	// ErrNoVision occurs when a request with pictures reaches a model without vision encoder.
	ErrNoVision = errors.New("model has no vision encoder")
	// ErrUnsupportedModel occurs when a checkpoint is valid but of a family, or with a feature, that this engine lacks.
	ErrUnsupportedModel = errors.New("unsupported model")
	// ErrNoDevice occurs when the wanted device is absent on this machine or not compiled in.
	ErrNoDevice = errors.New("no such device")
	// ErrOutOfMemory occurs when the model, its workspace and a smallest KV cache exceed the memory of the device or Config.MemoryBytes.
	ErrOutOfMemory = errors.New("out of memory")
	// ErrOverloaded occurs when the queue of waiting requests is full. The request was not accepted; try again later.
	ErrOverloaded = errors.New("queue is full")
	// ErrDeadline occurs when a request's deadline, or that of its context, passes. The partial result
	// comes with it, if the request had begun. It wraps context.DeadlineExceeded.
	ErrDeadline = errors.New("deadline exceeded")
)

// ImageError says which picture of a request failed. Unwrap gives ErrImageDecode
// or ErrImageTooLarge and the cause.
type ImageError struct {
	Index int    // among all pictures and frames of the request, from 0
	Path  string // empty unless the picture was given by path
	Err   error
}

func (e *ImageError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("engine: image %d: %v", e.Index, e.Err)
	}
	return fmt.Sprintf("engine: image %d (%s): %v", e.Index, e.Path, e.Err)
}

func (e *ImageError) Unwrap() error { return e.Err }
