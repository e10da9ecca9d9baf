package cuda

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"metacap/kernels"
	"metacap/kernels/cuda/driver"
)

// kernelInfo is an entry of the generated kernelTable.
type kernelInfo struct {
	name, file string
	threads    int // largest cta
	paramBytes int
}

// maxImageBytes bounds an unpacked cubin or PTX text.
const maxImageBytes = 16 << 20

// imageNames lists the binaries of a source file to try on a device, best first.
// Cubins run on their own major version from their minor version on; the "a"
// variants on their own version only; PTX anywhere from 8.0 on.
func imageNames(file string, major, minor int) []string {
	var archs []string
	switch {
	case major == 8 && minor >= 9:
		archs = []string{"sm_89.cubin", "sm_86.cubin", "sm_80.cubin"}
	case major == 8 && minor >= 6:
		archs = []string{"sm_86.cubin", "sm_80.cubin"}
	case major == 8:
		archs = []string{"sm_80.cubin"}
	case major == 9 && minor == 0:
		archs = []string{"sm_90a.cubin"}
	case major == 10 && minor == 0:
		archs = []string{"sm_100a.cubin"}
	case major == 12:
		archs = []string{"sm_120.cubin"}
	}
	names := make([]string, 0, len(archs)+1)
	for _, a := range append(archs, "compute_80.ptx") {
		names = append(names, "bin/"+file+"."+a+".gz")
	}
	return names
}

// modules are the loaded kernels of a device.
type modules struct {
	loaded    []*driver.Module
	functions [numKernels]*driver.Function
}

// load loads every file that has an image for the device. Kernels of a file
// without one (kernels for one architecture only) stay nil.
func (m *modules) load(ctx *driver.Context, major, minor int) error {
	byFile := map[string]*driver.Module{}
	for id, info := range kernelTable {
		mod, seen := byFile[info.file]
		if !seen {
			var err error
			if mod, err = m.loadFile(ctx, info.file, major, minor); err != nil {
				return err
			}
			byFile[info.file] = mod
		}
		if mod == nil {
			continue
		}
		fn, err := mod.Function(info.name)
		if err != nil {
			return err
		}
		m.functions[id] = fn
	}
	return nil
}

func (m *modules) loadFile(ctx *driver.Context, file string, major, minor int) (*driver.Module, error) {
	var refused error
	for _, name := range imageNames(file, major, minor) {
		image, err := readImage(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		mod, err := ctx.LoadModule(image)
		var dev *kernels.DeviceError
		if errors.As(err, &dev) && dev.Code == driver.CodeNoBinary {
			refused = err
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cuda: load %s: %w", name, err)
		}
		m.loaded = append(m.loaded, mod)
		return mod, nil
	}
	if refused != nil {
		return nil, fmt.Errorf("cuda: no kernel image of %s fits compute capability %d.%d: %w: %w", file, major, minor, kernels.ErrUnavailable, refused)
	}
	return nil, nil
}

func readImage(name string) ([]byte, error) {
	f, err := binaries.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("cuda: %s: %w", name, err)
	}
	image, err := io.ReadAll(io.LimitReader(z, maxImageBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cuda: %s: %w", name, err)
	}
	if len(image) > maxImageBytes {
		return nil, fmt.Errorf("cuda: %s: image exceeds %d bytes", name, maxImageBytes)
	}
	return image, nil
}

// close unloads everything and returns the first error.
func (m *modules) close() error {
	var first error
	for _, mod := range m.loaded {
		if err := mod.Close(); err != nil && first == nil {
			first = err
		}
	}
	*m = modules{}
	return first
}
