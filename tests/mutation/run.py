#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Breaks the code in one place at a time and counts how often a test notices.

    tests/mutation/run.py GROUP [--count N] [--minutes M] [--seed S] [--since REF]

All mutants of a group are compiled into one test program (see mutants.py); each is then switched on
alone and the test cases that reach it are run, promising ones first, until one fails. Mutants in
the arguments of errors (their sentences) are not made. Survivors that cannot be told from the
original by any test stand in equivalent.txt with a sentence each.

Prints a line for each survivor and the counts, and keeps all results in the build folder, so that a
second call goes on where the first one ended.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mutants

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
DATA = f'-DDROPBP_TEST_DATA="{ROOT}/tests/data"'

# Sources that are broken, the tests that hold them, and what compiles and links them.
GROUPS = {
    "core": {
        "sources": ["include/dropbp/*.hpp", "include/dropbp/base/*.hpp",
                    "include/dropbp/sensitivity/*.hpp"],
        "tests": ["tests/unit/*.cpp"],
    },
    "policies": {
        "sources": ["include/dropbp/policy/*.hpp"],
        "tests": ["tests/unit/*allocation_test.cpp", "tests/unit/*sampling_test.cpp",
                  "tests/unit/*sensitivity_test.cpp", "tests/unit/schedule_test.cpp"],
    },
    "ops": {
        "sources": ["include/dropbp/ops/*.hpp"],
        "tests": ["tests/ops/adamw_test.cpp", "tests/ops/branch_test.cpp", "tests/ops/nf4_test.cpp",
                  "tests/ops/parts_test.cpp", "tests/ops/projection_test.cpp"],
        "flags": ["-isystem", "/usr/include/eigen3"],
        "libraries": ["-pthread"],
    },
    "readers": {
        "sources": ["examples/llama/formats/*.cpp"],
        "tests": ["tests/llama/safetensors_test.cpp", "tests/llama/tokenizer_test.cpp",
                  "tests/llama/json_lines_test.cpp", "tests/llama/family_configs_test.cpp",
                  "tests/llama/adapter_test.cpp", "tests/llama/gguf_test.cpp",
                  "tests/llama/chat_template_test.cpp", "tests/llama/data_test.cpp"],
        "llama": True,
    },
    "trainer": {
        "sources": ["examples/llama/app/trainer.cpp", "examples/llama/app/training_*.cpp",
                    "examples/llama/app/data.cpp", "examples/llama/app/sample_rows.cpp",
                    "examples/llama/app/samples.cpp", "examples/llama/app/learning_rate.cpp",
                    "examples/llama/formats/atomic_file.cpp"],
        "tests": ["tests/llama/trainer_test.cpp", "tests/llama/resume_test.cpp",
                  "tests/llama/data_test.cpp", "tests/llama/samples_test.cpp",
                  "tests/llama/learning_rate_test.cpp"],
        "llama": True,
    },
}
LLAMA_FLAGS = ["-isystem", "/usr/include/eigen3", "-DFMT_SHARED", "-DDROPBP_PCRE2",
               "-DDROPBP_UTF8PROC", '-DDROPBP_LLAMA_FINETUNE="/nonexistent"',
               '-DDROPBP_LLAMA_GENERATE="/nonexistent"']
LLAMA_LIBRARIES = ["-lfmt", "-lpcre2-8", "-lutf8proc", "-pthread"]


def expand(patterns):
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def chosen(paths, parts):
    """Those with one of the parts, which commas separate, in their names."""
    return [path for path in paths if any(part in path.name for part in parts.split(","))]


