#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Tests and times everything that needs a CUDA card, most valuable first, and writes the figures.
set -euo pipefail

names=(facts build ops cudnn model kernels lora pytorch fp8 memcheck racecheck profile qlora longest
  full finetune sensitivities synccheck initcheck)

usage() {
  cat <<'END'
Usage: benchmarks/cuda/card.sh [options]

Builds the programs that need a CUDA card, tests the CUDA backend with them (also under
compute-sanitizer) and times it, beside PyTorch where that is installed. Writes to build/cuda after
every step: log.txt (all output), cuda.json (the figures) and all.tgz (both, with each step's own
files). Every step has a limit of its own, and none needs another: what fails or takes too long is
named at the end. The steps are in order of value, for a card that is at hand for minutes only. All
take about 20 minutes on an H200 with 16 cores (an estimate: no card has run it yet).

For a machine that is lent for a short time, or has no network, build elsewhere and carry over the
repository with build/carry and build/libraries:
  cmake/install_dependencies.sh --into build/libraries ops programs tests
  benchmarks/cuda/card.sh --prepare

Options:
  --prepare          only build, and copy the programs, stripped, to build/carry; needs no card
  --seconds N        end after N seconds: the step that runs then is stopped, the rest left out
                                                            (default: no limit)
  --only NAME,...    of the steps                           (default: all)
  --save             keep the figures: benchmarks/results/cuda.json and its page
  --quick            small models: to see that everything works, not to conclude from
  --carry DIR        instead of build/carry
  --prefix DIR       libraries that are not installed      (default: build/libraries if it is there)
  --out DIR          instead of build/cuda
  --build-dir DIR    instead of build/cuda-build
  --jobs N           compilations at once                   (default: number of processors)
  --no-install       install nothing; use what is there
  --help             this text

END
  echo "Steps: ${names[*]}" | fold -s -w 100
  cat <<'END'

Exit codes: 0 all passed, 1 something failed or there is no card, 2 wrong usage.
END
}

fail_usage() {
  echo "benchmarks/cuda/card.sh: $1; see --help." >&2
  exit 2
}

only=""
prefix=""
carry=""
out=""
build=""
jobs=$(nproc)
seconds=""
prepare=false
quick=false
save=false
install=true
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --prepare) prepare=true ;;
    --save) save=true ;;
    --quick) quick=true ;;
    --no-install) install=false ;;
    --only | --prefix | --carry | --out | --build-dir | --jobs | --seconds)
      [ $# -gt 1 ] || fail_usage "$1 needs a value"
      case $1 in
        --only) only=,$2, ;;
        --prefix) prefix=$(realpath -m "$2") ;;
        --carry) carry=$(realpath -m "$2") ;;
        --out) out=$(realpath -m "$2") ;;
        --build-dir) build=$(realpath -m "$2") ;;
        --jobs) jobs=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift
      ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
  shift
done
case $jobs in '' | *[!0-9]* | 0) fail_usage "--jobs needs a positive number, not '$jobs'" ;; esac
case $seconds in
  *[!0-9]* | 0) fail_usage "--seconds needs a positive number, not '$seconds'" ;;
esac
for name in ${only//,/ }; do
  case " ${names[*]} " in *" $name "*) ;; *) fail_usage "'$name' is none of ${names[*]}" ;; esac
done
if [ -n "$prefix" ] && [ ! -d "$prefix/usr" ]; then
  fail_usage "there is no $prefix/usr; cmake/install_dependencies.sh --into makes it"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=$PWD
carry=${carry:-$here/build/carry}
out=${out:-$here/build/cuda}
build=${build:-$here/build/cuda-build}
if [ -z "$prefix" ] && [ -d build/libraries/usr ]; then prefix=$here/build/libraries; fi

# -- the programs ----------------------------------------------------------------------------------

targets=(dropbp_gpu_tests dropbp_gpu_model_tests benchmark_cuda_kernels benchmark_cuda_step
  llama-finetune)
