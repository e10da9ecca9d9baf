//go:build !cgo

package cpu

import (
	"fmt"
	"sync"

	"metacap/kernels"
	"metacap/kernels/ref"
)

// backend is the float32 form of the reference under this package's name, with linear
// layers decoded once.
type backend struct {
	kernels.Backend
	info kernels.Info

	mu      sync.Mutex
	decoded int64 // bytes of decoded layers
}

var _ kernels.Backend = (*backend)(nil)

const portableISA = "go"

func isas() []string { return []string{portableISA} }

func open(opt Options) (kernels.Backend, error) {
	if opt.ISA != "" && opt.ISA != portableISA {
		return nil, fmt.Errorf("cpu: open: instruction set %q is not one of %v: %w", opt.ISA, isas(), kernels.ErrUnavailable)
	}
	inner, err := ref.Open(ref.Options{Threads: opt.threads(), Naive: true})
	if err != nil {
		return nil, err
	}
	b := &backend{Backend: inner, info: inner.Info()}
	b.info.Name = "cpu"
	b.info.Device = fmt.Sprintf("%s, %d goroutines, built without cgo", processor(), b.info.Threads)
	b.info.MemoryBytes, b.info.FreeBytes = memoryBytes()
	return b, nil
}

func (b *backend) Info() kernels.Info { return b.info }
