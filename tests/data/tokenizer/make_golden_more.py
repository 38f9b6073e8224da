# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes four small tokenizers in SentencePiece's way and golden_more.json: ids as Hugging Face
tokenizers encodes them.

Usage: python3 make_golden_more.py FILE...    (needs tokenizers 0.23.3; trains on the files given)

The four have the shapes of LLaMA-2 (Prepend and Replace as normalizers), Mistral (Metaspace as
pre-tokenizer), Gemma (Replace, Split with a string) and Phi-3 (added tokens that strip). The golden
ids are those of hard strings for these, of strings that NFC changes for those of make_golden.py,
and of a few strings for variants: files with a change by a patch of RFC 7386.
"""

import json
import sys

import tokenizers
from make_golden import FOLDER, STRINGS, UNNORMALIZED
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

SPACE = "\u2581"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE],
}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
MERGED = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
# name: normalizer, pre_tokenizer
SHAPES = {
    "llama2": (PREPEND, None),
    "mistral": (None, METASPACE),
    "gemma": (REPLACE, MERGED),
    "phi3": (PREPEND, None),
}
# Where tokens stand beside each other, beside white space and beside letters.
MORE = [
    "<s>Hello</s>",
    "<s> [INST] What is 1+1? [/INST] 2 </s><s>[INST] And\n\n2+2? [/INST]",
    "a<|end|>\n  b <|end|> c<|user|>\n Hi<|end|>\n<|assistant|>\nYes",
    "word<word>word <word> word,<word>. _<word>\u0301<word>\u00e9 \u24b6<word>",
    " <left> x<left>\n\n <left><left>",
    f"{SPACE}{SPACE} {SPACE}a {SPACE}",
    "   leading and trailing   ",
    "\u00e9\u4e2d\U0001f600 \ufffd\U0010ffff\u0000x\u0007y",
    "<0x41> <0xFF> <unk> <pad>",
    "aaaaaaaa bbbbbbbb  cccc",
]
FEW = STRINGS[5:8] + UNNORMALIZED[:2] + MORE[2:]


def split(behavior, invert, pattern):
    return {
        "pre_tokenizer": {
            "type": "Sequence",
            "add_prefix_space": None,
            "trim_offsets": None,
            "use_regex": None,
            "pretokenizers": [
                {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        }
    }


def token(**flags):
    """Its id is set by main(): the library counts on."""
    result = {"id": 0, "content": "<word>", "special": False, "normalized": False}
    result.update({"single_word": False, "lstrip": False, "rstrip": False})
    return result | flags


def variants():
    """(name of the file, patch)"""
    patterns = [{"String": "a"}, {"Regex": "\\s+"}, {"String": "\n"}]
    for number, behavior in enumerate(
        ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    ):
        for invert in (False, True):
            yield "gpt2", split(behavior, invert, patterns[(number + invert) % 3])
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield "gpt2", {"normalizer": {"type": form}}
    digits = {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "#"}
    yield "gpt2", {"normalizer": digits}
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            yield "mistral", {"pre_tokenizer": {"prepend_scheme": scheme, "split": cut}}
    # The older form of Metaspace.
    yield "mistral", {
        "pre_tokenizer": {"prepend_scheme": None, "split": None, "add_prefix_space": True}
    }
    yield "llama2", {"model": {"ignore_merges": True}}
    for fuse in (False, True):
        yield "llama2", {"model": {"fuse_unk": fuse, "byte_fallback": False}}
        missing = {"<0xF0>": None, "<0xC3>": None}
        yield "llama2", {"model": {"fuse_unk": fuse, "vocab": missing}, "added_tokens": []}
    for flags in (
        {"single_word": True},
        {"lstrip": True},
        {"rstrip": True},
        {"lstrip": True, "rstrip": True, "normalized": True},
        {"single_word": True, "lstrip": True, "special": True},
    ):
        yield "gpt2", {"added_tokens": [token(**flags)]}
        yield "llama2", {"added_tokens": [token(**flags)]}


def merged(target, patch):
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def train(name, files):
    """A tokenizer whose words begin with a sign for the space, and a token for each byte."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False, limit_alphabet=80
    )
    tokenizer.train(files, trainer)
    text = json.loads(tokenizer.to_str())
    # The 256 are tokens of the model alone.
    text["added_tokens"] = text["added_tokens"][:3]
    text["normalizer"], text["pre_tokenizer"] = SHAPES[name]
    text["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    text["post_processor"]["single"][1]["Sequence"]["type_id"] = 0
    tokenizer = Tokenizer.from_str(json.dumps(text))
    strips = name == "phi3"
    tokenizer.add_special_tokens(
        [AddedToken(one, rstrip=strips, normalized=False) for one in ("<|end|>", "<|user|>")]
        + [AddedToken("<|assistant|>", rstrip=strips, normalized=False)]
    )
    tokenizer.add_tokens(
        [
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("<left>", lstrip=True, normalized=name == "gemma"),
            AddedToken("<tool>", normalized=True),
        ]
    )
    path = FOLDER / f"{name}.json"
    text = json.loads(tokenizer.to_str())
    path.write_text(json.dumps(text, ensure_ascii=True, separators=(",", ":")) + "\n")


def ids_of(tokenizer, strings):
    return [tokenizer.encode(one, add_special_tokens=False).ids for one in strings]


def main():
    golden = {
        "version": tokenizers.__version__,
        "unnormalized": UNNORMALIZED,
        "more": MORE,
        "few": FEW,
        "ids": {},
        "variants": [],
    }
    for name in SHAPES:
        train(name, sys.argv[1:])
    for name in ("gpt2", "llama3", "smollm", "qwen2", *SHAPES):
        tokenizer = Tokenizer.from_file(str(FOLDER / f"{name}.json"))
        strings = (STRINGS if name in SHAPES else []) + UNNORMALIZED + MORE
        golden["ids"][name] = ids_of(tokenizer, strings)
    for name, patch in variants():
        file = json.loads((FOLDER / f"{name}.json").read_text())
        for one in patch.get("added_tokens", []):
            one["id"] = len(file["model"]["vocab"])
        tokenizer = Tokenizer.from_str(json.dumps(merged(file, patch)))
        golden["variants"].append(
            {"file": name, "patch": patch, "ids": ids_of(tokenizer, FEW)}
        )
    lines = json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace("],[", "],\n[")
    (FOLDER / "golden_more.json").write_text(lines.replace('","', '",\n"') + "\n")


main()
