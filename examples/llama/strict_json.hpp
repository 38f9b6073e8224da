// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// JSON from files that may be hostile: one object, UTF-8, no duplicate keys, bounded nesting.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace llama {

/// Parses `text`, which must be exactly one JSON object. `what` names it in messages
/// ("'x/config.json'"). Throws std::runtime_error; never recurses, so no input can exhaust the
/// stack.
[[nodiscard]] nlohmann::json parse_strict_json(std::string_view text, const std::string& what,
                                               int max_depth = 32);

/// Reads a whole regular file of at most `max_bytes` bytes. Throws std::runtime_error.
[[nodiscard]] std::string read_small_file(const std::filesystem::path& path,
                                          std::size_t max_bytes = 100'000'000);

}  // namespace llama
