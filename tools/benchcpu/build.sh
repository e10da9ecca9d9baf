#!/usr/bin/env bash
# build.sh DIR: gets OpenVINO's wheel and llama.cpp (the source inside the llama-cpp-python source package), builds its benchmarks for
# this CPU, and the measuring programs beside this script, into DIR. About 15 minutes of 2 quiet cores; what is there
# already is kept. Needs python3 with venv, cmake, ninja, a C++17 compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/gguf" && cd "$1" && dir=$PWD
jobs=${JOBS:-2} version=${LLAMA_CPP_PYTHON:-0.3.36}
[ -d venv ] || python3 -m venv venv
venv/bin/pip install -q gguf==0.19.0 openvino==2026.4.0 numpy scikit-build-core flit_core
if [ ! -d "llama_cpp_python-$version" ]; then
  venv/bin/pip download -q --no-deps --no-build-isolation --no-binary llama-cpp-python -d dl "llama-cpp-python==$version"
  tar xzf "dl/llama_cpp_python-$version.tar.gz"
fi
src=$dir/llama_cpp_python-$version/vendor/llama.cpp
# gcc 12's _tile_loadconfig says that it reads 8 of the 64 bytes, so the compiler drops the other stores and llama.cpp
# dies of a bad tile shape on a machine with AMX. Its AMX products are its best there: tell the compiler.
amx=$src/ggml/src/ggml-cpu/amx/mmq.cpp
grep -q 'all of tc is read' "$amx" || sed -i 's|^\( *\)_tile_loadconfig(&tc);|\1__asm__ volatile("" : : "r"(\&tc) : "memory"); // all of tc is read\n&|' "$amx"
nice cmake -S "$src" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DBUILD_SHARED_LIBS=OFF \
  -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF > cmake.log
nice ninja -C build -j"$jobs" llama-bench llama-batched-bench mtmd | tail -1
gcc -O3 -march=native -pthread "$here/machine.c" -o machine
nice g++ -O2 -std=c++17 -I"$src/include" -I"$src/ggml/include" -I"$src/tools/mtmd" "$here/vision_bench.cpp" -o vision_bench \
  "$(find build -name libmtmd.a)" "$(find build -name libllama.a)" \
  -Wl,--start-group $(find build -name 'libggml*.a') -Wl,--end-group -fopenmp -lpthread -ldl
echo "$version" > llama.version
