# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""An adapter of PEFT with maps chosen by a pattern, ranks and alphas by patterns and the scale of
rsLoRA, over ../llama-tiny, and the logits that transformers gives with it.

    make_golden.py        # writes adapter/ and expected.json beside itself
"""

import json
import pathlib

import peft
import torch
import transformers

HERE = pathlib.Path(__file__).parent


def main():
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        HERE.parent / "llama-tiny", dtype=torch.float32
    )
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=3,
        target_modules=r".*\.(q_proj|v_proj|down_proj|1\.mlp\.up_proj)",
        rank_pattern={r"layers\.1\..*": 1, "v_proj": 3},  # in the order that it is saved in
        alpha_pattern={"down_proj": 5.5},
        use_rslora=True,
    )
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = [(7 * i * i + 3 * i) % model.config.vocab_size for i in range(12)]
    with torch.no_grad():
        logits = adapted(torch.tensor([ids])).logits[0, -1]
    adapted.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink(missing_ok=True)
    # It names the base by its place on this machine.
    written = HERE / "adapter" / "adapter_config.json"
    written.write_text(written.read_text().replace(config.base_model_name_or_path, "llama-tiny"))
    (HERE / "expected.json").write_text(
        json.dumps(
            {
                "peft": peft.__version__,
                "transformers": transformers.__version__,
                "input_ids": ids,
                "last_logits": [float(x) for x in logits],
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
