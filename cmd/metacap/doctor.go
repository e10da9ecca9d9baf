package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/cpu"

	"metacap/engine"
)

// doctorCmd is metacap doctor.
type doctorCmd struct {
	JSON   bool     `name:"json" help:"As one JSON object."`
	Model  string   `short:"m" placeholder:"DIR" help:"Also plan the memory of this checkpoint on every device; demo = the embedded model."`
	Memory bytesize `default:"0" placeholder:"SIZE" help:"Most memory to plan with, as 20GiB; 0 = what is free."`
}

func (*doctorCmd) examples() string {
	return `
  metacap doctor
  metacap doctor --json
  metacap doctor -m ~/models/MetaCaptioner-8B      does it fit, and where does the memory go
`
}

// doctorRecord is what doctor finds.
type doctorRecord struct {
	Build   buildRecord    `json:"build"`
	CPU     cpuRecord      `json:"cpu"`
	Memory  memoryRecord   `json:"memory"`
	Devices []deviceRecord `json:"devices"`
	Default string         `json:"default_device"`
	Plans   []planRecord   `json:"memory_plans,omitempty"`
	GPU     gpuRecord      `json:"gpu"`
}

// cpuRecord describes the processor; Features are those that kernels use.
type cpuRecord struct {
	Model    string   `json:"model"`
	Threads  int      `json:"threads"` // of the machine
	Usable   int      `json:"usable"`  // by this process, after affinity and container limits
	Features []string `json:"features"`
	Missing  []string `json:"missing"`
}

// memoryRecord is in bytes; 0 = unknown.
type memoryRecord struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
	Limit     int64 `json:"container_limit,omitempty"`
}

// deviceRecord is a backend and, if it cannot be used, why.
type deviceRecord struct {
	Name   string `json:"name"`
	Device string `json:"device,omitempty"`
	Total  int64  `json:"memory_total,omitempty"`
	Free   int64  `json:"memory_free,omitempty"`
	Error  string `json:"error,omitempty"`
}

// planRecord is what a model takes on a device, computed from shapes, or why it does not fit.
type planRecord struct {
	budgetRecord
	Error string `json:"error,omitempty"`
}

// gpuRecord says what the system knows of NVIDIA GPUs, without the driver library.
type gpuRecord struct {
	Driver string `json:"kernel_driver,omitempty"`
	Nodes  int    `json:"device_nodes"`
}

// Run is called by kong.
func (c *doctorCmd) Run(a *app) error {
	r := examine()
	if c.Model != "" {
		r.plan(&engineFlags{Model: c.Model, Memory: c.Memory, Dtype: "auto"}, a)
	}
	if c.JSON {
		return writeJSON(a.stdout, r)
	}
	return r.print(a.stdout)
}

// examine looks at the machine.
func examine() *doctorRecord {
	r := &doctorRecord{Build: build(), Memory: memory()}
	r.CPU = cpuRecord{Model: field("/proc/cpuinfo", "model name"), Threads: runtime.NumCPU(), Usable: runtime.GOMAXPROCS(0)}
	if r.CPU.Model == "" {
		r.CPU.Model = runtime.GOARCH
	}
	for _, f := range features() {
		if f.have {
			r.CPU.Features = append(r.CPU.Features, f.name)
		} else {
			r.CPU.Missing = append(r.CPU.Missing, f.name)
		}
	}
	for _, d := range engine.Devices() {
		rec := deviceRecord{Name: d.Name, Device: d.Info.Device, Total: d.Info.MemoryBytes, Free: d.Info.FreeBytes}
		if d.Err != nil {
			rec.Error = d.Err.Error()
		} else if r.Default == "" {
			r.Default = d.Name // Devices lists them in the order of "auto"
		}
		r.Devices = append(r.Devices, rec)
	}
	r.GPU = gpu()
	return r
}

// feature is a CPU feature that kernels make use of.
type feature struct {
	name string
	have bool
}

