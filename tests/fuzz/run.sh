#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Long runs of the fuzz targets.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/fuzz/run.sh [options] [TARGET...]

Builds the fuzz targets (all, or those named) with clang++-19, libFuzzer, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs each. Inputs that reach new code are kept in
build/fuzz/corpus/TARGET, from which the next run goes on; findings are written to build/fuzz.
Prints a line for each target, and the sums of inputs, of processor time and of time.

Options:
  --inputs N    inputs in all, in the proportions of ctest: more where an input takes less time
                                                               (default 1000000)
  --minutes M   at most M minutes in all, an equal part each   (default: no limit)
  --jobs N      targets at once                            (default 1)
  --record      add the counts to tests/fuzz/counts.csv, in the lines of this commit
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
jobs=1
record=false
build=true
build_dir=""
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --inputs | --minutes | --seed | --jobs | --build-dir)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --inputs) inputs=$2 ;;
        --minutes) minutes=$2 ;;
        --seed) seed=$2 ;;
        --jobs) jobs=$2 ;;
        --build-dir) build_dir=$(realpath -m "$2") ;;
      esac
      shift 2
      ;;
    --record)
      record=true
      shift
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
for number in "$inputs" "$seed" "$jobs" "${minutes:-1}"; do
  case $number in '' | *[!0-9]*) fail_usage "'$number' must be a whole number" ;; esac
done
if [ "$jobs" -eq 0 ]; then fail_usage "--jobs needs a positive number"; fi

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

limits=()
if [ -n "$minutes" ]; then
  limits+=("-max_total_time=$((60 * minutes * jobs / ${#targets[@]}))")
fi
programs=$build_dir/tests/fuzz
sum=0
for target in "${targets[@]}"; do sum=$((sum + $(<"$programs/$target.runs"))); done

# Writes "TARGET,INPUTS,SECONDS,ELAPSED" to a file; the seconds are processor time.
run_target() {
  local target=$1 log=build/fuzz/$1.log result="no finding" runs seconds elapsed
  local TIMEFORMAT='%U %S %R'
  mkdir -p "build/fuzz/corpus/$target"
  rm -f "build/fuzz/$target.count"
  local command=("$programs/fuzz_$target" "-seed=$seed"
    "-runs=$((inputs * $(<"$programs/$target.runs") / sum))" ${limits[@]+"${limits[@]}"}
    -timeout=3600 -rss_limit_mb=4096 -print_final_stats=1 "-artifact_prefix=build/fuzz/$target-"
    -dict=tests/fuzz/words.dict "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target")
  if ! { time "${command[@]}" >"$log" 2>&1; } 2>"build/fuzz/$target.time"; then
    result="FINDING: see $log"
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  seconds=$(awk '{printf "%.0f", $1 + $2}' "build/fuzz/$target.time")
  elapsed=$(awk '{printf "%.0f", $3}' "build/fuzz/$target.time")
  printf '%-16s %12s inputs, %6s s, %s\n' "$target" "${runs:-0}" "$seconds" "$result"
  printf '%s,%s,%s,%s\n' "$target" "${runs:-0}" "$seconds" "$elapsed" \
    >"build/fuzz/$target.count"
  [ "$result" = "no finding" ]
}

mkdir -p build/fuzz
status=0
running=0
for target in "${targets[@]}"; do
  if [ "$running" -eq "$jobs" ]; then
    wait -n || status=1
    running=$((running - 1))
  fi
  run_target "$target" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || status=1
  running=$((running - 1))
done
counts=("${targets[@]/#/build/fuzz/}")
counts=("${counts[@]/%/.count}")
awk -F, '{inputs += $2; seconds += $3; elapsed += $4}
  END {
    printf "%d inputs in %d targets, %d s of processor time in %d s\n",
      inputs, NR, seconds, elapsed
  }' "${counts[@]}"
if $record; then
  table=tests/fuzz/counts.csv
  awk -F, -v OFS=, -v commit="$(git rev-parse --short HEAD)" '
    FILENAME ~ /\.csv$/ && (/^#/ || $1 == "target") {print; next}
    {key = $1 OFS (FILENAME ~ /\.csv$/ ? $5 : commit)}
    !(key in inputs) {order[++count] = key}
    {inputs[key] += $2; seconds[key] += $3; elapsed[key] += $4}
    END {
      for (i = 1; i <= count; ++i) {
        split(order[i], part, OFS)
        print part[1], inputs[order[i]], seconds[order[i]], elapsed[order[i]], part[2]
      }
    }' "$table" "${counts[@]}" >build/fuzz/counts.csv
  cp build/fuzz/counts.csv "$table"
fi
exit "$status"
