#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""benchmarks/cuda/card.sh from its first line to its last: with programs that stand for those of a
card, and with the real ones where there is no card (--programs: the folders of the real ones)."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.join(HERE, "..", "..")
STEPS = (
    "facts ops cudnn model kernels lora pytorch fp8 memcheck racecheck profile qlora longest full "
    "finetune sensitivities synccheck initcheck"
).split()
PASSES = "echo 'All tests passed (8 assertions in 4 test cases)'"
# Writes {"program": its name} to the file behind --json.
WRITES = r"""
name=${0##*/}
while [ $# -gt 1 ]; do
  if [ "$1" = --json ]; then echo "{\"program\": \"$name\"}" >"$2"; fi
  shift
done
"""
PROGRAMS = []


class Card(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        for name in ("dropbp_gpu_tests", "dropbp_gpu_model_tests"):
            self.program("carry", name, PASSES)
        for name in ("cuda_kernels", "cuda_step"):
            self.program("carry", name, WRITES)
        self.program("carry", "llama-finetune", "true")
        self.program("path", "nvidia-smi", "echo 143771")
        for name in ("ncu", "nvcc"):
            self.program("path", name, "true")
        # The tools run the program behind their options.
        self.program("path", "compute-sanitizer", 'while [ "${1#-}" != "$1" ]; do shift; '
                     'case $1 in -*) ;; *) [ -x "$1" ] || shift ;; esac; done; exec "$@"')
        self.program("path", "python3", f"case $1 in *versus_pytorch.py) {WRITES} ;; "
                     f"*) exec '{sys.executable}' -B \"$@\" ;; esac")

    def program(self, folder, name, text):
        path = os.path.join(self.folder, folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/bash\n" + text + "\n")
        os.chmod(path, 0o755)

    def run_card(self, *arguments, carry=None, stubs=True):
        out = os.path.join(self.folder, "out")
        path = os.environ["PATH"]
        if stubs:
            path = os.path.join(self.folder, "path") + ":" + path
        result = subprocess.run(
            ["bash", os.path.join(REPOSITORY, "benchmarks", "cuda", "card.sh"), "--no-install",
             "--carry", carry or os.path.join(self.folder, "carry"), "--out", out,
             "--build-dir", os.path.join(self.folder, "build"), *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
        )
        with open(os.path.join(out, "cuda.json"), encoding="utf-8") as file:
            figures = json.load(file)
        self.assertEqual(sorted(os.listdir(out)), ["all.tgz", "cuda.json", "log.txt"])
        return result, figures

    @staticmethod
    def begun(text):
        return [line.split()[1].rstrip(",") for line in text.split("\n")
                if line.startswith("== ") and ", at most " in line]

    def test_every_step_runs_in_order_and_is_collected(self):
        result, figures = self.run_card()
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(self.begun(result.stdout), STEPS)
        self.assertEqual(figures["failed"], [])
        for step in ("ops", "cudnn", "model"):
            self.assertEqual(figures["tests"][step]["passed"], 4)
        for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
            self.assertEqual(figures["sanitizers"][tool]["passed"], 4)
        self.assertEqual(figures["kernels"], {"program": "cuda_kernels"})
        for step in ("lora", "fp8", "qlora", "longest", "full", "sensitivities"):
            self.assertEqual(figures[step], {"program": "cuda_step"})
        with tarfile.open(os.path.join(self.folder, "out", "all.tgz")) as archive:
            names = [os.path.basename(name) for name in archive.getnames()]
        for name in ("log.txt", "kernels.json", "ops.txt", "pytorch.txt"):
            self.assertIn(name, names)

    def test_what_fails_is_named_and_the_rest_runs(self):
        self.program("carry", "dropbp_gpu_model_tests",
                     "echo 'a.cpp:3: FAILED:'; echo 'test cases: 5 | 3 passed | 2 failed'; exit 2")
        result, figures = self.run_card()
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.begun(result.stdout), STEPS)
        self.assertEqual(figures["failed"], ["model"])
        self.assertEqual(figures["tests"]["model"], {"passed": 3, "failed": 2, "skipped": 0})
        self.assertIn("failed: model; see ", result.stderr)

    def test_a_program_that_hangs_leaves_what_it_has_and_the_rest_is_left_out(self):
        # It ignores the request to end.
        self.program("carry", "cuda_kernels",
                     "trap '' TERM\n" + WRITES + "while :; do sleep 1; done")
        result, figures = self.run_card("--only", "kernels,lora", "--seconds", "16")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(figures["failed"][0], "kernels")
        self.assertIn("== lora", result.stdout)
        if "kernels: no time is left" not in result.stdout:  # on a very busy machine
            self.assertIn("kernels: stopped after", result.stdout)
            self.assertEqual(figures["kernels"], {"program": "cuda_kernels"})

    def test_programs_that_do_not_start_are_built(self):
        self.program("carry", "dropbp_gpu_tests", "exit 127")
        self.program("path", "cmake", "echo 'this cmake builds nothing' >&2; exit 1")
        result, figures = self.run_card("--only", "build,facts")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.begun(result.stdout), ["facts", "build"])
        self.assertIn("this cmake builds nothing", result.stdout)
        self.assertEqual(figures["failed"], ["build"])

    def test_without_a_card_every_step_says_so(self):
        if not PROGRAMS:
            self.skipTest("the programs for a card are not built")
        for program in PROGRAMS:
            os.symlink(program, self.linked(os.path.basename(program)))
        result, figures = self.run_card("--quick", carry=self.linked(""), stubs=False)
        if figures["card"] != "unknown":
            self.skipTest("there is a card: benchmarks/cuda/card.sh itself is the test")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.begun(result.stdout), STEPS)
        # Without PyTorch its step is skipped.
        self.assertEqual([step for step in figures["failed"] if step != "pytorch"],
                         [step for step in STEPS[1:] if step != "pytorch"])
        steps = result.stdout.split("\n== ")
        for step in ("ops", "cudnn", "model", "kernels", "lora", "fp8", "memcheck", "initcheck",
                     "qlora", "longest", "full", "finetune", "sensitivities"):
            text = next(part for part in steps if part.startswith(step + ", at most"))
            self.assertIn("CUDA device", text)

    def linked(self, name):
        os.makedirs(os.path.join(self.folder, "real"), exist_ok=True)
        return os.path.join(self.folder, "real", name)


if __name__ == "__main__":
    if "--programs" in sys.argv:
        at = sys.argv.index("--programs")
        PROGRAMS = sys.argv[at + 1 :]
        del sys.argv[at:]
    unittest.main()
