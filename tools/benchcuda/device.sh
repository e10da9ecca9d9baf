#!/bin/bash
# device.sh OUT [STAGE...] - everything that a GPU can prove, in nine minutes, most valuable first.
#
# Stages, in the order in which they run without any named: facts checks bench share peers proof flow job soak kernels.
#   facts     the card, its clocks, the processor
#   checks    conformance suite, same bits in all kernels, fixture models, the embedded model against the CPU; the checkpoint of
#             the true shape is written meanwhile
#   bench     the table of bench.py, start-up included
#   share     eight agents on one picture of 13 tiles
#   peers     torch and transformers on the same card (PEERS)
#   proof     sanitize and parity beside each other
#   flow      what captions take in CapFlow's modes
#   job       a folder of JPEGs against the engine alone
#   sanitize  compute-sanitizer's memcheck, racecheck and initcheck, together
#   parity    the true shape against transformers (PEERS), stage by stage
#   soak      mixed requests with cancellations
#   kernels   the kernels' benchmarks
#
# Every stage has a time limit, none stops the next, and none begins that cannot end before DEADLINE seconds (530). OUT receives
# seven files as they come: summary.txt (a line a step, the last one says whether all passed), log.txt, cuda-conformance-*.json,
# cuda-bench-*.json and .md, runs.jsonl (share, flow, job), soak-*.json.
#
# It needs build/cuda-kit or build/cuda-kit.tar.xz of `make cuda-kit`, or Go to make them; of the repository only tools/benchcuda,
# tools/fixtures, kernels/cuda, testdata/models, testdata/goldens, testdata/tokenizer and testdata/drawn. PEERS is a Python with torch and transformers
# (default: python3 where it has torch). LLAMA: a folder as bench.py describes. WORK: where the checkpoint of 17 GB is
# written (build/full). SHAPE=tiny DEVICE=cpu tries all of it without a GPU; its figures mean nothing.
set -u
cd "$(dirname "$0")/../.."
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
stages=${*:-facts checks bench share peers proof flow job soak kernels}
kit=$PWD/build/cuda-kit work=${WORK:-$PWD/build/full} deadline=${DEADLINE:-530}
device=${DEVICE:-cuda} shape=${SHAPE:-8b}
: >"$out/summary.txt"
: >"$out/log.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }
failed() { echo "$*" >>"$out/failed.part"; }

# step NAME SECONDS COMMAND...: runs it with a limit and notes how it ended. Its output goes to the log when it is over, so
# that steps may run beside each other. With RESULT set what it prints is a result and is added to that file.
step() {
  local name=$1 limit=$2 begin=$SECONDS code text
  shift 2
  if [ $((SECONDS + limit / 3)) -gt "$deadline" ]; then
    say "LEFT OUT $name: $((deadline - SECONDS)) s are left"
    failed "$name"
    return 1
  fi
  text=$(mktemp "$out/XXXXXX.part")
  if [ $((SECONDS + limit)) -gt "$deadline" ]; then limit=$((deadline - SECONDS)); fi
  if [ -n "${RESULT:-}" ]; then
    timeout -k 5 "$limit" "$@" >>"$RESULT" 2>"$text"
  else
    timeout -k 5 "$limit" "$@" >"$text" 2>&1
  fi
  code=$?
  { echo "=== $name ($((SECONDS - begin)) s, exit status $code)"; head -c 2000000 "$text"; } >>"$out/log.txt"
  case $code in
  0) say "ok      $name ($((SECONDS - begin)) s)" ;;
  124 | 137) say "TIMEOUT $name ($limit s)"; failed "$name" ;;
  *) say "FAILED  $name (exit status $code, $((SECONDS - begin)) s): $(tail -n 3 "$text" | tr '\n' ' ' | cut -c1-300)"; failed "$name" ;;
  esac
  rm -f "$text"
  return $code
}

# in_folder FOLDER NAME SECONDS COMMAND...: a step whose command runs in a folder, as tests expect.
in_folder() {
  local folder=$1 name=$2 limit=$3
  shift 3
  step "$name" "$limit" bash -c 'cd "$0" && exec "$@"' "$folder" "$@"
}

if [ ! -d "$kit" ] && [ -e "$kit.tar.xz" ]; then
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' "$kit.tar.xz" build || exit 2
elif [ ! -d "$kit" ]; then
  make cuda-kit || exit 2
fi
export METACAP_RESULTS=$out METACAP_COMMIT=$(cat "$kit/commit") PYTHONUNBUFFERED=1
[ "$device" = cuda ] && export METACAP_REQUIRE=cuda
if [ -z "${PEERS+set}" ]; then
  PEERS=
  python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' && PEERS=python3
fi
metacap=$kit/metacap full=$work/models/full-remote-bf16
small="" # arguments of full_shape.py, and sizes, for a trial without a GPU
pictures=96 agents=8 tokens=128 flow="--pictures 4 --parallel 4" reps=3
if [ "$shape" != 8b ]; then
  small="--layers 2 --vit-layers 2 --hidden 256 --base 700 --device cpu"
  pictures=4 agents=3 tokens=8 flow="--pictures 1 --parallel 1 --share 0.02" reps=1
fi

# model: arguments that name the checkpoint of the true shape, or random weights where there is none.
model() { if [ -e "$full/config.json" ] && [ -e "$work/done" ]; then echo "-m $full"; else echo "--random-weights $shape"; fi; }

