# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""Reads a GGUF file with the published reader and compares it with a Hugging Face folder.

    check_gguf.py FILE.gguf FOLDER

FOLDER has the same model as one file in float32. Exit code 77 where the packages gguf, numpy and
safetensors are missing.
"""

import json
import pathlib
import sys

try:
    import gguf
    import numpy
    import safetensors.numpy
except ImportError as missing:
    print(f"SKIPPED: {missing}; pip install gguf numpy safetensors")
    sys.exit(77)

# Relative: of the mantissa's bits that are kept.
TOLERANCE = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}


def halves_of(rows, heads):
    head = rows.shape[0] // heads
    return rows.reshape(heads, head // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    folder = pathlib.Path(sys.argv[2])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    config = json.loads((folder / "config.json").read_text())
    expected = safetensors.numpy.load_file(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    by_gguf_name = {
        names.get_name(name, try_suffixes=(".weight",)): (name, values)
        for name, values in expected.items()
    }
    assert {t.name for t in reader.tensors} == set(by_gguf_name), "names of tensors"
    for tensor in reader.tensors:
        name, values = by_gguf_name[tensor.name]
        got = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        got = got.reshape(values.shape)
        if ".q_proj." in name:
            got = halves_of(got, config["num_attention_heads"])
        if ".k_proj." in name:
            got = halves_of(got, config["num_key_value_heads"])
        bound = TOLERANCE[tensor.tensor_type.name] * numpy.abs(values) + 2.0**-25
        if tensor.tensor_type.name == "F32":
            bound = 0.0
        assert (numpy.abs(got - values) <= bound).all(), f"{tensor.name}: values"
        assert values.ndim == 2 or tensor.tensor_type.name == "F32", f"{tensor.name}: type"
    sizes = {
        "block_count": "num_hidden_layers",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
    }
    for key, own in sizes.items():
        assert fields[f"llama.{key}"] == config[own], key
    assert numpy.float32(config["rope_theta"]) == fields["llama.rope.freq_base"]
    assert len(fields["tokenizer.ggml.tokens"]) == config["vocab_size"]
    assert len(fields["tokenizer.ggml.token_type"]) == config["vocab_size"]
    if (folder / "tokenizer.json").exists():
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        for token, i in tokenizer["model"]["vocab"].items():
            assert fields["tokenizer.ggml.tokens"][i] == token, token
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        assert list(fields.get("tokenizer.ggml.merges", [])) == merges, "merges"
    print(f"{sys.argv[1]}: {len(reader.tensors)} tensors and {len(fields)} fields as expected")


if __name__ == "__main__":
    main()
