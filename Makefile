# Targets of metacap. `make help` lists them.
GO      ?= go
PYTHON  ?= python3
BIN     := bin/metacap
FUZZTIME ?= 30s
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build test test-nocgo test-openai test-sim-sanitize sanitizer test-cuda bench-cuda cuda-kit race test-long lint generate generate-check fuzz bench bench-cpu demo licenses fixtures train-smoke clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/metacap
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/metacap

test: ## run every test that needs no GPU
	$(GO) test ./...

test-nocgo: ## the same, without a C compiler
	CGO_ENABLED=0 $(GO) test -timeout 30m ./...

# The simulator is loaded into a program without the sanitizers' runtime, so that goes in first.
test-sim-sanitize: ## the CUDA kernels in the simulator under the address and undefined-behaviour sanitizers (minutes)
	METACAP_SIM_SANITIZE=address,undefined METACAP_REQUIRE=g++ ASAN_OPTIONS=detect_leaks=0:handle_segv=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" $(GO) test -count=1 -timeout 60m ./kernels/cuda/...

# compute-sanitizer, from its Python package; it finds its libraries only in its own folder.
SANITIZER_DIR := build/sanitizer
$(SANITIZER_DIR)/compute-sanitizer:
	mkdir -p $(SANITIZER_DIR)
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: -d $(SANITIZER_DIR) nvidia-cuda-sanitizer-api-cu12==12.9.79
	cd $(SANITIZER_DIR) && unzip -oqj nvidia_cuda_sanitizer_api_cu12-12.9.79-*.whl 'nvidia/cuda_sanitizer_api/bin/*' 'nvidia/cuda_sanitizer_api/lib/*' && rm -f *.whl
	chmod +x $@

sanitizer: $(SANITIZER_DIR)/compute-sanitizer ## fetch NVIDIA's compute-sanitizer for test-cuda

test-openai: ## CapFlow over OpenAI's protocol, against the types of the official Go client (a module of its own)
	cd tools/openai && $(GO) vet ./... && $(GO) test ./...

test-cuda: cuda-kit ## on a GPU: conformance, parity, compute-sanitizer (or make sanitizer) and a soak; verdicts to docs/results
	DEADLINE=3600 tools/benchcuda/device.sh build/device-results facts checks sanitize soak
	cp build/device-results/cuda-conformance-*.json build/device-results/soak-cuda.json docs/results/

PEERS ?=
LLAMA ?=
bench-cuda: build ## on a GPU, 8B shape: metacap against torch and transformers (PEERS=python), llama.cpp (LLAMA=folder), into docs/results
	$(PYTHON) tools/benchcuda/bench.py --metacap $(BIN) --out docs/results $(if $(PEERS),--peers $(PEERS)) $(if $(LLAMA),--llama $(LLAMA)) $(BENCH_CUDA_FLAGS)

cuda-kit: ## build/cuda-kit and build/cuda-kit.tar.xz: what tools/benchcuda/device.sh runs on a GPU box that has no Go
	rm -rf build/cuda-kit && mkdir -p build/cuda-kit
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/cuda-kit/metacap ./cmd/metacap
	$(GO) test -c -trimpath -ldflags '-s -w' -o build/cuda-kit/cuda.test ./kernels/cuda
	$(GO) test -c -trimpath -ldflags '-s -w' -o build/cuda-kit/engine.test ./engine
	echo '$(VERSION)' > build/cuda-kit/commit
	# One stream with a window over all of it: two of the programs carry the same model.
	tar -C build -c cuda-kit | xz -T1 -9 > build/cuda-kit.tar.xz

race: ## tests under the race detector; the kernels' C code and their own long suite are left out
	$(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v '^metacap/kernels/')

test-long: ## the engine's randomised tests at full size: thousands of scenarios, 10,000 requests (ten minutes)
	METACAP_LONG=1 $(GO) test -count=1 -timeout 60m -v -run 'TestDifferential$$|TestDifferentialReal|TestConstrained|TestNoCrossTalk|TestStorms|TestClose' ./engine

lint: ## gofumpt, go vet, staticcheck
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '^third_party/')); \
	  if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags s3 ./cmd/metacap
	$(TOOL) staticcheck ./...

# NVRTC 12.9, the compiler of the CUDA kernels, from its Python package.
NVRTC := build/nvrtc/libnvrtc.so.12
$(NVRTC):
	mkdir -p build/nvrtc
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: -d build/nvrtc nvidia-cuda-nvrtc-cu12==12.9.86
	cd build/nvrtc && unzip -oqj nvidia_cuda_nvrtc_cu12-12.9.86-*.whl 'nvidia/cuda_nvrtc/lib/*'

generate: $(NVRTC) ## rewrite the generated files
	$(GO) generate ./...

generate-check: generate ## fail if a generated file is out of date; kernels are compiled anew
	$(GO) run ./cmd/cu2go -all
	git diff --exit-code

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$pkg; \
	  done; done

bench: ## Go benchmarks of every package, six runs, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count 6 ./...

BENCH_CPU ?= build/bench-cpu
bench-cpu: build ## metacap on the CPU against llama.cpp, interleaved, into docs/results
	tools/benchcpu/build.sh $(BENCH_CPU)
	$(PYTHON) tools/benchcpu/bench.py --dir $(BENCH_CPU) --metacap $(BIN) --out docs/results $(BENCH_CPU_FLAGS)

demo: build ## build the binary and caption the bundled pictures
	@cd testdata/drawn && ../../$(BIN) caption -v --parallel 1 [!v]*.png 2>&1
	@cd testdata/drawn && for f in video_*_f1.png; do ../../$(BIN) caption -v -m demo --video $${f%_f1.png}_f*.png 2>&1 || exit 1; done

licenses: ## rewrite LICENSES/modules.txt
	tools/licenses.sh

fixtures: ## make the full set of parity fixtures under build/fixtures (Python 3.11)
	tools/fixtures/make.sh build/fixtures

TRAIN_OUT := build/train-smoke
train-smoke: ## train a micro configuration for a minute on the CPU: the loss must fall and the engine must load the files (tools/train/requirements.txt)
	rm -rf $(TRAIN_OUT) && mkdir -p $(TRAIN_OUT)
	OMP_NUM_THREADS=1 $(PYTHON) tools/train/train.py --micro --steps 80 --seconds 60 --warm 5 --chunks 1 --workers 0 --lr 4e-3 --score 0 --tok internal/demo/model --out $(TRAIN_OUT)
	$(PYTHON) -c "import json; l = [r['loss'] for r in map(json.loads, open('$(TRAIN_OUT)/log.jsonl')) if 'loss' in r]; print('loss', l[0], '->', l[-1]); assert l[-1] < .9 * l[0]"
	echo '{"id": 0, "files": ["testdata/drawn/ui_700040.png"], "prompt": "Describe the image.", "most": 8}' | $(GO) run ./cmd/drawneval -m $(TRAIN_OUT)/model

clean: ## remove what the targets built
	rm -rf bin build
