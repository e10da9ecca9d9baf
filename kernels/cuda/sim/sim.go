// Package sim builds a simulated CUDA driver: the kernels of kernels/cuda/src
// compiled as C++, with every CUDA thread a fibre, behind the functions of the
// driver API that package driver binds. Tests load it instead of libcuda.so.1, so
// that the unchanged binding, backend and kernels run on machines without a GPU.
//
// It finds what a GPU often hides: reads of undefined memory (everything is
// poisoned), writes past an allocation, copies out of bounds, barriers that not all
// threads reach, divergent warp collectives, asynchronous copies nobody waited for,
// host memory reused before a copy was made, leaks. Any driver call can be made to
// fail.
//
// It has two devices: 0 reports compute capability 8.0, so that the portable kernels
// run; 1 reports 9.0, for Hopper's tensor maps, barriers in shared memory, clusters and
// products of warpgroups. Of these it finds: barriers whose arrivals or bytes never
// come (with what each thread waits for), slots of a ring that are read before they are
// full or filled while they are read, wrong descriptors and tensor maps, sums touched
// before a wait, a missing fence. It knows neither time nor the dependent launch: a
// kernel begins when the one in front has ended.
//
// native/ holds the C++ part; it needs g++ on x86-64 Linux.
package sim

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"metacap/kernels/cuda/driver"
	"metacap/kernels/cuda/src"
)

//go:embed native
var native embed.FS

// ErrNoCompiler occurs where the simulator cannot be built: no g++, or not x86-64 Linux.
var ErrNoCompiler = errors.New("no g++ for x86-64 Linux")

// Options say how to build the library.
type Options struct {
	// Dir receives the library; files of equal sources are reused. Empty: the user's cache folder.
	Dir string
	// Sanitize is passed to -fsanitize: "address,undefined". A process that loads an
	// address-sanitized library must run with libasan.so in LD_PRELOAD.
	Sanitize string
	// Kernels holds other kernels than those of package src, for tests of the simulator.
	Kernels fs.FS
}

// Build compiles the simulator and returns the path of the library.
func Build(opt Options) (string, error) {
	gxx, err := exec.LookPath("g++")
	if err != nil || runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("sim: build: %w", ErrNoCompiler)
	}
	texts := map[string][]byte{}
	var units []string
	hash := sha256.New()
	flags := compilerFlags(opt.Sanitize)
	fmt.Fprintln(hash, flags)
	kernels := opt.Kernels
	if kernels == nil {
		kernels = src.Files
	}
	for _, from := range []fs.FS{native, src.Files, kernels} {
		err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(from, name)
			if err != nil {
				return err
			}
			base, ext := filepath.Base(name), filepath.Ext(name)
			if texts[base] != nil || ext == ".cu" && from != kernels {
				return nil
			}
			texts[base] = data
			fmt.Fprintf(hash, "%s %d\n%s", base, len(data), data)
			if ext == ".cc" || ext == ".cu" {
				units = append(units, base)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	dir := opt.Dir
	if dir == "" {
		if dir, err = os.UserCacheDir(); err != nil {
			dir = os.TempDir()
		}
		dir = filepath.Join(dir, "metacap")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	lib := filepath.Join(dir, "cuda-simulator-"+hex.EncodeToString(hash.Sum(nil))[:16]+".so")
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	return lib, compile(gxx, dir, lib, flags, opt.Sanitize, texts, units)
}

// compilerFlags let the kernels' fmaf be an instruction where this machine has it: it
// is most of the time of the float32 kernel.
func compilerFlags(sanitize string) []string {
	flags := []string{"-std=c++17", "-O2", "-fPIC", "-DMC_SIM", "-I.", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-ffp-contract=off"}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && bytes.Contains(info, []byte(" fma ")) && bytes.Contains(info, []byte(" avx2 ")) {
		flags = append(flags, "-mavx2", "-mfma")
	}
	if sanitize != "" {
		flags = append(flags, "-g", "-fno-omit-frame-pointer", "-fsanitize="+sanitize, "-fno-sanitize-recover=undefined")
	}
	return flags
}

// compile builds the units two at a time and links them to lib.
func compile(gxx, dir, lib string, flags []string, sanitize string, texts map[string][]byte, units []string) error {
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for name, data := range texts {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o600); err != nil {
			return err
		}
	}
	errs := make([]error, len(units))
	limit := make(chan struct{}, 2)
	done := make(chan struct{})
	var objects []string
	for i, unit := range units {
		object := unit + ".o"
		objects = append(objects, object)
		go func() {
			limit <- struct{}{}
			errs[i] = call(work, gxx, append(slices.Clip(flags), "-x", "c++", "-c", unit, "-o", object))
			<-limit
			done <- struct{}{}
		}()
	}
	for range units {
		<-done
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	link := append([]string{"-shared", "-o", "lib.so", "-ldl"}, objects...)
	if sanitize != "" {
		link = append(link, "-fsanitize="+sanitize)
	}
	if err := call(work, gxx, link); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "lib.so"), lib)
}

func call(dir, gxx string, args []string) error {
	cmd := exec.Command(gxx, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sim: build: %w\n%s", err, out)
	}
	return nil
}

// Counter is something that the simulator counts.
type Counter uint64

// What is alive, and what has happened so far.
const (
	Allocations Counter = iota
	AllocatedBytes
	HostAllocations
	Streams
	Events
	Modules
	Graphs
	Contexts
	Calls
	Copies
	CopiedBytes
	Launches
	Overlapped // launches that may begin before the kernel in front has ended
	Disorder   // things taken apart while others still needed them
)

// Live are the counters that must be zero when everything is closed.
var Live = []Counter{Allocations, AllocatedBytes, HostAllocations, Streams, Events, Modules, Graphs, Contexts}

// Control steers the simulator behind a driver.
type Control struct{ Driver *driver.Driver }

// Count reads a counter.
func (c Control) Count(which Counter) (uint64, error) {
	return c.Driver.Extension("sim_counter", uint64(which))
}

// Fail makes the driver call after the next `after` calls return code; after < 0 switches it off.
func (c Control) Fail(after, code int) error {
	_, err := c.Driver.Extension("sim_fail", uint64(after), uint64(code))
	return err
}

// SetMemory sets the bytes of device memory; 2 GiB at first.
func (c Control) SetMemory(bytes int64) error {
	_, err := c.Driver.Extension("sim_set_memory", uint64(bytes))
	return err
}

// Shuffle makes the order of threads and of copies random; 0 ends that.
func (c Control) Shuffle(seed uint64) error {
	_, err := c.Driver.Extension("sim_shuffle", seed)
	return err
}

// Failure is what the last kernel that failed did wrong.
func (c Control) Failure() (string, error) {
	var text []byte
	for i := uint64(0); ; i++ {
		word, err := c.Driver.Extension("sim_failure", i)
		if err != nil {
			return "", err
		}
		text = binary.LittleEndian.AppendUint64(text, word)
		if end := bytes.IndexByte(text[i*8:], 0); end >= 0 {
			return string(text[:int(i)*8+end]), nil
		}
	}
}

// ClearError forgets a device error, which otherwise lasts as on a device.
func (c Control) ClearError() error {
	_, err := c.Driver.Extension("sim_clear_error")
	return err
}

// Leaks lists the counters of live things that are not zero.
func (c Control) Leaks() (map[Counter]uint64, error) {
	leaks := map[Counter]uint64{}
	for _, which := range Live {
		n, err := c.Count(which)
		if err != nil {
			return nil, err
		}
		if n != 0 {
			leaks[which] = n
		}
	}
	return leaks, nil
}
