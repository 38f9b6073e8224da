// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tokens that are found in the text before anything else is done with it.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer_file.hpp"

namespace llama {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool single_word = false;  ///< not where a letter or digit stands beside it
  bool lstrip = false;       ///< takes the white space in front of it away
  bool rstrip = false;       ///< and that behind it
};

/// Finds the longest of those that begin leftmost.
class AddedTokens {
 public:
  void add(AddedToken token);

  /// Calls `between(begin, end)` for each text between tokens and `token(id, begin)` for each that
  /// is found, in order. Positions are bytes of the text.
  void split(std::string_view text,
             const std::function<void(std::size_t begin, std::size_t end)>& between,
             const std::function<void(TokenId id, std::size_t begin)>& token) const;

 private:
  [[nodiscard]] const AddedToken* at(std::string_view rest) const;

  std::array<std::vector<AddedToken>, 256> by_first_byte_;
};

}  // namespace llama
