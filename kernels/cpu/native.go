//go:build cgo

package cpu

// #cgo CFLAGS: -O3 -std=gnu11 -Wall -Wno-psabi -Wno-unused-function
// #cgo LDFLAGS: -lm -lpthread
// #include <stdlib.h>
// #include "mc.h"
import "C"

import (
	"fmt"
	"sync"
	"unsafe"

	"metacap/kernels"
)

// backend keeps the command list. Commands, and all memory that they point to, are
// C memory.
type backend struct {
	isa     *C.mc_isa
	threads int
	info    kernels.Info

	cmds    *C.mc_cmd
	n, size int
	bad     *C.mc_error // C memory, so that a run makes no garbage
	garbage []*memory   // freed while commands were waiting
	err     error       // first device error since the last Sync

	mu     sync.Mutex
	live   map[*memory]bool
	closed bool
}

var (
	_ kernels.Backend          = (*backend)(nil)
	_ kernels.SwiGLUer         = (*backend)(nil)
	_ kernels.QKNormRopeStorer = (*backend)(nil)
)

func isas() []string {
	var names [8]*C.char
	n := C.mc_isa_names(&names[0], C.int(len(names)))
	var out []string
	for _, s := range names[:n] {
		out = append(out, C.GoString(s))
	}
	return out
}

func open(opt Options) (kernels.Backend, error) {
	name := C.CString(opt.ISA)
	defer C.free(unsafe.Pointer(name))
	isa := C.mc_find_isa(name)
	if isa == nil {
		return nil, fmt.Errorf("cpu: open: instruction set %q is not one of %v: %w", opt.ISA, isas(), kernels.ErrUnavailable)
	}
	b := &backend{isa: isa, threads: opt.threads(), live: map[*memory]bool{}}
	total, available := memoryBytes()
	b.info = kernels.Info{
		Name:        "cpu",
		Device:      fmt.Sprintf("%s, %d threads, %s", processor(), b.threads, C.GoString(isa.name)),
		Activations: kernels.F32,
		Threads:     b.threads,
		MemoryBytes: total,
		FreeBytes:   available,
	}
	b.bad = (*C.mc_error)(C.calloc(1, C.sizeof_mc_error))
	C.mc_pool_retain(C.int(b.threads))
	return b, nil
}

func (b *backend) Info() kernels.Info { return b.info }

// memory is a piece of C memory: the buffer of a tensor, a weight's panels or a cache.
type memory struct {
	p     unsafe.Pointer
	bytes int64
	owner *backend
}

func (m *memory) Bytes() int64 { return m.bytes }

// Free returns the memory at once, or after the commands that wait.
func (m *memory) Free() {
	b := m.owner
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.live[m] {
		return
	}
	delete(b.live, m)
	if b.n > 0 {
		b.garbage = append(b.garbage, m)
		return
	}
	m.release()
}

func (m *memory) release() {
	C.mc_free(m.p, C.int64_t(m.bytes))
	m.p = nil
}

func (b *backend) allocate(bytes int64) (*memory, error) {
	if bytes <= 0 || bytes > 1<<46 {
		return nil, &kernels.ArgError{Op: "Alloc", Arg: "bytes", Want: "a positive size", Got: fmt.Sprint(bytes)}
	}
	const large = 64 << 20
	if bytes > large {
		if _, available := memoryBytes(); available > 0 && bytes > available {
			return nil, fmt.Errorf("cpu: alloc: %d bytes of %d available: %w", bytes, available, kernels.ErrOutOfMemory)
		}
	}
	p := C.mc_alloc(C.int64_t(bytes))
	if p == nil {
		return nil, fmt.Errorf("cpu: alloc: %d bytes: %w", bytes, kernels.ErrOutOfMemory)
	}
	m := &memory{p: p, bytes: bytes, owner: b}
	b.mu.Lock()
	b.live[m] = true
	b.mu.Unlock()
	return m, nil
}

func (b *backend) Alloc(bytes int64) (kernels.Buffer, error) {
	m, err := b.allocate(bytes)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// bytesAt is the host's view of a contiguous tensor.
func bytesAt(t kernels.Tensor, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(t.Buf.(*memory).p, t.Offset)), n)
}

func (b *backend) Upload(dst kernels.Tensor, src []byte) error {
	if err := kernels.CheckTransfer("Upload", dst, len(src)); err != nil {
		return err
	}
	if err := b.own("Upload", dst); err != nil {
		return err
	}
	if b.n == 0 {
		copy(bytesAt(dst, len(src)), src)
		return nil
	}
	c := b.command(C.MC_OP_UPLOAD)
	c.t[0] = view(dst)
	c.n[0] = C.int64_t(len(src))
	c.extra = C.CBytes(src)
	return nil
}

func (b *backend) Download(dst []byte, src kernels.Tensor) error {
	if err := kernels.CheckTransfer("Download", src, len(dst)); err != nil {
		return err
	}
	if err := b.own("Download", src); err != nil {
		return err
	}
	if err := b.Sync(); err != nil {
		return err
	}
	copy(dst, bytesAt(src, len(dst)))
	return nil
}

func (b *backend) Sync() error {
	b.flush()
	err := b.err
	b.err = nil
	return err
}

// maxCommands bounds the list; a longer one runs in pieces.
const maxCommands = 8192

// command appends an empty command to the list.
func (b *backend) command(op C.int32_t) *C.mc_cmd {
	if b.n == maxCommands {
		b.flush()
	}
	if b.n == b.size {
		b.size = max(256, 2*b.size)
		b.cmds = (*C.mc_cmd)(C.realloc(unsafe.Pointer(b.cmds), C.size_t(b.size)*C.sizeof_mc_cmd))
		if b.cmds == nil {
			panic("cpu: no memory for the command list")
		}
	}
	c := &unsafe.Slice(b.cmds, b.size)[b.n]
	b.n++
	*c = C.mc_cmd{op: op}
	return c
}

// flush runs the list and frees what was waiting for it.
func (b *backend) flush() {
	if b.n == 0 {
		return
	}
	bad := b.bad
	*bad = C.mc_error{}
	rc := C.mc_run(b.isa, b.cmds, C.int64_t(b.n), C.int(b.threads), bad)
	for _, c := range unsafe.Slice(b.cmds, b.n) {
		C.free(c.extra)
	}
	if rc != 0 && b.err == nil {
		b.err = fmt.Errorf("cpu: run: scratch memory: %w", kernels.ErrOutOfMemory)
	}
	if bad.code != 0 && b.err == nil {
		b.err = &kernels.DeviceError{
			Call: "kernel " + opNames[int(bad.op)], Code: int(bad.code), Name: "bad operand",
			Text: fmt.Sprintf("value %d at %d is out of range, limit %d", int64(bad.value), int64(bad.index), int64(bad.limit)),
		}
	}
	b.mu.Lock()
	b.n = 0
	for _, m := range b.garbage {
		m.release()
	}
	b.garbage = b.garbage[:0]
	b.mu.Unlock()
}

func (b *backend) Close() error {
	b.flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	for m := range b.live {
		m.release()
	}
	clear(b.live)
	C.free(unsafe.Pointer(b.cmds))
	C.free(unsafe.Pointer(b.bad))
	b.cmds, b.bad, b.size = nil, nil, 0
	C.mc_pool_release()
	return nil
}

// poolThreads is the number of live pool threads of the process.
func poolThreads() int { return int(C.mc_pool_threads()) }