facts() {
  { nvidia-smi; nvidia-smi -q -d CLOCK,POWER,PERFORMANCE; lscpu | head -20; free -g; df -h .; } >>"$out/log.txt" 2>&1
  step "metacap sees the device" 60 bash -c "'$metacap' doctor && '$metacap' doctor | grep -q '^$device .*the default'"
}

checkpoint() {
  rm -rf "$work"
  mkdir -p "$full"
  # shellcheck disable=SC2086
  step "checkpoint of the true shape" 150 "$PEERS" tools/fixtures/full_shape.py --out "$full" --tokenizer testdata/tokenizer $small && touch "$work/done"
}

checks() {
  [ -n "$PEERS" ] && checkpoint &
  if [ "$device" = cuda ]; then
    in_folder kernels/cuda "conformance suite" 120 "$kit/cuda.test" -test.v -test.run 'TestDeviceConformance$'
    in_folder kernels/cuda "same bits in all kernels" 90 "$kit/cuda.test" -test.v -test.run 'Test(SameBits|SameNorm|SameSplits|SameAttention|SharedKeys|AttentionAfterStore|Tiles)/(device|portable_and_hopper)'
  fi
  step "fixture models against the reference" 100 "$metacap" parity --backend "$device" --only models testdata
  step "embedded model, $device against the CPU" 60 "$metacap" bench same --device "$device" testdata/drawn
  wait
}

bench() {
  local with=""
  [ -e "$work/done" ] && with="--model $full"
  # shellcheck disable=SC2086
  step "bench" 170 python3 tools/benchcuda/bench.py --metacap "$metacap" --out "$out" --device "$device" --shape "$shape" --reps $reps --seconds 160 $with \
    ${LLAMA:+--llama "$LLAMA"} ${BENCH_TMP:+--tmp "$BENCH_TMP"}
}

peers() {
  if [ -z "$PEERS" ]; then
    say "skipped peers: no Python with torch (PEERS)"
    return
  fi
  step "peers" 100 python3 tools/benchcuda/bench.py --metacap "$metacap" --out "$out" --device "$device" --shape "$shape" --peers "$PEERS" --only-peers --seconds 95 --peer-seconds 60
}

# shellcheck disable=SC2046
share() { RESULT=$out/runs.jsonl step "share" 90 "$metacap" bench share $(model) --device "$device" --agents $agents --tiles 13 --tokens $tokens -r $reps -o json; }

# shellcheck disable=SC2046,SC2086
flow() { RESULT=$out/runs.jsonl step "CapFlow" 130 "$metacap" bench capflow $(model) --device "$device" $flow --seconds 60 -o jsonl; }

# shellcheck disable=SC2046
job() { RESULT=$out/runs.jsonl step "job" 80 "$metacap" bench job $(model) --device "$device" --pictures $pictures -o json; }

parity() {
  if [ ! -e "$work/done" ]; then
    say "skipped the true shape against transformers: no checkpoint"
    return
  fi
  local on=
  [ "$device" = cuda ] || on="--device cpu --new 4"
  # shellcheck disable=SC2086
  step "transformers on the true shape" 120 "$PEERS" tools/fixtures/full_goldens.py --root "$work" $on &&
    step "true shape against transformers" 90 "$metacap" parity --backend "$device" --only models "$work"
}

# Every eighth case of each operation under memcheck, every sixteenth under the slower two; the three run together.
sanitize() {
  local tool every sanitizer=${SANITIZER:-}
  [ -z "$sanitizer" ] && [ -e build/sanitizer/compute-sanitizer ] && sanitizer=$PWD/build/sanitizer/compute-sanitizer && chmod +x "$sanitizer"
  [ -z "$sanitizer" ] && sanitizer=$(command -v compute-sanitizer)
  if [ -z "$sanitizer" ] || [ "$device" != cuda ]; then
    say "skipped compute-sanitizer: not found (make sanitizer)"
    return
  fi
  for tool in memcheck racecheck initcheck; do
    every=${SANITIZE_EVERY:-$([ $tool = memcheck ] && echo 8 || echo 16)}
    METACAP_DEVICE_CASES=$every in_folder kernels/cuda "compute-sanitizer $tool, every ${every}th case" "${SANITIZE_SECONDS:-100}" \
      "$sanitizer" --tool $tool --error-exitcode 9 --print-limit 50 "$kit/cuda.test" -test.run TestDeviceCases &
  done
  wait
}

proof() {
  sanitize &
  parity
  wait
}

soak() {
  METACAP_SOAK=${SOAK:-30s} METACAP_SOAK_DEVICE=$device METACAP_SOAK_MODEL=${SOAK_MODEL:-} in_folder engine "soak of ${SOAK:-30s}" "${SOAK_SECONDS:-90}" \
    "$kit/engine.test" -test.v -test.timeout 30m -test.run 'TestSoak$'
}

kernels() {
  [ "$device" = cuda ] || return
  in_folder kernels/cuda "kernels' benchmarks" "${KERNELS_SECONDS:-90}" "$kit/cuda.test" -test.run '^$' -test.bench "${KERNELS:-.}" -test.benchtime 1x
}

for s in $stages; do
  case $s in
  facts | checks | bench | share | peers | proof | parity | flow | job | sanitize | soak | kernels) $s ;;
  *) echo "device.sh: no stage $s" >&2; exit 2 ;;
  esac
done
[ -n "${KEEP:-}" ] || rm -rf "$work"
wrong=$(sort -u "$out/failed.part" 2>/dev/null | tr '\n' ';')
rm -f "$out"/*.part
if [ -n "$wrong" ]; then
  say "NOT ALL PASSED: $wrong"
  exit 1
fi
say "all passed in $SECONDS s"
