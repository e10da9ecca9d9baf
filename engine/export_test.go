package engine

import (
	"metacap/kernels"
	"metacap/kernels/cuda"
)

// OpenSimulator adds the backend "sim": the CUDA backend on a simulated driver.
func OpenSimulator(library string) {
	backends = append(backends, backend{name: "sim", open: func(string, int) (kernels.Backend, error) {
		b, err := cuda.Open(cuda.Options{Library: library})
		if err != nil {
			return nil, err
		}
		return b, nil
	}})
}
