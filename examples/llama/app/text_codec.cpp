// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/text_codec.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include <fmt/format.h>

#include "llama/formats/strict_json.hpp"

namespace llama {

TextCodec::TextCodec(const std::optional<std::filesystem::path>& tokenizer) {
  if (tokenizer) tokenizer_.emplace(*tokenizer);
}

std::vector<std::int32_t> TextCodec::beginning(std::string_view text) const {
  std::vector<std::int32_t> ids;
  if (tokenizer_) ids = tokenizer_->beginning();
  const std::vector<std::int32_t> own = encode(text);
  ids.insert(ids.end(), own.begin(), own.end());
  return ids;
}

std::vector<std::int32_t> TextCodec::encode(std::string_view text) const {
  if (tokenizer_) return tokenizer_->encode(text);
  std::vector<std::int32_t> ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

std::string TextCodec::text_of(std::int32_t id) const {
  if (tokenizer_) return tokenizer_->text_of(id);
  return std::string(1, static_cast<char>(id));
}

std::string TextCodec::text_of(const std::vector<std::int32_t>& ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += text_of(id);
  return text;
}

std::vector<std::int32_t> TextCodec::ends(const std::filesystem::path& folder) const {
  std::vector<std::int32_t> ids;
  if (!tokenizer_) return ids;
  const auto add = [&](std::int32_t id) {
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  };
  const auto member = [&](const char* name, const char* key) -> nlohmann::json {
    const std::filesystem::path path = folder / name;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) return nullptr;
    return parse_strict_json(read_small_file(path), fmt::format("'{}'", path.string()))
        .value(key, nlohmann::json());
  };
  for (const char* const name : {"generation_config.json", "config.json"}) {
    nlohmann::json list = member(name, "eos_token_id");
    if (!list.is_array()) list = nlohmann::json::array({list});
    for (const nlohmann::json& id : list)
      if (id.is_number_unsigned() && id < tokenizer_->vocabulary())
        add(id.template get<std::int32_t>());
  }
  nlohmann::json token = member("tokenizer_config.json", "eos_token");
  if (token.is_object()) token = nlohmann::json(token.value("content", nlohmann::json()));
  if (token.is_string())
    if (const auto id = tokenizer_->id_of(token.get_ref<const std::string&>())) add(*id);
  return ids;
}

std::string printable(std::string_view text) {
  std::string out(text);
  std::ranges::replace_if(
      out,
      [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return (byte < 32 && c != '\n' && c != '\t') || byte == 127;
      },
      '?');
  return out;
}

}  // namespace llama
