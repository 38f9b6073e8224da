#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Compares the published method of DropBP in PyTorch with this library, with the same shapes and
plans: on the CPU with benchmarks/step_time in float, on a GPU with cuda_step in bfloat16.

Published: the forward pass of a dropped branch builds its graph, and detach() frees it afterwards.
Tuned: it runs under no_grad, the optimizer is fused if PyTorch supports that, and norms are
PyTorch's. Both use PyTorch's fused attention. On a GPU PyTorch's optimizer keeps its state in
bfloat16, the library's in float. Each pair of implementation and drop rate runs in its own process,
so that its peak memory is measured separately; the processes alternate.
Exit codes: 0 success, also without PyTorch (the script prints what it skipped); 1 something failed;
2 wrong usage.
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

# As in cuda_step.
SHAPES = {
    "llama2-7b": dict(
        layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocabulary=32000
    ),
    "llama2-70b": dict(
        layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, vocabulary=32000
    ),
    "tiny": dict(layers=8, hidden=64, intermediate=96, heads=4, kv_heads=2, vocabulary=512),
}


def plan_of(drop_rate, layers, round_):
    """Returns which blocks are kept, by the rule of plan_of in training_step.hpp."""
    kept = math.floor((1.0 - drop_rate) * layers + 0.5)
    return {(i * layers // kept + round_) % layers for i in range(kept)}


def worker(options):
    import torch
    import torch.nn.functional as F

    on_card = options.device == "cuda"
    if on_card:
        torch.set_default_device("cuda")
        torch.set_default_dtype(torch.bfloat16)
    else:
        torch.set_num_threads(options.threads or os.cpu_count())
    torch.manual_seed(1)
    hidden, heads, kv_heads, vocabulary = (
        options.hidden,
        options.heads,
        options.kv_heads,
        options.vocabulary,
    )
    tuned = options.variant == "tuned"
    head_size = hidden // heads
    angles = torch.outer(
        torch.arange(options.sequence, dtype=torch.float64),
        10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size),
    )
    cosine, sine = angles.cos().to(torch.get_default_dtype()), angles.sin().to(
        torch.get_default_dtype()
    )
    has_fused_attention = hasattr(F, "scaled_dot_product_attention")
    mask = (
        None
        if has_fused_attention
        else torch.full((options.sequence, options.sequence), float("-inf")).triu(1)
    )
    adapters = options.mode == "lora"

    class RMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(hidden), requires_grad=not adapters)

        def forward(self, x):
            if tuned and hasattr(F, "rms_norm"):
                return F.rms_norm(x, (hidden,), self.weight, 1e-5)
            wide = x.float()
            return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(
                x.dtype
            )

    def rotate(x):
        first, second = x.chunk(2, -1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)

    class Linear(torch.nn.Module):
        """A linear map; with LoRA, adapters of rank 8 and alpha 16 over a frozen weight."""

        def __init__(self, inputs, outputs, adapted=True):
            super().__init__()
            self.weight = torch.nn.Parameter(
                torch.empty(outputs, inputs).normal_(std=0.02), requires_grad=not adapters
            )
            self.adapted = adapted and adapters
            if self.adapted:
                self.a = torch.nn.Parameter(
                    torch.empty(8, inputs).uniform_(-(inputs**-0.5), inputs**-0.5)
                )
                self.b = torch.nn.Parameter(torch.zeros(outputs, 8))

        def forward(self, x):
            y = F.linear(x, self.weight)
            return y + F.linear(F.linear(x, self.a), self.b) * 2.0 if self.adapted else y

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = RMSNorm()
            self.q, self.k, self.v = (
                Linear(hidden, hidden),
                Linear(hidden, kv_heads * head_size),
                Linear(hidden, kv_heads * head_size),
            )
            self.out = Linear(hidden, hidden)

        def forward(self, x):
            batch, sequence, _ = x.shape
            n = self.norm(x)
            q, k, v = (
                of(n).view(batch, sequence, -1, head_size).transpose(1, 2)
                for of in (self.q, self.k, self.v)
            )
            q, k = rotate(q), rotate(k)
            if kv_heads != heads:
                k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
            if has_fused_attention:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                y = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(head_size) + mask, -1) @ v
            return self.out(y.transpose(1, 2).reshape(batch, sequence, hidden))

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = RMSNorm()
            self.gate, self.up = Linear(hidden, options.intermediate), Linear(
                hidden, options.intermediate
            )
            self.down = Linear(options.intermediate, hidden)

        def forward(self, x):
            n = self.norm(x)
            return self.down(F.silu(self.gate(n)) * self.up(n))

    class Llama(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary, hidden)
            self.embedding.weight.requires_grad_(not adapters)
            self.blocks = torch.nn.ModuleList(
                torch.nn.ModuleList((Attention(), Mlp())) for _ in range(options.layers)
            )
            self.norm, self.head = RMSNorm(), Linear(hidden, vocabulary, adapted=False)

        def forward(self, tokens, kept):
            x = self.embedding(tokens)
            for i, block in enumerate(self.blocks):
                for branch in block:
                    if i in kept:
                        x = x + branch(x)
                    elif tuned:
                        with torch.no_grad():
                            y = branch(x)
                        x = x + y
                    else:
                        x = x + branch(x).detach()
            return self.head(self.norm(x))

    model = Llama()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1e-5, **({"fused": True} if tuned and on_card else {})
    )
    inputs = torch.randint(vocabulary, (options.batch, options.sequence))
    labels = torch.randint(vocabulary, (options.batch, options.sequence))
    wait = torch.cuda.synchronize if on_card else lambda: None
    milliseconds = []
    for round_ in range(options.steps + 1):
        kept = plan_of(options.worker, options.layers, round_)
        wait()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs, kept).view(-1, vocabulary).float(), labels.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        wait()
        if round_ > 0:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    if on_card:
        free, total = torch.cuda.mem_get_info()
        peak = total - free
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_ms": milliseconds, "peak_bytes": peak, "version": torch.__version__}))


