#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that the pipeline example prints the same on one rank and on two, and that it sends down
# some gradients, but not those of micro-batches whose plan keeps no branch of the lower stage.
#   pipeline.sh PROGRAM
set -euo pipefail
launch=(timeout -k 5 600 mpirun --oversubscribe --allow-run-as-root)
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
one=$("${launch[@]}" -n 1 "$1")
two=$("${launch[@]}" -n 2 "$1" 2>"$errors")
[ -n "$one" ] || { echo "pipeline.sh: the example prints nothing" && exit 1; }
diff <(echo "$one") <(echo "$two") || { echo "pipeline.sh: the outputs differ" && exit 1; }
line='s/^\([0-9]*\) gradients sent down for \([0-9]*\) .*/\1 \2/p'
read -r sent micro_batches < <(sed -n "$line" \
  "$errors") || {
  echo "pipeline.sh: no gradient was sent down"
  cat "$errors"
  exit 1
}
if [ "$sent" -ge "$micro_batches" ]; then
  echo "pipeline.sh: a gradient was sent down for each of $micro_batches micro-batches"
  exit 1
fi
echo "$one"
echo "$sent of $micro_batches gradients were sent down"