class Program:
    """The test program of a group, with all its mutants."""

    def __init__(self, name, folder, compiler, library, files="", tests=""):
        group = GROUPS[name]
        self.folder, self.compiler = folder, compiler
        self.llama = group.get("llama", False)
        self.overlay = folder / "overlay"
        self.flags = ["-std=c++20", "-O1", "-w", "-D_GLIBCXX_ASSERTIONS", DATA,
                      *group.get("flags", []), *(LLAMA_FLAGS if self.llama else [])]
        self.libraries = [*([str(library), *LLAMA_LIBRARIES] if self.llama else []),
                          *group.get("libraries", [])]
        self.includes = [f"-I{ROOT}/{where}" for where in ("include", "tests", "examples")]
        self.sources = chosen(expand(group["sources"]), files)
        self.tests = chosen(expand(group["tests"]), tests)
        self.finders, self.without = {}, set()

    def find(self):
        number = 0
        for source in self.sources:
            finder = mutants.find(str(source), str(source.relative_to(ROOT)),
                                  [*self.flags, *self.includes], number)
            number = finder.next
            self.finders[finder.name] = finder
            self.write(finder)
        return {m.number: m for finder in self.finders.values() for m in finder.mutants}

    def write(self, finder):
        path = self.overlay / finder.name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = finder.instrumented(self.without)
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)

    def compile(self, source):
        """The object of a source; mutants on lines that do not compile are taken out."""
        output = self.folder / (source.name + ".o")
        command = [*self.compiler, *self.flags, "-include", str(HERE / "mutation.hpp"),
                   f"-I{self.overlay}/include", f"-I{self.overlay}/examples", *self.includes, "-c",
                   str(source), "-o", str(output)]
        for _ in range(12):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return output
            if not self.take_out(done.stderr):
                sys.exit(f"{source} does not compile:\n{done.stderr[:3000]}")
        sys.exit(f"{source} does not compile even without many mutants")

    def take_out(self, errors):
        places = set(re.findall(rf"{re.escape(str(self.overlay))}/(\S+?):(\d+):", errors))
        found = False
        for name, line in places:
            finder = self.finders.get(name)
            for mutant in finder.mutants if finder else []:
                if mutant.line == int(line) and mutant.number not in self.without:
                    self.without.add(mutant.number)
                    found = True
            if finder:
                self.write(finder)
        return found

    def main(self):
        """Catch2's own code, the same for all groups; it takes the longest to compile."""
        output = self.folder.parent / "main.o"
        if not output.exists():
            subprocess.run([*self.compiler, "-std=c++20", "-O1", "-w", f"-I{ROOT}/tests", "-c",
                            f"{ROOT}/tests/support/main.cpp", "-o", str(output)], check=True)
        return str(output)

    def build(self):
        program = self.folder / "tests"
        sources = [*self.tests, *(self.overlay / name for name in self.finders if self.llama)]
        objects = [self.main()]
        for source in sources:
            print(f"compiling {source.name}", flush=True)
            objects.append(str(self.compile(source)))
        subprocess.run([*self.compiler, *objects, *self.libraries, "-o", str(program)], check=True)
        return program


def limited(seconds):
    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return limit


def run_case(program, case, environment, cpu_seconds):
    """Exit status and seconds of processor time of one test case."""
    name = re.sub(r"([,\[\\])", r"\\\1", case)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        status = subprocess.run(
            [str(program), name, "--warn", "NoTests", "--abort"],
            env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=1200,
            preexec_fn=limited(cpu_seconds), check=False).returncode
    except subprocess.TimeoutExpired:
        status = -1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trace(program, longest):
    """The test cases that reach each mutant, and the seconds of each case."""
    cases = subprocess.run([str(program), "--list-test-names-only"], capture_output=True, text=True,
                           check=False).stdout.splitlines()
    reaching, seconds_of = {}, {}
    for case in (case.strip() for case in cases if case.strip()):
        with tempfile.NamedTemporaryFile() as file:
            status, seconds = run_case(program, case, {"DROPBP_MUTATION_TRACE": file.name}, 600)
            if status != 0:
                print(f"left out, it fails without a mutant: {case}")
                continue
            if seconds > longest:
                print(f"left out, it takes {seconds:.1f} s: {case}")
                continue
            seconds_of[case] = seconds
            for line in Path(file.name).read_text().split():
                reaching.setdefault(int(line), []).append(case)
    return reaching, seconds_of


def changed_lines(since):
    """(file, line) of every line that is new since a commit."""
    lines, name = set(), ""
    if since is None:
        return lines
    diff = subprocess.run(["git", "-C", str(ROOT), "diff", "-U0", since], capture_output=True,
                          text=True, check=True).stdout
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            name = line[6:]
        if match := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            begin, count = int(match[1]), int(match[2] or 1)
            lines.update((name, at) for at in range(begin, begin + count))
    return lines


