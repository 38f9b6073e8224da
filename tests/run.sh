#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Installs what is missing, builds, and runs all tests.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/run.sh [options] [-- CTEST_ARGUMENT...]

Installs the missing packages that the tests need (Debian and Ubuntu; it prints which), builds the
tests in Release and runs them. Ends with ctest's summary and its exit code. Takes about 30 minutes
on two cores where nothing is compiled yet. No test depends on speed: on a busy machine all takes
longer, and the limits of tests are against hanging alone.

Options:
  --compiler NAME   the compiler's command, such as g++-12 or clang++-19   (default: CMake's choice)
  --sanitize [LIST] with sanitizers                            (default LIST: address,undefined)
  --valgrind        every test under Valgrind's memcheck; a leak or an error fails it. Takes hours
                    for all tests: name some by -L or -R
  --build-dir DIR   where to build
                    (default: build/tests, with a suffix for each choice above)
  --target NAME     build this target alone; may be given again. A test whose program is not built
                    fails, so name tests by -L or -R
  --jobs N          compilations and tests at once             (default: number of processors)
  --no-install      install nothing; use what is there
  --help            this text

Examples:
  tests/run.sh -- -L unit            only the test cases of the core
  tests/run.sh -- -LE packaging      all but the packaging tests
  tests/run.sh --sanitize -- -L 'unit|ops'
  tests/run.sh --compiler clang++-19 --sanitize thread -- -L '^(unit|ops|llama)$'
  tests/run.sh --compiler clang++-19 --sanitize thread --target dropbp_threads_tests \
    --target dropbp_parallel_tests --target llama-finetune -- \
    -R '^(unit\.threads|ops\.parallel|llama\.finetune\.four_threads)'
  tests/run.sh --valgrind --target dropbp_unit_tests -- -L '^unit$' -E '^unit.(decision|threads)'

With DROPBP_WERROR=ON in the environment a warning is an error, as in CI.
Exit codes: 0 all tests passed, 2 wrong usage, 8 (with --valgrind 16) a test failed, others:
installing or building failed.
END
}

fail_usage() {
  echo "tests/run.sh: $1; see --help." >&2
  exit 2
}

compiler=""
sanitize=""
valgrind=false
build_dir=""
jobs=$(nproc)
targets=()
install=true
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --compiler | --build-dir | --target | --jobs)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --compiler) compiler=$2 ;;
        --build-dir) build_dir=$2 ;;
        --target) targets+=(--target "$2") ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2
      ;;
    --sanitize)
      sanitize=address,undefined
      shift
      if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        sanitize=$1
        shift
      fi
      ;;
    --valgrind)
      valgrind=true
      shift
      ;;
    --no-install)
      install=false
      shift
      ;;
    --)
      shift
      break
      ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
done
if $valgrind && [ -n "$sanitize" ]; then fail_usage "choose --sanitize or --valgrind"; fi
case $jobs in '' | *[!0-9]* | 0) fail_usage "--jobs needs a positive number, not '$jobs'" ;; esac

# A relative folder is relative to the current directory.
if [ -n "$build_dir" ]; then build_dir=$(realpath -m "$build_dir"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "$build_dir" ]; then
  build_dir=build/tests
  if [ -n "$compiler" ]; then build_dir+=-$(basename "$compiler"); fi
  if [ -n "$sanitize" ]; then build_dir+=-${sanitize//,/-}; fi
  if $valgrind; then build_dir+=-valgrind; fi
fi

if $install; then
  groups=(build ops programs tests)
  if $valgrind; then groups+=(valgrind); fi
  if [ -n "$compiler" ] && ! command -v "$compiler" >/dev/null 2>&1; then groups+=("$compiler"); fi
  bash cmake/install_dependencies.sh "${groups[@]}"
fi

options=("-DDROPBP_WERROR=${DROPBP_WERROR:-OFF}")
if [ ! -e "$build_dir/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
  options+=(-G Ninja)
fi
if [ -n "$compiler" ]; then options+=("-DCMAKE_CXX_COMPILER=$compiler"); fi
if [ -n "$sanitize" ]; then
  # -g1 for line numbers in reports; -O2 would hide faults, -O0 would take too long.
  options+=(-DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" "-DDROPBP_SANITIZE=$sanitize"
    -DDROPBP_BUILD_BENCHMARKS=OFF)
elif $valgrind; then
  # The objects of the ordinary build, which a compiler's cache has: sanitizers see the -O1 code.
  options+=(-DCMAKE_BUILD_TYPE=Release -DDROPBP_BUILD_BENCHMARKS=OFF)
else
  options+=(-DCMAKE_BUILD_TYPE=Release)
fi

# Kernels are compiled once: runs with other compilers or sanitizers do not test them.
if [ -z "$compiler$sanitize" ] && ! $valgrind; then options+=(-DDROPBP_ENABLE_CUDA=AUTO); fi

cmake -S . -B "$build_dir" "${options[@]}"
cmake --build "$build_dir" -j "$jobs" ${targets[@]+"${targets[@]}"}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
# tests/promises.sh reads the results from tests.xml, with what the tests printed. ctest writes a
# relative file to the build folder.
run_tests() {
  ctest "$@" --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$jobs" \
    --output-junit tests.xml --test-output-size-passed 65536
}
status=0
if $valgrind; then
  # The unit tests replace operator new, and the compiler inlines some calls of it. So Valgrind must
  # watch the malloc and free behind it, and not replace it in the other calls.
  checks="--quiet --error-exitcode=99 --leak-check=full --soname-synonyms=somalloc=nouserintercepts"
  cat >"$build_dir/DartConfiguration.tcl" <<END
BuildDirectory: $(realpath "$build_dir")
MemoryCheckCommand: $(command -v valgrind)
MemoryCheckCommandOptions: $checks
END
  rm -rf "$build_dir/Testing" "$build_dir/tests.xml"
  run_tests -T memcheck "$@" || status=$?
  # With -T memcheck ctest writes no JUnit file, but one of its own.
  awk '
    /<Test Status=/ { split($0, part, "\""); status = part[2] }
    /^\t*<Name>/ { name = $0; gsub(/^[^>]*>|<\/Name>$/, "", name) }
    /name="(Execution Time|Completion Status)"/ { value = $0 ~ /Time/ ? "time" : "end"; next }
    value != "" { gsub(/^[^>]*>|<\/Value>$/, ""); of[value] = $0; value = "" }
    /^\t*<\/Test>/ {
      sub("passed", "run", status); sub("failed", "fail", status)
      printf "<testcase name=\"%s\" time=\"%s\" status=\"%s\">\n", name, of["time"], status
      if (status == "notrun") printf "<skipped message=\"%s\"/>\n", of["end"]
      print "</testcase>"
    }' "$build_dir"/Testing/*/DynamicAnalysis-Test.xml >"$build_dir/tests.xml"
else
  run_tests "$@" || status=$?
fi
exit "$status"
