package cpu

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"

	"metacap/kernels"
)

// Options says how to open the backend. The zero value is the best instruction set
// and all cores that the process may use.
type Options struct {
	// Threads is the number of threads, the caller's included; 0 = runtime.GOMAXPROCS,
	// which respects affinity masks and container quotas.
	Threads int
	// ISA forces an instruction set: one of ISAs(), or amx_emulated, the tile code with
	// tiles in plain C, which is for tests. "" = the best that runs here.
	ISA string
}

// threads is the number of threads that opt asks for.
func (opt Options) threads() int {
	if opt.Threads > 0 {
		return min(opt.Threads, 512)
	}
	return runtime.GOMAXPROCS(0)
}

// Open returns the processor backend. ErrUnavailable (wrapped, with the choices)
// if opt.ISA does not exist or does not run on this machine.
func Open(opt Options) (kernels.Backend, error) { return open(opt) }

// ISAs lists the instruction sets that run on this machine, best first.
func ISAs() []string { return isas() }

// memoryBytes returns the bytes of memory of the machine or container, and how many of
// them are available. Zeros where the system does not say.
func memoryBytes() (total, available int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	if limit := number("/sys/fs/cgroup/memory.max"); limit > 0 && limit < total {
		used := number("/sys/fs/cgroup/memory.current")
		total, available = limit, min(available, limit-used)
	}
	return total, max(available, 0)
}

// number reads a file that holds one integer; 0 if it does not.
func number(path string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return n
}

// processor is the name of the processor.
func processor() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for _, line := range strings.Split(string(raw), "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
