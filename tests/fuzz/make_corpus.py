# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes the seeds of corpus/, from which libFuzzer makes its inputs: python3 make_corpus.py

Files that this script does not write are inputs that once were findings.
"""

import json
import random
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"


def write(target, name, content):
    path = HERE / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def packed(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def lines(*words):
    return "\n".join(words).encode() + b"\n"


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else packed(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    write("safetensors", "empty", safetensors({}))
    write("safetensors", "metadata", safetensors({"__metadata__": {"format": "pt"}}))
    three = {"b": tensor("F32", [2, 1], 4, 12), "a": tensor("BF16", [2], 0, 4),
             "empty": tensor("U8", [0, 7], 12, 12)}
    write("safetensors", "three", safetensors(three, bytes(range(12))))
    scalar = {"s": tensor("F64", [], 0, 8)}
    write("safetensors", "scalar", safetensors(scalar, struct.pack("<d", 1e300)))
    bits = {"s": tensor("F4", [4], 0, 2), "t": tensor("F6_E2M3", [4], 2, 5)}
    write("safetensors", "bits", safetensors(bits, b"abcde"))
    write("safetensors", "ids", safetensors({"i": tensor("I64", [1], 0, 8)}, b"\xff" * 8))
    one = '"a":' + packed(tensor("U8", [0], 0, 0))
    write("safetensors", "twice", safetensors(f"{{{one},{one}}}".encode()))
    data = struct.pack("<2f", 1.0, -0.5)
    sums = {"dropbp.crc32c": "00000000", "dropbp.crc32c.a": f"{crc32c(data):08x}"}
    header = {"__metadata__": sums, "a": tensor("F32", [2], 0, 8)}
    text = packed(header).encode()
    own = crc32c(struct.pack("<Q", len(text)) + text)
    header["__metadata__"]["dropbp.crc32c"] = f"{own:08x}"
    write("safetensors", "checksums", safetensors(header, data))


def index_seeds():
    shards = {name: f"model-0000{i + 1}-of-00003.safetensors" for i, name in enumerate("abc")}
    write("weights_index", "shards", packed({"metadata": {"total_size": 24}, "weight_map": shards}))
    write("weights_index", "one", packed({"weight_map": {"a": shards["a"]}}))
    sums = {shard: "00000000" for shard in shards.values()}
    write("weights_index", "checksums",
          packed({"metadata": {"dropbp.shards": sums}, "weight_map": shards}))
    for name, shard in {"missing": "model-4.safetensors", "outside": "../a", "number": 1}.items():
        write("weights_index", name, packed({"weight_map": {**shards, "b": shard}}))


def json_seeds():
    for folder in sorted((DATA / "families").iterdir()):
        if folder.is_dir():
            config = json.loads((folder / "config.json").read_text())
            write("config", folder.name, packed(config))
            if folder.name in ("gemma2", "qwen3", "phi3"):
                adapter = folder / "adapter" / "adapter_config.json"
                write("adapter_config", folder.name, packed(json.loads(adapter.read_text())))
    write("config", "llama-tiny", (DATA / "llama-tiny" / "config.json").read_text())
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    for name, more in {
        "names": {"target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
        "all": {"target_modules": "all-linear", "use_rslora": True, "use_dora": True},
        "regex": {"target_modules": r".*\.(q|v)_proj", "rank_pattern": {r"1.*\.q_proj": 2},
                  "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 3.5}},
        "layers": {"target_modules": ["q_proj"], "layers_to_transform": [1],
                   "layers_pattern": "layers", "modules_to_save": ["lm_head"],
                   "exclude_modules": ["o_proj"]},
    }.items():
        write("adapter_config", name, packed({**plain, **more}))
    records = [
        {"text": "a b\u00e9"}, {"prompt": "p ", "completion": "c"},
        {"instruction": "i", "input": "n", "output": "o"}, {"instruction": "i", "output": "o"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                      {"role": "assistant", "content": "a"}]},
    ]
    text = "".join(packed(record) + "\n" for record in records)
    for choice in (0, 5, 10, 15):
        write("json_lines", f"forms{choice}", bytes([choice, 0]) + text.encode())
    marked = b"\xef\xbb\xbf\n \t\r\n" + text.replace("\n", "\r\n").encode()
    write("json_lines", "marks", b"\x04\0" + marked)
    turns = [{"role": role, "content": f" {role}s </think> say "}
             for role in ("user", "assistant", "user", "assistant")]
    chat = packed({"messages": turns}) + "\n" + packed({"messages": [
        {"role": "system", "content": "/no_think s\n"}, *turns[:2]]}) + "\n"
    for style in range(22):  # each chat template, in the order of chat_styles.cpp
        write("json_lines", f"chat{style:02}", bytes([style % 16, style]) + chat.encode())


def token_seeds():
    ids = [1, 2, 3, 299, 0, 17, 255, 256] * 6
    write("token_files", "u16", b"\0" + b"".join(struct.pack("<H", i) for i in ids))
    write("token_files", "i32", b"\1" + b"".join(struct.pack("<i", i) for i in ids))
    write("token_files", "negative", b"\1" + struct.pack("<2i", 1, -1))
    write("token_files", "text", b"\2Some text, \xc3\xa9.\n" * 3)
    for name, front in {"gzip": b"\x1f\x8b\x08", "zip": b"PK\x03\x04", "pdf": b"%PDF-1.4", "lfs":
                        b"version https://git-lfs.github.com/spec/v1\n"}.items():
        for choice in (0, 2):
            write("token_files", f"{name}{choice}", bytes([choice]) + front + b"\0" * 8)


def state_seeds():
    handler = lines(
        "dropbp-state 1", "seed 42", "plan_per micro_step", "next_step 3", "micro_steps 3",
        "drop_rate 0x1p-1", "branches 2", "sensitivities yes", "branch 0x1p-1 2 1 4 2 0x1.8p-3",
        "branch 0x0p0 3 0 5 3 0x1p0", "end")
    adaptive = lines(
        "dropbp-state 2", "seed 42", "plan_per step", "next_step 3", "micro_steps 3",
        "drop_rate 0x1p-1", "branches 1", "sensitivities no", "branch 0x1p-1 2 1 4 2",
        "observed_steps 7", "estimate 0x1p0 0x1p-3 0x1.4p2 0x1p-1 6", "end")
    running = lines("dropbp-running 1", "step 7", "branches 1",
                    "branch 0x1p0 0x1p-3 0x1.4p2 0x1p-1 6", "end")
    ranges = lines("dropbp-ranges 1", "steps 7", "branches 2", "branch 6", "branch 7", "end\r")
    write("state_text", "handler", b"\0" + handler)
    write("state_text", "adaptive", b"\0" + adaptive)
    write("state_text", "running", b"\1" + running)
    write("state_text", "ranges", b"\2" + ranges)


def allocation_seeds():
    draw = random.Random(1)
    for kind in range(8):
        content = bytes([kind]) + (struct.pack("<d", 0.5) if kind & 4 else bytes([50])) + bytes([4])
        for _ in range(5):
            for bit in (1, 2):
                number = draw.choice([1.0, 2.5, 1e-300, 1e300, 0.0, 3.0, 1e-310])
                content += struct.pack("<d", number) if kind & bit else bytes([draw.randrange(256)])
        content += bytes(draw.randrange(256) for _ in range(21))
        write("allocation", f"kind{kind}", content)


def tokenizer_seeds():
    texts = json.loads((DATA / "tokenizer" / "golden.json").read_text())["strings"]
    more = json.loads((DATA / "tokenizer" / "golden_more.json").read_text())
    picked = [text for text in texts if text][::6] + more["unnormalized"][:4] + more["more"][:6]
    for i, text in enumerate(picked):
        try:
            write("tokenizer", f"text{i}", bytes([i % 8]) + text.encode())
        except UnicodeEncodeError:
            continue
    write("tokenizer", "not_utf8", b"\1a\xed\xa0\x80")
    vocabulary = ["<unk>", "<s>", "a", "b", "ab", "\u2581", "\u2581a", "\u00e9"]
    vocabulary += [f"<0x{byte:02X}>" for byte in (0x0A, 0x20, 0xC3, 0xA9)]
    piece = {
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": True, "normalized": False},
            {"id": 12, "content": "<word>", "single_word": True, "lstrip": True, "rstrip": True}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {token: i for i, token in enumerate(vocabulary)},
                  "merges": ["a b", ["\u2581", "a"]]},
    }
    write("tokenizer_file", "piece", packed(piece))
    metaspace = {**piece, "normalizer": {"type": "NFKC"}, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}}
    write("tokenizer_file", "metaspace", packed(metaspace))
    letters = {chr(code): i for i, code in enumerate([*range(0x21, 0x7F), 0x120, 0x10A])}
    bytes_of = {
        "added_tokens": [{"id": 96, "content": "<|end|>"}], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|\p{L}+|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": letters, "merges": []},
    }
    write("tokenizer_file", "bytes", packed(bytes_of))


def gguf_seeds():
    content = bytes([4]) + b"a.u32\n\0\0" + struct.pack("<I", 7) + b"a.text\n\3\0hello\n"
    content += b"a.list\n\4\2x\ny\n" + b"a.floats\n\6\3" + struct.pack("<3f", 1.0, -0.0, 1e-42)
    content += bytes([2]) + b"w\n\1\1\2\1" + struct.pack("<6f", 1.0, 65504.0, -1e-7, 0.1, 3.0, -2.5)
    content += b"v\n\2\0\4" + struct.pack("<5f", 1.0, 1e30, -1e-30, 0.1, 1.00390625)
    write("gguf", "values", content)
    write("gguf", "infinite", bytes([0, 1]) + b"w\n\0\0\0" + struct.pack("<f", float("inf")))
    write("gguf", "large_half", bytes([0, 1]) + b"w\n\1\0\0" + struct.pack("<f", 65520.0))
    write("gguf", "large_bfloat", bytes([0, 1]) + b"w\n\2\0\0" + struct.pack("<f", 3.4e38))


def command_seeds():
    words = {
        "help": "--help", "version": "--version", "none": "",
        "train": "--steps 300 --drop-rate 0.25 --mode lora --lora-rank=4 "
                 "--lora-targets q_proj,v_proj",
        "shape": "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --intermediate 128 "
                 "--vocabulary 300",
        "output": "--out m --report r.json --plot p.svg --metrics m.csv --out-format gguf "
                  "--out-dtype bf16",
        "patterns": "--lora-rank-pattern q_proj=8,v_proj=2 --lora-target-pattern .*q_proj "
                    "--mode qlora",
        "budget": "--sampling fixed-budget --activation-budget 4 --recompute --allocate-at 0.5",
        "auto": "--drop-rate auto --model m", "wrong": "--stepps 3",
        "bash": "--completion bash",
        "generate": "--model m --prompt Hi --temperature 0.7 --top-k 5 --max-tokens 9",
    }
    for name, text in words.items():
        write("command_line", name, text.replace(" ", "\n"))
    write("command_line", "quotes", "--print-config\n--data\nit's \"x\"")
    write("command_line", "config",
          "--config\n@\n--seed\n7\0steps = 12\ndrop-rate = 0.75\nrslora = true\n")


def training_state_seeds():
    write("training_state", "unchanged", b"")
    write("training_state", "header", b"\x00\x40\x00\x00x\n" + b"\x10\x02\x01\x05\n")
    write("training_state", "data", b"\x20\x00\x02\x00\xff\xff\n")
    draw = random.Random(2)
    for i in range(6):
        write("training_state", f"edits{i}", bytes(draw.randrange(256) for _ in range(24)))


if __name__ == "__main__":
    for seeds in (safetensors_seeds, index_seeds, json_seeds, token_seeds, state_seeds,
                  allocation_seeds, tokenizer_seeds, gguf_seeds, command_seeds,
                  training_state_seeds):
        seeds()
