// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Members of a config.json, read with errors that name the key.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace llama {

/// Throws std::runtime_error: "what: required, but given; advice".
[[noreturn]] void fail_config(const std::string& what, const std::string& required,
                              const std::string& given, const std::string& advice);
/// For a setting of a model that this program does not support.
[[noreturn]] void fail_unsupported(const std::string& what, std::string_view key,
                                   const nlohmann::json& value, std::string_view required);

/// The member, or null if it is absent or JSON's null: Hugging Face writes both for "default".
[[nodiscard]] const nlohmann::json* find_key(const nlohmann::json& object, std::string_view key);

/// Whether a value means that what its key names is not there.
[[nodiscard]] bool is_off(const nlohmann::json& value);

/// The values of keys, none where they are absent or null. Throw std::runtime_error for a value of
/// another type.
[[nodiscard]] std::optional<std::ptrdiff_t> integer_key(const std::string& what,
                                                        const nlohmann::json& object,
                                                        std::string_view key);
[[nodiscard]] std::optional<double> number_key(const std::string& what,
                                               const nlohmann::json& object, std::string_view key);
[[nodiscard]] std::optional<bool> boolean_key(const std::string& what, const nlohmann::json& object,
                                              std::string_view key);
/// Throws std::runtime_error where it is absent.
[[nodiscard]] std::ptrdiff_t required_integer_key(const std::string& what,
                                                  const nlohmann::json& object,
                                                  std::string_view key);

}  // namespace llama
