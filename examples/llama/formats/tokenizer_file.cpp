// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/tokenizer_file.hpp"

#include <fmt/format.h>

#include <stdexcept>

#include "llama/formats/strict_json.hpp"

namespace llama {

using json = nlohmann::json;

TokenizerFile::TokenizerFile(const std::filesystem::path& path)
    : name_(fmt::format("'{}'", path.string())),
      root_(parse_strict_json(read_small_file(path), name_)) {}

void TokenizerFile::fail(const std::string& key, const std::string& required,
                         const std::string& given) const {
  throw std::runtime_error(
      fmt::format("{}: '{}' must be {}, but it is {}; encode the text elsewhere and pass the ids "
                  "with --tokens",
                  name_, key, required, given));
}

void TokenizerFile::fail(const std::string& key, const std::string& required,
                         const json& given) const {
  std::string text = given.dump(-1, ' ', true);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  fail(key, required, given.is_null() ? "missing or null" : text);
}

const json& TokenizerFile::member(const json& object, const char* key) {
  static const json absent;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? absent : *found;
}

bool TokenizerFile::boolean(const json& object, const std::string& prefix, const char* key,
                            bool otherwise) const {
  const json& value = member(object, key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) fail(prefix + key, "true or false", value);
  return value.get<bool>();
}

void TokenizerFile::require_false(const json& object, const std::string& prefix,
                                  const char* key) const {
  if (boolean(object, prefix, key, false)) fail(prefix + key, "false", member(object, key));
}

const std::string& TokenizerFile::string(const json& value, const std::string& key) const {
  if (!value.is_string()) fail(key, "a string", value);
  return value.get_ref<const std::string&>();
}

Regex TokenizerFile::regex(const json& value, const std::string& key) const {
  try {
    return Regex(string(value, key));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: '{}': {}", name_, key, error.what()));
  }
}

TokenId TokenizerFile::id(const json& value, const std::string& key) const {
  constexpr std::uint64_t limit = 1 << 24;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= limit)
    fail(key, fmt::format("an id, a whole number below {}", limit), value);
  return static_cast<TokenId>(value.get<std::uint64_t>());
}

}  // namespace llama
