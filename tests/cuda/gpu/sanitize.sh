#!/bin/sh
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# sanitize.sh TOOL PROGRAM [ARGUMENTS]: a test program under one tool of NVIDIA's compute-sanitizer:
# memcheck, racecheck, synccheck or initcheck. Exits with 0 where it ran and nothing was found, with
# 77 and the reason where it cannot run here, else with something else. DROPBP_REQUIRE_GPU=1 makes a
# skip a failure. DROPBP_SANITIZER_OPTIONS are further options, such as a filter of kernels.
set -u
tool=$1
program=$2
shift 2

skip() {
  if [ "${DROPBP_REQUIRE_GPU:-}" = 1 ]; then
    echo "failed, DROPBP_REQUIRE_GPU is 1: $1"
    exit 1
  fi
  echo "skipped: $1"
  exit 77
}

# The program knows whether there is a card that it can use.
reason=$(DROPBP_REQUIRE_GPU=0 "$program" --list-test-names-only)
[ $? -ne 77 ] || skip "${reason#skipped: }"
sanitizer=$(PATH="$PATH:${DROPBP_CUDA_BIN:-/usr/local/cuda/bin}" command -v compute-sanitizer) ||
  skip "there is no compute-sanitizer on PATH or in ${DROPBP_CUDA_BIN:-/usr/local/cuda/bin};\
 install it from the CUDA Toolkit (Debian: cuda-sanitizer)"

# Refused calls are no findings: some tests ask for too much memory, and every call's result is
# looked at anyway. Memory that is kept to the end (the libraries' handles) is no leak either;
# owners that forget to release are found on the emulator, by LeakSanitizer. Outputs are poisoned by
# writing to them, so that initcheck sees what kernels leave unwritten of their own workspaces, and
# the tests what they leave of outputs: NaN.
case $tool in
  memcheck) options="--report-api-errors no" ;;
  racecheck) options="--racecheck-report all" ;;
  synccheck | initcheck) options="" ;;
  *)
    echo "a tool of compute-sanitizer is needed: '$tool' was given; pass memcheck, racecheck," \
      "synccheck or initcheck"
    exit 2
    ;;
esac
# shellcheck disable=SC2086
exec "$sanitizer" --tool "$tool" $options --error-exitcode 86 ${DROPBP_SANITIZER_OPTIONS:-} \
  "$program" "$@"
