#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Builds, tests and times everything that needs a CUDA card, and writes one JSON file.
set -euo pipefail

usage() {
  cat <<'END'
Usage: benchmarks/cuda/run.sh [options]

Builds the CUDA backend for the card of this machine and runs its tests (ctest -L gpu, with
compute-sanitizer) and its benchmarks, beside PyTorch where that is installed. Writes the figures to
build/cuda/cuda.json and all output to build/cuda/log.txt. Meant to take under 10 minutes on an H200
with 16 cores (no card has run it yet). Prints at the end what failed or took too long; the rest
runs nevertheless.

Options:
  --save             keep the figures: benchmarks/results/cuda.json and its page
  --quick            small models: to see that everything works, not to conclude from
  --only NAME,...    of build tests llama kernels lora pytorch longest qlora full sensitivities
                     sanitizers                             (default: all, in this order)
  --prefix DIR       folder of libraries that are not installed;
                     cmake/install_dependencies.sh --into DIR fills it
  --out DIR          instead of build/cuda
  --build-dir DIR    instead of build/cuda-build
  --jobs N           compilations at once                   (default: number of processors)
  --minutes N        stop what runs then, leave out the rest, and still write the figures
                                                            (default: no limit)
  --no-install       install nothing; use what is there
  --help             this text

Exit codes: 0 all passed, 1 something failed or there is no card, 2 wrong usage.
END
}

fail_usage() {
  echo "benchmarks/cuda/run.sh: $1; see --help." >&2
  exit 2
}

names=(build tests llama kernels lora pytorch longest qlora full sensitivities sanitizers)
only=""
prefix=""
out=""
build=""
jobs=$(nproc)
minutes=""
quick=false
save=false
install=true
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --save) save=true ;;
    --quick) quick=true ;;
    --no-install) install=false ;;
    --only | --prefix | --out | --build-dir | --jobs | --minutes)
      [ $# -gt 1 ] || fail_usage "$1 needs a value"
      case $1 in
        --only) only=,$2, ;;
        --prefix) prefix=$(realpath -m "$2") ;;
        --out) out=$(realpath -m "$2") ;;
        --build-dir) build=$(realpath -m "$2") ;;
        --jobs) jobs=$2 ;;
        --minutes) minutes=$2 ;;
      esac
      shift
      ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
  shift
done
case $jobs in '' | *[!0-9]* | 0) fail_usage "--jobs needs a positive number, not '$jobs'" ;; esac
case $minutes in
  *[!0-9]* | 0) fail_usage "--minutes needs a positive number, not '$minutes'" ;;
esac
for name in ${only//,/ }; do
  case " ${names[*]} " in *" $name "*) ;; *) fail_usage "'$name' is none of ${names[*]}" ;; esac
done
if [ -n "$prefix" ] && [ ! -d "$prefix/usr" ]; then
  fail_usage "there is no $prefix/usr; cmake/install_dependencies.sh --into makes it"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${out:-$PWD/build/cuda}
