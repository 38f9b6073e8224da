// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The `normalizer` of a tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer_file.hpp"
#include "llama/formats/utf8.hpp"

namespace llama {

/// null, NFC, NFD, NFKC, NFKD, Prepend, Replace (String or Regex), or a Sequence of them.
class Normalizer {
 public:
  /// Throws std::runtime_error for any other, and for a normal form without utf8proc.
  explicit Normalizer(const TokenizerFile& file);

  /// Whether it changes no text.
  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }
  [[nodiscard]] std::string operator()(std::string_view text) const;

 private:
  struct Prepend {
    std::string text;
  };
  struct ReplaceText {
    std::string text, by;
  };
  struct ReplaceMatches {
    Regex pattern;
    std::string by;
  };
  using Step = std::variant<NormalForm, Prepend, ReplaceText, ReplaceMatches>;

  void add(const TokenizerFile& file, const nlohmann::json& object, const std::string& key);

  std::vector<Step> steps_;
};

}  // namespace llama
