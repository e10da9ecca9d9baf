package engine

import (
	"cmp"
	"strconv"

	"metacap/kernels"
	"metacap/kernels/cuda"
)

// OpenSimulator adds the backend "sim": the CUDA backend on a simulated driver. "sim:1" is
// the device that runs Hopper's kernels.
func OpenSimulator(library string) {
	backends = append(backends, backend{name: "sim", open: func(which string, _ int) (kernels.Backend, error) {
		ordinal, err := strconv.Atoi(cmp.Or(which, "0"))
		if err != nil {
			return nil, err
		}
		b, err := cuda.Open(cuda.Options{Library: library, Device: ordinal})
		if err != nil {
			return nil, err
		}
		return b, nil
	}})
}