def equivalents():
    """(file, source line, kind, change) to the sentence that says why no test can notice."""
    known = {}
    for line in (HERE / "equivalent.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, text, kind, change, why = (part.strip() for part in line.split(" | "))
            known[name, text, kind, change] = why
    return known


def key_of(mutant):
    return mutant.file, mutant.text, mutant.kind, mutant.change


def test_mutants(program, tested, traced, results, deadline):
    reaching, seconds_of = traced
    runs, kills = dict.fromkeys(seconds_of, 1), dict.fromkeys(seconds_of, 0.1)

    def price(case):
        """The processor time that a kill by this case takes, by its runs so far."""
        return (seconds_of[case] + 0.02) * runs[case] / kills[case]

    with open(results, "a", encoding="utf-8") as log:
        for mutant in tested:
            if time.time() > deadline:
                break
            verdict, by = ("survived" if mutant.number in reaching else "not reached"), ""
            for case in sorted(reaching.get(mutant.number, []), key=price):
                limit = int(10 * seconds_of[case]) + 10
                status, _ = run_case(program, case, {"DROPBP_MUTANT": str(mutant.number)}, limit)
                runs[case] += 1
                if status != 0:
                    verdict, by = "killed", case
                    kills[case] += 1
                    break
            log.write(json.dumps({"number": mutant.number, "verdict": verdict, "by": by}) + "\n")
            log.flush()
            if verdict != "killed":
                print(f"{verdict}: {mutant.file}:{mutant.line}:{mutant.column}: {mutant.kind} "
                      f"{mutant.change}\n    {mutant.text}", flush=True)


def report(all_mutants, results):
    with open(results, encoding="utf-8") as log:
        verdicts = {row["number"]: row["verdict"] for row in map(json.loads, log)}
    known = equivalents()
    counts = {"killed": 0, "survived": 0, "not reached": 0, "equivalent": 0}
    by_file = {}
    for number, verdict in verdicts.items():
        mutant = all_mutants[number]
        if verdict != "killed" and key_of(mutant) in known:
            verdict = "equivalent"
        counts[verdict] += 1
        row = by_file.setdefault(mutant.file, {"killed": 0, "all": 0})
        row["killed"] += verdict == "killed"
        row["all"] += verdict != "equivalent"
    for name, row in sorted(by_file.items()):
        print(f"{row['killed']:5} of {row['all']:5}  {name}")
    total = sum(counts.values()) - counts["equivalent"]
    share = 100.0 * counts["killed"] / total if total else 0.0
    print(f"killed {counts['killed']} of {total} mutants ({share:.1f} %); survived "
          f"{counts['survived']}, reached by no test {counts['not reached']}; and "
          f"{counts['equivalent']} that no test can notice")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--count", type=int, default=100, help="mutants to test (default 100)")
    parser.add_argument("--minutes", type=float, default=1e6, help="of testing (default: no limit)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice (default 1)")
    parser.add_argument("--since", metavar="REF", help="mutants on lines changed since it go first")
    parser.add_argument("--longest", type=float, default=5.0,
                        help="leave out test cases of more seconds (default 5)")
    parser.add_argument("--files", default="", metavar="PART,...",
                        help="break only files with one of these in their names")
    parser.add_argument("--tests", default="", metavar="PART,...",
                        help="compile only tests with one of these in their names")
    parser.add_argument("--name", default="", help="of the build folder (default: the group's)")
    parser.add_argument("--compiler", default="g++", help="(default g++)")
    parser.add_argument("--library", type=Path,
                        default=ROOT / "build/tests/examples/llama/libllama_example.a",
                        help="of the reader and trainer groups: what else is linked")
    options = parser.parse_args()

    folder = ROOT / "build/mutation" / (options.name or options.group)
    folder.mkdir(parents=True, exist_ok=True)
    program = Program(options.group, folder, options.compiler.split(), options.library,
                      options.files, options.tests)
    all_mutants = program.find()
    print(f"{len(all_mutants)} mutants in {len(program.sources)} files", flush=True)
    binary = program.build()
    for number in program.without:
        del all_mutants[number]
    print(f"{len(program.without)} taken out because they do not compile", flush=True)
    traced = trace(binary, options.longest)
    print(f"{len(traced[1])} test cases reach {len(traced[0])} mutants", flush=True)

    results = folder / "results.jsonl"
    identity = folder / "results.of"
    rows = json.dumps(mutants.as_rows(all_mutants.values()))
    if not identity.exists() or identity.read_text() != rows:
        results.write_text("")
        identity.write_text(rows)
    # Survivors are tested again: there may be new tests.
    with open(results, encoding="utf-8") as log:
        done = {row["number"] for row in map(json.loads, log) if row["verdict"] == "killed"}

    numbers = sorted(all_mutants)
    random.Random(options.seed).shuffle(numbers)
    changed = changed_lines(options.since)
    numbers.sort(key=lambda n: (all_mutants[n].file, all_mutants[n].line) not in changed)
    tested = [all_mutants[n] for n in numbers[: options.count] if n not in done]
    test_mutants(binary, tested, traced, results, time.time() + 60 * options.minutes)
    report(all_mutants, results)


if __name__ == "__main__":
    main()
