// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The rows, one a kind of template.
#include "llama/formats/chat_styles.hpp"

namespace llama {
namespace {

using namespace std::string_view_literals;

constexpr ChatTurn llama3_turn(std::string_view header) { return {header, "", "<|eot_id|>"}; }
constexpr ChatTurn llama3_user = llama3_turn("<|start_header_id|>user<|end_header_id|>\n\n");
constexpr ChatTurn llama3_assistant =
    llama3_turn("<|start_header_id|>assistant<|end_header_id|>\n\n");

constexpr ChatTurn chatml_system{"<|im_start|>system\n", "", "<|im_end|>", "\n"};
constexpr ChatTurn chatml_user{"<|im_start|>user\n", "", "<|im_end|>", "\n"};
constexpr ChatTurn chatml_assistant{"<|im_start|>assistant\n", "", "<|im_end|>", "\n"};

constexpr ChatTurn tulu_system{"<|system|>\n", "", "\n"};
constexpr ChatTurn tulu_user{"<|user|>\n", "", "\n"};
constexpr ChatTurn tulu_assistant{"<|assistant|>\n", "", "{eos}", "\n"};

// Where the system message is no turn, what stands around it in the user's.
constexpr ChatTurn joined_by_lines{"", "", "\n\n"};

constexpr ReasoningModes smollm3_modes{
    .head =
        "## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 08 July 2025\n"
        "Reasoning Mode: ",
    .instructions = "\n\n## Custom Instructions\n\n",
    .thinking =
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face. Your role as an "
        "assistant involves thoroughly exploring questions through a systematic thinking process "
        "before providing the final precise and accurate solutions. This requires engaging in a "
        "comprehensive cycle of analysis, summarizing, exploration, reassessment, reflection, "
        "backtracking, and iteration to develop well-considered thinking process. Please structure "
        "your response into two main sections: Thought and Solution using the specified format: "
        "<think> Thought section </think> Solution section. In the Thought section, detail your "
        "reasoning process in steps. Each step should include detailed considerations such as "
        "analysing questions, summarizing relevant findings, brainstorming new ideas, verifying "
        "the accuracy of the current steps, refining any errors, and revisiting previous steps. In "
        "the Solution section, based on various attempts, explorations, and reflections from the "
        "Thought section, systematically present the final solution that you deem correct. The "
        "Solution section should be logical, accurate, and concise and detail necessary steps "
        "needed to reach the conclusion.",
    .not_thinking = "You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
    .no_thoughts = {"<|im_start|>assistant\n<think>\n\n</think>\n", "", "<|im_end|>", "\n"}};

constexpr ChatStyle styles[] = {
    {.name = "chatml",
     .start = "",
     .system = chatml_system,
     .user = chatml_user,
     .assistant = chatml_assistant},
    {.name = "chatml-bos",
     .start = "{bos}",
     .system = chatml_system,
     .user = chatml_user,
     .assistant = chatml_assistant},
    {.name = "qwen3",
     .start = "",
     .system = chatml_system,
     .user = chatml_user,
     .assistant = chatml_assistant,
     .thinks = true},
    {.name = "smollm3",
     .start = "",
     .system = {"<|im_start|>system\n", "", ""},
     .user = chatml_user,
     .assistant = chatml_assistant,
     .modes = &smollm3_modes},
    {.name = "llama2",
     .start = "",
     .system = {"<<SYS>>\n", "", "\n<</SYS>>\n\n"},
     .user = {"{bos}[INST] ", "", " [/INST]"},
     .assistant = {"", " ", " {eos}"},
     .place = SystemPlace::first_user,
     .trim = Trim::joined,
     .alternates = true},
    {.name = "llama3",
     .start = "{bos}",
     .system = llama3_turn("<|start_header_id|>system<|end_header_id|>\n\n"),
     .user = llama3_user,
     .assistant = llama3_assistant,
     .trim = Trim::contents},
    {.name = "llama3.1",
     .start = "{bos}",
     .system = llama3_turn("<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
                           "December 2023\nToday Date: 26 Jul 2024\n\n"),
     .user = llama3_user,
     .assistant = llama3_assistant,
     .trim = Trim::contents,
     .default_system = ""},
    {.name = "mistral",
     .start = "{bos}",
     .system = {},
     .user = {"[INST] ", "", " [/INST]"},
     .assistant = {"", "", "{eos}"},
     .place = SystemPlace::nowhere,
     .alternates = true},
    {.name = "mistral-v0.1",
     .start = "{bos}",
     .system = {},
     .user = {"[INST] ", "", " [/INST]"},
     .assistant = {"", "", "{eos}", " "},
     .place = SystemPlace::nowhere,
     .alternates = true},
    {.name = "mixtral",
     .start = "{bos}",
     .system = joined_by_lines,
     .user = {" [INST] ", "", " [/INST]"},
     .assistant = {"", " ", "{eos}"},
     .place = SystemPlace::first_user,
     .alternates = true},
    {.name = "mistral-v0.3",
     .start = "{bos}",
     .system = joined_by_lines,
     .user = {"[INST] ", "", "[/INST]"},
     .assistant = {"", " ", "{eos}"},
     .place = SystemPlace::last_user,
     .alternates = true},
    {.name = "mistral-nemo",
     .start = "{bos}",
     .system = joined_by_lines,
     .user = {"[INST]", "", "[/INST]"},
     .assistant = {"", "", "{eos}"},
     .place = SystemPlace::last_user,
     .alternates = true},
    {.name = "mistral-small",
     .start = "{bos}",
     .system = {"[SYSTEM_PROMPT]", "", "[/SYSTEM_PROMPT]"},
     .user = {"[INST]", "", "[/INST]"},
     .assistant = {"", "", "{eos}"}},
    {.name = "gemma",
     .start = "{bos}",
     .system = {},
     .user = {"<start_of_turn>user\n", "", "<end_of_turn>", "\n"},
     .assistant = {"<start_of_turn>model\n", "", "<end_of_turn>", "\n"},
     .place = SystemPlace::nowhere,
     .trim = Trim::contents,
     .alternates = true},
    {.name = "gemma3",
     .start = "{bos}",
     .system = joined_by_lines,
     .user = {"<start_of_turn>user\n", "", "<end_of_turn>", "\n"},
     .assistant = {"<start_of_turn>model\n", "", "<end_of_turn>", "\n"},
     .place = SystemPlace::first_user,
     .trim = Trim::contents,
     .alternates = true},
    {.name = "phi3",
     .start = "",
     .system = {"<|system|>\n", "", "<|end|>", "\n"},
     .user = {"<|user|>\n", "", "<|end|>", "\n"},
     .assistant = {"<|assistant|>\n", "", "<|end|>", "\n"},
     .end = "{eos}"},
    {.name = "phi3.5",
     .start = "",
     .system = {"<|system|>\n", "", "<|end|>", "\n"},
     .user = {"<|user|>\n", "", "<|end|>", "\n"},
     .assistant = {"<|assistant|>\n", "", "<|end|>", "\n"},
     .drops_empty_system = true,
     .end = "{eos}"},
    {.name = "phi4",
     .start = "",
     .system = {"<|im_start|>system<|im_sep|>", "", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "", "<|im_end|><|im_start|>assistant<|im_sep|>"},
     .assistant = {"", "", "<|im_end|>"}},
    {.name = "phi4-mini",
     .start = "",
     .system = {"<|system|>", "", "<|end|>"},
     .user = {"<|user|>", "", "<|end|>"},
     .assistant = {"<|assistant|>", "", "<|end|>"},
     .end = "{eos}"},
    {.name = "zephyr",
     .start = "",
     .system = {"<|system|>\n", "", "{eos}", "\n"},
     .user = {"<|user|>\n", "", "{eos}", "\n"},
     .assistant = {"<|assistant|>\n", "", "{eos}", "\n"}},
    {.name = "olmo2",
     .start = "{bos}",
     .system = tulu_system,
     .user = tulu_user,
     .assistant = tulu_assistant,
     .after_last = false},
    {.name = "tulu3",
     .start = "",
     .system = tulu_system,
     .user = tulu_user,
     .assistant = tulu_assistant,
     .after_last = false},
};

constexpr KnownTemplate templates[] = {
    {196, 0x0d469078, "chatml"},  // with newlines as such, and as \n
    {199, 0x49ab552c, "chatml"},
    {209, 0xcf36937e, "chatml-bos"},                                  // Nous Hermes 2
    {341, 0x8fa9891a, "chatml-bos", "You are a helpful assistant."},  // Hermes 3
    {328, 0xde076a11, "chatml", "You are a helpful assistant."},      // Qwen1.5, Qwen2
    // Qwen2.5, twice
    {2506, 0xc10d9fd8, "chatml",
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {2508, 0x7d666a60, "chatml",
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {4116, 0xe40207bb, "qwen3"},
    {368, 0x7b2ce96c, "chatml",
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},  // SmolLM2
    {5236, 0x0cd57093, "smollm3"},
    {815, 0x20571750, "llama2"},
    {389, 0xa6ebd3a2, "llama3"},
    {4613, 0x75d84296, "llama3.1"},
    {3826, 0x8bb7cccf, "llama3.1"},  // Llama 3.2
    {470, 0x6dedc996, "mistral"},    // Mistral 0.2, Mixtral
    {477, 0x5375cb57, "mistral-v0.1"},
    {1057, 0x6af86f90, "mixtral"},
    {1052, 0x2d569a87, "mistral-v0.3"},
    {3777, 0x8c04a6a3, "mistral-nemo"},
    {415, 0x6aaa685e, "mistral-small"},
    {591, 0xc0448efd, "gemma"},  // Gemma 1 and 2
    {1531, 0x2f0d6e98, "gemma3"},
    {407, 0xf0a80bb1, "phi3"},
    {430, 0xe229d377, "phi3.5"},
    {377, 0x52333036, "phi4"},
    {423, 0x24d278bc, "phi4-mini"},
    {410, 0x5deb3b8c, "zephyr"},  // Zephyr, TinyLlama
    {508, 0xa538eb80, "olmo2"},
    {493, 0x62c36398, "tulu3"},
};

}  // namespace

std::span<const ChatStyle> chat_styles() noexcept { return styles; }
std::span<const KnownTemplate> known_templates() noexcept { return templates; }

}  // namespace llama
