#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# The long form of the tests of this folder: COUNT faults of all kinds, on 2 to 4 ranks, in random
# ranks and steps, and the plans of 10^6 steps on 1, 2, 3, 4 and 8 ranks. Takes about 15 minutes.
#   many_faults.sh PROGRAM [COUNT [SEED]]
# PROGRAM is mpi_ranks. Ends with the number of faults that were seen, and 1 if one was not.
set -euo pipefail
program=$1 count=${2:-200}
RANDOM=${3:-1}
here=$(dirname "${BASH_SOURCE[0]}")

kinds=(seed step rates plan_bit layout_size layout_order layout_tensor settings warmup
  sensitivities nan infinite skipped_micro_step skipped_step skipped_collective stop stop_midway
  endless kill kill_midway crash exit exit_code finalize exception)
seen=0
for ((i = 0; i < count; ++i)); do
  kind=${kinds[$((i % ${#kinds[@]}))]}
  ranks=$((2 + RANDOM % 3))
  rank=$((RANDOM % ranks))
  # The last two steps are left out: a step that is skipped shows in the next one.
  if bash "$here/fault.sh" "$program" "$kind" "$ranks" "$rank" $((RANDOM % 10)); then
    seen=$((seen + 1))
  fi
done
for ranks in 1 2 3 4 8; do
  mpirun --oversubscribe --allow-run-as-root -n "$ranks" "$program" plans 1000000
done
echo "$seen of $count faults ended their job"
[ "$seen" -eq "$count" ]
