#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Runs one training over MPI in which a rank has a fault, and checks that the job ends with the
# right words, a non-zero exit code, and no process left.
#   fault.sh PROGRAM KIND RANKS FAULTY_RANK STEP
# PROGRAM is mpi_ranks, and ranks.cpp has the kinds. Prints the seconds and what ended the job. With
# DROPBP_PROMISES=full it plants the fault 12 times more, on 2 to 4 ranks, in other ranks and steps.
set -euo pipefail
program=$1 kind=$2 ranks=$3 faulty=$4 step=$5

if [ "${DROPBP_PROMISES:-}" = full ] && [ "$kind" != none ]; then
  unset DROPBP_PROMISES
  RANDOM=1
  bash "$0" "$@"
  for ((i = 0; i < 12; ++i)); do
    ranks=$((2 + RANDOM % 3))
    faulty=$((RANDOM % ranks))
    # The last two steps are left out: a step that is skipped shows in the next one.
    bash "$0" "$program" "$kind" "$ranks" "$faulty" $((RANDOM % 10))
  done
  exit
fi

# The deadline of a step ends only those jobs that nothing else ends, so that it may be long
# elsewhere: a busy machine must not reach it.
deadline=60
case $kind in
  stop | stop_midway | endless | finalize | skipped_collective) deadline=4 ;;
esac

# What the output must match, for every rank in place of RANK.
field="all ranks must have %s, but in step [0-9]+ it is [^ ]+ on rank RANK"
field+=" and [^ ]+ on rank [0-9]+: "
signal="exited on signal|PMIx|lost|noticed|abnormal"
case $kind in
  seed | plan_bit) every=${field/\%s/the same plan} ;;
  step | skipped_step) every=${field/\%s/the same step} ;;
  rates | warmup | sensitivities | skipped_micro_step) every=${field/\%s/the same drop rates} ;;
  layout_size | layout_order | layout_tensor)
    every=${field/\%s/the same layout of parameters}
    ;;
  settings) every=${field/\%s/the same settings} ;;
  nan | infinite) every=${field/\%s/a finite loss} ;;
  stop | endless | finalize) every="a step must end within 4 s, but step $step has not" ;;
  # The others may have got what they need of this step.
  stop_midway) every="a step must end within 4 s, but step ($step|$((step + 1))) has not" ;;
  # Depends on which collectives meet: MPI itself may see it, or crash.
  skipped_collective)
    every="a step must end within|all ranks must have the same|MPI_ERR_[A-Z]+|MPI Error in|$signal"
    ;;
  kill | kill_midway | crash) every=$signal ;;
  exit | exit_code) every="exiting improperly|non-zero|finalize" ;;
  exception) every="rank $faulty: an exception of one rank" ;;
  none) every="rank RANK has ended" ;;
  *)
    echo "fault.sh: '$kind' is no kind of fault" >&2
    exit 2
    ;;
esac

token=mpi-job-$$-$RANDOM
output=$(mktemp)
trap 'rm -f "$output"' EXIT
begin=$(date +%s.%N)
code=0
timeout -k 10 300 mpirun --oversubscribe --allow-run-as-root -n "$ranks" \
  "$program" fault "$kind" "$faulty" "$step" "$deadline" "$token" >"$output" 2>&1 || code=$?
seconds=$(awk -v b="$begin" -v e="$(date +%s.%N)" 'BEGIN {printf "%.1f", e - b}')

fail() {
  echo "fault $kind of rank $faulty of $ranks in step $step: $*"
  sed 's/^/  | /' "$output"
  exit 1
}
if [ "$kind" = none ]; then
  [ "$code" -eq 0 ] || fail "without a fault the job must end with 0, but it ended with $code"
else
  [ "$code" -ne 0 ] || fail "the job must end with a non-zero exit code, but it ended with 0"
  # timeout's own code is 124, or 137 where mpirun does not listen to it.
  [ "$code" -ne 124 ] && [ "${seconds%.*}" -lt 300 ] ||
    fail "the job must end by itself, but it did not in 300 s"
fi
for ((rank = 0; rank < ranks; ++rank)); do
  grep -qE "${every//RANK/$rank}" "$output" || fail "no line matches ${every//RANK/$rank}"
done

# A process that is ending may still be listed for a moment.
left=""
for _ in $(seq 50); do
  left=$(grep -l -a "$token" /proc/[0-9]*/cmdline 2>/dev/null | grep -v "/proc/self/" || true)
  living=""
  for file in $left; do
    if cat "$file" 2>/dev/null | tr '\0' ' ' | grep -q "fault $kind"; then living+=" $file"; fi
  done
  [ -n "$living" ] || break
  sleep 0.1
done
[ -z "$living" ] || fail "these processes are left:$living"
echo "ended in $seconds s: $kind of rank $faulty of $ranks in step $step (exit code $code):" \
  "$(grep -m1 -oE "${every//RANK/$faulty}" "$output")"
case $kind in
  none) ;;
  stop | stop_midway | endless | kill | kill_midway | crash | exit | exit_code | finalize | \
    exception | skipped_collective) echo "promise 11: dead_or_stuck=1" ;;
  *) echo "promise 10: disagreements=1 most_seconds=$seconds" ;;
esac