func features() []feature {
	switch runtime.GOARCH {
	case "amd64":
		return []feature{
			{"avx2", cpu.X86.HasAVX2},
			{"fma", cpu.X86.HasFMA},
			{"avx512f", cpu.X86.HasAVX512F},
			{"avx512bw", cpu.X86.HasAVX512BW},
			{"avx512vl", cpu.X86.HasAVX512VL},
			{"avx512vnni", cpu.X86.HasAVX512VNNI},
			{"avx512bf16", cpu.X86.HasAVX512BF16},
			{"amx-tile", cpu.X86.HasAMXTile},
			{"amx-bf16", cpu.X86.HasAMXBF16},
		}
	case "arm64":
		return []feature{{"asimd", cpu.ARM64.HasASIMD}, {"asimddp", cpu.ARM64.HasASIMDDP}, {"sve", cpu.ARM64.HasSVE}}
	}
	return nil
}

// field is the value of the first "key : value" line of a file under /proc; "" if there is none.
func field(file, key string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		k, v, ok := strings.Cut(lines.Text(), ":")
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// memory reads the machine's memory and the limit of its container.
func memory() memoryRecord {
	kilobytes := func(key string) int64 {
		n, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", key), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	m := memoryRecord{Total: kilobytes("MemTotal"), Available: kilobytes("MemAvailable")}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// "max", or a number near 2^63, means no limit.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n < m.Total {
			m.Limit = n
		}
		break
	}
	return m
}

// gpu looks for NVIDIA's kernel driver and device nodes.
func gpu() gpuRecord {
	var r gpuRecord
	if data, err := os.ReadFile("/proc/driver/nvidia/version"); err == nil {
		line, _, _ := strings.Cut(string(data), "\n")
		r.Driver = strings.TrimSpace(strings.TrimPrefix(line, "NVRM version:"))
	}
	entries, _ := os.ReadDir("/dev")
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), "nvidia"); ok {
			if _, err := strconv.Atoi(n); err == nil {
				r.Nodes++
			}
		}
	}
	return r
}

func (r *doctorRecord) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	kernels := "C kernels"
	if !r.Build.Cgo {
		kernels = "pure Go kernels: this binary was built without cgo, which makes the CPU several times slower"
	}
	fmt.Fprintf(t, "metacap\t%s, %s, %s\n", r.Build.Version, r.Build.System, kernels)
	fmt.Fprintf(t, "cpu\t%s, %d threads, %d usable\n", r.CPU.Model, r.CPU.Threads, r.CPU.Usable)
	fmt.Fprintf(t, "\thas %s\n", orNone(r.CPU.Features))
	fmt.Fprintf(t, "\tlacks %s\n", orNone(r.CPU.Missing))
	limit := ""
	if r.Memory.Limit > 0 {
		limit = ", container limit " + size(r.Memory.Limit)
	}
	fmt.Fprintf(t, "memory\t%s, %s available%s\n", size(r.Memory.Total), size(r.Memory.Available), limit)
	switch {
	case r.GPU.Driver != "":
		fmt.Fprintf(t, "gpu driver\t%s, %s\n", r.GPU.Driver, plural(r.GPU.Nodes, "device node"))
	case r.GPU.Nodes > 0:
		fmt.Fprintf(t, "gpu driver\tkernel driver unknown, %s\n", plural(r.GPU.Nodes, "device node"))
	default:
		fmt.Fprintf(t, "gpu driver\tno NVIDIA kernel driver, no /dev/nvidia*\n")
	}
	for _, d := range r.Devices {
		switch {
		case d.Error != "":
			fmt.Fprintf(t, "%s\tabsent: %s\n", d.Name, d.Error)
		default:
			text := d.Device
			if d.Name == r.Default {
				text += "  (the default)"
			}
			fmt.Fprintf(t, "%s\t%s\n", d.Name, text)
		}
	}
	model := "embedded; knows only drawn pictures"
	if !r.Build.Model {
		model = "none embedded; give one with -m"
	}
	fmt.Fprintf(t, "model\t%s\n", model)
	for _, p := range r.Plans {
		if p.Error != "" {
			fmt.Fprintf(t, "plan on %s\t%s\n", p.Device, p.Error)
			continue
		}
		fmt.Fprintf(t, "plan on %s\t%s\n", p.Device, p.text())
	}
	return t.Flush()
}

// plan computes the memory of a model on every usable device.
func (r *doctorRecord) plan(f *engineFlags, a *app) {
	for _, d := range r.Devices {
		if d.Error != "" {
			continue
		}
		f.Device = d.Name
		b, err := f.memoryPlan(a)
		p := planRecord{budgetRecord: budgetOf(d.Name, b)}
		if err != nil {
			p.Error = err.Error()
		}
		r.Plans = append(r.Plans, p)
	}
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, " ")
}
