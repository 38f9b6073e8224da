#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Installs what the scripts of this repository need on Debian and Ubuntu, and only what is missing.
set -euo pipefail

usage() {
  cat <<'END'
Usage: cmake/install_dependencies.sh [--dry-run | --into DIR] GROUP...

Installs the Debian or Ubuntu packages that are missing, with apt-get and, for users other than
root, sudo. It changes nothing that is installed already, by a package or in /usr/local. Where all
is installed it needs neither the network nor root.

Groups:
  build      C++ compiler, CMake, Ninja
  ops        Eigen
  programs   fmt, CLI11, nlohmann-json
  tests      Catch2
  plot       gnuplot
  pcre2      PCRE2, for --tokenizer of llama-finetune
  utf8proc   utf8proc, for tokenizers that normalize text (Qwen's)
  armadillo  Armadillo, for one interop header
  mpi        Open MPI, for data-parallel training on CPUs
  docs       Doxygen
  format     clang-format 19, for the test of the formatting
  dlib       dlib, for one example (it brings 60 MB)
  libtorch   libtorch, for one example, its tests and a benchmark (500 MB)
  valgrind   Valgrind, for tests/run.sh --valgrind
  mutation   libclang 19 and its Python bindings, for tests/mutation/run.py
  multilib   32-bit programs with g++, for one more test
  emulators  libraries for aarch64 and s390x (big-endian), and QEMU, for two tests
  COMPILER   a compiler by its command: g++-12, clang++-14, clang++-19, ...

Options:
  --dry-run  only print what would be installed
  --into DIR install nothing: unpack the packages of the groups, installed or not, in DIR, for a
             machine without network or root; there give CMake -DCMAKE_PREFIX_PATH=DIR/usr. Not for
             compilers
  --help     this text

Exit codes: 0 all there, 1 something could not be installed, 2 wrong usage.
END
}

# Prints lines of a package and its signs: a command, or a header under a usual root, which shows
# that it is installed without the package.
requirements_of() {
  case $1 in
    build)
      echo "g++ command:c++"
      echo "cmake command:cmake"
      echo "ninja-build command:ninja"
      ;;
    ops) echo "libeigen3-dev header:eigen3/Eigen/Core" ;;
    programs)
      echo "libfmt-dev header:fmt/format.h"
      echo "libcli11-dev header:CLI/CLI.hpp"
      echo "nlohmann-json3-dev header:nlohmann/json.hpp"
      ;;
    tests) echo "catch2 header:catch2/catch.hpp header:catch2/catch_all.hpp" ;;
    dlib)
      echo "libdlib-dev header:dlib/dnn.h"
      echo "liblapack-dev"
      ;;
    libtorch)
      echo "libtorch-dev header:torch/csrc/api/include/torch/torch.h"
      echo "libgloo-dev header:gloo/rendezvous/store.h"
      ;;
    plot) echo "gnuplot-nox command:gnuplot" ;;
    pcre2) echo "libpcre2-dev header:pcre2.h" ;;
    utf8proc) echo "libutf8proc-dev header:utf8proc.h" ;;
    armadillo) echo "libarmadillo-dev header:armadillo" ;;
    mpi)
      echo "libopenmpi-dev"
      echo "openmpi-bin command:mpirun"
      ;;
    docs) echo "doxygen command:doxygen" ;;
    format) echo "clang-format-19 command:clang-format-19" ;;
    valgrind) echo "valgrind command:valgrind" ;;
    mutation) echo "python3-clang-19" ;;
    multilib) echo "g++-multilib" ;;
    emulators)
      echo "qemu-user-static command:qemu-s390x-static"
      # Libraries and linkers for clang++; Debian's g++ for them would remove g++-multilib.
      echo "binutils-aarch64-linux-gnu command:aarch64-linux-gnu-ld"
      echo "binutils-s390x-linux-gnu command:s390x-linux-gnu-ld"
      echo "libstdc++-12-dev-arm64-cross"
      echo "libstdc++-12-dev-s390x-cross"
      ;;
    g++ | g++-[0-9]*) echo "$1 command:$1" ;;
    clang++-[0-9]*)
      local version=${1#clang++-}
      echo "clang-$version command:$1"
      # The sanitizer runtimes; with older releases clang depends on them.
      if [ "$version" -ge 15 ]; then echo "libclang-rt-$version-dev"; fi
      ;;
    clang++) echo "clang command:clang++" ;;
    *)
      echo "install_dependencies.sh: '$1' is not a known group or compiler; see --help." >&2
      exit 2
      ;;
  esac
}

