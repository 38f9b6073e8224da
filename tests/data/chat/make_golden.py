# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes golden.json: conversations as published chat templates write them.

Usage: python3 make_golden.py FILE...    (needs jinja2 3.1.6; each file is a chat_template of a
model, as text)

Templates are run as transformers does. Their text is not kept: a template is known by its bytes
without white space at the end, their number and CRC-32C. Without a clock those that write the date
take their own; one that has none gets DATE. "begun" has, for each conversation that ends with a
question, the text with the begin of its answer, and null for the others.
"""

import json
import sys
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


DATE = "08 July 2025"


def message(role, content):
    return {"role": role, "content": content}


QUESTION = message("user", "How many legs has a spider?")
ANSWER = message("assistant", "Eight.")
SYSTEM = message("system", "You count legs.")
AGAIN = [
    message("user", "And an ant?\nA red one."),
    message("assistant", "Six.\n\nLike any other."),
]
CONVERSATIONS = [
    [QUESTION, ANSWER],
    [SYSTEM, QUESTION, ANSWER],
    [QUESTION, ANSWER, *AGAIN],
    [SYSTEM, QUESTION, ANSWER, *AGAIN],
    [QUESTION],
    [SYSTEM, QUESTION],
    [SYSTEM, QUESTION, ANSWER, AGAIN[0]],
    [message("user", " \n Hi\u00a0\t"), message("assistant", "\n\n ok \u3000 ")],
    [message("system", " \n be short \n"), QUESTION, ANSWER],
    [message("system", ""), QUESTION, ANSWER],
    [QUESTION, ANSWER, message("assistant", "More.")],
    [QUESTION, QUESTION, ANSWER],
    [ANSWER, QUESTION],
    [QUESTION, message("assistant", "<think>\nspiders...\n</think>\n\nEight."), *AGAIN],
    [QUESTION, message("assistant", "<think>\nspiders...\n</think>\n\nEight.")],
    [QUESTION, message("assistant", "")],
    [message("system", "/no_think"), QUESTION, ANSWER, *AGAIN],
    [message("system", "You count legs. /no_think \n"), QUESTION],
    [message("system", "/system_override You count\nlegs./think"), QUESTION],
]


def crc32c(data):
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def raise_exception(text):
    raise jinja2.exceptions.TemplateError(text)


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks answers and writes nothing."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def render(template, messages, begin_answer):
    """Null where the template refuses the conversation."""
    try:
        return template.render(
            messages=messages,
            add_generation_prompt=begin_answer,
            bos_token="<s>",
            eos_token="</s>",
        )
    except jinja2.exceptions.TemplateError:
        return None


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    golden = {"jinja2": jinja2.__version__, "conversations": CONVERSATIONS, "templates": []}
    for path in sorted(sys.argv[1:]):
        text = Path(path).read_text().rstrip(" \t\r\n")
        needs_clock = "strftime_now" in text and "strftime_now is defined" not in text
        clock = {"strftime_now": lambda form: DATE} if needs_clock else None
        template = environment.from_string(text, globals=clock)
        golden["templates"].append(
            {
                "size": len(text.encode()),
                "crc32c": crc32c(text.encode()),
                "texts": [render(template, one, False) for one in CONVERSATIONS],
                "begun": [
                    render(template, one, True) if one[-1]["role"] == "user" else None
                    for one in CONVERSATIONS
                ],
            }
        )
    golden["templates"].sort(key=lambda one: (one["size"], one["crc32c"]))
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('","', '",\n"')
    (Path(__file__).resolve().parent / "golden.json").write_text(text + "\n")


main()
