// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The training data of a run: which text or ids, and which tokenizer encodes the text.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/app/options.hpp"
#include "llama/formats/config.hpp"

namespace llama {

struct Corpus {
  std::unique_ptr<TrainingData> data;
  std::optional<std::filesystem::path> tokenizer;  ///< that made the ids; none: bytes, or --tokens
  std::vector<std::string> notes;  ///< what was decided without being asked, a sentence each
  std::string first_sample;        ///< a table of its tokens; only with --show-sample
};

/// Samples where --data is JSON lines, or a folder with such files, else running text. Both are
/// made into ids by --tokenizer, else by the tokenizer.json in the folder of --model or of
/// --adapter; without one they are bytes, which only a model with a vocabulary of 256 has. The end
/// of a sample, or of a folder's documents, is `eos_token` of the tokenizer_config.json beside the
/// tokenizer, else `eos_token_id` of the config.json beside it or of the model, where it is a token
/// of the tokenizer; conversations end as the chat template beside the tokenizer, or
/// --chat-template, writes them. `config` gets the tokenizer's vocabulary where that is to decide.
/// With --steps 0 and no text named, such a model is not validated: zeros stand for the text.
/// Errors are std::runtime_error.
[[nodiscard]] Corpus load_corpus(const Options& options, LlamaConfig& config);

}  // namespace llama
