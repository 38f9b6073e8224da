#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""benchmarks/cuda/results.py, with made-up figures: a run is collected, kept, shown, and known to
be out of date."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")

STEP = {
    "shape": "llama2-7b",
    "mode": "lora",
    "layers": 32,
    "batch": 1,
    "sequence": 4096,
    "tokens_per_second": 1234.5,
    "flops_per_second": 3e14,
    "product_flops_per_second": 6e14,
    "rows": [
        {
            "drop_rate": 0.5,
            "forward_ms": 1.0,
            "backward_ms": 2.0,
            "optimizer_ms": 3.0,
            "step_ms": 6.0,
            "ratio": 0.71,
            "limit": 0.7,
        }
    ],
}
FILES = {
    "kernels.json": {
        "ceilings": {
            "copy_bytes_per_second": 4e12,
            "read_bytes_per_second": 4.1e12,
            "bfloat16_flops": 7e14,
            "float_flops": 5e13,
        },
        "rows": [
            {
                "kernel": "residual add",
                "scalar": "bfloat16",
                "seconds": 1e-5,
                "fraction": 0.93,
                "ceiling": "copy",
            }
        ],
    },
    "lora.json": STEP,
    "fp8.json": {**STEP, "mode": "lora-fp8"},
    "pytorch.json": {
        "pytorch": "2.9",
        "mode": "lora",
        "layers": 32,
        "sequence": 4096,
        "rows": [
            {
                "drop_rate": 0.5,
                "dropbp_ms": 1.0,
                "dropbp_peak_mib": 10.0,
                "tuned_ms": 2.0,
                "tuned_peak_mib": 20.0,
            }
        ],
    },
    "longest.json": {
        "shape": "llama2-70b",
        "mode": "qlora",
        "gib": 80.0,
        "longest": [{"drop_rate": 0.875, "tokens": 19000, "bytes": 2**36, "times": 6.9}],
    },
    "sensitivities.json": {
        "branches": 64,
        "branchwise_seconds": 2.0,
        "published_seconds": 8.0,
        "ratio": 4.0,
    },
}
OUTPUTS = {
    "ops": "All tests passed (1234 assertions in 2 test cases)\n",
    "cudnn": "test cases: 4 | 2 passed | 1 failed | 1 skipped\nassertions: 9 | 8 passed\n",
    "memcheck": "a.cpp:7: FAILED:\n  REQUIRE( x )\n",  # stopped before its end
}


class Results(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root, self.out = os.path.join(self.folder.name, "root"), os.path.join(
            self.folder.name, "out"
        )
        for path in (
            "include/dropbp/kernels/cuda/norm.hpp",
            "include/dropbp/dropbp.cuh",
            "include/dropbp/kernels/cuda.hpp",
            "include/dropbp/kernels/kernels.hpp",
            "benchmarks/results/README.md",
        ):
            self.write(os.path.join(self.root, path), path)
        for name, content in FILES.items():
            self.write(os.path.join(self.out, name), json.dumps(content))
        for name, text in OUTPUTS.items():
            self.write(os.path.join(self.out, name + ".txt"), text)
        self.write(os.path.join(self.out, "run.json"), self.run_script("describe").stdout)
        self.run_script("collect", self.out, "--failed", "qlora,full")
        self.run_script("save", os.path.join(self.out, "cuda.json"))

    def tearDown(self):
        self.folder.cleanup()

    @staticmethod
    def write(path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def run_script(self, *arguments, status=0):
        script = os.path.join(REPOSITORY, "benchmarks", "cuda", "results.py")
        result = subprocess.run(
            [sys.executable, script, "--root", self.root, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(result.returncode, status, result.stderr)
        return result

    def test_the_page_shows_every_part(self):
        with open(
            os.path.join(self.root, "benchmarks", "results", "README.md"), encoding="utf-8"
        ) as file:
            page = file.read()
        self.assertLessEqual(max(len(line) for line in page.split("\n")), 100)
        page = " ".join(page.split())
        for text in (
            "Test cases, ops: 2 passed, 0 failed, 0 skipped.",
            "Test cases, cudnn: 2 passed, 1 failed, 1 skipped.",
            "compute-sanitizer, memcheck: 0 passed, 1 failed, 0 skipped, and did not end.",
            "copying 4.00 TB/s, reading 4.10 TB/s, products in bfloat16 700 TFLOP/s",
            "stopped for time: qlora, full",
            "llama2-7b, lora, 32 blocks",
            "llama2-7b, lora-fp8, 32 blocks",
            "1234 tokens/s at rate 0, 0.50 of a large product's rate",
            "| 0.5 | 1.0 | 2.0 | 3.0 | 6.0 | 0.710 | 0.700 |",
            "| 0.5 | 1.0 | 2.0 | 10 | 20 |",
            "within 80 GiB",
            "| 0.875 | 19000 | 64.00 | 6.90 |",
            "4.00 times as long",
            "| residual add | bfloat16 | 10.0 | 0.93 of copy |",
        ):
            self.assertIn(text, page)

    def test_sources_that_changed_are_named(self):
        self.assertIn("all 4 sources", self.run_script("check").stdout)
        self.write(os.path.join(self.root, "include/dropbp/kernels/cuda/norm.hpp"), "another")
        self.write(os.path.join(self.root, "include/dropbp/backend/cuda/new.hpp"), "new")
        output = self.run_script("check").stdout
        self.assertTrue(
            output.startswith("skipped: changed since their last run on a card"), output
        )
        self.assertTrue(
            output.endswith(
                ": include/dropbp/backend/cuda/new.hpp, include/dropbp/kernels/cuda/norm.hpp\n"
            ),
            output,
        )

    def test_a_commit_that_was_unknown_on_the_card_is_known_of_the_same_sources(self):
        def kept():
            self.run_script("save", os.path.join(self.out, "cuda.json"))
            with open(
                os.path.join(self.root, "benchmarks/results/cuda.json"), encoding="utf-8"
            ) as file:
                return json.load(file)["commit"]

        self.assertEqual(kept(), "unknown")
        for command in (
            ("init", "-q"),
            (
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "commit",
                "-q",
                "--allow-empty",
                "-m",
                "one",
            ),
        ):
            subprocess.run(("git", "-C", self.root, *command), check=True)
        self.assertNotEqual(kept(), "unknown")
        self.write(os.path.join(self.root, "include/dropbp/kernels/cuda/norm.hpp"), "another")
        self.assertEqual(kept(), "unknown")

    def test_a_page_of_other_figures_is_a_failure(self):
        self.write(os.path.join(self.root, "benchmarks/results/README.md"), "faster than light")
        self.assertIn("it is another", self.run_script("check", status=1).stderr)

    def test_without_figures_nothing_has_run(self):
        os.remove(os.path.join(self.root, "benchmarks/results/cuda.json"))
        self.assertIn("it is another", self.run_script("check", status=1).stderr)


if __name__ == "__main__":
    unittest.main()
