// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which files are not text, by their first bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace llama {

/// What a file is that is not text to train on.
struct FileFormat {
  std::string_view name;    ///< "a gzip file"
  std::string_view advice;  ///< what to do: "unpack it with gunzip"
  bool may_hold_text;       ///< nobody wants it left out of a folder without a word
};

/// The name of JSON lines, of which the keys are those of training data.
inline constexpr std::string_view json_lines_name = "JSON lines";

/// How many first bytes format_of looks at; a NUL among them marks a binary file, as in git.
inline constexpr std::size_t format_probe = 8192;

/// What the first bytes of a file show; none for text. JSON lines and lists are a format where
/// they are records of training data; any other JSON is text.
[[nodiscard]] std::optional<FileFormat> format_of(std::string_view front);

/// The same of a file of raw token ids, which may begin with any few bytes: only what cannot be
/// chance.
[[nodiscard]] std::optional<FileFormat> format_of_ids(std::string_view front);

}  // namespace llama
