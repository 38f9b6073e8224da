// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Regular expressions over names of parameters, from files and command lines that may be hostile.
#pragma once

#include <algorithm>
#include <cstddef>
#include <regex>
#include <stdexcept>
#include <string>

namespace llama {

/// ECMAScript's regular expression, which agrees with Python's in what is written for such names.
/// Throws std::runtime_error with the reason for a pattern that is none, for one of more than
/// 10,000 bytes or 500 groups, and with libstdc++ for one with back-references.
[[nodiscard]] inline std::regex name_regex(const std::string& pattern) {
  // Standard libraries parse recursively: deep nesting would exhaust the stack.
  constexpr std::size_t most_bytes = 10'000;
  constexpr std::ptrdiff_t most_groups = 500;
  if (pattern.size() > most_bytes || std::ranges::count(pattern, '(') > most_groups)
    throw std::runtime_error("it has more than 10,000 bytes or 500 groups");
  auto flags = std::regex::ECMAScript;
#ifdef __GLIBCXX__
  // Without it (.*)*x takes a time that is exponential in the length of the name.
  flags |= std::regex_constants::__polynomial;
#endif
  return std::regex(pattern, flags);
}

}  // namespace llama
