#!/bin/sh
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Tests sanitize.sh with and without a card, a tool and findings. Stand-ins replace the program and
# compute-sanitizer.
set -u
script=$(dirname "$0")/sanitize.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0

stand_in() { # file, body
  printf '#!/bin/sh\n%s\n' "$2" >"$work/$1"
  chmod +x "$work/$1"
}
# expect WHAT STATUS TEXT ARGUMENTS...: the exit code, and a part of what is printed
expect() {
  what=$1 status=$2 text=$3
  shift 3
  output=$(DROPBP_CUDA_BIN="$work" PATH=/usr/bin:/bin "$script" "$@" 2>&1)
  got=$?
  case $got:$output in
    "$status":*"$text"*) ;;
    *)
      echo "$what: exit code $got and '$output', wanted were $status and '$text'"
      failures=1
      ;;
  esac
}

unset DROPBP_REQUIRE_GPU DROPBP_SANITIZER_OPTIONS
stand_in no_card 'echo "skipped: no CUDA device can be used: none; buy one"; exit 77'
stand_in card 'echo "ran $*"; exit 3'
expect "no card" 77 "skipped: no CUDA device can be used: none; buy one" memcheck "$work/no_card"
expect "no tool" 77 "skipped: there is no compute-sanitizer on PATH or in $work" \
  memcheck "$work/card"
stand_in compute-sanitizer 'echo "$@"; exit 86'
expect "no card, but the tool" 77 "skipped: no CUDA device" memcheck "$work/no_card"
expect "a finding" 86 "--tool racecheck --racecheck-report all --error-exitcode 86 $work/card one" \
  racecheck "$work/card" one
expect "memcheck" 86 "--tool memcheck --report-api-errors no --error-exitcode 86" \
  memcheck "$work/card"
expect "synccheck" 86 "--tool synccheck --error-exitcode 86" synccheck "$work/card"
expect "initcheck" 86 "--tool initcheck --error-exitcode 86" initcheck "$work/card"
expect "another tool" 2 "'leakcheck' was given; pass memcheck" leakcheck "$work/card"
stand_in compute-sanitizer 'while [ "$1" != "${1#-}" ]; do shift 2; done; exec "$@"'
expect "a failed test" 3 "ran one" initcheck "$work/card" one
stand_in card 'exit 0'
expect "nothing found" 0 "" initcheck "$work/card"
DROPBP_REQUIRE_GPU=1
export DROPBP_REQUIRE_GPU
stand_in no_card '[ "${DROPBP_REQUIRE_GPU:-}" != 1 ] || exit 1
  echo "skipped: no CUDA device can be used: none; buy one"; exit 77'
expect "no card, but required" 1 "failed, DROPBP_REQUIRE_GPU is 1: no CUDA device" \
  memcheck "$work/no_card"
rm "$work/compute-sanitizer"
expect "no tool, but required" 1 "failed, DROPBP_REQUIRE_GPU is 1: there is no compute-sanitizer" \
  memcheck "$work/card"
exit $failures