def has_pytorch(python):
    return (
        os.path.exists(python)
        and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    )


def call(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"versus_pytorch.py: {' '.join(map(str, command))} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to run [default: cpu]"
    )
    parser.add_argument(
        "--mode", choices=("full", "lora"), help="what is trained [default: full; on a GPU lora]"
    )
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="llama2-7b",
        help="shape of the model on a GPU [default: llama2-7b]",
    )
    parser.add_argument(
        "--variants", help="PyTorch variants [default: published; on a GPU published,tuned]"
    )
    parser.add_argument(
        "--program",
        help=(
            "path of step_time or cuda_step, built for this machine [default: the build of "
            "benchmarks/run.sh]"
        ),
    )
    parser.add_argument(
        "--python", help="the Python that has PyTorch [default: this one, or the system's]"
    )
    for name, value in (("layers", 8), ("hidden", 512), ("intermediate", 1376), ("heads", 8)):
        parser.add_argument(
            "--" + name, type=int, default=value, help=f"size on the CPU [default: {value}]"
        )
    parser.add_argument(
        "--sequence", type=int, help="tokens per sequence [default: 256; on a GPU 4096]"
    )
    parser.add_argument("--batch", type=int, help="sequences per step [default: 4; on a GPU 1]")
    parser.add_argument(
        "--drop-rates", default="0,0.5,0.75,0.875", help="drop rates [default: 0,0.5,0.75,0.875]"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of all processes [default: 3]"
    )
    parser.add_argument(
        "--steps", type=int, default=4, help="timed steps per process [default: 4]"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads on the CPU; 0: one per processor [default: 0]",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smaller model and one round, in less than a minute"
    )
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--variant", default="published", help=argparse.SUPPRESS)
    parser.add_argument("--kv-heads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, default=256, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_card = options.device == "cuda"
    options.mode = options.mode or ("lora" if on_card else "full")
    options.sequence = options.sequence or (4096 if on_card else 256)
    options.batch = options.batch or (1 if on_card else 4)
    if options.quick:
        options.rounds, options.sequence = 1, 64
        if on_card:
            options.shape = "tiny"
        else:
            options.hidden, options.intermediate, options.heads = 128, 344, 4
    if on_card and options.worker is None:
        for name, value in SHAPES[options.shape].items():
            setattr(options, name, value)
    options.kv_heads = options.kv_heads or options.heads
    if options.worker is not None:
        return worker(options)
    variants = (options.variants or ("published,tuned" if on_card else "published")).split(",")
    if not set(variants) <= {"published", "tuned"}:
        parser.error(
            f"--variants takes published, tuned or both with a comma between, not "
            f"'{options.variants}'"
        )
    options.program = options.program or os.path.join(
        here, "..", "build", "benchmark", "benchmarks", "cuda_step" if on_card else "step_time"
    )
    pythons = [options.python] if options.python else [sys.executable, "/usr/bin/python3"]
    options.python = next((python for python in pythons if has_pytorch(python)), None)
    if options.python is None:
        print(
            f"skipped: {' and '.join(pythons)} have no PyTorch, so there is nothing to compare "
            f"with (Debian: python3-torch; --python)"
        )
        return 0
    if not os.path.exists(options.program):
        parser.error(
            f"there is no {options.program}: build it with benchmarks/run.sh, or say where it is "
            f"with --program"
        )

    rates = [float(rate) for rate in options.drop_rates.split(",")]
    names = ["dropbp", *variants]
    runs = {}
    version = ""
    for round_ in range(options.rounds):
        for rate in rates:
            if on_card:
                sizes = ["--shape", options.shape]
            else:
                sizes = [word for name in ("layers", "hidden", "intermediate", "heads", "threads")
                         for word in ("--" + name, str(getattr(options, name)))]
            common = [
                "--mode",
                options.mode,
                "--sequence",
                str(options.sequence),
                "--batch",
                str(options.batch),
            ]
            ours = call(
                [
                    options.program,
                    *sizes,
                    *common,
                    "--rounds",
                    str(options.steps),
                    "--only",
                    str(rate),
                ]
            )
            # As many blocks as the program says that it trained: with all weights a card may not
            # hold those of the shape.
            options.layers = ours.get("layers", options.layers)
            runs.setdefault(("dropbp", rate), []).append(ours)
            sizes = [
                word
                for name in (
                    "layers",
                    "hidden",
                    "intermediate",
                    "heads",
                    "kv_heads",
                    "vocabulary",
                    "threads",
                )
                for word in ("--" + name.replace("_", "-"), str(getattr(options, name)))
            ]
            for variant in variants:
                theirs = call(
                    [
                        options.python,
                        os.path.abspath(__file__),
                        "--device",
                        options.device,
                        *sizes,
                        *common,
                        "--steps",
                        str(options.steps),
                        "--variant",
                        variant,
                        "--worker",
                        str(rate),
                    ]
                )
                version = theirs["version"]
                runs.setdefault((variant, rate), []).append(theirs)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)

    def milliseconds(name, rate):
        return statistics.median(statistics.median(run["step_ms"]) for run in runs[name, rate])

    def mebibytes(name, rate):
        return max(run["peak_bytes"] for run in runs[name, rate]) / 2**20

    trains = "all weights trained" if options.mode == "full" else "adapters trained"
    print(
        f"LLaMA of {options.layers} blocks, hidden {options.hidden}, {options.batch} x "
        f"{options.sequence} tokens, "
        f"{'bfloat16' if on_card else 'float'}, {trains}; PyTorch {version}; medians of "
        f"{options.rounds} x {options.steps} steps in turn"
    )
    print(
        "step in ms and its ratio to that at the first rate; speedup: PyTorch's time / dropbp's; "
        "peak MiB of "
        + ("the card" if on_card else "the process")
    )
    print(
        "drop rate"
        + "".join(f" {name:>11}  ratio" for name in names)
        + "".join(f"  speedup {name:>9}" for name in variants)
        + "".join(f"  MiB {name:>9}" for name in names)
    )
    rows = []
    for rate in rates:
        row = {"drop_rate": rate}
        for name in names:
            row[name + "_ms"] = milliseconds(name, rate)
            row[name + "_ratio"] = milliseconds(name, rate) / milliseconds(name, rates[0])
            row[name + "_peak_mib"] = mebibytes(name, rate)
        for name in variants:
            row[name + "_speedup"] = row[name + "_ms"] / row["dropbp_ms"]
        rows.append(row)
        print(
            f"{rate:9g}"
            + "".join(f" {row[name + '_ms']:11.1f} {row[name + '_ratio']:6.3f}" for name in names)
            + "".join(f" {row[name + '_speedup']:18.2f}" for name in variants)
            + "".join(f" {row[name + '_peak_mib']:14.0f}" for name in names)
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "device": options.device,
                    "mode": options.mode,
                    "layers": options.layers,
                    "sequence": options.sequence,
                    "pytorch": version,
                    "rows": rows,
                },
                file,
                indent=1,
            )
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
