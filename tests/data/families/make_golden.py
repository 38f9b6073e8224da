# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes a folder for each family of models: a random tiny model as transformers saves it, with
losses and gradients on fixed tokens, and a LoRA adapter as PEFT saves it.

Usage: python3 make_golden.py [NAME...]          (all families by default; see README.md beside it)
       python3 make_golden.py --check FOLDER...  (what llama-finetune saved loads in transformers)

Needs torch, transformers and peft; their versions are in each expected.json. Weights are float32.
Losses and gradients are computed from them in float64: where the models ask for float32, as for
norms and softmax, they get float64 too. A folder has:
  config.json, model.safetensors   the model
  golden.safetensors               input_ids and labels (shifted), and the gradients: `full/NAME` of
                                   every parameter, `lora/NAME` of every adapter
  adapter/                         the adapter
  expected.json                    the losses without and with it, and the versions
"""

import contextlib
import copy
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

FOLDER = Path(__file__).resolve().parent
BATCH, SEQUENCE = 2, 12
SIZES = dict(
    vocab_size=24,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LONGROPE = dict(rope_type="longrope", short_factor=[1.1, 1.7], long_factor=[1.5, 4.0])

WIDE = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=4)  # heads wider than hidden

# Each family once for each of its traits that config.json chooses.
CASES = {
    "llama3.1": ("llama", WIDE | dict(rope_scaling=LLAMA3, rope_theta=50.0)),
    "llama-linear": ("llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0))),
    "llama-dynamic": (
        "llama",
        dict(rope_scaling=dict(rope_type="dynamic", factor=2.0), max_position_embeddings=8),
    ),
    "llama-yarn": (
        "llama",
        dict(
            rope_scaling=dict(
                rope_type="yarn",
                factor=4.0,
                original_max_position_embeddings=16,
                beta_fast=4.0,
                beta_slow=0.25,
            ),
            rope_theta=100.0,
            head_dim=8,
        ),
    ),
    "llama-biases": (
        "llama",
        dict(attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"),
    ),
    "mistral0.1": ("mistral", dict(sliding_window=4)),
    "mistral-nemo": ("mistral", WIDE | dict(sliding_window=None, rope_theta=1e6)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen2-windows": (
        "qwen2",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    ),
    "smollm3": (
        "smollm3",
        dict(num_hidden_layers=3, no_rope_layer_interval=2, tie_word_embeddings=True),
    ),
    "qwen3": ("qwen3", WIDE | dict(head_dim=6)),
    "phi3": ("phi3", dict(sliding_window=7)),
    "phi4-mini": (
        "phi3",
        dict(
            rope_scaling=LONGROPE,
            partial_rotary_factor=0.75,
            hidden_size=12,
            original_max_position_embeddings=8,
            tie_word_embeddings=True,
        ),
    ),
    "phi3-128k": (
        "phi3",
        dict(rope_scaling=LONGROPE, original_max_position_embeddings=32),
    ),
    "olmo2": ("olmo2", dict()),
    "gemma2": (
        "gemma2",
        WIDE
        | dict(
            query_pre_attn_scalar=9,
            sliding_window=4,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
    ),
    "gemma3": (
        "gemma3_text",
        WIDE
        | dict(
            head_dim=6,
            num_hidden_layers=3,
            sliding_window=4,
            query_pre_attn_scalar=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
        ),
    ),
}


def randomise(module, seed):
    """Weights that make every trait visible: norms about 1 (0 where they are 1 + w), biases."""
    generator = torch.Generator().manual_seed(seed)
    gemma = "Gemma" in type(module).__name__
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_((0.0 if gemma else 1.0) + 0.3 * values)
            elif name.endswith("bias"):
                parameter.copy_(0.5 * values)
            else:
                parameter.copy_(values / parameter.shape[-1] ** 0.5)


def batch_of(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, SIZES["vocab_size"], (BATCH, SEQUENCE + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


@contextlib.contextmanager
def exact():
    """Within it float32 is float64."""
    names = {"float32": torch.float64, "float": torch.float64}
    kept = {name: getattr(torch, name) for name in names}
    kept_method = torch.Tensor.float
    try:
        for name, dtype in names.items():
            setattr(torch, name, dtype)
        torch.Tensor.float = torch.Tensor.double
        yield
    finally:
        for name, dtype in kept.items():
            setattr(torch, name, dtype)
        torch.Tensor.float = kept_method


def loss_of(model, inputs, labels):
    model.zero_grad()
    with exact():
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
    return loss.item()


def model_of(config):
    with exact():  # RoPE's frequencies
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        return model.double().eval()


def gradients_of(model, prefix):
    return {
        f"{prefix}/{name}": parameter.grad.to(torch.float32)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def rounding(model, inputs, labels, gradients):
    """The worst error of float32 gradients, as a multiple of the tests' bound."""
    model.zero_grad()
    logits = model.eval()(input_ids=inputs, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    worst = 0.0
    for name, parameter in model.named_parameters():
        right = gradients[f"full/{name}"]
        error = (parameter.grad - right).abs() / (1e-6 + 1e-4 * right.abs())
        worst = max(worst, error.max().item())
    model.zero_grad()
    return worst


def make(name, seed):
    """With the next seed where float32 rounds a model's gradients by half of the tests' bound."""
    model_type, changes = CASES[name]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    config = AutoConfig.for_model(model_type, **copy.deepcopy(SIZES | changes))
    saved = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomise(saved, seed)
    model = model_of(config)
    model.load_state_dict(saved.state_dict())
    inputs, labels = batch_of(seed)
    expected = {"seed": seed, "loss": loss_of(model, inputs, labels)}
    gradients = gradients_of(model, "full")
    if rounding(saved, inputs, labels, gradients) > 0.5:
        return make(name, seed + 100)
    saved.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tensors = {"input_ids": inputs.int(), "labels": labels.int()} | gradients

    linears = {path.split(".")[-1] for path, _ in saved.named_modules() if path.endswith("_proj")}
    lora = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=sorted(linears),
        task_type="CAUSAL_LM",
        lora_dropout=0.0,
    )
    saved_adapter = peft.get_peft_model(saved, lora)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter_name, parameter in saved_adapter.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    saved_adapter.save_pretrained(folder / "adapter")
    adapted = peft.get_peft_model(model, lora).double()
    adapted.load_state_dict(saved_adapter.state_dict())
    expected["lora_loss"] = loss_of(adapted, inputs, labels)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    for parameter_name, gradient in gradients_of(adapted, "lora").items():
        name_here = parameter_name.replace(".default", "").replace("/base_model.model.", "/")
        tensors[name_here] = gradient
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, folder / "golden.safetensors")
    expected["made_by"] = {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    loss, lora_loss = expected["loss"], expected["lora_loss"]
    print(f"{name}: seed {seed}, loss {loss:.6f}, with the adapter {lora_loss:.6f}")


def check(folder):
    """What was saved loads without a missing, unexpected or newly made weight, and is right."""
    saved, golden = Path(folder), FOLDER / Path(folder).name
    loaded, info = AutoModelForCausalLM.from_pretrained(
        saved, output_loading_info=True, dtype=torch.float32
    )
    for kind, names in info.items():
        if names:
            raise SystemExit(f"{folder}: {kind}: {names}")
    expected = json.loads((golden / "expected.json").read_text())
    inputs, labels = batch_of(expected["seed"])
    model = model_of(loaded.config)
    model.load_state_dict(loaded.state_dict())
    loss = loss_of(model, inputs, labels)
    if (saved / "adapter").is_dir():
        adapted = peft.PeftModel.from_pretrained(model, saved / "adapter", is_trainable=True)
        adapted = adapted.double()
        lora_loss = loss_of(adapted, inputs, labels)
    else:
        lora_loss = expected["lora_loss"]
    for given, right in ((loss, expected["loss"]), (lora_loss, expected["lora_loss"])):
        if abs(given - right) > 1e-6:
            raise SystemExit(f"{folder}: loss {given} instead of {right}")
    print(f"{folder}: {type(loaded).__name__}, loss {loss:.6f}, with the adapter {lora_loss:.6f}")


def main():
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--check"]:
        for folder in sys.argv[2:]:
            check(folder)
        return
    for index, name in enumerate(CASES):
        if name in sys.argv[1:] or len(sys.argv) == 1:
            make(name, index + 1)


if __name__ == "__main__":
    main()
