#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""The figures measured on a GPU: benchmarks/results/cuda.json and its page README.md.

  describe          prints the head of a run: date, commit, GPU, driver, and a hash of each
                    source of the CUDA backend
  collect FOLDER    makes one file of those that benchmarks/cuda/card.sh wrote there
  save FILE         saves such a file as benchmarks/results/cuda.json and writes the page
  check             names the sources that have changed since they last ran on a GPU
                    ("skipped: ..."). Exit code 1 if the page does not match the figures
"""

import argparse
import datetime
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ("kernels", "lora", "pytorch", "fp8", "longest", "qlora", "full", "sensitivities")
TESTS = {
    "tests": ("ops", "cudnn", "model"),
    "sanitizers": ("memcheck", "racecheck", "synccheck", "initcheck"),
}


def sources_of(root):
    """SHA-256 by path of the sources that run on a GPU or select what does."""
    paths = [
        path
        for folder in ("backend", "kernels")
        for path in glob.glob(os.path.join(root, "include/dropbp", folder, "cuda/*"))
    ]
    paths += [
        os.path.join(root, "include/dropbp", name)
        for name in ("dropbp.cuh", "kernels/cuda.hpp", "kernels/kernels.hpp")
    ]
    hashes = {}
    for path in sorted(paths):
        with open(path, "rb") as file:
            hashes[os.path.relpath(path, root)] = hashlib.sha256(file.read()).hexdigest()
    return hashes


def output_of(*command):
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            or "unknown"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def commit_of(root):
    return output_of("git", "-C", root, "describe", "--always", "--dirty")


def built_commit(root, carried):
    path = os.path.join(carried or "", "commit")
    if carried and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    return commit_of(root)


def describe(root, carried):
    """`carried`: the folder of programs that were built elsewhere, with their commit."""
    card = (
        output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        .splitlines()[0]
        .split(", ")
    )
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": built_commit(root, carried),
        "card": card[0],
        "driver": card[-1],
        "toolkit": output_of("nvcc", "--version").splitlines()[-1],
        "sources": sources_of(root),
    }


def tests_of(path):
    """Counts the test cases by the last line of a Catch2 program's output. A program that was
    stopped has none: its failures so far are counted, and that it did not end."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    if found := re.search(r"^All tests passed \(.* in (\d+) test cases?\)", text, re.MULTILINE):
        counts["passed"] = int(found[1])
    elif found := re.search(r"^test cases:(.*)$", text, re.MULTILINE):
        for number, what in re.findall(r"(\d+) (passed|failed|skipped)", found[1]):
            counts[what] = int(number)
    else:
        counts["failed"] = len(re.findall(r"^.*: FAILED:$", text, re.MULTILINE))
        counts["ended"] = False
    return counts


