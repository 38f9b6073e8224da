// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The regular expressions of tokenizer files, run by PCRE2, an optional dependency.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace llama {

/// A pattern as tokenizer.json files have them. They are written for Oniguruma; accepted is what
/// means the same in PCRE2: literals, classes, \s, \S, \r, \n, \t, \x{code}, \p{category}, groups
/// (?: (?i: (?= (?!, alternatives and quantifiers. The Unicode version is that of PCRE2. Not for
/// use by two threads at a time.
class Regex {
 public:
  /// Whether this program was built with PCRE2. Without it the constructor throws.
  [[nodiscard]] static bool available() noexcept;

  /// Throws std::runtime_error, with the part of the pattern that is not supported. No pattern may
  /// match the empty text.
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
  /// The leftmost match at or after `from` bytes of `text`, which must be valid UTF-8; none if
  /// there is none. Throws std::runtime_error where PCRE2 gives up.
  [[nodiscard]] std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

}  // namespace llama
