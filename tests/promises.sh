#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Prints what the library promises beside what its tests measured.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/promises.sh --quick [options]
       tests/promises.sh [NUMBER...] [options]
       tests/promises.sh --kept [options]
       tests/promises.sh --faults [NUMBER...] [options]

Prints the table of promises: what is wanted, what the tests measured, how long they took, and when
the planted fault was last seen to fail them. The table of tests is tests/promises.csv. Exit code 0
only if every promise that is checked here is held; what is skipped is counted.

  --quick           read the results of tests/run.sh (build/tests/tests.xml)
  (neither)         run the tests of the table (or those of the promises given) in their long form,
                    one promise after the other, and write tests/promises.md. Takes about an hour
                    on two free cores. Needs what tests/run.sh has built. The results are kept in
                    build/tests/promises, so that parts can be run again
  --kept            print and write the table of the results that are kept; run nothing
  --faults          plant each fault of tests/promises/faults (or those of the promises given) in
                    a copy of the sources, build, and see the test fail; writes the date and the
                    commit to tests/promises.csv

Options:
  --build-dir DIR   what tests/run.sh built   (default: build/tests)
  --copy DIR        where --faults builds     (default: build/promises)
  --jobs N          tests or compilations at once (default: number of processors)
  --table FILE      another table than tests/promises.csv
  --help            this text

Promises 16 and 21 are not run here, but read from the results of other builds, where they are:
  tests/run.sh --compiler clang++-19 --sanitize              sanitizers, and a million fuzzed inputs
  tests/run.sh --compiler clang++-19 --sanitize thread -- -L '^(unit|ops|llama)$'
  tests/run.sh --valgrind -- -L '^unit$'
(--help of tests/run.sh has shorter forms of the last two), and the count of the long fuzzing from
tests/fuzz/counts.csv, to which tests/fuzz/run.sh --record adds. So tests/promises.md is made again
by tests/run.sh, the three above, and tests/promises.sh

Exit codes: 0 all held, 1 a promise is not held or a fault not seen, 2 wrong usage, no results.
END
}

fail_usage() {
  echo "tests/promises.sh: $1; see --help." >&2
  exit 2
}

form=full
build_dir=""
copy=""
table=""
jobs=$(nproc)
chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --quick) form=quick ;;
    --kept) form=kept ;;
    --faults) form=faults ;;
    --build-dir | --copy | --jobs | --table)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --build-dir) build_dir=$(realpath -m "$2") ;;
        --copy) copy=$(realpath -m "$2") ;;
        --jobs) jobs=$2 ;;
        --table) table=$(realpath -m "$2") ;;
      esac
      shift
      ;;
    [0-9]*) chosen+=("$1") ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
  shift
done
case $jobs in '' | *[!0-9]* | 0) fail_usage "--jobs needs a positive number, not '$jobs'" ;; esac
if [ ${#chosen[@]} -gt 0 ] && [[ $form = quick || $form = kept ]]; then
  fail_usage "--$form takes no numbers"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${build_dir:=$PWD/build/tests}" "${copy:=$PWD/build/promises}"
: "${table:=$PWD/tests/promises.csv}"
numbers=$(awk -F';' '!/^#/ && NF == 6 { print $1 }' "$table")
for number in "${chosen[@]+"${chosen[@]}"}"; do
  if ! grep -qxF "$number" <<<"$numbers"; then fail_usage "there is no promise $number"; fi
done

# Prints the table: print_table FORM FORMAT FILE..., where FILE is one of ctest's, or an assignment
# of table.awk for the files behind it.
print_table() {
  local form=$1 format=$2 results
  local others=("only=")
  shift 2
  for results in "$build_dir"-*/tests.xml; do
    case $results in
      *address*) others+=(prefix=sanitized. "$results") ;;
      *thread*) others+=(prefix=threads. "$results") ;;
      *valgrind*) others+=(prefix=valgrind. "$results") ;;
    esac
  done
  awk -v form="$form" -v format="$format" -f tests/promises/table.awk "$table" "$@" \
    "${others[@]}" tests/fuzz/counts.csv
}

