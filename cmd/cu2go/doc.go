// Command cu2go compiles the CUDA kernels of kernels/cuda/src ahead of time and
// writes what the backend embeds:
//
//   - bin/FILE.ARCH.cubin.gz for every architecture, and bin/FILE.compute_80.ptx.gz,
//     which the driver compiles where no cubin fits;
//   - bin/MANIFEST.json: a hash of the sources, and registers, spilled bytes, static
//     shared bytes and parameter bytes of each kernel;
//   - kernels_gen.go: Go mirrors of the parameter blocks and the table of kernels;
//   - src/layout_gen.cuh: compile-time checks that the mirrors have the same layout.
//
// The compiler is NVRTC 12.9 from the Python package nvidia-cuda-nvrtc-cu12 (no
// toolkit and no GPU needed); `make generate` fetches it into build/nvrtc. Its
// output depends on the sources and options alone, so `make generate-check` can
// rebuild and compare bytes. Files whose hash is unchanged are not recompiled
// unless -all is given.
//
//	go run ./cmd/cu2go [-dir kernels/cuda] [-nvrtc build/nvrtc] [-define NAME] [-all]
package main
