// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the model writes while it is trained: completions of one prompt.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "llama/app/options.hpp"
#include "llama/app/text_codec.hpp"
#include "llama/model/model.hpp"

namespace llama {

class Preview {
 public:
  /// Throws UsageError for a prompt as long as a training sequence, std::runtime_error for a
  /// tokenizer that cannot be read.
  Preview(const Options& options, const std::optional<std::filesystem::path>& tokenizer);

  /// A completion for a terminal, the prompt in front. It changes nothing that training depends on.
  template <class T, class Backend>
  [[nodiscard]] std::string text(LlamaModel<T, Backend>& model) const;

 private:
  TextCodec codec_;
  std::vector<std::int32_t> prompt_, ends_;
  std::size_t most_tokens_;
  std::uint64_t seed_;
};

}  // namespace llama
