// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reading a tokenizer.json key by key, with errors that name the key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>

#include "llama/formats/regex.hpp"

namespace llama {

using TokenId = std::int32_t;

/// Of keys that are looked up by std::string_view.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept {
    return std::hash<std::string_view>()(text);
  }
};
template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// Keys are dotted names ("model.vocab"). Errors are std::runtime_error: what is required, what is
/// there, and the way out.
class TokenizerFile {
 public:
  explicit TokenizerFile(const std::filesystem::path& path);

  [[nodiscard]] const nlohmann::json& root() const noexcept { return root_; }

  [[noreturn]] void fail(const std::string& key, const std::string& required,
                         const std::string& given) const;
  [[noreturn]] void fail(const std::string& key, const std::string& required,
                         const nlohmann::json& given) const;

  /// Null where it is absent.
  [[nodiscard]] static const nlohmann::json& member(const nlohmann::json& object, const char* key);

  // `prefix` stands in front of the key in messages.
  [[nodiscard]] bool boolean(const nlohmann::json& object, const std::string& prefix,
                             const char* key, bool otherwise) const;
  void require_false(const nlohmann::json& object, const std::string& prefix,
                     const char* key) const;
  [[nodiscard]] const std::string& string(const nlohmann::json& value,
                                          const std::string& key) const;
  [[nodiscard]] Regex regex(const nlohmann::json& value, const std::string& key) const;
  [[nodiscard]] TokenId id(const nlohmann::json& value, const std::string& key) const;

 private:
  std::string name_;
  nlohmann::json root_;
};

}  // namespace llama
