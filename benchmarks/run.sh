#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Builds all benchmarks for this machine's processor, runs them, and makes one page of their tables
# and plots.
set -euo pipefail

usage() {
  cat <<'END'
Usage: benchmarks/run.sh [options]

Installs the missing packages (Debian and Ubuntu; it prints which), builds and runs every benchmark,
and writes build/benchmarks/report.html, with a table, a plot and a JSON file for each benchmark
beside it. Takes under 20 minutes on two cores; run nothing else meanwhile. cuda_kernels and
cuda_step run where nvcc and a card are installed; benchmarks/cuda/card.sh does more there.

Options:
  --quick            every benchmark on its smallest settings: to see that all work, not to
                     conclude from
  --only NAME,...    these alone, such as step_time,activation_memory
  --no-install       install nothing; use what is there
  --help             this text

Exit codes: 0 all ran (versus_pytorch is skipped without PyTorch), 1 one failed, 2 wrong usage.
END
}

fail_usage() {
  echo "benchmarks/run.sh: $1; see --help." >&2
  exit 2
}

quick=()
only=""
install=true
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --quick) quick=(--quick) ;;
    --only)
      [ $# -gt 1 ] || fail_usage "--only needs names"
      only=,$2,
      shift
      ;;
    --no-install) install=false ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
names=(step_time versus_pytorch activation_memory convergence sensitivity_cost allocation machinery
  products)
for source in benchmarks/*.cpp; do
  name=$(basename "$source" .cpp)
  case " ${names[*]} " in *" $name "*) ;; *) names+=("$name") ;; esac
done
if nvidia-smi -L >/dev/null 2>&1; then names+=(cuda_kernels cuda_step); fi
if [ -n "$only" ]; then
  for name in ${only//,/ }; do
    case " ${names[*]} " in *" $name "*) ;; *) fail_usage "'$name' is none of ${names[*]}" ;; esac
  done
fi

if $install; then bash cmake/install_dependencies.sh build ops programs plot; fi
cmake --preset benchmark -DDROPBP_ENABLE_CUDA=AUTO >/dev/null
cmake --build build/benchmark -j "$(nproc)"
programs=build/benchmark/benchmarks
out=build/benchmarks
mkdir -p "$out"

# Arguments that keep the full report under 20 minutes.
arguments_of() {
  case $1 in
    convergence) echo "--regimes tiny --folder $out/convergence-runs" ;;
    include_cost) echo "--rounds 3" ;;
    libtorch_detach) echo "--rounds 8" ;;
    versus_pytorch) echo "--program $programs/step_time --rounds 1 --precisions float" ;;
  esac
}

escaped() { sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g'; }

page=$(mktemp)
trap 'rm -f "$page"' EXIT
failed=()
for name in "${names[@]}"; do
  if [ -n "$only" ] && [ "${only#*,"$name",}" = "$only" ]; then continue; fi
  program=$programs/$name
  if [ "$name" = versus_pytorch ]; then program=benchmarks/versus_pytorch.py; fi
  if [ ! -e "$program" ]; then
    echo "$name: skipped, what it needs is not installed"
    continue
  fi
  read -r -a arguments <<<"$(arguments_of "$name")"
  if [ ${#quick[@]} -gt 0 ] && [ "$name" != versus_pytorch ]; then arguments=(); fi
  command=("$program" "${arguments[@]}" "${quick[@]}" --json "$out/$name.json")
  rm -f "$out/$name".{txt,json,svg}
  if [[ $("$program" --help) == *--svg* ]]; then command+=(--svg "$out/$name.svg"); fi
  echo "== ${command[*]}"
  start=$SECONDS
  if "${command[@]}" >"$out/$name.txt"; then
    cat "$out/$name.txt"
  else
    failed+=("$name")
  fi
  {
    echo "<h2>$name</h2><p><code>$(escaped <<<"${command[*]}")</code>, $((SECONDS - start)) s</p>"
    echo "<pre>$(escaped <"$out/$name.txt")</pre>"
    if [ -e "$out/$name.svg" ]; then sed -n '/<svg/,$p' "$out/$name.svg"; fi
  } >>"$page"
done

compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' build/benchmark/CMakeCache.txt)
{
  cat <<'END'
<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>dropbp: benchmarks</title>
<style>
body{font-family:sans-serif;max-width:72em;margin:2em auto;padding:0 1em}
pre{background:#f4f4f4;padding:1em;overflow-x:auto}
svg{max-width:100%;height:auto}
</style></head><body>
END
  echo "<h1>dropbp: benchmarks</h1>"
  echo "<p>$(date -u +%Y-%m-%dT%H:%MZ);"
  echo "commit $(git describe --always --dirty 2>/dev/null || echo unknown);"
  echo "$( (lscpu 2>/dev/null || true) | sed -n 's/^Model name: *//p' | escaped),"
  echo "$(nproc) processors; $("$compiler" --version | head -n 1 | escaped), -O3 -march=native</p>"
  cat "$page"
  echo '</body></html>'
} >"$out/report.html"
echo "$out/report.html"
if [ ${#failed[@]} -gt 0 ]; then
  echo "benchmarks/run.sh: failed: ${failed[*]}" >&2
  exit 1
fi
