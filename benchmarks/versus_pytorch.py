#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Compares training steps in PyTorch with this library, with the same shapes, plans and work: on
the CPU with benchmarks/step_time, on a GPU with cuda_step.

Variants of PyTorch:
  published  as in the published method: the forward pass of a dropped branch builds its graph, and
             detach() frees it afterwards
  tuned      it runs under no_grad; q, k and v are one product, gate and up another; the norms are
             PyTorch's; the optimizer is fused
  compiled   tuned, with torch.compile of the whole model, once per plan, before the timing
  transformers
             the model of Hugging Face's transformers, in mode lora with PEFT's adapters; it
             drops nothing, so its ratio at each rate is that to an ordinary step
  module     published, with the module of examples/pytorch; needs DROPBP_LIBRARY
All use PyTorch's fused attention and set gradients to None. bfloat16 is autocast over float weights
on the CPU, and bfloat16 weights and optimizer on a GPU.

On the CPU each implementation is one process, which stays alive; a round times all implementations
at one rate after the other. On a GPU each run has its own process, so that its peak memory is
measured separately.
Exit codes: 0 success, also without PyTorch (the script prints what it skipped); 1 something failed;
2 wrong usage.
"""

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

VARIANTS = ("published", "tuned", "compiled", "transformers", "module")
PRECISIONS = ("float", "bfloat16")

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
SIZES = ("layers", "hidden", "intermediate", "heads", "vocabulary", "sequence", "batch", "threads")


def plan_of(drop_rate, layers, round_):
    """Returns which blocks are kept, by the rule of plan_of in training_step.hpp."""
    kept = math.floor((1.0 - drop_rate) * layers + 0.5)
    return tuple(sorted({(i * layers // kept + round_) % layers for i in range(kept)}))


# ---- the process that runs PyTorch


def build_model(options, tuned):
    import torch
    import torch.nn.functional as F

    module = options.variant == "module"
    if module:
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path.insert(0, os.path.join(here, "..", "examples", "pytorch"))
        from dropbp import DropBP
    hidden, heads, kv_heads = options.hidden, options.heads, options.kv_heads
    head_size = hidden // heads
    widths = [hidden, kv_heads * head_size, kv_heads * head_size]
    angles = torch.outer(
        torch.arange(options.sequence, dtype=torch.float64),
        10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size),
    )
    cosine = angles.cos().to(torch.get_default_dtype())
    sine = angles.sin().to(torch.get_default_dtype())
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
        """Linear maps of one input; with LoRA each has an adapter of rank 8 and alpha 16 over its
        frozen weight. The tuned variant has one weight for all maps."""

        def __init__(self, inputs, outputs, adapted=True):
            super().__init__()
            self.outputs = outputs
            self.weights = torch.nn.ParameterList(
                torch.nn.Parameter(
                    torch.empty(rows, inputs).normal_(std=0.02), requires_grad=not adapters
                )
                for rows in ([sum(outputs)] if tuned else outputs)
            )
            self.adapted = adapted and adapters
            bound = inputs**-0.5
            self.a = torch.nn.ParameterList(
                torch.nn.Parameter(torch.empty(8, inputs).uniform_(-bound, bound))
                for _ in (outputs if self.adapted else [])
            )
            self.b = torch.nn.ParameterList(
                torch.nn.Parameter(torch.zeros(rows, 8))
                for rows in (outputs if self.adapted else [])
            )

        def forward(self, x):
            y = [F.linear(x, weight) for weight in self.weights]
            if tuned:
                y = y[0].split(self.outputs, -1)
            if self.adapted:
                y = [y_i + F.linear(F.linear(x, a), b) * 2.0 for y_i, a, b in
                     zip(y, self.a, self.b)]
            return y

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = RMSNorm()
            self.qkv, self.out = Linear(hidden, widths), Linear(hidden, [hidden])

        def forward(self, x):
            batch, sequence, _ = x.shape
            q, k, v = (
                part.reshape(batch, sequence, -1, head_size).transpose(1, 2)
                for part in self.qkv(self.norm(x))
            )
            q, k = rotate(q).to(v.dtype), rotate(k).to(v.dtype)
            if kv_heads != heads:
                k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(batch, sequence, hidden))[0]

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = RMSNorm()
            self.gate_up = Linear(hidden, [options.intermediate, options.intermediate])
            self.down = Linear(options.intermediate, [hidden])

        def forward(self, x):
            gate, up = self.gate_up(self.norm(x))
            return self.down(F.silu(gate) * up)[0]

    class Llama(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(options.vocabulary, hidden)
            self.embedding.weight.requires_grad_(not adapters)
            self.blocks = torch.nn.ModuleList(
                torch.nn.ModuleList((Attention(), Mlp())) for _ in range(options.layers)
            )
            self.norm = RMSNorm()
            self.head = Linear(hidden, [options.vocabulary], adapted=False)
            self.drop = DropBP(1.0) if module else None  # one for all: the plan is given

        def forward(self, tokens, labels, kept):
            x = self.embedding(tokens)
            for i, block in enumerate(self.blocks):
                for branch in block:
                    if module:
                        self.drop.is_detach = i not in kept
                        x = x + self.drop(lambda: branch(x))
                    elif i in kept:
                        x = x + branch(x)
                    elif tuned:
                        with torch.no_grad():
                            y = branch(x)
                        x = x + y
                    else:
                        x = x + branch(x).detach()
            logits = self.head(self.norm(x))[0]
            return F.cross_entropy(logits.view(-1, options.vocabulary).float(), labels.view(-1))

    return Llama()


def build_transformers(options):
    import torch
    import torch.nn.functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden,
        intermediate_size=options.intermediate, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.sequence, use_cache=False,
        attn_implementation="sdpa",
    ))
    if options.mode == "lora":
        from peft import LoraConfig, get_peft_model

        maps = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=maps))

    class Llama(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, tokens, labels, _kept):
            logits = self.model(input_ids=tokens).logits
            return F.cross_entropy(logits.view(-1, options.vocabulary).float(), labels.view(-1))

    return Llama()


class Memory:
    """The peak of the resident memory beyond what the process had when this was made."""

    def __init__(self):
        self.before = self.read("VmRSS")

    @staticmethod
    def read(name):
        with open("/proc/self/status", encoding="ascii") as status:
            return 1024 * int(re.search(rf"{name}:\s+(\d+)", status.read()).group(1))

    def reset(self):
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")

    def peak(self):
        return self.read("VmHWM") - self.before


def worker(options):
    """Reads lines 'RATE STEPS' from standard input and answers each with a line of JSON."""
    import torch

    on_card = options.device == "cuda"
    if on_card:
        torch.set_default_device("cuda")
        torch.set_default_dtype(torch.bfloat16)
    else:
        torch.set_num_threads(options.threads or os.cpu_count())
    torch.manual_seed(1)
    memory = Memory()
    tuned = options.variant in ("tuned", "compiled")
    whole = options.variant == "transformers"
    model = build_transformers(options) if whole else build_model(options, tuned)
    run = model
    if options.variant == "compiled":
        torch._dynamo.config.recompile_limit = 256
        run = torch.compile(model, dynamic=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=tuned or whole)
    tokens = torch.randint(options.vocabulary, (options.batch, options.sequence))
    labels = torch.randint(options.vocabulary, (options.batch, options.sequence))
    wait = torch.cuda.synchronize if on_card else lambda: None
    autocast = (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if options.precision == "bfloat16" and not on_card
        else contextlib.nullcontext()
    )

    def step(kept):
        wait()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = run(tokens, labels, kept)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        wait()
        return 1e3 * (time.perf_counter() - start)

    warm = set()
    for line in sys.stdin:
        rate, steps = line.split()
        plans = [plan_of(float(rate), options.layers, i) for i in range(int(steps))]
        for plan in set(plans) - warm:  # compiles, and allocates
            step(plan)
            warm.add(plan)
        memory.reset()
        milliseconds = [step(plan) for plan in plans]
        if on_card:
            free, total = torch.cuda.mem_get_info()
            peak = total - free
        else:
            peak = memory.peak()
        answer = {"step_ms": milliseconds, "peak_bytes": peak, "version": torch.__version__}
        print(json.dumps(answer), flush=True)


# ---- the process that compares


class Process:
    """A process that answers lines 'RATE STEPS'."""

    def __init__(self, command):
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def steps(self, rate, steps):
        try:
            self.process.stdin.write(f"{rate} {steps}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit(f"versus_pytorch.py: {' '.join(self.command)} failed")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class FreshProcess:
    """The same with a new process for each line, whose peak memory is that of one rate."""

    def __init__(self, command_of):
        self.command_of = command_of

    def steps(self, rate, steps):
        process = Process(self.command_of())
        answer = process.steps(rate, steps)
        process.close()
        return answer

    def close(self):
        pass


class CudaStep:
    """cuda_step takes rate and steps as options."""

    def __init__(self, command):
        self.command = command

    def steps(self, rate, steps):
        result = subprocess.run(
            [*map(str, self.command), "--rounds", str(steps), "--only", str(rate)],
            capture_output=True, text=True,
        )
        if result.returncode != 0:
            sys.exit(f"versus_pytorch.py: {self.command[0]} failed:\n{result.stderr}")
        return json.loads(result.stdout.splitlines()[-1])

    def close(self):
        pass


def has_pytorch(python):
    """PyTorch 2.4 is the first with a fused AdamW on the CPU."""
    check = "import torch; assert tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 4)"
    return (
        os.path.exists(python)
        and subprocess.run([python, "-c", check], capture_output=True).returncode == 0
    )


def parse(arguments):
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to run [default: cpu]")
    add("--mode", choices=("full", "lora"), help="what is trained [default: full; on a GPU lora]")
    add("--shape", choices=SHAPES, default="llama2-7b",
        help="shape of the model on a GPU [default: llama2-7b]")
    add("--variants",
        help="PyTorch variants [default: published,tuned,compiled; on a GPU the first two]")
    add("--precisions", help="float, bfloat16 or both [default: both; on a GPU bfloat16]")
    add("--program", help="path of step_time or cuda_step, built for this machine "
                          "[default: the build of benchmarks/run.sh]")
    add("--python", help="the Python that has PyTorch [default: this one, or the system's]")
    for name, value in (("layers", 8), ("hidden", 512), ("intermediate", 1376), ("heads", 8),
                        ("vocabulary", 256)):
        add("--" + name, type=int, default=value, help=f"size on the CPU [default: {value}]")
    add("--sequence", type=int, help="tokens per sequence [default: 256; on a GPU 4096]")
    add("--batch", type=int, help="sequences per step [default: 4; on a GPU 1]")
    add("--drop-rates", default="0,0.5,0.75,0.875", help="drop rates [default: 0,0.5,0.75,0.875]")
    add("--rounds", type=int, default=5, help="rounds of all processes [default: 5]")
    add("--steps", type=int, default=2, help="timed steps per round and rate [default: 2]")
    add("--threads", type=int, default=0,
        help="threads on the CPU; 0: one per processor [default: 0]")
    add("--quick", action="store_true",
        help="a smaller model and one round, without compilation, in less than a minute")
    add("--json", help="also write the figures to this file")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    add("--variant", default="published", help=argparse.SUPPRESS)
    add("--precision", default="float", help=argparse.SUPPRESS)
    add("--kv-heads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    on_card = options.device == "cuda"
    options.mode = options.mode or ("lora" if on_card else "full")
    options.sequence = options.sequence or (4096 if on_card else 256)
    options.batch = options.batch or (1 if on_card else 4)
    if options.quick:
        options.rounds, options.sequence = 1, 64
        options.variants = options.variants or "published,tuned"
        if on_card:
            options.shape = "tiny"
        else:
            options.hidden, options.intermediate, options.heads = 128, 344, 4
    if on_card and not options.worker:
        for name, value in SHAPES[options.shape].items():
            setattr(options, name, value)
    options.kv_heads = options.kv_heads or options.heads

    def chosen(flag, text, default, known):
        names = (text or default).split(",")
        if not set(names) <= set(known):
            parser.error(f"{flag} takes {', '.join(known)}, with commas between, not '{text}'")
        return names

    options.variants = chosen("--variants", options.variants,
                              "published,tuned" if on_card else "published,tuned,compiled",
                              VARIANTS)
    options.precisions = chosen("--precisions", options.precisions,
                                "bfloat16" if on_card else ",".join(PRECISIONS),
                                PRECISIONS[1:] if on_card else PRECISIONS)
    options.program = options.program or os.path.join(
        here, "..", "build", "benchmark", "benchmarks", "cuda_step" if on_card else "step_time"
    )
    options.pythons = [options.python] if options.python else [sys.executable, "/usr/bin/python3"]
    options.python = next((p for p in options.pythons if options.worker or has_pytorch(p)), None)
    if not options.worker and options.python and not os.path.exists(options.program):
        parser.error(f"there is no {options.program}: build it with benchmarks/run.sh, or say "
                     f"where it is with --program")
    return options


def words_of(options, names):
    return [word for name in names
            for word in ("--" + name.replace("_", "-"), getattr(options, name))]


def start_all(options):
    """All implementations, by (name, precision)."""

    def pytorch(variant, precision):
        return [options.python, os.path.abspath(__file__), "--worker", "--variant", variant,
                "--precision", precision, *words_of(options, ("device", "mode", "kv_heads")),
                *words_of(options, SIZES)]

    on_card = options.device == "cuda"
    processes = {}
    for precision in options.precisions:
        if on_card:
            names = ("shape", "mode", "sequence", "batch")
            processes["dropbp", precision] = CudaStep([options.program, *words_of(options, names)])
        else:
            processes["dropbp", precision] = Process(
                [options.program, "--serve", "--precision", precision, "--mode", options.mode,
                 *words_of(options, SIZES)])
        for variant in options.variants:
            processes[variant, precision] = (
                FreshProcess(lambda v=variant, p=precision: pytorch(v, p)) if on_card
                else Process(pytorch(variant, precision)))
    return processes


def text_of_spread(values):
    values = sorted(values)
    return f"{statistics.median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})"


def ratios_of(runs, others):
    """The ratio of the times in each round."""
    return [
        statistics.median(run["step_ms"]) / statistics.median(other["step_ms"])
        for run, other in zip(runs, others)
    ]


def report(options, runs, rates, version):
    """Prints the tables. A round's ratio compares the two implementations in that round."""
    where = "the GPU" if options.device == "cuda" else "the process beyond its start"
    trained = "all weights trained" if options.mode == "full" else "adapters trained"
    print(
        f"LLaMA of {options.layers} blocks, hidden {options.hidden}, vocabulary "
        f"{options.vocabulary}, {options.batch} x {options.sequence} tokens, {trained}; PyTorch "
        f"{version}; {options.threads or os.cpu_count()} threads; medians of {options.rounds} "
        f"rounds of {options.steps} steps in turn"
    )
    print(f"each variant: dropbp's time / its time, below 1 where dropbp is faster: median "
          f"(least-most) of the rounds; peak MiB of {where}; module / published: their times")
    rows = []
    for precision in options.precisions:
        for rate in rates:
            ours = runs["dropbp", precision, rate]
            row = {"precision": precision, "drop_rate": rate,
                   "dropbp_ms": statistics.median(statistics.median(r["step_ms"]) for r in ours),
                   "dropbp_peak_mib": max(run["peak_bytes"] for run in ours) / 2**20}
            cells = [f"dropbp {row['dropbp_ms']:8.1f} ms {row['dropbp_peak_mib']:6.0f} MiB"]
            for variant in options.variants:
                theirs = runs[variant, precision, rate]
                ratios = ratios_of(ours, theirs)
                peak = max(run["peak_bytes"] for run in theirs) / 2**20
                row[variant + "_ms"] = statistics.median(
                    statistics.median(run["step_ms"]) for run in theirs)
                row[variant + "_ratios"] = ratios
                row[variant + "_peak_mib"] = peak
                cells.append(f"{variant} {text_of_spread(ratios)} {peak:6.0f} MiB")
                if variant == "module" and "published" in options.variants:
                    beside = ratios_of(theirs, runs["published", precision, rate])
                    row["module_to_published_ratios"] = beside
                    cells.append(f"module / published {text_of_spread(beside)}")
            rows.append(row)
            print(f"{precision:>8} {rate:5g}: " + "; ".join(cells))
    return rows


def main():
    options = parse(sys.argv[1:])
    if options.worker:
        return worker(options)
    if options.python is None:
        print(f"skipped: {' and '.join(options.pythons)} have no PyTorch 2.4 or newer, so "
              f"there is nothing to compare with (--python)")
        return 0
    rates = [float(rate) for rate in options.drop_rates.split(",")]
    processes = start_all(options)
    runs, version = {}, ""
    for round_ in range(-1, options.rounds):  # round -1 compiles and allocates
        for rate in rates:
            for (name, precision), process in processes.items():
                answer = process.steps(rate, options.steps)
                version = answer.get("version", version)
                # As many blocks as cuda_step says that it trained: with all weights a GPU may not
                # hold those of the shape.
                options.layers = answer.get("layers", options.layers)
                if round_ >= 0:
                    runs.setdefault((name, precision, rate), []).append(answer)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    for process in processes.values():
        process.close()
    rows = report(options, runs, rates, version)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"device": options.device, "mode": options.mode, "layers": options.layers,
                       "sequence": options.sequence, "vocabulary": options.vocabulary,
                       "pytorch": version, "rows": rows}, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
