#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Long runs of the fuzz targets.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/fuzz/run.sh [options] [TARGET...]

Builds the fuzz targets (all, or those named) with clang++-19, libFuzzer, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs each in turn. Inputs that reach new code are kept in
build/fuzz/corpus/TARGET, from which the next run goes on; findings are written to build/fuzz.
Prints a line for each target, and the sum of all inputs.

Options:
  --inputs N    inputs in all, an equal part for each target   (default 1000000)
  --minutes M   at most M minutes in all, an equal part each   (default: no limit)
  --seed S      of the inputs; each target then is the same from run to run, as long as its corpus
                is                                             (default: a new one)
  --build-dir D where to build                     (default: that of tests/run.sh
                --compiler clang++-19 --sanitize, which builds the same)
  --no-build    run what is there
  --help        this text

Exit codes: 0 no finding, 1 a finding or a program that could not be built, 2 wrong usage.
END
}

fail_usage() {
  echo "tests/fuzz/run.sh: $1; see --help." >&2
  exit 2
}

inputs=1000000
minutes=""
seed=0
build=true
build_dir=""
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --inputs | --minutes | --seed | --build-dir)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --inputs) inputs=$2 ;;
        --minutes) minutes=$2 ;;
        --seed) seed=$2 ;;
        --build-dir) build_dir=$(realpath -m "$2") ;;
      esac
      shift 2
      ;;
    --no-build)
      build=false
      shift
      ;;
    -*) fail_usage "unknown option '$1'" ;;
    *)
      targets+=("$1")
      shift
      ;;
  esac
done
for number in "$inputs" "$seed" "${minutes:-1}"; do
  case $number in '' | *[!0-9]*) fail_usage "'$number' must be a whole number" ;; esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "$build_dir" ]; then build_dir=build/tests-clang++-19-address-undefined; fi
all=()
for folder in tests/fuzz/corpus/*/; do all+=("$(basename "$folder")"); done
if [ ${#targets[@]} -eq 0 ]; then targets=("${all[@]}"); fi
for target in "${targets[@]}"; do
  if [ ! -d "tests/fuzz/corpus/$target" ]; then
    fail_usage "'$target' is no target; they are ${all[*]}"
  fi
done

if $build; then
  if [ ! -e "$build_dir/CMakeCache.txt" ]; then
    cmake -S . -B "$build_dir" -G Ninja -DCMAKE_CXX_COMPILER=clang++-19 -DCMAKE_BUILD_TYPE=Debug \
      "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" -DDROPBP_SANITIZE=address,undefined \
      -DDROPBP_BUILD_BENCHMARKS=OFF >/dev/null
  fi
  cmake --build "$build_dir" --target "${targets[@]/#/fuzz_}" || exit 1
fi

total=0
status=0
for target in "${targets[@]}"; do
  mkdir -p "build/fuzz/corpus/$target"
  log=build/fuzz/$target.log
  limits=("-runs=$((inputs / ${#targets[@]}))")
  if [ -n "$minutes" ]; then limits+=("-max_total_time=$((60 * minutes / ${#targets[@]}))"); fi
  result="no finding"
  if ! "$build_dir/tests/fuzz/fuzz_$target" "${limits[@]}" "-seed=$seed" -timeout=3600 \
    -rss_limit_mb=4096 -print_final_stats=1 "-artifact_prefix=build/fuzz/$target-" \
    -dict=tests/fuzz/words.dict "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
    >"$log" 2>&1; then
    result="FINDING: see $log"
    status=1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  total=$((total + ${runs:-0}))
  printf '%-16s %12s inputs, %6s a second, %s\n' "$target" "${runs:-0}" "${speed:-0}" "$result"
done
echo "$total inputs in ${#targets[@]} targets"
exit "$status"
