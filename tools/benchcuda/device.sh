#!/bin/bash
# device.sh OUT [STAGE...] - everything that a GPU can prove, in about ten minutes, most valuable first.
#
# Stages: facts conformance parity bench sanitize soak kernels. Each has a time limit, none stops the next; OUT receives
# cuda-conformance-*.json, cuda-bench-*.md and .json, soak-cuda.json, sanitizer.txt, kernels.txt, log.txt and
# summary.txt, whose last line says whether all passed.
#
# It needs build/cuda-kit or build/cuda-kit.tar.xz of `make cuda-kit`, or Go to make them. Optional: PEERS, a Python with torch and
# transformers; LLAMA, a folder as bench.py describes; SANITIZER, the program compute-sanitizer
# (default: build/sanitizer/compute-sanitizer, which the kit brings, or one on the PATH).
set -u
cd "$(dirname "$0")/../.."
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
stages=${*:-facts conformance parity bench sanitize soak kernels}
kit=$PWD/build/cuda-kit
failed=""
: >"$out/summary.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }

# step NAME SECONDS COMMAND...: runs it with a limit and notes how it ended.
step() {
  local name=$1 limit=$2 begin=$SECONDS code
  shift 2
  echo "=== $name" >>"$out/log.txt"
  timeout -k 10 "$limit" "$@" >>"$out/log.txt" 2>&1
  code=$?
  case $code in
  0) say "ok      $name ($((SECONDS - begin)) s)" ;;
  124 | 137) say "TIMEOUT $name ($limit s)"; failed="$failed $name" ;;
  *) say "FAILED  $name (exit status $code, $((SECONDS - begin)) s): $(tail -n 3 "$out/log.txt" | tr '\n' ' ' | cut -c1-300)"; failed="$failed $name" ;;
  esac
  return $code
}

if [ ! -d "$kit" ] && [ -e "$kit.tar.xz" ]; then
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' "$kit.tar.xz" build || exit 2
elif [ ! -d "$kit" ]; then
  make cuda-kit || exit 2
fi
export METACAP_RESULTS=$out METACAP_REQUIRE=cuda METACAP_COMMIT=$(cat "$kit/commit")

facts() {
  { nvidia-smi; nvidia-smi -q -d CLOCK,POWER,PERFORMANCE; lscpu | head -20; free -g; } >"$out/facts.txt" 2>&1
  step "metacap sees the device" 60 bash -c "'$kit/metacap' doctor && '$kit/metacap' doctor | grep -q '^cuda .*the default'"
}

# in_folder FOLDER NAME SECONDS COMMAND...: a step whose command runs in a folder, as tests expect.
in_folder() {
  local folder=$1 back=$PWD
  shift
  cd "$folder" || exit 2
  step "$@"
  cd "$back" || exit 2
}

conformance() {
  in_folder kernels/cuda "conformance suite" 180 "$kit/cuda.test" -test.v -test.run 'TestDeviceConformance$'
  in_folder kernels/cuda "same bits for 1 to 1,000 rows, portable and Hopper" 90 "$kit/cuda.test" -test.v -test.run 'TestSameBits/(device|portable_and_hopper)'
}

parity() { step "fixture models against the reference" 120 "$kit/metacap" parity --backend cuda --only models testdata; }

bench() {
  step "bench" 330 python3 tools/benchcuda/bench.py --metacap "$kit/metacap" --out "$out" --seconds 300 --peer-seconds 180 \
    ${PEERS:+--peers "$PEERS"} ${LLAMA:+--llama "$LLAMA"} ${BENCH_TMP:+--tmp "$BENCH_TMP"}
}

# Every fourth case of each operation under memcheck, every eighth under the slower two.
sanitize() {
  local tool every sanitizer=${SANITIZER:-}
  [ -z "$sanitizer" ] && [ -e build/sanitizer/compute-sanitizer ] && sanitizer=$PWD/build/sanitizer/compute-sanitizer && chmod +x "$sanitizer"
  [ -z "$sanitizer" ] && sanitizer=$(command -v compute-sanitizer)
  if [ -z "$sanitizer" ]; then
    say "skipped compute-sanitizer: not found (make sanitizer)"
    return
  fi
  for tool in memcheck racecheck initcheck; do
    every=${SANITIZE_EVERY:-$([ $tool = memcheck ] && echo 4 || echo 8)}
    METACAP_DEVICE_CASES=$every in_folder kernels/cuda "compute-sanitizer $tool, every ${every}th case" "${SANITIZE_SECONDS:-120}" \
      "$sanitizer" --tool $tool --error-exitcode 9 --print-limit 50 --log-file "$out/report" "$kit/cuda.test" -test.run TestDeviceCases
    { echo "== $tool, every ${every}th case of each operation"; head -c 300000 "$out/report"; } >>"$out/sanitizer.txt" 2>/dev/null
    rm -f "$out/report"
  done
}

soak() {
  METACAP_SOAK=${SOAK:-45s} METACAP_SOAK_DEVICE=cuda METACAP_SOAK_MODEL=${SOAK_MODEL:-} in_folder engine "soak of ${SOAK:-45s}" "${SOAK_SECONDS:-240}" \
    "$kit/engine.test" -test.v -test.timeout 30m -test.run 'TestSoak$'
}

kernels() {
  in_folder kernels/cuda "kernels' benchmarks" 300 bash -c "'$kit/cuda.test' -test.run '^\$' -test.bench '${KERNELS:-.}' -test.benchtime 1x >'$out/kernels.txt' 2>&1"
}

for s in $stages; do
  case $s in
  facts | conformance | parity | bench | sanitize | soak | kernels) $s ;;
  *) echo "device.sh: no stage $s" >&2; exit 2 ;;
  esac
done
rm -f "$out"/*.part
if [ -n "$failed" ]; then
  say "NOT ALL PASSED:$failed"
  exit 1
fi
say "all passed in $SECONDS s"
