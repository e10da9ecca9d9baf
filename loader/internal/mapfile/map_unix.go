//go:build unix

package mapfile

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapOrRead(f *os.File, size int) ([]byte, bool, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	return b, true, os.NewSyscallError("mmap", err)
}

func unmap(b []byte) error { return os.NewSyscallError("munmap", unix.Munmap(b)) }

// drop ignores the result: the advice is free to have no effect.
func drop(b []byte) { _ = unix.Madvise(b, unix.MADV_DONTNEED) }