programs=(tests/cuda/dropbp_gpu_tests tests/cuda/dropbp_gpu_model_tests benchmarks/cuda_kernels
  benchmarks/cuda_step examples/llama/llama-finetune)

build_programs() {
  local options=(-DCMAKE_BUILD_TYPE=Release -DDROPBP_ENABLE_CUDA=ON) prefixes=${prefix:+$prefix/usr}
  local cudnn program
  if $install && [ -z "$prefix" ]; then
    bash cmake/install_dependencies.sh build ops programs tests || return
  fi
  if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
    options+=(-G Ninja)
  fi
  # PyTorch contains cuDNN; the toolkit may or may not.
  if cudnn=$(python3 -c 'import nvidia.cudnn as c; print(c.__path__[0])' 2>/dev/null); then
    prefixes+=${prefixes:+;}$cudnn
  fi
  if [ -n "$prefixes" ]; then options+=("-DCMAKE_PREFIX_PATH=$prefixes"); fi
  cmake -S . -B "$build" "${options[@]}" || return
  cmake --build "$build" -j "$jobs" --target "${targets[@]}" || return
  mkdir -p "$carry" || return
  for program in "${programs[@]}"; do
    strip -o "$carry/${program##*/}" "$build/$program" || return
  done
  git describe --always --dirty >"$carry/commit" 2>/dev/null || rm -f "$carry/commit"
}

if $prepare; then
  build_programs
  du -sh "$carry"
  exit
fi

# -- the steps -------------------------------------------------------------------------------------

mkdir -p "$out"
log=$out/log.txt
parts=$out-parts  # each step's own files
# With --only the figures of another run stay beside the new ones.
if [ -z "$only" ]; then rm -rf "$parts" "$out"/cuda.json "$log"; fi
mkdir -p "$parts"
python3 benchmarks/cuda/results.py describe --carried "$carry" >"$parts/run.json"

failed=()
# Collects what there is: a machine that goes back early leaves what was measured by then.
collect() {
  python3 benchmarks/cuda/results.py collect "$parts" --failed "$(IFS=,; echo "${failed[*]-}")" \
    --out "$out/cuda.json"
  tar czf "$out/all.tgz" -C "$(dirname "$out")" "$(basename "$parts")" -C "$out" log.txt
}
# step NAME SECONDS COMMAND...: runs COMMAND if --only includes NAME, for at most SECONDS.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0 left
  shift 2
  if [ -n "$only" ] && [ "${only#*,"$name",}" = "$only" ]; then return 0; fi
  rm -f "$parts/$name".*
  if [ -n "$seconds" ]; then
    left=$((seconds - SECONDS - 5))
    if [ "$left" -lt 5 ]; then
      echo "== $name: no time is left" | tee -a "$log"
      failed+=("$name")
      return 0
    fi
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
  fi
  echo "== $name, at most $limit s: $*" | tee -a "$log"
  timeout -k 5 "$limit" "$@" 2>&1 | tee "$parts/$name.txt" | tee -a "$log" ||
    status=${PIPESTATUS[0]}
  case $status in
    124 | 137) echo "$name: stopped after $((SECONDS - start)) s" | tee -a "$log" ;;
  esac
  if [ "$status" -ne 0 ]; then failed+=("$name"); fi
  echo "== $name: $((SECONDS - start)) s, exit code $status" | tee -a "$log"
  collect || failed+=("collect")
}

