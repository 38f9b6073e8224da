#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Breaks the code in one place at a time and counts how often a test notices.

    tests/mutation/run.py GROUP [--count N] [--minutes M] [--seed S] [--since REF]

All mutants of a group are compiled into one test program (see mutants.py); each is then switched on
alone and the test cases that reach it are run, promising ones first, until one fails. Mutants in
the arguments of errors (their sentences) are not made. Survivors that cannot be told from the
original by any test stand in equivalent.txt with a sentence each.

The sample is drawn by a hash of the seed and of each mutant's source line, so that a change of the
sources replaces only the mutants of the lines that changed.

Prints a line for each survivor and the counts, and keeps all results in the build folder, so that a
second call goes on where the first one ended: killed mutants are not run again, survivors are
(those of equivalent.txt only with --equivalent). A survivor costs a run of all test cases that
reach it; so a call with a small --longest and then one without it take less time than one alone.
With --write, the counts become the group's line in counts.csv.
"""

import argparse
import hashlib
import json
import os
import pickle
import re
import resource
import shutil
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
        "tests": ["tests/unit/*.cpp", "tests/mutation/decision_stream_test.cpp"],
    },
    "policies": {
        "sources": ["include/dropbp/policy/*.hpp"],
        "tests": ["tests/unit/*allocation_test.cpp", "tests/unit/*sampling_test.cpp",
                  "tests/unit/*sensitivity_test.cpp", "tests/unit/schedule_test.cpp",
                  "tests/mutation/decision_stream_test.cpp"],
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
    "checkpoint": {
        "sources": ["examples/llama/app/training_state.cpp",
                    "examples/llama/app/training_checkpoint.cpp",
                    "examples/llama/app/run_identity.cpp", "examples/llama/app/best_weights.cpp"],
        "tests": ["tests/llama/resume_test.cpp", "tests/llama/best_weights_test.cpp"],
        "llama": True,
    },
    "trainer": {
        "sources": ["examples/llama/app/trainer.cpp", "examples/llama/app/data.cpp",
                    "examples/llama/app/packing.cpp", "examples/llama/app/sample_rows.cpp",
                    "examples/llama/app/samples.cpp", "examples/llama/app/learning_rate.cpp"],
        "tests": ["tests/llama/trainer_test.cpp", "tests/llama/data_test.cpp",
                  "tests/llama/samples_test.cpp", "tests/llama/learning_rate_test.cpp"],
        "llama": True,
    },
}
LLAMA_FLAGS = ["-isystem", "/usr/include/eigen3", "-DFMT_SHARED", "-DDROPBP_PCRE2",
               "-DDROPBP_UTF8PROC", '-DDROPBP_LLAMA_FINETUNE="/nonexistent"',
               '-DDROPBP_LLAMA_GENERATE="/nonexistent"']
LLAMA_LIBRARIES = ["-lfmt", "-lpcre2-8", "-lutf8proc", "-pthread"]


COUNTS_HEAD = ["# SPDX-FileCopyrightText: 2026 The dropbp authors",
               "# SPDX-License-Identifier: MIT",
               "# Written by run.py --write: mutants = killed + equivalent + survived.",
               "room,mutants,killed,equivalent,survived"]


def expand(patterns):
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def is_newest(output):
    """Whether an object is newer than all that it was compiled from."""
    dependencies = output.with_suffix(".d")
    if not output.exists() or not dependencies.exists():
        return False
    names = dependencies.read_text().replace("\\\n", " ").split(": ", 1)[1].split()
    built = output.stat().st_mtime
    return all(Path(name).exists() and Path(name).stat().st_mtime <= built for name in names)


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
        self.libraries = group.get("libraries", [])
        if self.llama:
            mpi = ["-lmpi"] if b"MPI_Init" in library.read_bytes() else []
            self.libraries = [str(library), *LLAMA_LIBRARIES, *mpi]
        self.includes = [f"-I{ROOT}/{where}" for where in ("include", "tests", "examples")]
        self.sources = chosen(expand(group["sources"]), files)
        self.tests = chosen(expand(group["tests"]), tests)
        self.finders, self.without = {}, set()

    def find(self):
        number = 0
        for source in self.sources:
            finder = self.finder(source, number)
            number = finder.next
            self.finders[finder.name] = finder
            self.write(finder)
        return {m.number: m for finder in self.finders.values() for m in finder.mutants}

    def finder(self, source, number):
        """That of a source, parsed once for each content of it."""
        arguments = [*self.flags, *self.includes]
        digest = hashlib.sha256(repr([number, arguments]).encode() + source.read_bytes() +
                                Path(mutants.__file__).read_bytes()).hexdigest()
        kept = self.folder / "found" / digest
        if kept.exists():
            return pickle.loads(kept.read_bytes())
        found = mutants.find(str(source), str(source.relative_to(ROOT)), arguments, number)
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(pickle.dumps(found))
        return found

    def write(self, finder):
        path = self.overlay / finder.name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = finder.instrumented(self.without)
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)

    def compile(self, source):
        """The object of a source; mutants on lines that do not compile are taken out."""
        output = self.folder / (source.name + ".o")
        # An example's tests compute little themselves; not optimised, they compile faster.
        fast = ["-O0"] if self.llama and source in self.tests else []
        command = [*self.compiler, *self.flags, *fast, "-include", str(HERE / "mutation.hpp"),
                   f"-I{self.overlay}/include", f"-I{self.overlay}/examples", *self.includes, "-c",
                   str(source), "-MMD", "-o", str(output)]
        used = output.with_suffix(".command")
        if used.exists() and used.read_text() == repr(command) and is_newest(output):
            return output
        print(f"compiling {source.name}", flush=True)
        for _ in range(12):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                used.write_text(repr(command))
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

    def build(self, broken):
        """The program; of an example, only the files that are broken are compiled."""
        program = self.folder / "tests"
        sources = [*self.tests, *(self.overlay / name for name in broken if self.llama)]
        objects = [self.main()]
        for source in sources:
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
    kept = program.with_suffix(".trace.json")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    known = json.loads(kept.read_text()) if kept.exists() else {"of": ["", 0]}
    if known["of"][0] != digest or known["of"][1] < longest:
        reaching, seconds_of = run_traced(program, longest)
        known = {"of": [digest, longest], "reaching": reaching, "seconds": seconds_of}
        kept.write_text(json.dumps(known))
    seconds_of = {case: seconds for case, seconds in known["seconds"].items() if seconds <= longest}
    reaching = {int(number): [case for case in cases if case in seconds_of]
                for number, cases in known["reaching"].items()}
    return reaching, seconds_of


def run_traced(program, longest):
    cases = subprocess.run([str(program), "--list-test-names-only"], capture_output=True, text=True,
                           check=False).stdout.splitlines()
    reaching, seconds_of = {}, {}
    for case in (case.strip() for case in cases if case.strip()):
        with tempfile.NamedTemporaryFile() as file:
            environment = {"DROPBP_MUTATION_TRACE": file.name}
            status, seconds = run_case(program, case, environment, int(longest) + 1)
            if seconds > longest:
                print(f"left out, it takes more than {longest:.1f} s: {case}", flush=True)
                continue
            if status != 0:
                print(f"left out, it fails without a mutant: {case}", flush=True)
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


def keys_of(all_mutants):
    """A text for each number, which stays the same when other lines change."""
    keys, seen = {}, {}
    for number, mutant in sorted(all_mutants.items()):
        key = "|".join([*key_of(mutant), str(mutant.column)])
        seen[key] = seen.get(key, 0) + 1
        keys[number] = f"{key}|{seen[key]}"
    return keys


def drawn(all_mutants, keys, seed, since):
    """All numbers in the order of the draw; those on changed lines come first."""
    changed = changed_lines(since)

    def order(number):
        mutant = all_mutants[number]
        new = (mutant.file, mutant.line) in changed
        return not new, hashlib.sha256(f"{seed}|{keys[number]}".encode()).digest()

    return sorted(all_mutants, key=order)


def test_mutants(program, keys, tested, traced, results, deadline):
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
                limit = int(10 * seconds_of[case]) + 2
                status, _ = run_case(program, case, {"DROPBP_MUTANT": str(mutant.number)}, limit)
                runs[case] += 1
                if status != 0:
                    verdict, by = "killed", case
                    kills[case] += 1
                    break
            row = {"key": keys[mutant.number], "verdict": verdict, "by": by}
            log.write(json.dumps(row) + "\n")
            log.flush()
            if verdict != "killed":
                print(f"{verdict}: {mutant.file}:{mutant.line}:{mutant.column}: {mutant.kind} "
                      f"{mutant.change}\n    {mutant.text}", flush=True)


def verdicts_of(results):
    """The last verdict of each key."""
    if not results.exists():
        return {}
    with open(results, encoding="utf-8") as log:
        return {row["key"]: row["verdict"] for row in map(json.loads, log)}


def report(tested, keys, results):
    """Prints the counts of those tested: killed, equivalent, and not noticed."""
    verdicts = verdicts_of(results)
    known = equivalents()
    counts = {"killed": 0, "survived": 0, "not reached": 0, "equivalent": 0}
    by_file = {}
    for mutant in tested:
        verdict = verdicts.get(keys[mutant.number])
        if verdict != "killed" and key_of(mutant) in known:
            verdict = "equivalent"
        if verdict is None:
            continue
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
    return counts["killed"], counts["equivalent"], counts["survived"] + counts["not reached"]


def write_counts(group, killed, equivalent, survived):
    path = HERE / "counts.csv"
    lines = path.read_text().splitlines() if path.exists() else COUNTS_HEAD
    row = f"{group},{killed + equivalent + survived},{killed},{equivalent},{survived}"
    at = [i for i, line in enumerate(lines) if line.startswith(f"{group},")]
    lines[at[0] if at else len(lines):(at[0] + 1) if at else len(lines)] = [row]
    path.write_text("\n".join(lines) + "\n")


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
    ccache = "ccache g++" if shutil.which("ccache") else "g++"
    parser.add_argument("--compiler", default=ccache, help=f"(default: {ccache})")
    parser.add_argument("--equivalent", action="store_true",
                        help="run the survivors of equivalent.txt again, too")
    parser.add_argument("--write", action="store_true", help="write the counts to counts.csv")
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
    keys = keys_of(all_mutants)
    numbers = drawn(all_mutants, keys, options.seed, options.since)[: options.count]
    binary = program.build(sorted({all_mutants[n].file for n in numbers}))
    tested = [all_mutants[n] for n in numbers if n not in program.without]
    print(f"{len(numbers) - len(tested)} taken out because they do not compile", flush=True)
    traced = trace(binary, options.longest)
    print(f"{len(traced[1])} test cases reach {len(traced[0])} mutants", flush=True)

    results = folder / "results.jsonl"
    done = verdicts_of(results)
    known = {} if options.equivalent else equivalents()
    left = [m for m in tested
            if done.get(keys[m.number]) != "killed"
            and (key_of(m) not in known or keys[m.number] not in done)]
    test_mutants(binary, keys, left, traced, results, time.time() + 60 * options.minutes)
    counts = report(tested, keys, results)
    if options.write:
        write_counts(options.group, *counts)


if __name__ == "__main__":
    main()
