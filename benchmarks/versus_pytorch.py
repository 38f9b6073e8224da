#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""The published semantics of DropBP in PyTorch against benchmarks/step_time: the same shapes, the same plans, in turn.

Published means: the forward pass of a dropped branch builds its graph, and detach() frees it afterwards. Each
(implementation, drop rate) runs in a process of its own, in turn, so that its peak memory is its own too.
Exit codes: 0, also without PyTorch (it says what it skipped); 1 something failed; 2 wrong usage.
"""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time


def plan_of(drop_rate, layers, round_):
    """Which blocks are kept: the rule of step_time's plan_of."""
    kept = math.floor((1.0 - drop_rate) * layers + 0.5)
    return {(i * layers // kept + round_) % layers for i in range(kept)}


def worker(options, drop_rate):
    import torch
    import torch.nn.functional as F

    threads = options.threads or os.cpu_count()
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    hidden, heads, vocabulary = options.hidden, options.heads, 256
    head_size = hidden // heads
    angles = torch.outer(torch.arange(options.sequence, dtype=torch.float64),
                         10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size))
    cosine, sine = angles.cos().float(), angles.sin().float()
    mask = torch.full((options.sequence, options.sequence), float("-inf")).triu(1)

    class RMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(hidden))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    def rotate(x):
        first, second = x.chunk(2, -1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)

    def linear(inputs, outputs):
        layer = torch.nn.Linear(inputs, outputs, bias=False)
        torch.nn.init.normal_(layer.weight, std=0.02)
        return layer

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = RMSNorm(), linear(hidden, 3 * hidden), linear(hidden, hidden)

        def forward(self, x):
            batch, sequence, _ = x.shape
            q, k, v = (t.view(batch, sequence, heads, head_size).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
            q, k = rotate(q), rotate(k)
            if hasattr(F, "scaled_dot_product_attention"):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                y = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(head_size) + mask, -1) @ v
            return self.out(y.transpose(1, 2).reshape(batch, sequence, hidden))

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = RMSNorm()
            self.gate, self.up = linear(hidden, options.intermediate), linear(hidden, options.intermediate)
            self.down = linear(options.intermediate, hidden)

        def forward(self, x):
            n = self.norm(x)
            return self.down(F.silu(self.gate(n)) * self.up(n))

    class Llama(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary, hidden)
            self.blocks = torch.nn.ModuleList(torch.nn.ModuleList((Attention(), Mlp())) for _ in range(options.layers))
            self.norm, self.head = RMSNorm(), linear(hidden, vocabulary)

        def forward(self, tokens, kept):
            x = self.embedding(tokens)
            for i, block in enumerate(self.blocks):
                for branch in block:
                    y = branch(x)
                    x = x + (y if i in kept else y.detach())
            return self.head(self.norm(x))

    model = Llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    inputs = torch.randint(vocabulary, (options.batch, options.sequence))
    labels = torch.randint(vocabulary, (options.batch, options.sequence))
    milliseconds = []
    for round_ in range(options.steps + 1):
        kept = plan_of(drop_rate, options.layers, round_)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs, kept).view(-1, vocabulary), labels.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if round_ > 0:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_ms": milliseconds, "peak_rss_bytes": peak, "version": torch.__version__}))


def has_pytorch(python):
    return os.path.exists(python) and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def call(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"versus_pytorch.py: {' '.join(map(str, command))} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(here, "..", "build", "benchmark", "benchmarks", "step_time"),
                        help="step_time, built for this processor [default: where benchmarks/run.sh builds it]")
    parser.add_argument("--python", help="the Python that has PyTorch [default: this one, or else the system's]")
    for name, value in (("layers", 8), ("hidden", 512), ("intermediate", 1376), ("heads", 8), ("sequence", 256), ("batch", 4)):
        parser.add_argument("--" + name, type=int, default=value, help=f"[default: {value}]")
    parser.add_argument("--drop-rates", default="0,0.5,0.75,0.875", help="[default: 0,0.5,0.75,0.875]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all processes [default: 3]")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a process [default: 4]")
    parser.add_argument("--threads", type=int, default=0, help="0 is one per processor [default: 0]")
    parser.add_argument("--quick", action="store_true", help="under a minute: a smaller model, one round")
    parser.add_argument("--json", help="file for the figures, too")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.hidden, options.intermediate, options.heads, options.sequence, options.rounds = 128, 344, 4, 64, 1
    if options.worker is not None:
        return worker(options, options.worker)
    pythons = [options.python] if options.python else [sys.executable, "/usr/bin/python3"]
    options.python = next((python for python in pythons if has_pytorch(python)), None)
    if options.python is None:
        print(f"skipped: {' and '.join(pythons)} have no PyTorch, so there is nothing to compare with (Debian: python3-torch; --python)")
        return 0
    if not os.path.exists(options.program):
        parser.error(f"there is no {options.program}: build it with benchmarks/run.sh, or say where it is with --program")

    rates = [float(rate) for rate in options.drop_rates.split(",")]
    shape = []
    for name in ("layers", "hidden", "intermediate", "heads", "sequence", "batch", "threads"):
        shape += ["--" + name, str(getattr(options, name))]
    runs = {}
    for round_ in range(options.rounds):
        for rate in rates:
            ours = call([options.program, *shape, "--rounds", str(options.steps), "--only", str(rate)])
            theirs = call([options.python, os.path.abspath(__file__), *shape, "--steps", str(options.steps), "--worker", str(rate)])
            version = theirs["version"]
            for name, result in (("dropbp", ours), ("pytorch", theirs)):
                runs.setdefault((name, rate), []).append(result)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)

    def milliseconds(name, rate):
        return statistics.median(statistics.median(run["step_ms"]) for run in runs[name, rate])

    def mebibytes(name, rate):
        return max(run["peak_rss_bytes"] for run in runs[name, rate]) / 2**20

    print(f"LLaMA of {options.layers} blocks, hidden {options.hidden}, {options.batch} x {options.sequence} tokens, float, all weights "
          f"trained; PyTorch {version} with the published semantics; medians of {options.rounds} x {options.steps} steps in turn")
    print("drop rate   dropbp ms  ratio  PyTorch ms  ratio  PyTorch / dropbp   peak MiB: dropbp  PyTorch")
    rows = []
    for rate in rates:
        row = {"drop_rate": rate}
        for name in ("dropbp", "pytorch"):
            row[name + "_ms"] = milliseconds(name, rate)
            row[name + "_ratio"] = milliseconds(name, rate) / milliseconds(name, rates[0])
            row[name + "_peak_mib"] = mebibytes(name, rate)
        row["speedup"] = row["pytorch_ms"] / row["dropbp_ms"]
        rows.append(row)
        print(f"{rate:9g} {row['dropbp_ms']:11.1f} {row['dropbp_ratio']:6.3f} {row['pytorch_ms']:11.1f} {row['pytorch_ratio']:6.3f} "
              f"{row['speedup']:17.2f} {row['dropbp_peak_mib']:18.0f} {row['pytorch_peak_mib']:8.0f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"pytorch": version, "rows": rows}, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