# Libraries that PyTorch brings, for programs that were built elsewhere.
libraries=$(python3 -c 'import nvidia, os
print(":".join(os.path.join(p, d, "lib") for p in nvidia.__path__ for d in os.listdir(p)))' \
  2>/dev/null) || libraries=
export LD_LIBRARY_PATH=${prefix:+$prefix/usr/lib/x86_64-linux-gnu:}${LD_LIBRARY_PATH-}:$libraries
export DROPBP_TEST_DATA=$here/tests/data
export PATH=$PATH:${CUDA_PATH:-/usr/local/cuda}/bin

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

# shellcheck disable=SC2016
step facts 20 bash -c '
  nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv
  nvcc --version | tail -n 2
  cmake --version | head -n 1
  c++ --version | head -n 1
  python3 -c "import torch; print(torch.__version__, torch.backends.cudnn.version())"
  for program in "$0"/*; do ldd "$program" 2>/dev/null | grep "not found"; done
  true' "$carry"

# Programs that were carried here are used if they start: 77 means without a card, which the tests
# say themselves.
starts=0
DROPBP_REQUIRE_GPU=0 timeout 60 "$carry/dropbp_gpu_tests" --list-test-names-only >/dev/null 2>&1 ||
  starts=$?
case $starts in 0 | 77) ;; *) starts=no ;; esac
if [ "$starts" = no ] || [ -e "$build/CMakeCache.txt" ]; then
  forwarded=(--prepare --carry "$carry" --build-dir "$build" --jobs "$jobs")
  if [ -n "$prefix" ]; then forwarded+=(--prefix "$prefix"); fi
  if ! $install; then forwarded+=(--no-install); fi
  step build 400 bash benchmarks/cuda/card.sh "${forwarded[@]}"
fi
if [ ! -x "$carry/cuda_step" ]; then
  echo "benchmarks/cuda/card.sh: nothing is built in $carry; add build to --only" >&2
  exit 1
fi

export DROPBP_REQUIRE_GPU=1
sanitize=(tests/cuda/gpu/sanitize.sh)
step ops 100 "$carry/dropbp_gpu_tests" '~*cuDNN*' --durations yes
step cudnn 80 "$carry/dropbp_gpu_tests" '*cuDNN*' --durations yes
step model 60 "$carry/dropbp_gpu_model_tests" --durations yes
step kernels 75 "$carry/cuda_kernels" "${size[@]}" --json "$parts/kernels.json"
step lora 60 "$carry/cuda_step" "${size[@]}" --mode lora --json "$parts/lora.json"
step pytorch 150 python3 benchmarks/versus_pytorch.py --device cuda "${size[@]}" \
  --program "$carry/cuda_step" --rounds 1 --steps 3 --json "$parts/pytorch.json"
step fp8 60 "$carry/cuda_step" "${size[@]}" --mode lora-fp8 --drop-rates 0,0.875 \
  --json "$parts/fp8.json"
step memcheck 60 "${sanitize[@]}" memcheck "$carry/dropbp_gpu_tests" '~[large]~*cuDNN*'
step racecheck 60 "${sanitize[@]}" racecheck "$carry/dropbp_gpu_tests" '~[large]~*cuDNN*'
step profile 60 ncu --clock-control none --section SpeedOfLight --section Occupancy \
  --launch-count 12 -k 'regex:run_body' "$carry/cuda_step" --quick --mode lora --rounds 1
step qlora 100 "$carry/cuda_step" --mode qlora "${large[@]}" --json "$parts/qlora.json"
step longest 180 "$carry/cuda_step" --mode qlora "${longest[@]}" --drop-rates 0,0.875 \
  --json "$parts/longest.json"
step full 60 "$carry/cuda_step" "${size[@]}" --mode full --json "$parts/full.json"
step finetune 60 "$carry/llama-finetune" --device cuda --steps 50 --hidden 256 \
  --intermediate 688 --heads 4 --layers 4 --out "$parts/model"
rm -rf "$parts/model"
step sensitivities 60 "$carry/cuda_step" "${size[@]}" --mode lora --sensitivities \
  --json "$parts/sensitivities.json"
for tool in synccheck initcheck; do
  step "$tool" 90 "${sanitize[@]}" "$tool" "$carry/dropbp_gpu_tests" '~[large]~*cuDNN*'
done

collect
echo "$out/cuda.json"
if $save; then python3 benchmarks/cuda/results.py save "$out/cuda.json"; fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "benchmarks/cuda/card.sh: failed: ${failed[*]}; see $log" | tee -a "$log" >&2
  exit 1
fi
