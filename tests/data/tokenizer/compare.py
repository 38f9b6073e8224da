# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Compares the ids of random strings and of real text with those of Hugging Face tokenizers.

Usage: python3 compare.py PATH/TO/dropbp_llama_tests FOLDER...    (needs tokenizers 0.23.3)

Takes 20,000 random strings, and 20 MB of the UTF-8 files below the folders in pieces of up to
16 KB, for each of the tokenizers beside this script, and prints how many differ. By hand: it takes
minutes.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent
NAMES = ("gpt2", "llama3", "smollm", "qwen2", "llama2", "mistral", "gemma", "phi3")
RANDOM_STRINGS = 20_000
REAL_BYTES = 20_000_000
PIECE = 16_384


def random_character(source):
    """Of all planes that have characters, most often of those that text has."""
    kind = source.randrange(10)
    if kind < 5:
        return chr(source.randrange(0x20, 0x7F))
    if kind == 5:
        return source.choice(" \n\t\r\u00a0\u3000\u200b\u2028\u180e")
    if kind == 6:
        return chr(source.randrange(0xA0, 0x3000))
    if kind == 7:
        return chr(source.randrange(0x300, 0x370))
    while True:
        code = source.randrange(0x110000 if kind == 9 else 0x10000)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_strings():
    source = random.Random(1)
    words = ["<|end|>", "<s>", "</s>", "<unk>", "<word>", "<left>", "<tool>", "  ", "\u2581"]
    words += ["the", " of", "\n\n", "<0x41>", "'s", "123", "\u1100\u1161\u11a8", "e\u0301"]
    for _ in range(RANDOM_STRINGS):
        parts = []
        for _ in range(source.randrange(1, 40)):
            pick = source.randrange(3) == 0
            parts.append(source.choice(words) if pick else random_character(source))
        yield "".join(parts)


def real_strings(folders):
    left = REAL_BYTES
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if left <= 0:
                return
            if not path.is_file() or path.is_symlink():
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if "\0" in text:
                continue
            for begin in range(0, len(text), PIECE):
                piece = text[begin : begin + PIECE]
                left -= len(piece.encode())
                yield piece
    if left > 0:
        sys.exit(f"the folders must hold {REAL_BYTES} bytes of text, but {left} are missing")


def main():
    strings = list(random_strings())
    strings += real_strings(sys.argv[2:])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "strings.json").write_text(json.dumps(strings))
        subprocess.run(
            [sys.argv[1], "by hand: ids for compare.py"],
            check=True,
            env={**os.environ, "DROPBP_STRINGS": folder},
        )
        for name in NAMES:
            tokenizer = Tokenizer.from_file(str(FOLDER / f"{name}.json"))
            differing = [0, 0]
            first = None
            with open(Path(folder) / f"{name}.ids") as lines:
                for number, (text, line) in enumerate(zip(strings, lines, strict=True)):
                    expected = tokenizer.encode(text, add_special_tokens=False).ids
                    if json.loads(line) == expected:
                        continue
                    differing[number >= RANDOM_STRINGS] += 1
                    first = first or text
            real = len(strings) - RANDOM_STRINGS
            print(
                f"{name}: {differing[0]} of {RANDOM_STRINGS} random strings differ, "
                f"{differing[1]} of {real} pieces of real text"
                + (f"; the first is {first!r}" if first else "")
            )


main()
