# Targets of metacap. `make help` lists them.
GO      ?= go
PYTHON  ?= python3
BIN     := bin/metacap
FUZZTIME ?= 30s
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build test test-nocgo test-cuda race lint generate generate-check fuzz bench demo licenses fixtures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/metacap
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/metacap

test: ## run every test that needs no GPU
	$(GO) test ./...

test-nocgo: ## the same, without a C compiler
	CGO_ENABLED=0 $(GO) test ./...

test-cuda: ## the conformance suite and the models on a GPU; a missing GPU is a failure
	METACAP_REQUIRE=cuda $(GO) test ./kernels/... ./engine/...

race: ## tests under the race detector; the kernels' C code and their own long suite are left out
	$(GO) test -race $$($(GO) list ./... | grep -v '^metacap/kernels/')

lint: ## gofumpt, go vet, staticcheck
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '^third_party/')); \
	  if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
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
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

bench: ## Go benchmarks of every package, six runs, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count 6 ./...

demo: build ## build the binary and caption the bundled pictures
	@cd testdata/drawn && ../../$(BIN) caption -v --parallel 1 [!v]*.png 2>&1
	@cd testdata/drawn && ../../$(BIN) caption -v -m demo --video video_*.png 2>&1

licenses: ## rewrite LICENSES/modules.txt
	tools/licenses.sh

fixtures: ## make the full set of parity fixtures under build/fixtures (Python 3.11)
	tools/fixtures/make.sh build/fixtures

clean: ## remove what the targets built
	rm -rf bin build
