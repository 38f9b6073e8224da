// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The command line of llama-generate as a plain struct.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "llama/app/token_sampling.hpp"

namespace llama {

struct GenerateOptions {
  std::optional<std::filesystem::path> model;  ///< given after parsing
  std::optional<std::filesystem::path> adapter;
  std::optional<std::filesystem::path> tokenizer;   ///< none: the model's own, else bytes
  std::string prompt;                               ///< empty: the lines of standard input
  bool chat = false;                                ///< prompts are what a user says
  std::optional<std::string> chat_template;         ///< none: the model's own
  std::string system;                               ///< empty: the template's own, if it has one
  std::optional<std::filesystem::path> perplexity;  ///< of this file, instead of writing
  TokenSampling sampling;
  std::ptrdiff_t max_tokens = 256;
  std::ptrdiff_t context = 1024;  ///< tokens of prompt and text together
  int threads = 0;                ///< 0 is all cores
};

struct GenerateCommand {
  std::optional<GenerateOptions> options;
  int exit_code = 0;  ///< 0 after --help and --version (for stdout), 2 for wrong usage (for stderr)
  std::string text;
};

/// As parse_options.
[[nodiscard]] GenerateCommand parse_generate_options(int argc, const char* const* argv,
                                                     std::string_view version);

}  // namespace llama
