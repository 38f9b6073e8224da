// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The `pre_tokenizer` of a tokenizer.json: where text is cut before pairs are merged.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer_file.hpp"

namespace llama {

/// Text on its way to tokens, with places whose position among the tokens is asked for.
struct Piece {
  std::string_view text;
  std::vector<std::size_t> cuts;  ///< bytes, ascending, within the text
  bool at_start = false;          ///< whether it begins where the whole text does
};

/// null, ByteLevel, Metaspace, Split, Digits, or a Sequence of them. A ByteLevel is at its end.
class PreTokenizer {
 public:
  /// Throws std::runtime_error for any other.
  explicit PreTokenizer(const TokenizerFile& file);

  /// Whether it ends with ByteLevel: the vocabulary's characters stand for bytes.
  [[nodiscard]] bool byte_level() const noexcept { return byte_level_; }

  /// Calls word(piece) for each part of the text, in order. What is removed is in none.
  void split(const Piece& piece, const std::function<void(const Piece&)>& word) const {
    split(piece, 0, word);
  }

 private:
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  enum class Prefix { never, first, always };

  /// What is put into the text, then where it is cut.
  struct Step {
    std::string space;  ///< replaces every space; empty: none is replaced
    Prefix prefix = Prefix::never;
    std::optional<Regex> regex;
    std::string text;  ///< to look for in place of the regex
    Behavior behavior = Behavior::isolated;
    bool inverted = false;
  };
  /// A part [begin, end), and whether it matches.
  struct Part {
    std::size_t begin, end;
    bool matches;
  };

  void add(const TokenizerFile& file, const nlohmann::json& object, const std::string& key);
  static Step byte_level_step(const TokenizerFile& file, const nlohmann::json& object,
                              const std::string& key);
  static Step metaspace_step(const TokenizerFile& file, const nlohmann::json& object,
                             const std::string& key);
  static Step split_step(const TokenizerFile& file, const nlohmann::json& object,
                         const std::string& key);
  static std::string rewritten(const Step& step, std::string_view text, bool at_start);
  static std::vector<Part> parts_of(const Step& step, std::string_view text);
  static std::vector<Part> joined(const Step& step, std::vector<Part> parts);
  void split(const Piece& piece, std::size_t step,
             const std::function<void(const Piece&)>& word) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace llama
