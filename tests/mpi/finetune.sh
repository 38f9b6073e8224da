#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# llama-finetune under mpirun: the losses of 50 steps are those of one process with the rows of all
# ranks, in a run that was killed and resumed with another number of ranks too, and one rank prints.
# The same number of ranks ends with the same bits in each run, also after a rank was killed.
#   finetune.sh PROGRAM TEXT FOLDER CHECK
# TEXT is what it trains on, FOLDER is replaced, CHECK is losses, resume, killed (twice; 100 times
# with DROPBP_PROMISES=full) or same_bits (two runs; ten).
set -euo pipefail
shopt -s inherit_errexit
program=$1 text=$2 folder=$3 check=$4
rm -rf "$folder"
mkdir -p "$folder"

validation="--eval-every 10 --eval-batches 2"
train() {  # train NAME RANKS BATCH SAMPLES flags...
  local name=$1 ranks=$2 batch=$3 samples=$4
  shift 4
  local launcher=()
  if [ "$ranks" -gt 1 ]; then
    launcher=(mpirun --oversubscribe --allow-run-as-root -n "$ranks")
  fi
  "${launcher[@]}" "$program" --data "$text" --layers 2 --hidden 16 --intermediate 24 --heads 2 \
    --sequence 24 --steps 50 --warmup 5 --learning-rate 0.01 --batch "$batch" --threads 1 \
    --sensitivity gradient-norm --sensitivity-samples "$samples" $validation \
    --metrics "$folder/$name.csv" "$@" >"$folder/$name.out" 2>"$folder/$name.err"
}