def collect(folder, failed):
    with open(os.path.join(folder, "run.json"), encoding="utf-8") as file:
        result = json.load(file)
    result["failed"] = [name for name in failed.split(",") if name]
    for group, names in TESTS.items():
        found = {
            name: tests_of(path)
            for name in names
            if os.path.exists(path := os.path.join(folder, name + ".txt"))
        }
        if found:
            result[group] = found
    for name in PARTS:
        path = os.path.join(folder, name + ".json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                result[name] = json.load(file)
    return result


def table(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def wrapped(text):
    """Wraps lines to at most 100 columns, except tables and titles."""
    return "\n".join(
        line
        if line.startswith(("|", "#"))
        else textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def page_of(results):
    """The page of these figures; None: there are no figures."""
    text = (
        "# On a card\n\nWritten by [benchmarks/cuda/card.sh](../cuda/card.sh) with `--save`.\n\n"
    )
    if results is None:
        return text + "No card has run the CUDA backend yet: there are no figures.\n"
    text += (
        f"{results['date']}, {results['card']}, driver {results['driver']}, {results['toolkit']}, "
        f"commit {results['commit']}; "
        "all figures: [cuda.json](cuda.json).\n"
    )
    for group, what in (("tests", "Test cases"), ("sanitizers", "compute-sanitizer")):
        for name, counts in results.get(group, {}).items():
            text += (
                f"\n{what}, {name}: {counts['passed']} passed, {counts['failed']} failed, "
                f"{counts['skipped']} skipped"
                f"{'' if counts.get('ended', True) else ', and did not end'}.\n"
            )
    if results["failed"]:
        text += f"\nFailed, or stopped for time: {', '.join(results['failed'])}.\n"
    for name in ("lora", "fp8", "full", "qlora"):
        if name not in results:
            continue
        step = results[name]
        text += (
            f"\n## A training step: {step['shape']}, {step['mode']}, {step['layers']} blocks, "
            f"{step['batch']} x {step['sequence']} tokens\n\n{step['tokens_per_second']:.0f} "
            f"tokens/s at rate 0, "
            f"{step['flops_per_second'] / step['product_flops_per_second']:.2f} of a large "
            f"product's rate. The limit follows "
            "from the parts of a step at rate 0.\n\n"
        )
        text += table(
            ("drop rate", "forward ms", "backward ms", "optimizer ms", "step ms", "ratio", "limit"),
            [
                (
                    f"{row['drop_rate']:g}",
                    *(
                        f"{row[key + '_ms']:.1f}"
                        for key in ("forward", "backward", "optimizer", "step")
                    ),
                    f"{row['ratio']:.3f}",
                    f"{row['limit']:.3f}",
                )
                for row in step["rows"]
            ],
        )
    if "pytorch" in results:
        compared = results["pytorch"]
        names = [key[:-3] for key in compared["rows"][0] if key.endswith("_ms")]
        text += (
            f"\n## Beside PyTorch {compared['pytorch']}: {compared['mode']}, {compared['layers']} "
            f"blocks, "
            f"{compared['sequence']} tokens\n\n"
        )
        text += table(
            ("drop rate", *(name + " ms" for name in names), *(name + " MiB" for name in names)),
            [
                (
                    f"{row['drop_rate']:g}",
                    *(f"{row[name + '_ms']:.1f}" for name in names),
                    *(f"{row[name + '_peak_mib']:.0f}" for name in names),
                )
                for row in compared["rows"]
            ],
        )
    if "longest" in results:
        longest = results["longest"]
        text += (
            f"\n## The longest sequence: {longest['shape']}, {longest['mode']}, within "
            f"{longest['gib']:g} GiB\n\n"
        )
        text += table(
            ("drop rate", "tokens", "GiB", "times as long"),
            [
                (
                    f"{row['drop_rate']:g}",
                    str(row["tokens"]),
                    f"{row['bytes'] / 2**30:.2f}",
                    f"{row['times']:.2f}",
                )
                for row in longest["longest"]
            ],
        )
    if "sensitivities" in results:
        found = results["sensitivities"]
        text += (
            f"\n## Sensitivities of {found['branches']} branches\n\n"
            f"{found['branchwise_seconds']:.2f} s in one pass, "
            f"{found['published_seconds']:.2f} s by a pass a branch: {found['ratio']:.2f} times as "
            f"long.\n"
        )
    if "kernels" in results:
        # A run that was stopped may lack some.
        ceilings = [
            f"{what} {results['kernels']['ceilings'][key] / 1e12:{digits}} {unit}"
            for what, key, digits, unit in (
                ("copying", "copy_bytes_per_second", ".2f", "TB/s"),
                ("reading", "read_bytes_per_second", ".2f", "TB/s"),
                ("products in bfloat16", "bfloat16_flops", ".0f", "TFLOP/s"),
                ("products in float", "float_flops", ".0f", "TFLOP/s"),
            )
            if key in results["kernels"]["ceilings"]
        ]
        text += f"\n## Kernels\n\nMeasured: {', '.join(ceilings)}.\n\n"
        text += table(
            ("kernel", "scalar", "us", "of the ceiling"),
            [
                (
                    row["kernel"],
                    row["scalar"],
                    f"{1e6 * row['seconds']:.1f}",
                    f"{row['fraction']:.2f} of {row['ceiling']}",
                )
                for row in results["kernels"]["rows"]
            ],
        )
    return wrapped(text)


def kept_results(root):
    path = os.path.join(root, "benchmarks", "results", "cuda.json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def check(root):
    results = kept_results(root)
    with open(os.path.join(root, "benchmarks", "results", "README.md"), encoding="utf-8") as file:
        if file.read() != page_of(results):
            sys.exit(
                "benchmarks/results/README.md must be the page of the figures beside it, but it is "
                "another: run benchmarks/cuda/results.py save benchmarks/results/cuda.json"
            )
    now = sources_of(root)
    if results is None:
        return f"skipped: none of the {len(now)} sources of the CUDA backend has run on a card yet"
    last = f"{results['card']}, {results['date']}, {results['commit']}"
    changed = [path for path, digest in now.items() if results["sources"].get(path) != digest]
    if changed:
        return f"skipped: changed since their last run on a card ({last}): {', '.join(changed)}"
    return f"all {len(now)} sources of the CUDA backend are as they last ran on a card ({last})"


def save(root, path):
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    # A GPU machine may lack the repository; for the same sources the commit is known here.
    if results["commit"] == "unknown" and results["sources"] == sources_of(root):
        results["commit"] = commit_of(root)
    folder = os.path.join(root, "benchmarks", "results")
    os.makedirs(folder, exist_ok=True)
    for name, text in (
        ("cuda.json", json.dumps(results, indent=1) + "\n"),
        ("README.md", page_of(results)),
    ):
        new = os.path.join(folder, name + ".new")
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, os.path.join(folder, name))
    return os.path.join(folder, "README.md")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default=os.path.join(HERE, "..", ".."), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    describing = commands.add_parser("describe")
    describing.add_argument(
        "--carried", help="folder of programs that were built elsewhere, with their commit"
    )
    collecting = commands.add_parser("collect")
    collecting.add_argument("folder")
    collecting.add_argument(
        "--failed", default="", help="names of the failed steps, separated by commas"
    )
    collecting.add_argument("--out", help="the file to write; FOLDER/cuda.json if absent")
    commands.add_parser("save").add_argument("file")
    commands.add_parser("check")
    options = parser.parse_args()
    root = os.path.realpath(options.root)
    if options.command == "describe":
        print(json.dumps(describe(root, options.carried), indent=1))
    elif options.command == "collect":
        result = collect(options.folder, options.failed)
        out = options.out or os.path.join(options.folder, "cuda.json")
        with open(out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    elif options.command == "save":
        print(save(root, options.file))
    else:
        print(check(root))


if __name__ == "__main__":
    main()
