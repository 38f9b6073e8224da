// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// JSON from files that may be hostile: one object, UTF-8, no duplicate keys, bounded nesting.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace llama {

/// Parses `text`, which must be exactly one JSON object, in linear time. `what` names it in
/// messages ("'x/config.json'"). Throws std::runtime_error. It is not recursive, so no input
/// exhausts the stack.
[[nodiscard]] nlohmann::json parse_strict_json(std::string_view text, const std::string& what,
                                               int max_depth = 32);

/// The same for large texts: calls visit(key, value) for each member of the object, in order, with
/// one member at a time in memory. A member may have at most `max_values` JSON values (itself
/// included). Errors later in the text, duplicate keys included, are found after the earlier
/// visits.
void for_each_member(
    std::string_view text, const std::string& what, int max_depth, std::size_t max_values,
    const std::function<void(const std::string& key, nlohmann::json&& value)>& visit);

/// At most `limit` bytes of a file's text, for messages; a cut is made between characters and
/// marked.
[[nodiscard]] std::string clipped(std::string text, std::size_t limit = 200);

/// Reads a whole regular file of at most `max_bytes` bytes. Throws std::runtime_error.
[[nodiscard]] std::string read_small_file(const std::filesystem::path& path,
                                          std::size_t max_bytes = 100'000'000);

/// Limit for config.json and adapter_config.json, thousands of times the usual size.
inline constexpr std::size_t max_config_bytes = 4'000'000;

}  // namespace llama