fail() {
  echo "$*"
  tail -n 5 "$folder"/*.err
  exit 1
}

# Prints the largest difference of the losses, and fails above 1e-5.
same_losses() {
  paste -d, <(losses "$1") <(losses "$2") | awk -F, -v one="$1" -v other="$2" '
    { d = $1 - $2; if (d < 0) d = -d; if (d > most) most = d; if ($1 != "" && $2 != "") ++rows }
    END {
      printf "%s and %s: largest difference of %d losses %.2g\n", one, other, rows, most
      exit !(rows == 50 && most <= 1e-5)
    }' || fail "the losses of $1 and $2 differ"
}
losses() {
  [ "$(head -n 1 "$folder/$1.csv" | cut -d, -f3)" = loss ] || fail "$1.csv has another form"
  tail -n +2 "$folder/$1.csv" | cut -d, -f3
}

# train_weights NAME RANKS flags...: prints the hash of its weights.
train_weights() {
  local name=$1 ranks=$2 out="$folder/$1.out_folder"
  shift 2
  train "$name" "$ranks" $((4 / ranks)) $((4 / ranks)) --drop-rate 0.5 --out "$out" "$@"
  cat "$out"/*.safetensors | sha256sum
  rm -rf "$out"
}

# Prints the process ids of the ranks of the job that has this text in its command line.
ranks_of() {
  local process
  for process in /proc/[0-9]*; do
    if [ "$(cat "$process/comm" 2>/dev/null)" = llama-finetune ] &&
      tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF "$1"; then
      echo "${process#/proc/}"
    fi
  done
}

full=false
if [ "${DROPBP_PROMISES:-}" = full ]; then full=true; fi

case $check in
  losses)
    for rate in 0 0.5; do
      train "one_$rate" 1 4 4 --drop-rate "$rate"
      train "two_$rate" 2 2 2 --drop-rate "$rate" --micro-steps 1
      same_losses "one_$rate" "two_$rate"
    done
    train four_0.5 4 1 1 --drop-rate 0.5 --report "$folder/four.json"
    same_losses one_0.5 four_0.5
    train one_micro 1 4 4 --drop-rate 0.5 --micro-steps 2
    train two_micro 2 2 2 --drop-rate 0.5 --micro-steps 2
    same_losses one_micro two_micro
    train one_lora 1 2 2 --drop-rate 0.5 --mode lora
    train two_lora 2 1 1 --drop-rate 0.5 --mode lora
    same_losses one_lora two_lora
    # Only the first rank prints: as many lines as one process.
    for stream in out err; do
      [ "$(wc -l <"$folder/one_0.5.$stream")" -eq "$(wc -l <"$folder/two_0.5.$stream")" ] ||
        fail "two ranks print another number of lines to std$stream than one process"
    done
    ;;
  resume)
    train one 1 4 4 --drop-rate 0.5
    # The validations only make the steps last, so that a rank can be killed between two.
    validation="--eval-every 1 --eval-batches 400"
    checkpoint="$folder/checkpoints"
    train killed 2 2 2 --drop-rate 0.5 \
      --checkpoint "$checkpoint" --checkpoint-every 5 &
    job=$!
    until ls "$checkpoint"/step-*.safetensors >/dev/null 2>&1; do
      kill -0 "$job" 2>/dev/null || fail "the run ended before its first checkpoint"
      sleep 0.1
    done
    victim=$(ranks_of "$checkpoint" | tail -n 1)
    kill -KILL "$victim"
    if wait "$job"; then fail "a job with a killed rank must not end with 0"; fi
    train resumed 4 1 1 --drop-rate 0.5 --resume \
      --checkpoint "$checkpoint" --checkpoint-every 5
    grep -q "resumed after step" "$folder/resumed.err" || fail "the run did not resume"
    same_losses one resumed
    ;;
  killed)
    validation="--eval-every 0"
    expected=$(train_weights whole 2)
    begin=$(date +%s%N)
    again=$(train_weights again 2 --checkpoint "$folder/again_ck" --checkpoint-every 2)
    most=$((($(date +%s%N) - begin) / 1000000))
    [ "$again" = "$expected" ] || fail "a run with checkpoints must have the bits of one without"
    wanted=2
    if $full; then wanted=100; fi
    RANDOM=${DROPBP_SEED:=$$}
    echo "DROPBP_SEED=$DROPBP_SEED replays the moments"
    kills=0 differing=0
    for ((run = 0; kills < wanted && run < 5 * wanted; ++run)); do
      checkpoint=$folder/killed_ck_$run
      train_weights killed 2 --checkpoint "$checkpoint" --checkpoint-every 2 \
        >"$folder/killed.hash" 2>/dev/null &
      job=$!
      sleep "$(awk -v r="$RANDOM" -v most="$most" 'BEGIN { print r / 32768 * most / 1000 }')"
      victim=$(ranks_of "$checkpoint" | sed -n "$((1 + RANDOM % 2))p")
      if [ -n "$victim" ] && kill -KILL "$victim" 2>/dev/null; then
        # A rank that has done its work may be killed on its way to the exit.
        if ! wait "$job"; then
          kills=$((kills + 1))
        elif [ "$(<"$folder/killed.hash")" != "$expected" ]; then
          fail "a job with a killed rank must not end with 0 without the weights of a whole one"
        fi
      else
        # Not started yet, or at its end.
        wait "$job" || fail "a run that nobody killed must end with 0"
      fi
      found=$(train_weights resumed 2 --checkpoint "$checkpoint" --checkpoint-every 2 --resume)
      if [ "$found" != "$expected" ]; then differing=$((differing + 1)); fi
      rm -rf "$checkpoint"
    done
    echo "promise 11: kills_and_resumes=$kills differing=$differing"
    [ "$differing" -eq 0 ] || fail "$differing resumed runs end with other weights"
    [ "$kills" -eq "$wanted" ] || fail "$kills runs were killed instead of $wanted"
    ;;
  same_bits)
    times=2
    if $full; then times=10; fi
    runs=0 differing=0
    for ranks in 1 2 4; do
      expected=""
      for ((i = 0; i < times; ++i)); do
        found=$(train_weights "bits_$ranks" "$ranks")
        : "${expected:=$found}"
        runs=$((runs + 1))
        if [ "$found" != "$expected" ]; then differing=$((differing + 1)); fi
      done
    done
    echo "promise 22: runs=$runs least_steps=50 differing=$differing"
    [ "$differing" -eq 0 ] || fail "$differing of $runs runs end with other weights"
    ;;
esac
