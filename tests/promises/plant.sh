# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
# shellcheck shell=bash

# Plants the faults of tests/promises/faults, one at a time. A fault NN_NAME.patch belongs to
# promise NN. It opens with two lines: `build: COMMAND` must succeed with the fault in place,
# and `check: COMMAND` must fail with it, and succeed without it. Both run at the top of a copy of
# the sources.

# Compiles one test program, each of its files alone (with ccache where that is installed):
# compile_test OUTPUT FILE.cpp... [-lLIBRARY]
compile_test() {
  local output=$1 file object objects=() libraries=() launcher=""
  shift
  if command -v ccache >/dev/null 2>&1; then launcher=ccache; fi
  for file in tests/support/main.cpp "$@"; do
    if [ "${file#-l}" != "$file" ]; then
      libraries+=("$file")
      continue
    fi
    object=objects/${file//\//_}.o
    mkdir -p objects
    # shellcheck disable=SC2086
    $launcher "${CXX:-g++}" -std=c++20 -O1 -Iinclude -Itests -Iexamples \
      -isystem /usr/include/eigen3 -DDROPBP_TEST_DATA="\"$PWD/tests/data\"" -c "$file" \
      -o "$object" || return 1
    objects+=("$object")
  done
  "${CXX:-g++}" "${objects[@]}" "${libraries[@]+"${libraries[@]}"}" -pthread -o "$output"
}

# Builds a target of CMake, configured as tests/run.sh does, so that a compiler's cache helps.
build_target() {
  cmake -S . -B build/tests -G Ninja "-DDROPBP_WERROR=${DROPBP_WERROR:-OFF}" \
    -DCMAKE_BUILD_TYPE=Release -DDROPBP_ENABLE_CUDA=AUTO &&
    cmake --build build/tests -j "$jobs" --target "$1"
}

# plant_faults TABLE COPY JOBS NUMBER...
plant_faults() {
  local table=$1 root=$PWD copy=$2 jobs=$3 commit date patch number name status=0
  shift 3
  mkdir -p "$copy"
  commit=$(git rev-parse --short HEAD)
  date=$(date -u +%Y-%m-%d)
  for patch in "$root"/tests/promises/faults/*.patch; do
    name=$(basename "$patch" .patch)
    number=$((10#${name%%_*}))
    if [ $# -gt 0 ] && [[ " $* " != *" $number "* ]]; then continue; fi
    # Only what changed is written again, so that programs stay built.
    copy_tree "$root" "$copy"
    local build check
    build=$(sed -n 's/^build: //p' "$patch")
    check=$(sed -n 's/^check: //p' "$patch")
    if (
      cd "$copy"
      eval "$build" && eval "$check"
    ) >"$copy/log" 2>&1; then :; else
      echo "promise $number: $name: the check fails without the fault; see $copy/log"
      return 1
    fi
    if ! patch -d "$copy" -p1 --silent <"$patch"; then
      echo "promise $number: $name no longer applies"
      status=1
      continue
    fi
    if ! (cd "$copy" && eval "$build") >"$copy/log" 2>&1; then
      echo "promise $number: $name does not compile"
      status=1
    elif (cd "$copy" && eval "$check") >"$copy/log" 2>&1; then
      echo "promise $number: $name is NOT seen"
      status=1
    else
      echo "promise $number: $name is seen: $(grep -m1 -E \
        'FAILED|failed|must|FINDING|runtime error|ERROR: AddressSanitizer' "$copy/log")"
      record_fault "$table" "$number" "$date $commit"
    fi
  done
  return "$status"
}

# Copies the tracked files of FROM that differ into TO.
copy_tree() {
  local file
  while read -r file; do
    if [ -f "$1/$file" ] && ! cmp -s "$1/$file" "$2/$file"; then
      mkdir -p "$2/$(dirname "$file")"
      cp -p "$1/$file" "$2/$file"
      touch "$2/$file"
    fi
  done < <(git -C "$1" ls-files --cached --others --exclude-standard)
}

record_fault() {  # TABLE NUMBER TEXT
  awk -F';' -v OFS=';' -v number="$2" -v text="$3" \
    '!/^#/ && NF == 6 && $1 == number { $6 = text } { print }' "$1" >"$1.new"
  mv "$1.new" "$1"
}
