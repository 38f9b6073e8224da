#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Prints what the library promises beside what its tests measured.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/promises.sh [--quick] [options]
       tests/promises.sh --faults [NUMBER...]

Prints the table of promises: what is wanted, what the tests measured, how long they took, and when
the planted fault was last seen to fail them. The table of tests is tests/promises.csv. Exit code 0
only if every promise that is checked here is held; what is skipped is counted.

  --quick           read the results of tests/run.sh (build/tests/tests.xml)
  (neither)         run the tests of the table in their long form, about an hour, and write
                    tests/promises.md. Needs what tests/run.sh has built
  --faults          plant each fault of tests/promises/faults (or those of the promises given) in
                    a copy of the sources, build, and see the test fail; writes the date and the
                    commit to tests/promises.csv

Options:
  --build-dir DIR   what tests/run.sh built   (default: build/tests)
  --table FILE      another table than tests/promises.csv
  --help            this text

Exit codes: 0 all held, 1 a promise is not held or a fault not seen, 2 wrong usage, no results.
END
}

fail_usage() {
  echo "tests/promises.sh: $1; see --help." >&2
  exit 2
}

form=full
build_dir=""
table=""
chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --quick) form=quick ;;
    --faults) form=faults ;;
    --build-dir | --table)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --build-dir) build_dir=$(realpath -m "$2") ;;
        --table) table=$(realpath -m "$2") ;;
      esac
      shift
      ;;
    [0-9]*) chosen+=("$1") ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
  shift
done
if [ ${#chosen[@]} -gt 0 ] && [ $form != faults ]; then fail_usage "numbers belong to --faults"; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${build_dir:=$PWD/build/tests}" "${table:=$PWD/tests/promises.csv}"

print_table() {  # RESULTS FORM FORMAT
  local sanitized=()
  for results in "$build_dir"-*address*/tests.xml; do
    if [ -e "$results" ]; then sanitized=(prefix=sanitized. "$results"); fi
  done
  awk -v form="$2" -v format="$3" -f tests/promises/table.awk "$table" "$1" \
    "${sanitized[@]+"${sanitized[@]}"}"
}

case $form in
  quick)
    if [ ! -e "$build_dir/tests.xml" ]; then
      echo "tests/promises.sh: there is no $build_dir/tests.xml: run tests/run.sh first." >&2
      exit 2
    fi
    print_table "$build_dir/tests.xml" quick text
    ;;
  full)
    if [ ! -e "$build_dir/CTestTestfile.cmake" ]; then
      echo "tests/promises.sh: nothing is built in $build_dir: run tests/run.sh first." >&2
      exit 2
    fi
    # By their numbers: ctest's own regular expressions allow few parentheses.
    ctest --test-dir "$build_dir" -N | awk '
      FNR == NR {
        if ($0 !~ /^#/ && split($0, field, ";") == 6) {
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
      END { print "0,0,0" list }' "$table" - >"$build_dir/promises.numbers"
    export DROPBP_PROMISES=full DROPBP_KILLS=200 DROPBP_FLIPS=10000
    ctest --test-dir "$build_dir" -I "$build_dir/promises.numbers" --no-tests=error \
      -j "$(nproc)" --output-junit promises.xml --test-output-size-passed 65536 ||
      true
    {
      cat <<'END'
<!-- SPDX-FileCopyrightText: 2026 The dropbp authors -->
<!-- SPDX-License-Identifier: MIT -->

# What the library promises, as measured

The last output of `tests/promises.sh`, which runs the tests in their long form.

END
      echo "Commit $(git describe --always --dirty 2>/dev/null || echo unknown)," \
        "$(date -u +%Y-%m-%d), $(uname -m), $(nproc) cores, $("${CXX:-c++}" --version | head -1)"
      echo
    } >"$build_dir/promises.md"
    status=0
    print_table "$build_dir/promises.xml" full markdown >>"$build_dir/promises.md" || status=$?
    cp "$build_dir/promises.md" tests/promises.md
    print_table "$build_dir/promises.xml" full text || true
    exit "$status"
    ;;
  faults)
    # shellcheck source=tests/promises/plant.sh
    . tests/promises/plant.sh
    plant_faults "$table" "${chosen[@]+"${chosen[@]}"}"
    ;;
esac
