# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes small tokenizers and golden.json: hard strings and their ids as Hugging Face tokenizers
encodes them.

Usage: python3 make_golden.py FILE...    (needs tokenizers 0.23.3; trains on the text files given)

The four have the pre-tokenizers of GPT-2, LLaMA-3, SmolLM and Qwen2. Trained on other text, the
tokenizers differ, but their ids still have to be those of the library. Further strings are those
that NFC may change, for which the program has an error where the library normalizes.
"""

import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

FOLDER = Path(__file__).resolve().parent
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


KINDS = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=True), False, 500),
    "llama3": (None, split(LLAMA3), True, 700),
    "smollm": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        False,
        500,
    ),
    "qwen2": (normalizers.NFC(), split(QWEN2), False, 600),
}

# Strings that NFC does not change.
STRINGS = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "Hello, world! It's 2026; we'll see, they'RE, I'VE, I'M, he'D, can'T, 'S 's",
    "'\u017f 'S '\u017ft",  # a long s, which matches 's where case does not count
    "I'll've 'tis 'twas ''s '''",
    "int main(int argc, char** argv) {\n    if (argc > 1) {\n\t\treturn argv[1][0] == '\\0';\n    "
    "}\n    return 0;\n}\n",
    "def f(x):\r\n    return x**2  # square\r\n\r\n\r\n",
    "template <typename T> constexpr bool is_v = is<T>::value;   // ...",
    "{\"key\": [1, 2.5e-3, null], \"\\u00e9\": \"\"}",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0xFF 1e10 v2.0.1",
    "\u0661\u0662\u0663\u0664 \u0967\u0968 \u00bd\u00b2\u2167 \u4e00\u4e8c\u4e09 "
    "\U0001d7d8\U0001d7d9",
    " " * 50 + "x" + " " * 17 + "\n" * 9 + "y" + "\t" * 12 + "z" + " " * 33,
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " \n ",
    "\n \n",
    "\t\n\t",
    "a\n\nb",
    "a \n b",
    "a  \n\n  b",
    "   \r\n\r\n  x",
    "a\u00a0b \u00a0 c\u3000d\u3000\u3000e\u2003f\u2028g\u2029h\u0085i\u202fj\u205fk\u1680l",
    "\u180e a\u180eb \u180e\u180e c",  # no white space since Unicode 6.3
    "\u200b\u200c\u200d\ufeff\u2060 a\u200bb",
    "\x00\x01\x02\x1b[0m\x7f\x0b\x0c\x1c\x1d\x1e\x1f",
    "\U0001f600\U0001f603 \U0001f44d\U0001f3fd\U0001f44d\U0001f3ff",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \u2764\ufe0f "
    "\U0001f3f3\ufe0f\u200d\U0001f308 1\ufe0f",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3001\u30ab\u30bf\u30ab\u30ca\u30fc",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c "
    "\u0643\u064a\u0641",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! "
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "Stra\u00dfe \u00c4\u00d6\u00dc \u00e9\u00e8\u00ea \u0130\u0131 \ufb01\ufb02\ufb06 \u01c5 "
    "\u02b0 \u00aa\u00ba",
    "\U00010348\U0001d54f \U00020000\U0002a6d6 \U0010ffff \ue000 \ufffd \ufffe",
    "\u00ab\u00bb\u2026\u2014\u2013\u201c\u201d\u2018s\u2019s \u20ac\u00a3\u00a5 "
    "\u00a9\u00ae\u2122 \u2200x\u2208\u211d",
    "!!! ??? ...---===***///\\\\\\ @#$%^&*()_+{}|:<>?~`",
    "!!!\n\n???\r\n...  \n",
    "a" * 300,
    "ab" * 150 + " " + "=" * 200,
    "https://example.org/a-b_c?d=e&f=%20#g  user@example.org",
    "<|end|>",
    "a<|end|>b",
    "a <|end|> b",
    "<|end|><|end|>",
    "<|end|",
    "<|end|>>",
    "<|end|>|>",
    "<|endless|>",
    "<<|end|>",
    "x<|pad|>\n\n<|end|> 's<tool>'s</tool>",
    "<to<tool>ol>",
    "<tool>+ <tool>-",
    "the quick brown fox \u00e9\u00e8 jumps 12 34",
    "CamelCaseWord snake_case_word SCREAMING_CASE kebab-case dotted.name",
]
# Strings that NFC changes or may change.
UNNORMALIZED = [
    "e\u0301 a\u0308\u0323 n\u0303",
    "\u0915\u094d\u0937\u093f \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627",
    "\u1100\u1161\u11a8 \u212b\u2126 '\u212a",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324 \u0301 \u0301x",
    "\uf900\ufa19 \u2000\u2001",
]


def main():
    golden = {
        "version": tokenizers.__version__,
        "strings": STRINGS,
        "unnormalized": UNNORMALIZED,
        "ids": {},
    }
    for name, (normalizer, pre_tokenizer, ignore_merges, size) in KINDS.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|pad|>"] if name == "gpt2" else [],
            show_progress=False,
        )
        tokenizer.train(sys.argv[1:], trainer)
        if ignore_merges:
            # Words that only ignore_merges can reach.
            text = json.loads(tokenizer.to_str())
            free = len(text["model"]["vocab"])
            text["model"]["vocab"].update({"Hello": free, "\u0120quick": free + 1})
            tokenizer = Tokenizer.from_str(json.dumps(text))
        # One is the beginning of another; one is found behind the normalizer, and so after one that
        # overlaps its end.
        tokenizer.add_special_tokens(["<|pad|>", "<|end|>", "<|end|>|>", "ol>+"])
        tokenizer.add_tokens(
            [AddedToken("<tool>", normalized=True), AddedToken("</tool>", normalized=False)]
        )
        text = json.loads(tokenizer.to_str())
        if name == "gpt2":
            text["model"]["merges"] = [" ".join(pair) for pair in text["model"]["merges"]]
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(text, ensure_ascii=True, separators=(",", ":")) + "\n")
        tokenizer = Tokenizer.from_file(str(path))
        strings = STRINGS + ([] if normalizer else UNNORMALIZED)
        golden["ids"][name] = [
            tokenizer.encode(one, add_special_tokens=False).ids for one in strings
        ]
    lines = (
        json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
        .replace("],[", "],\n[")
        .replace('","', '",\n"')
    )
    (FOLDER / "golden.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
