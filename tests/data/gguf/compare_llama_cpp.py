# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT
"""What llama.cpp writes with a GGUF file beside what llama-generate writes with its folder.

    compare_llama_cpp.py FILE.gguf FOLDER LLAMA_GENERATE

Both take the most probable token each time, after two prompts and in a chat. Needs the package
xllamacpp, which has llama.cpp. Exit code 1 if a text differs.
"""

import json
import subprocess
import sys

import xllamacpp

PROMPTS = ["The capital of France is", "Water boils at"]
QUESTION = "What is a compiler?"
TOKENS = 24


def answer_of(reply):
    choice = (json.loads(reply) if isinstance(reply, (str, bytes)) else reply)["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    file, folder, program = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = 512
    params.verbosity = 0
    server = xllamacpp.Server(params)
    greedy = {"max_tokens": TOKENS, "temperature": 0}

    def own(prompt, *options):
        command = [program, "--model", folder, "--temperature", "0", "--max-tokens", str(TOKENS)]
        done = subprocess.run(
            [*command, "--prompt", prompt, *options], check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.removesuffix("\n")

    pairs = [
        (answer_of(server.handle_completions({"prompt": prompt, **greedy})), own(prompt))
        for prompt in PROMPTS
    ]
    messages = [{"role": "user", "content": QUESTION}]
    chat = server.handle_chat_completions({"messages": messages, **greedy})
    pairs.append((answer_of(chat), own(QUESTION, "--chat")))
    for theirs, ours in pairs:
        print(f"same: {ours!r}" if theirs == ours else f"DIFFERENT: {ours!r}, not {theirs!r}")
    sys.exit(any(theirs != ours for theirs, ours in pairs))


if __name__ == "__main__":
    main()