build=${build:-$PWD/build/cuda-build}
log=$out/log.txt
mkdir -p "$out"
# With --only the figures of another run stay beside the new ones.
if [ -z "$only" ]; then rm -f "$out"/*.json "$out"/*.xml "$log"; fi
python3 benchmarks/cuda/results.py describe >"$out/run.json"

failed=()
# step NAME SECONDS COMMAND...: runs COMMAND if --only includes NAME, for at most SECONDS.
step() {
  local name=$1 seconds=$2 start=$SECONDS status=0 left word
  shift 2
  if [ -n "$only" ] && [ "${only#*,"$name",}" = "$only" ]; then return 0; fi
  if [ -n "$minutes" ]; then
    left=$((60 * minutes - SECONDS))
    if [ "$left" -lt "$seconds" ]; then seconds=$((left > 1 ? left : 1)); fi
  fi
  for word in "$@"; do
    case $word in "$out"/*.json | "$out"/*.xml) rm -f "$word" ;; esac  # of an earlier run
  done
  echo "== $name: $*" | tee -a "$log"
  timeout "$seconds" "$@" 2>&1 | tee -a "$log" || status=${PIPESTATUS[0]}
  if [ "$status" -eq 124 ]; then echo "$name: stopped after $seconds s" | tee -a "$log"; fi
  if [ "$status" -ne 0 ] && [[ " ${failed[*]-} " != *" $name "* ]]; then failed+=("$name"); fi
  echo "== $name: $((SECONDS - start)) s, exit code $status" | tee -a "$log"
}

if $install && [ -z "$prefix" ]; then
  bash cmake/install_dependencies.sh build ops programs tests
fi
options=(-DCMAKE_BUILD_TYPE=Release -DDROPBP_ENABLE_CUDA=ON)
if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
  options+=(-G Ninja)
fi
prefixes=${prefix:+$prefix/usr}
# PyTorch contains cuDNN; the toolkit may or may not.
if cudnn=$(python3 -c 'import nvidia.cudnn as c; print(c.__path__[0])' 2>/dev/null); then
  prefixes+=${prefixes:+;}$cudnn
fi
if [ -n "$prefixes" ]; then options+=("-DCMAKE_PREFIX_PATH=$prefixes"); fi
targets=(dropbp_gpu_tests dropbp_gpu_model_tests benchmark_cuda_kernels benchmark_cuda_step
  llama-finetune)
# shellcheck disable=SC2016
step build 400 bash -c 'cmake -S . -B "$0" "${@:4}" && cmake --build "$0" -j "$1" --target $2' \
  "$build" "$jobs" "${targets[*]}" -- "${options[@]}"

if $quick; then
  size=(--quick)
  longest=(--quick --longest 2)
  large=(--quick)
else
  size=()
  longest=(--shape llama2-70b --longest 80)
  large=(--shape llama2-70b --rounds 3)
  # The weights take 40 GB, and the activations at rate 0 take 61 GB for 4096 tokens.
  memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null |
    head -n 1) || memory=
  case $memory in
    '' | *[!0-9]*) ;;
    *) if [ "$memory" -lt 110000 ]; then large+=(--sequence 2048); fi ;;
  esac
fi
export DROPBP_REQUIRE_GPU=1
if [ ${#failed[@]} -eq 0 ]; then
  if [ ! -x "$build/tests/cuda/dropbp_gpu_tests" ]; then
    echo "benchmarks/cuda/run.sh: nothing is built in $build; add build to --only" >&2
    exit 1
  fi
  if ! "$build/tests/cuda/dropbp_gpu_tests" --list-test-names-only >"$out/tests.txt"; then
    cat "$out/tests.txt" >&2
    exit 1
  fi
  rm "$out/tests.txt"
  tests=(ctest --test-dir "$build" --output-on-failure --no-tests=error -L '^gpu$')
  cuda_step=$build/benchmarks/cuda_step
  step tests 240 "${tests[@]}" -E '(mem|race|sync|init)check$' --output-junit "$out/tests.xml"
  step llama 60 "$build/examples/llama/llama-finetune" --device cuda --steps 50 --hidden 256 \
    --intermediate 688 --heads 4 --layers 4 --out "$out/model"
  rm -rf "$out/model"
  step kernels 120 "$build/benchmarks/cuda_kernels" "${size[@]}" --json "$out/kernels.json"
  step lora 90 "$cuda_step" "${size[@]}" --mode lora --json "$out/lora.json"
  step pytorch 240 python3 benchmarks/versus_pytorch.py --device cuda "${size[@]}" \
    --program "$cuda_step" --rounds 1 --json "$out/pytorch.json"
  step longest 180 "$cuda_step" --mode qlora "${longest[@]}" --drop-rates 0,0.875 \
    --json "$out/longest.json"
  step qlora 90 "$cuda_step" --mode qlora "${large[@]}" --json "$out/qlora.json"
  step full 90 "$cuda_step" "${size[@]}" --mode full --json "$out/full.json"
  step sensitivities 60 "$cuda_step" "${size[@]}" --mode lora --sensitivities \
    --json "$out/sensitivities.json"
  for tool in memcheck racecheck synccheck initcheck; do
    step sanitizers 90 "${tests[@]}" -R "\.$tool\$" --output-junit "$out/$tool.xml"
  done
fi

python3 benchmarks/cuda/results.py collect "$out" --failed "$(IFS=,; echo "${failed[*]-}")"
echo "$out/cuda.json"
if $save; then python3 benchmarks/cuda/results.py save "$out/cuda.json"; fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "benchmarks/cuda/run.sh: failed: ${failed[*]}; see $log" >&2
  exit 1
fi
