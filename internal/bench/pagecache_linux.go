package bench

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mostCached is the share of a file that may stay in the page cache when it is dropped.
const mostCached = 0.02

// dropCached puts a file out of the page cache and makes sure that it is out: pages
// that another process maps stay, and so does everything on some file systems.
func dropCached(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // dirty pages stay
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop %s from the page cache: %w", name, err)
	}
	share, err := cached(f)
	if err != nil {
		return err
	}
	if share > mostCached {
		return fmt.Errorf("%.0f %% of %s stay in the page cache: it is mapped by a process, or its file system keeps it", 100*share, name)
	}
	return nil
}

// cached is the share of a file's pages that are in the page cache.
func cached(f *os.File) (float64, error) {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return 0, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	defer unix.Munmap(m)
	resident := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, no := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&resident[0]))); no != 0 {
		return 0, fmt.Errorf("mincore of %s: %w", f.Name(), no)
	}
	in := 0
	for _, b := range resident {
		in += int(b & 1)
	}
	return float64(in) / float64(len(resident)), nil
}
