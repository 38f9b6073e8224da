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

/// Parses `text`, which must be exactly one JSON object, in a time that grows with its length.
/// `what` names it in messages ("'x/config.json'"). Throws std::runtime_error; never recurses, so
/// no input can exhaust the stack.
[[nodiscard]] nlohmann::json parse_strict_json(std::string_view text, const std::string& what,
                                               int max_depth = 32);

/// The same for large texts: visit(key, value) for each member of the object, in their order, with
/// one member at a time in memory, of at most `max_values` JSON values (itself and all within).
/// What is wrong further on in the text, a key that occurs twice too, is only found then.
void for_each_member(
    std::string_view text, const std::string& what, int max_depth, std::size_t max_values,
    const std::function<void(const std::string& key, nlohmann::json&& value)>& visit);

/// At most `limit` bytes of a text from a file, cut between characters and marked so: messages must
/// not be as long as the file.
[[nodiscard]] std::string clipped(std::string text, std::size_t limit = 200);

/// Reads a whole regular file of at most `max_bytes` bytes. Throws std::runtime_error.
[[nodiscard]] std::string read_small_file(const std::filesystem::path& path,
                                          std::size_t max_bytes = 100'000'000);

/// For a config.json and an adapter_config.json: thousands of times the usual size.
inline constexpr std::size_t max_config_bytes = 4'000'000;

}  // namespace llama
