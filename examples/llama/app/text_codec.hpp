// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Between text and ids, by a tokenizer or as bytes, and where a written text ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/tokenizer.hpp"

namespace llama {

/// Errors are std::runtime_error.
class TextCodec {
 public:
  /// Without a tokenizer each byte is an id.
  explicit TextCodec(const std::optional<std::filesystem::path>& tokenizer);

  /// The ids that a text begins with: those that the tokenizer puts in front, and of its own.
  [[nodiscard]] std::vector<std::int32_t> beginning(std::string_view text) const;
  /// The ids of a text that says itself how it begins, as one by a chat template.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const;
  /// What an id adds to a text: bytes, which need not be whole characters.
  [[nodiscard]] std::string text_of(std::int32_t id) const;
  [[nodiscard]] std::string text_of(const std::vector<std::int32_t>& ids) const;

  /// The ids that end a text, by generation_config.json, config.json and tokenizer_config.json in
  /// the folder; none for bytes.
  [[nodiscard]] std::vector<std::int32_t> ends(const std::filesystem::path& folder) const;

 private:
  std::optional<Tokenizer> tokenizer_;
};

/// For a terminal: control characters other than line ends and tabs become '?'.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace llama
