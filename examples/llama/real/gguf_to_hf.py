# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""A LLaMA-style model from a GGUF file, quantised or not, as a Hugging Face folder in float32.

    gguf_to_hf.py FILE.gguf FOLDER

The folder gets config.json, model.safetensors, tokenizer.json and tokenizer_config.json with the
chat template. Supported are models of the architecture "llama" with a byte-level tokenizer of
SmolLM's or GPT-2's kind. Needs the packages gguf, numpy and safetensors.
"""

import json
import pathlib
import sys

import gguf
import numpy
import safetensors.numpy

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL = 3  # a token's type


def halves_of(rows, heads):
    """GGUF rotates neighbouring rows of a head, Hugging Face the halves of a head."""
    head = rows.shape[0] // heads
    return rows.reshape(heads, head // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def hf_name(name):
    outer = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in outer:
        return outer[name]
    _, block, kind, _ = name.split(".")
    return f"model.layers.{block}.{NAMES[kind]}.weight"


def weights_of(reader, heads, kv_heads):
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if ".attn_q." in tensor.name:
            values = halves_of(values, heads)
        if ".attn_k." in tensor.name:
            values = halves_of(values, kv_heads)
        weights[hf_name(tensor.name)] = numpy.ascontiguousarray(values)
    return weights


def config_of(fields, tied):
    def size(key):
        return int(fields["llama." + key])

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": size("embedding_length"),
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": size("attention.head_count"),
        "num_key_value_heads": size("attention.head_count_kv"),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "max_position_embeddings": size("context_length"),
        # Written as float32: the shortest decimal number that is the same.
        "rms_norm_eps": float(str(numpy.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "tie_word_embeddings": tied,
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "torch_dtype": "float32",
    }


def tokenizer_of(fields):
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    splits = {
        "gpt-2": byte_level,
        "smollm": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
    }
    kind = fields["tokenizer.ggml.pre"]
    if kind not in splits:
        sys.exit(f"the pre-tokenizer must be one of {', '.join(splits)}, but it is {kind}")
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for i, token in enumerate(tokens)
            if types[i] == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": splits[kind],
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[2])
    reader = gguf.GGUFReader(sys.argv[1])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        sys.exit(f"the architecture must be llama, but it is {fields['general.architecture']}")
    weights = weights_of(
        reader, fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False))

    tokens = fields["tokenizer.ggml.tokens"]
    write("config.json", config_of(fields, "lm_head.weight" not in weights))
    write("tokenizer.json", tokenizer_of(fields))
    write(
        "tokenizer_config.json",
        {
            "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
            "chat_template": fields.get("tokenizer.chat_template"),
        },
    )
    print(f"{folder}: {sum(w.size for w in weights.values())} weights")


if __name__ == "__main__":
    main()
