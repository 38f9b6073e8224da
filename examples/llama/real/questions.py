# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""Questions and answers about commands, from the manual pages of this machine, as JSON lines.

    questions.py FILE.jsonl [most]
    questions.py --show FILE.jsonl COUNT ROLE

Each answer is the line of the page's section NAME. Without manual pages the descriptions of the
installed Debian packages are taken. `most` (default 2000) pages are drawn by their names, so that
two calls give the same lines. With --show it prints what ROLE says in the last COUNT samples, a
line each. Needs no package.
"""

import gzip
import hashlib
import json
import pathlib
import re
import subprocess
import sys

MANUALS = pathlib.Path("/usr/share/man")
LEAST = 200  # fewer do not make a training


def sentence(text):
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return text[:1].upper() + text[1:] + "."


def of_page(path):
    """(name, what it does), or none for a page without such a line."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as page:
        lines = iter(page.read(20000).splitlines())
    for line in lines:
        if re.match(r'\.S[Hh] "?NAME"?\s*$', line):
            break
    text = " ".join(line for _, line in zip(range(3), lines) if not line.startswith("."))
    text = re.sub(r"\\f.|\\[&|^]|\\s-?\d", "", text).replace("\\-", "-").replace("\\(em", "-")
    match = re.match(r"\s*([\w.+-]+)(?:,[^-]*)? +-+ +(.{10,200})", text)
    if match is None or "\\" in match.group(2):
        return None
    return match.group(1), sentence(match.group(2))


def mixed(names):
    """In an order that depends on the names alone, so that the held-out end is like the rest."""
    return sorted(names, key=lambda name: hashlib.sha256(str(name).encode()).digest())


def of_manuals():
    pages = [page for section in ("man1", "man8") for page in (MANUALS / section).glob("*.gz")]
    for path in mixed(pages):
        found = of_page(path) if path.is_file() else None
        if found:
            yield f"What does the command {found[0]} do?", found[1]


def of_packages():
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}\t${binary:Summary}\n"],
        check=True, capture_output=True, text=True,
    )
    for line in mixed(listed.stdout.splitlines()):
        name, _, summary = line.partition("\t")
        if len(summary) >= 10:
            yield f"What is in the Debian package {name}?", sentence(summary)


def first_of(pairs, most):
    found = {}
    for question, answer in pairs:
        found.setdefault(question, answer)
        if len(found) == most:
            break
    return found


def show(path, count, role):
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()[-int(count) :]:
        print(*(one["content"] for one in json.loads(line)["messages"] if one["role"] == role))


def main():
    if len(sys.argv) == 5 and sys.argv[1] == "--show":
        return show(*sys.argv[2:])
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    most = int(sys.argv[2]) if len(sys.argv) == 3 else 2000
    pairs = first_of(of_manuals(), most)
    if len(pairs) < LEAST:
        pairs = first_of(of_packages(), most)
    if len(pairs) < LEAST:
        sys.exit(f"at least {LEAST} questions are needed, but this machine's manuals and packages "
                 f"give {len(pairs)}; install man-db and some manuals")
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        for question, answer in pairs.items():
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            print(json.dumps({"messages": messages}, ensure_ascii=False), file=out)
    print(f"{sys.argv[1]}: {len(pairs)} questions")


if __name__ == "__main__":
    main()