is_present() {
  local package=$1 sign
  shift
  if command -v dpkg-query >/dev/null 2>&1 &&
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
    return 0
  fi
  for sign in "$@"; do
    case $sign in
      command:*) if command -v "${sign#command:}" >/dev/null 2>&1; then return 0; fi ;;
      header:*)
        sign=${sign#header:}
        if [ -e "/usr/include/$sign" ] || [ -e "/usr/local/include/$sign" ]; then return 0; fi
        ;;
    esac
  done
  return 1
}

dry_run=false
into=""
groups=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=true ;;
    --into)
      if [ $# -lt 2 ]; then
        echo "install_dependencies.sh: --into needs a folder; see --help." >&2
        exit 2
      fi
      into=$2
      shift
      ;;
    -*)
      echo "install_dependencies.sh: unknown option '$1'; see --help." >&2
      exit 2
      ;;
    *) groups+=("$1") ;;
  esac
  shift
done
if [ ${#groups[@]} -eq 0 ]; then
  usage >&2
  exit 2
fi

# Unpacks the packages and the libraries that they depend on, except those of the compiler.
unpack() {
  local packages=() group requirement
  for group in "${groups[@]}"; do
    while read -r -a requirement; do
      packages+=("${requirement[0]}")
    done < <(requirements_of "$group")
  done
  mkdir -p "$into"
  into=$(realpath "$into")
  archives=$(mktemp -d)
  trap 'rm -rf "$archives"' EXIT
  cd "$archives"
  chmod a+rwx .  # apt's own user
  # shellcheck disable=SC2046
  apt-get -q download "${packages[@]}" $(apt-cache depends "${packages[@]}" |
    sed -n 's/^ *Depends: \(lib[a-z0-9.+-]*\)$/\1/p' |
    grep -v -E '^lib(c6|c|gcc|stdc\+\+)' | sort -u) >/dev/null
  for archive in *.deb; do dpkg-deb -x "$archive" "$into"; done
  echo "unpacked in $into: $(echo *.deb); give CMake -DCMAKE_PREFIX_PATH=$into/usr"
}
if [ -n "$into" ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "--into needs apt-get, and there is none here." >&2
    exit 1
  fi
  for group in "${groups[@]}"; do requirements_of "$group" >/dev/null; done
  unpack
  exit 0
fi

missing=()
for group in "${groups[@]}"; do
  requirements=$(requirements_of "$group")
  while read -r -a requirement; do
    if ! is_present "${requirement[@]}"; then missing+=("${requirement[0]}"); fi
  done <<<"$requirements"
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

by_hand="apt-get install ${missing[*]}"
if $dry_run; then
  echo "Missing: ${missing[*]}. To install them: $by_hand"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "Missing: ${missing[*]} (Debian's names), and there is no apt-get here. Install them with" \
    "your package manager and run this again." >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "Missing: ${missing[*]}, and installing them needs root. Run this as root and try again:" \
      "$by_hand" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing with ${as_root[*]:+${as_root[*]} }apt-get: ${missing[*]}"
apt() {
  # ${as_root[@]+...}: an empty array counts as unset in older shells.
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# An update may fail for one of many sources; the installation decides.
apt update >"$log" 2>&1 || true
if ! apt install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "Could not install: ${missing[*]}. See the lines above, repair it and try again, or" \
    "install by hand: $by_hand" >&2
  exit 1
fi
