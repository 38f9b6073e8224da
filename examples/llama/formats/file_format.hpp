// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Detects files that are not text from their first bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace llama {

/// A file format that is not text to train on.
struct FileFormat {
  std::string_view name;    ///< "a gzip file"
  std::string_view advice;  ///< what to do: "unpack it, and give the text that is in it"
  bool may_hold_text;       ///< an error in a folder; other formats are left out
};

/// The name of JSON lines, of which the keys are those of training data.
inline constexpr std::string_view json_lines_name = "JSON lines";

/// How many first bytes format_of looks at; a NUL among them marks a binary file, as in git.
inline constexpr std::size_t format_probe = 8192;

/// The format that the first bytes of a file show; empty for text. JSON lines and lists count as a
/// format if they are records of training data; other JSON is text.
[[nodiscard]] std::optional<FileFormat> format_of(std::string_view front);

/// The same for a file of raw token ids, which may begin with any bytes: only long signatures
/// count.
[[nodiscard]] std::optional<FileFormat> format_of_ids(std::string_view front);

}  // namespace llama