# Runs the tests of promise NUMBER in their long form, and keeps what they say.
run_promise() {
  local number=$1
  # By their numbers: ctest's own regular expressions allow few parentheses.
  ctest --test-dir "$build_dir" -N | awk -v wanted="$number" '
    FNR == NR {
      if ($0 !~ /^#/ && split($0, field, ";") == 6 && field[1] == wanted) {
        if (field[4] !~ /^-/) patterns[++n] = field[4]
        if (field[5] ~ /^test:/) patterns[++n] = substr(field[5], 6)
      }
      next
    }
    /^ *Test +#[0-9]+: / {
      number = name = $0
      sub(/^ *Test +#/, "", number)
      sub(/:.*/, "", number)
      sub(/^ *Test +#[0-9]+: /, "", name)
      for (i = 1; i <= n; ++i) if (name ~ patterns[i]) { list = list "," number; break }
    }
    END { if (list != "") print "0,0,0" list }' "$table" - >"$kept/$number.numbers"
  echo "<testsuite/>" >"$kept/$number.xml"
  git describe --always --dirty >"$kept/$number.commit" 2>/dev/null || true
  if [ ! -s "$kept/$number.numbers" ]; then return; fi
  ctest --test-dir "$build_dir" -I "$kept/$number.numbers" --no-tests=error -j "$jobs" \
    --output-junit "$kept/$number.xml" --test-output-size-passed 65536 || true
}

# Prints the table of what is kept, and writes tests/promises.md.
print_kept() {
  local number files=() status=0 commits
  for number in $numbers; do
    if [ -e "$kept/$number.xml" ]; then files+=("only=$number" "$kept/$number.xml"); fi
  done
  commits=$(cat "$kept"/*.commit 2>/dev/null | sort -u | paste -sd' ' | sed 's/ /, /g')
  {
    cat <<'END'
<!-- SPDX-FileCopyrightText: 2026 The dropbp authors -->
<!-- SPDX-License-Identifier: MIT -->

# What the library promises, as measured

The last output of `tests/promises.sh`, which runs the tests in their long form. Its `--help` says
how to make this page again.

END
    echo "Commit ${commits:-unknown}, $(date -u +%Y-%m-%d), $(uname -m), $(nproc) cores," \
      "$("${CXX:-c++}" --version | head -1)."
    echo
  } >"$kept/promises.md"
  : >"$kept/sightings"
  print_table full markdown "sightings=$kept/sightings" "${files[@]+"${files[@]}"}" \
    >>"$kept/promises.md" || status=$?
  while read -r number; do
    if [ -s "$kept/$number.commit" ]; then
      record_fault "$table" "$number" \
        "$(date -u -r "$kept/$number.commit" +%Y-%m-%d) $(<"$kept/$number.commit")"
    fi
  done <"$kept/sightings"
  cp "$kept/promises.md" tests/promises.md
  print_table full text "${files[@]+"${files[@]}"}" || true
  return "$status"
}

# shellcheck source=tests/promises/plant.sh
. tests/promises/plant.sh
kept=$build_dir/promises
case $form in
  quick)
    if [ ! -e "$build_dir/tests.xml" ]; then
      echo "tests/promises.sh: there is no $build_dir/tests.xml: run tests/run.sh first." >&2
      exit 2
    fi
    print_table quick text "$build_dir/tests.xml"
    ;;
  full)
    if [ ! -e "$build_dir/CTestTestfile.cmake" ]; then
      echo "tests/promises.sh: nothing is built in $build_dir: run tests/run.sh first." >&2
      exit 2
    fi
    if [ ${#chosen[@]} -eq 0 ]; then
      rm -rf "$kept"
      mapfile -t chosen <<<"$numbers"
    fi
    mkdir -p "$kept"
    export DROPBP_PROMISES=full DROPBP_KILLS=200 DROPBP_FLIPS=10000
    for number in "${chosen[@]}"; do run_promise "$number"; done
    print_kept
    ;;
  kept)
    if [ ! -d "$kept" ]; then
      echo "tests/promises.sh: there is no $kept: run tests/promises.sh first." >&2
      exit 2
    fi
    print_kept
    ;;
  faults)
    plant_faults "$table" "$copy" "$jobs" "${chosen[@]+"${chosen[@]}"}"
    ;;
esac
