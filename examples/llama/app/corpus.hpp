// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The training data of a run: which text or ids, and which tokenizer encodes the text.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/app/options.hpp"
#include "llama/formats/config.hpp"

namespace llama {

struct Corpus {
  TokenData data;
  std::optional<std::filesystem::path>
      tokenizer;                   ///< the one that encoded the text; empty for bytes and --tokens
  std::vector<std::string> notes;  ///< choices made without an option, a sentence each
};

/// Text is encoded by --tokenizer, else by the tokenizer.json in the folder of --model or of
/// --adapter; without one it is read as bytes, which needs a model with a vocabulary of 256. The
/// documents of a folder are separated by `eos_token` of the tokenizer_config.json beside the
/// tokenizer, else by `eos_token_id` of the config.json beside it or of the model, if the tokenizer
/// has that token. With vocabulary_of_tokenizer, `config` gets the tokenizer's vocabulary. With
/// --steps 0 and no text given, a model whose text cannot be encoded is not validated: zeros
/// replace the text. Errors are std::runtime_error.
[[nodiscard]] Corpus load_corpus(const Options& options, LlamaConfig& config);

}  // namespace llama
