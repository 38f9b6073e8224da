#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that PROGRAM and COMMAND... print the same lines, and some.
#   same_output.sh PROGRAM COMMAND...
set -euo pipefail
program=$1
shift
one=$("$program")
many=$("$@")
[ -n "$one" ] || { echo "$program prints nothing" && exit 1; }
diff <(echo "$one") <(echo "$many") || { echo "they print other lines" && exit 1; }
echo "$one"
