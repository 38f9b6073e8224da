# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""Adapters of PEFT over ../llama-tiny, with magnitudes (DoRA) or with modules that are trained
whole beside them, and what transformers and PEFT compute with them in float64 (but norms and
rotations in float32).

    make_golden.py                # writes a folder for each case beside itself
    make_golden.py --check DIR... # compares folders that the tests wrote, see ../README.md

A case is adapter/, golden.safetensors with the gradient of each trained tensor by its name in the
adapter's file, and expected.json with the ids, the loss of each token from the one before it, and
the logits of the token after the last. `tied` has the embedding of ../llama-tiny as its output
layer too. selections.json has settings that choose linear maps, as PEFT writes them but without
nulls, and the maps that it chooses.
"""

import json
import pathlib
import sys

import peft
import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).parent
IDS = [(7 * i * i + 3 * i) % 64 for i in range(12)]
CASES = {
    "dora": dict(
        r=2,
        target_modules=["q_proj", "v_proj", "down_proj", "layers.1.mlp.up_proj"],
        rank_pattern={"v_proj": 3},
        use_dora=True,
    ),
    "modules": dict(
        r=1, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head", "norm"]
    ),
    "tied": dict(
        r=1, target_modules=["v_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
}

SELECTIONS = [
    dict(target_modules="all-linear"),
    dict(target_modules=r".*\.[02]\..*(q|up)_proj"),
    dict(target_modules=["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.up_proj"]),
    dict(target_modules=["self_attn.o_proj", "layers.1.mlp.up_proj"]),
    dict(target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 2]),
    dict(target_modules=["q_proj"], layers_to_transform=1, layers_pattern="layers"),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["h", "la.ers"]),
    dict(target_modules=["q_proj", "model.layers.0.mlp.up_proj"], layers_to_transform=[2]),
    dict(target_modules="all-linear", exclude_modules=["q_proj", "0.mlp.down_proj"]),
    dict(target_modules=["q_proj", "v_proj"], exclude_modules=r".*\.1\..*"),
    dict(target_modules=r".*_proj", exclude_modules=r".*mlp.*"),
    dict(target_modules=["q_proj"], init_lora_weights="eva"),
    dict(target_modules=["q_proj"], init_lora_weights="orthogonal"),
    dict(target_modules=["q_proj"], init_lora_weights="gaussian", modules_to_save=["lm_head"]),
]


def base(tied):
    folder = HERE.parent / "llama-tiny"
    if not tied:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    model = transformers.AutoModelForCausalLM.from_config(config)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    model.tie_weights()
    return model


def run(model):
    """The loss, and the logits behind the last token."""
    logits = model(torch.tensor([IDS])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:]))
    return loss, logits[-1]


def key(name):
    """A parameter's name in the adapter's file."""
    for inner in (".modules_to_save.default.weight", ".default.weight", ".default"):
        if name.endswith(inner):
            name = name.removesuffix(inner)
            return name if name.endswith("lora_magnitude_vector") else name + ".weight"
    return name


def make(case, settings):
    torch.manual_seed(5)
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_alpha=3, **settings)
    model = peft.get_peft_model(base(case == "tied"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
            elif parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder = HERE / case
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    # It names the base by its place on this machine.
    written = folder / "adapter" / "adapter_config.json"
    written.write_text(written.read_text().replace(str(HERE.parent) + "/", ""))
    loss, logits = run(model.double())
    loss.backward()
    gradients = {
        key(name): parameter.grad.float()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    safetensors.torch.save_file(gradients, folder / "golden.safetensors")
    expected = {
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "input_ids": IDS,
        "loss": loss.item(),
        "last_logits": logits.tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def select(settings):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, **settings)
    model = peft.get_peft_model(base(False), config)
    written = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in model.peft_config["default"].to_dict().items()
        if value not in (None, {}, False)
    }
    written["base_model_name_or_path"] = "llama-tiny"
    end = ".lora_A.default.weight"
    chosen = [name.removesuffix(end) for name, _ in model.named_parameters() if name.endswith(end)]
    return {
        "config": written,
        "modules": sorted(name.removeprefix("base_model.model.") for name in chosen),
    }


def check(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, folder / "adapter")
    with torch.no_grad():
        _, logits = run(model)
        whole = transformers.AutoModelForCausalLM.from_pretrained(folder / "merged")
        _, merged = run(whole.float())
    ours = torch.tensor(expected["last_logits"])
    worst = [(ours - theirs).abs().max().item() for theirs in (logits, merged)]
    print(f"{folder.name}: logits differ by {worst[0]:.1e}, of the merged model by {worst[1]:.1e}")
    return max(worst) < 1e-5


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit(0 if all([check(pathlib.Path(one)) for one in sys.argv[2:]]) else 1)
    for case, settings in CASES.items():
        make(case, settings)
    selected = ",\n".join(json.dumps(select(settings)) for settings in SELECTIONS)
    (HERE / "selections.json").write_text(f"[{selected}]\n")
