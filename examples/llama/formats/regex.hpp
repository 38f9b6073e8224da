// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Regular expressions of tokenizer files, run by PCRE2 (an optional dependency).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace llama {

/// A pattern of a tokenizer.json, which is written for Oniguruma. Accepted is the syntax that means
/// the same in PCRE2: literals, classes, \s, \S, \r, \n, \t, \x{code}, \p{category}, groups (?:
/// (?i: (?= (?!, alternatives and quantifiers. The Unicode version is that of PCRE2. Not
/// thread-safe.
class Regex {
 public:
  /// Whether this program was built with PCRE2. Without it the constructor throws.
  [[nodiscard]] static bool available() noexcept;

  /// Throws std::runtime_error for an unsupported pattern, naming the part, and for one that
  /// matches the empty text.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  Regex& operator=(Regex&&) = delete;

  struct Match {
    std::size_t begin;
    std::size_t end;
  };
  /// The leftmost match in `text` at or after byte `from`; empty if there is none. `text` must be
  /// valid UTF-8. Throws std::runtime_error if PCRE2 fails.
  [[nodiscard]] std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

}  // namespace llama
